"""What the channels learn: responses, receptive fields, importance, and the command that looks at them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

import slimlib as slim
from benchmarks.features.__main__ import main, read
from benchmarks.features.figures import _framed
from benchmarks.features.importance import (
    POSITIONS,
    curve,
    first_quarter,
    gradient_mass,
    kernel_norms,
    loss_without,
)
from benchmarks.features.responses import alike, exciting
from benchmarks.report.__main__ import main as report
from benchmarks.run import main as run
from benchmarks.running.command import DONE, FAILED, WRONG_SETTINGS
from benchmarks.settings.run import read_settings
from benchmarks.settings.task import make_task
from tasks.sr.networks import wdsr_a
from tasks.training.run import TrainingRun, derive_seed
from tasks.training.supervised import Loop, fresh

TINY = ["task=classification", "ablation=switches", "steps=2", "task.model=resnet8", "task.multiplier=0.5"]
SANDWICH = ("features.gradient_steps=0", 'only=["universal"]')


def chain(*channels: int, seed: int = 0) -> nn.Module:
    """3x3 convolutions with ReLU between, then the mean over all places and a classifier, at any width."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in zip((3, *channels), channels, strict=False):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], 5))
    return slim.convert(net, torch.randn(1, 3, 12, 12), divisor=2).eval()


IMAGES = torch.randn(6, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def test_the_first_layer_responds_alike_at_every_width_and_later_ones_do_not() -> None:
    found = alike(chain(8, 8), IMAGES, (0.25, 0.5, 1.0))
    torch.testing.assert_close(found["0"], torch.ones(3, 3, dtype=torch.double))
    later = found["2"]
    torch.testing.assert_close(later, later.T)
    torch.testing.assert_close(later.diagonal(), torch.ones(3, dtype=torch.double))
    assert later[0, 2] < 0.99


def test_correlations_are_those_of_numpy_over_all_places() -> None:
    net = chain(8, 8)
    responses = {}
    for width in (0.5, 1.0):
        with slim.at_width(net, width), torch.no_grad():
            responses[width] = net[2](net[1](net[0](IMAGES))).movedim(1, -1).flatten(0, -2)
    each = [torch.corrcoef(torch.stack([responses[0.5][:, c], responses[1.0][:, c]]))[0, 1] for c in range(4)]
    found = alike(net, IMAGES, (0.5, 1.0))["2"][0, 1]
    torch.testing.assert_close(found, torch.stack(each).double().mean(), atol=1e-5, rtol=0)


def test_a_channel_that_never_changes_is_left_out_of_correlations() -> None:
    net = chain(8, 8)
    before = alike(net, IMAGES, (0.5, 1.0))["0"]
    with torch.no_grad():
        net[0].weight[1] = 0
    torch.testing.assert_close(alike(net, IMAGES, (0.5, 1.0))["0"], before)


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_patches_are_where_the_response_is_largest_and_as_large_as_the_receptive_field(width: float) -> None:
    net = chain(8, 8)
    with slim.at_width(net, width), torch.no_grad():
        responses = net[0](IMAGES)[:, 3]
    found = exciting(net, IMAGES, width, "0", 3, count=2)
    peaks = responses.flatten(1).amax(1)
    assert [patch.image for patch in found] == peaks.topk(2).indices.tolist()
    for patch in found:
        row, column = divmod(int(responses[patch.image].argmax()), 12)
        assert patch.response == pytest.approx(float(peaks[patch.image]))
        assert patch.rows == slice(max(0, row - 1), min(12, row + 2))
        assert patch.columns == slice(max(0, column - 1), min(12, column + 2))


def test_a_channel_has_no_patches_where_it_is_not_active() -> None:
    net = chain(8, 8)
    assert exciting(net, IMAGES, 0.5, "0", 6, count=2) == []
    assert len(exciting(net, IMAGES, 1.0, "0", 6, count=2)) == 2


def test_cutting_a_unit_out_is_a_network_without_it() -> None:
    """As of a dense network whose readers have zero columns there."""
    net, target = chain(8, 16), torch.tensor([0, 1, 2, 3, 4, 0])

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(net(IMAGES), target)

    first, second = loss_without(net, loss)
    whole = float(loss().detach())
    for rises, reader, unit in ((first, net[2], 5), (second, net[6], 11)):
        kept = reader.weight.detach().clone()
        with torch.no_grad():
            reader.weight[:, unit] = 0
            assert float(loss()) - whole == pytest.approx(float(rises[unit]), abs=1e-6)
            reader.weight.copy_(kept)
    assert float(loss()) == whole  # nothing is left behind


def test_units_that_are_several_columns_are_cut_out_whole() -> None:
    torch.manual_seed(0)
    net = slim.convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(800, 5)), IMAGES).eval()
    (rises,) = loss_without(net, lambda: net(IMAGES).square().mean())
    whole = float(net(IMAGES).square().mean())
    with torch.no_grad():
        net[3].weight[:, 200:300] = 0
        assert float(net(IMAGES).square().mean()) - whole == pytest.approx(float(rises[2]), abs=1e-6)


def test_weight_normalised_networks_are_cut_without_changing_other_weights() -> None:
    torch.manual_seed(0)
    net = slim.convert(wdsr_a(features=4, hidden=8, blocks=1), torch.rand(1, 3, 8, 8), divisor=1).eval()
    images = torch.rand(2, 3, 8, 8)
    number = [group.name for group in net.slim.layout.groups].index("body.0.expand")
    rises = loss_without(net, lambda: net(images).square().mean())[number]
    with torch.no_grad():
        whole = float(net(images).square().mean())
        handle = net.body[0].act.register_forward_hook(lambda _, x, y: y * (torch.arange(8) != 6)[:, None, None])
        assert float(net(images).square().mean()) - whole == pytest.approx(float(rises[6]), abs=1e-7)
        handle.remove()


def test_kernel_norms_are_those_of_the_weights() -> None:
    net = chain(8, 16)
    for norms, layer in zip(kernel_norms(net), (net[0], net[2]), strict=True):
        torch.testing.assert_close(norms.float(), layer.weight.detach().flatten(1).norm(dim=1))


def test_a_curve_has_the_first_quarters_part_of_the_whole() -> None:
    alike_all = [torch.ones(8), torch.ones(64)]
    assert first_quarter(curve(alike_all)) == pytest.approx(25)
    falling = torch.tensor([5.0, 1, 1, 1])
    assert first_quarter(curve([falling])) == pytest.approx(62.5)
    assert first_quarter(curve([falling, torch.ones(8)])) == pytest.approx(100 * 7 / 16)
    assert curve([torch.zeros(8)]).isnan().all() and len(curve(alike_all)) == POSITIONS


def test_gradients_of_one_step_are_those_of_its_passes() -> None:
    settings = read_settings(TINY)
    task = make_task(settings.task, settings.task_settings)
    recipe = settings.recipes[0]
    assert recipe.kind == "individual"
    run = TrainingRun(settings.steps, 0)
    found = gradient_mass(task, recipe, run, 1)
    net = fresh(Loop(task, recipe, run)).train()
    ((images, labels),) = task.batches(range(1), derive_seed(0, "data"))
    task.loss(net(images), labels).backward()
    expected = net.features[1].body[0].weight.grad.flatten(1).norm(dim=1)
    assert any(len(f) == len(expected) and torch.allclose(f.float(), expected, rtol=1e-3) for f in found)
    assert sum(float(f.sum()) for f in gradient_mass(task, recipe, run, 2)) > sum(float(f.sum()) for f in found)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with networks of an individual recipe and of the sandwich rule."""
    results = tmp_path_factory.mktemp("features")
    assert run([*TINY, 'only=["individual","universal"]', f"results={results}", "tracker=none"]) == DONE
    return results


def look(results: Path, *words: str) -> int:
    return main([*TINY, f"results={results}", "features.images=16", "features.channels=2", *words])


@pytest.fixture(scope="module")
def looked(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of these results, with what was seen of both."""
    results = shutil.copytree(trained, tmp_path_factory.mktemp("looked") / "results")
    assert look(results, 'only=["individual","universal"]') == DONE
    return results


def test_figures_tables_and_report_are_made(looked: Path) -> None:
    folder = looked / "classification/features/tiny"
    drawn = ("importance", "kernels", "correlations", "patches")
    names = {f"{name}.{kind}" for name in drawn for kind in ("png", "svg")}
    assert {path.name for path in folder.iterdir()} == names | {"table.csv", "table.md", "features.json"}
    table = pd.read_csv(folder / "table.csv")
    assert set(table.recipe) == {"individual", "universal"}
    trained_alike = table.measure.isin(["share of the norm of the kernels", "share of the gradient in training"])
    shares = table[trained_alike].groupby(["recipe", "measure"]).value
    assert (shares.sum() - 1).abs().max() < 0.01 and set(shares.size()) == {POSITIONS}
    first = table[(table.measure == "correlation") & (table.layer == "features.0.1")]
    assert (first.value - 1).abs().max() < 1e-6
    assert report([f"results={looked}"]) == DONE
    page = (looked / "report.html").read_text()
    finding = json.loads((folder / "features.json").read_text())["finding"]
    assert f"<h4>{finding}</h4>" in page and page.count('<figure><img src="data:image/png') == 4


def test_the_finding_of_the_first_kernels_is_of_these_alone(trained: Path, looked: Path) -> None:
    """Not of those of its residual blocks, whose outputs are added to the first layer's."""
    settings = read_settings([*TINY, f"results={trained}", SANDWICH[1]])
    training = settings.training_hash_of(settings.recipes[0])
    state = torch.load(trained / f"classification/switches/tiny/cache/trained/{training}-0.pt")["state"]["net"]
    norms = state["features.0.0.weight"].flatten(1).norm(dim=1)
    first = norms[: len(norms) // 4].mean() / norms[len(norms) // 4 :].mean()
    drawn = json.loads((looked / "classification/features/tiny/features.json").read_text())["figures"]
    (finding,) = (one["finding"] for one in drawn if one["file"] == "kernels.png")
    assert finding.endswith(f"{first:.2f} (universal)")


@pytest.mark.nightly
def test_images_whose_licence_forbids_it_are_not_drawn(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert look(trained, *SANDWICH) == DONE
    monkeypatch.setattr("tasks.classification.task.SHOWN", ())
    assert main([*TINY, f"results={trained}", "features.images=16", *SANDWICH]) == DONE
    folder = trained / "classification/features/tiny"
    assert not list(folder.glob("patches.*"))  # also not of an earlier call
    assert "does not allow to show its images" in (folder / "table.md").read_text()
    assert look(trained, *SANDWICH) == FAILED
    assert "features.channels would do nothing: the licence of the data does not" in capsys.readouterr().err


def test_a_committed_network_is_found_by_the_hash_of_its_training(trained: Path, looked: Path, tmp_path: Path) -> None:
    settings = read_settings([*TINY, f"results={trained}", SANDWICH[1]])
    (recipe,), task = settings.recipes, make_task(settings.task, settings.task_settings)
    training = settings.training_hash_of(recipe)
    path = trained / f"classification/switches/tiny/cache/trained/{training}-0.pt"
    net = recipe.convert(recipe.build(task), task)
    net.load_state_dict(torch.load(path)["state"]["net"])
    (tmp_path / "networks").mkdir()
    slim.save(net, tmp_path / f"networks/universal-0-{training}.safetensors")
    assert look(tmp_path, *SANDWICH) == DONE
    there, here = (pd.read_csv(place / "classification/features/tiny/table.csv") for place in (looked, tmp_path))
    assert set(there.measure) - set(here.measure) == {m for m in there.measure if "gradient" in m}
    there = there[(there.recipe == "universal") & there.measure.isin(here.measure)]
    pd.testing.assert_frame_equal(there.reset_index(drop=True), here, check_exact=True)


def test_a_missing_network_is_named_with_the_command_that_trains_it(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert look(trained, "seeds=[0,7]", *SANDWICH) == FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: universal, seed 7: no trained network; python -m benchmarks.run task=classification")
    assert line.endswith(f"results={trained} 'only=[\"universal\"]' seeds=[7]")
    assert look(tmp_path) == FAILED and not (tmp_path / "classification").exists()


def test_unless_another_ablation_is_named_it_is_that_with_all_three_trainings() -> None:
    recipes = {recipe.name: recipe for recipe in read(["task=classification"]).run.recipes}
    assert recipes["individual"].kind == "individual"
    assert recipes["universal"].rule == "sandwich" and recipes["4 switches"].norm == "switchable"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["features.image=3"], "unknown key 'features.image'; did you mean 'features.images'?"),
        (["features.images=1"], "features.images=1 must be a whole number, at least 2"),
        (["features.layer=3"], "features.layer=3 must be text"),
        (["task=rl"], "task=rl: its networks see no images; choose task=classification or task=sr"),
        (["ablation=search"], "chooses its channels, and its network is not kept"),
        (["ablation=spectra"], "unknown ablation 'spectra'; did you mean 'spectrum'?"),
    ],
)
def test_wrong_settings_are_one_line(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    task = [] if any(word.startswith("task=") for word in words) else ["task=classification"]
    assert main([*task, *words]) == WRONG_SETTINGS
    err = capsys.readouterr().err
    assert says in err and err.startswith("error: ") and err.count("\n") == 1


def test_a_layer_that_does_not_exist_is_told_with_those_that_do(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert look(trained, "features.layer=features.9", *SANDWICH) == FAILED
    err = capsys.readouterr().err
    assert "features.layer=features.9 is not a layer of universal; there are features.0.1, " in err


@pytest.mark.nightly
def test_super_resolution_is_looked_at_too(tmp_path: Path) -> None:
    words = ["task=sr", "ablation=sandwich", 'only=["sandwich"]', "steps=2", f"results={tmp_path}"]
    words += ["task.blocks=1", "task.features=8", "task.patch=12"]
    assert run([*words, "tracker=none"]) == DONE
    assert main([*words, "features.images=4"]) == DONE
    assert (tmp_path / "sr/features/tiny/patches.png").exists()


@pytest.mark.parametrize("said", ["{", '{"finding": "x", "caption": "x", "figures": [{"file": "x.png"}]}'])
def test_the_report_tells_what_it_cannot_read(said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "classification/features/tiny"
    folder.mkdir(parents=True)
    (folder / "features.json").write_text(said)
    assert report([f"results={tmp_path}"]) == FAILED
    assert f"error: damaged, left out: {folder}: features.json: " in capsys.readouterr().err


@pytest.mark.parametrize("size", [(3, 3), (8, 5), (24, 24), (48, 31)])
def test_tiles_are_shown_whole_whatever_their_size(size: tuple[int, int]) -> None:
    tile = torch.zeros(3, *size)
    tile[0, size[0] // 2 :], tile[1, :, size[1] // 2 :] = 1, 1
    shown = _framed(tile, 1.0)
    assert shown.shape == (30, 30, 3)
    inside = shown[:, :, 2] == 0
    corners = shown[inside.any(1)][:, inside.any(0)]
    assert [corners[y, x, :2].tolist() for y in (0, -1) for x in (0, -1)] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    height, across = corners.shape[:2]
    assert max(height, across) == 24
    assert height / across == pytest.approx(size[0] / size[1], rel=0.1)
