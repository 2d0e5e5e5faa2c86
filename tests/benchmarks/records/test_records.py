"""Records are written whole, read strictly, and named by what decides them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.records.record import read_record, read_records, write_record
from benchmarks.settings.identity import settings_hash, slug
from benchmarks.settings.task import deciding, files_digest
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
    assert deciding(here) == deciding(there)
    assert str(tmp_path) not in json.dumps(deciding(here))
    (tmp_path / "there" / "photos" / "b.png").write_bytes(b"")
    assert deciding(here) != deciding(there)
    assert files_digest([tmp_path / "none"]) == files_digest([tmp_path / "nothing"])


def test_memory_for_images_does_not_decide() -> None:
    assert deciding(SETTINGS) == deciding(SETTINGS | {"cache_gb": 2.0})


def test_file_names_are_plain() -> None:
    assert slug("soft cross-entropy / n=4") == "soft_cross_entropy_n=4"
