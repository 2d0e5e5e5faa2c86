"""Records are written whole, read strictly, and named by what decides them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks.records.record import read_record, read_records, write_record
from benchmarks.settings.files import files_digest
from benchmarks.settings.identity import settings_hash, slug
from benchmarks.settings.run import read_settings
from benchmarks.settings.task import deciding
from tasks.training.recipe import Recipe
from tests.benchmarks.records.records_of import record

RECIPE = Recipe("sandwich", range=(0.25, 1.0), rule="sandwich", samples=4)
SETTINGS = {"model": "wdsr-a", "blocks": 4, "data": "photos", "root": "", "eval_sets": (), "cache_gb": 1.0}


def test_a_record_is_read_back_as_it_was(tmp_path: Path) -> None:
    written = record("sandwich", 0, {0.25: 1 / 3, 1.0: 32.0})
    path = write_record(written, tmp_path)
    assert path.name == f"sandwich-0-{written.hash}.json"
    assert read_record(path) == written


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: "", ", line 1: the file is empty"),
        (lambda text: text[: len(text) // 2], ", line 28, column "),
        (lambda text: text.replace('"seed": 0', '"seed": "none"'), ", line 8: seed: Input should be a valid integer"),
        (lambda text: text.replace('"psnr": 30.0', '"psnr": NaN'), "finite"),
        (lambda text: text.replace('"steps"', '"step"'), "steps: Field required"),
        (lambda text: text.replace('"format": 1', '"format": 2'), "format"),
    ],
)
def test_a_damaged_record_is_named_and_the_others_are_kept(damage, says: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    sound = record("sandwich", 0, {1.0: 31.0})
    write_record(sound, tmp_path)
    path = write_record(record("random", 0, {1.0: 30.0}), tmp_path)
    path.write_text(damage(path.read_text()))
    records, damaged = read_records(tmp_path)
    assert records == [sound]
    assert list(damaged) == [path]
    assert path.name in damaged[path] and says in damaged[path] and "\n" not in damaged[path]


def test_the_hash_covers_everything_but_the_name() -> None:
    base = settings_hash("sr", SETTINGS, RECIPE.settings(), 100)
    others = [
        settings_hash("rl", SETTINGS, RECIPE.settings(), 100),
        settings_hash("sr", SETTINGS, RECIPE.settings(), 101),
        *(settings_hash("sr", SETTINGS | {key: "other"}, RECIPE.settings(), 100) for key in SETTINGS),
        *(
            settings_hash("sr", SETTINGS, RECIPE.replace(**change).settings(), 100)
            for change in (
                {"range": (0.5, 1.0)},
                {"rule": "largest-random"},
                {"samples": 3},
                {"distill": "l1"},
                {"norm": "shared"},
                {"calibrate": 3},
                {"average": "moving"},
            )
        ),
    ]
    assert len({base, *others}) == 1 + len(others)
    assert settings_hash("sr", SETTINGS, RECIPE.replace(name="other").settings(), 100) == base


def test_the_hash_is_the_same_tomorrow() -> None:
    """A changed hash orphans everybody's records: raise identity.MEANING instead where results change."""
    assert settings_hash("sr", {"model": "wdsr-a"}, RECIPE.settings(), 100) == "0485d57e5803"


def test_where_the_data_lie_does_not_decide_but_which_files_they_are_does(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place / "photos").mkdir(parents=True)
        (tmp_path / place / "photos" / "a.png").write_bytes(b"abc")
    here, there = ({**SETTINGS, "data": "folder", "root": str(tmp_path / p / "photos")} for p in ("here", "there"))
    assert deciding("sr", here) == deciding("sr", there)
    assert str(tmp_path) not in json.dumps(deciding("sr", here))
    (tmp_path / "there" / "photos" / "b.png").write_bytes(b"")
    assert deciding("sr", here) != deciding("sr", there)
    assert files_digest([tmp_path / "none"]) == files_digest([tmp_path / "nothing"])


@pytest.mark.parametrize(
    ("task", "settings", "file"),
    [
        ("sr", {"data": "benchmark", "root": "sr"}, "sr/train/T91/2.png"),
        ("sr", {"data": "benchmark", "root": "sr", "train_sets": ("own",)}, "sr/train/own/2.png"),
        ("sr", {"data": "folder", "root": "DIV2K_train_HR"}, "DIV2K_train_LR_bicubic/X2/1x2.png"),
        ("classification", {"data": "cifar10", "root": "data"}, "data/cifar10_jpg.npz"),
        ("classification", {"data": "cifar10", "root": "data"}, "data/cifar-10-python.tar.gz"),
        ("classification", {"data": "imagenet", "root": "imagenet"}, "imagenet/val/n01440764/2.JPEG"),
        ("classification", {"data": "imagenette", "root": "data"}, "data/imagenette2-160/train/n01440764/2.JPEG"),
        ("classification", {"data": "imagenette", "root": "data"}, "data/imagenette_val.zip"),
        ("detection", {"data": "coco", "root": "coco", "weights": "w.pt"}, "coco/val2017/2.jpg"),
        ("detection", {"data": "coco", "root": "coco", "weights": "w.pt"}, "coco/annotations/instances_val2017.json"),
        ("detection", {"data": "folder", "root": "own", "weights": "w.pt"}, "own/train.json"),
        ("detection", {"data": "shapes", "weights": "w.pt"}, "w.pt"),
    ],
)
def test_other_data_in_the_same_place_decide(
    task: str, settings: dict[str, object], file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "DIV2K_train_HR").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cifar10_jpg.npz").write_bytes(b"a copy")
    before = deciding(task, settings)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_bytes(b"some")
    there = deciding(task, settings)
    assert there != before
    if file.endswith((".json", ".pt", ".npz")):  # as long as before
        (tmp_path / file).write_bytes(b"more")
    else:
        (tmp_path / file).rename((tmp_path / file).with_name(f"other{Path(file).suffix}"))
    assert deciding(task, settings) != there


def test_hidden_files_and_links_in_circles_do_not_decide(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"abc")
    before = files_digest([tmp_path / "photos"])
    (tmp_path / "photos" / ".thumbs").mkdir()
    (tmp_path / "photos" / ".thumbs" / "a.png").write_bytes(b"a")
    (tmp_path / "photos" / "again").symlink_to(tmp_path / "photos")
    assert files_digest([tmp_path / "photos"]) == before
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    assert files_digest([tmp_path / "link"]) == before


@pytest.mark.parametrize("task", ["sr", "classification"])
@pytest.mark.parametrize("there", [True, False])
def test_the_committed_records_are_those_of_their_data(task: str, there: bool) -> None:
    """A changed hash orphans them: their data have no digest, whether or not they are there."""
    repository = Path(__file__).parents[3]
    data = os.environ.get("SLIM_DATA", repository.parent / "shared" / "data")
    root = Path(data if there else "/no", task)
    if there and not root.is_dir():
        pytest.skip(f"no {root}; set SLIM_DATA to the folder that holds {task}")
    settings = read_settings([f"task={task}", "ablation=sandwich", "scale=small", f"data.root={root}"])
    records, _ = read_records(repository / settings.folder / "records")
    assert {settings.hash_of(recipe) for recipe in settings.recipes} <= {record.hash for record in records}


def test_memory_for_images_does_not_decide() -> None:
    assert deciding("sr", SETTINGS) == deciding("sr", SETTINGS | {"cache_gb": 2.0})


def test_file_names_are_plain() -> None:
    assert slug("soft cross-entropy / n=4") == "soft_cross_entropy_n=4"
    assert slug("größer") == "größer"


@pytest.mark.parametrize("name", ["漢字" * 150, "ü 漢字", "x" * 300])
def test_any_name_with_a_letter_is_kept_in_a_file_and_found_again(name: str, tmp_path: Path) -> None:
    made = record("sandwich", 0, {1.0: 30.0}).model_copy(update={"recipe": name})
    write_record(made, tmp_path)
    assert read_records(tmp_path) == ([made], {})
