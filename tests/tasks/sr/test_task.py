"""The super-resolution task, as the runner uses it."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from tasks.sr.metrics import PROTOCOLS
from tasks.sr.photos import EVALUATION, TRAINING
from tasks.sr.settings import SrSettings
from tasks.sr.task import SuperResolution

SMALL = {"features": 8, "blocks": 1, "patch": 12, "batch": 2}


@pytest.fixture
def folder(tmp_path, draw_image):
    """A folder of twelve images and its settings."""
    for i in range(12):
        draw_image(tmp_path / "mine" / f"{i:02}.png", 60, 60 + i, grey=i == 0, seed=i)
    return SrSettings(data="folder", root=str(tmp_path / "mine"), **SMALL)


class Repeat(nn.Module):
    """Upscales by repeating pixels; has a mode, like any network."""

    def forward(self, x):
        assert not self.training
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def high_paths(images):
    return {pair.high.resolve() for pair in images.pairs}


def test_photos_are_never_in_both_sets():
    task = SuperResolution(SrSettings())
    assert (task.dataset, task.eval_sets) == ("photos", ("photos",))
    assert not high_paths(task._train) & high_paths(task.evaluation[0])
    assert sum("motorcycle" in file for file in TRAINING) == 2
    assert not any("motorcycle" in photo.file for photo in EVALUATION)


def test_a_plain_folder_is_split(folder):
    task = SuperResolution(folder)
    assert (task.dataset, task.eval_sets) == ("mine", ("mine",))
    assert [len(task._train), len(task.evaluation[0])] == [10, 2]
    assert not high_paths(task._train) & high_paths(task.evaluation[0])


def test_evaluation_images_inside_the_training_folder_are_not_trained_on(folder, tmp_path, draw_image):
    draw_image(tmp_path / "mine" / "test" / "x.png", 60, 60, seed=99)
    settings = SrSettings(data="folder", root=folder.root, eval_sets=[str(tmp_path / "mine" / "test")], **SMALL)
    task = SuperResolution(settings)
    assert task.eval_sets == ("test",)
    assert len(task._train) == 12


def test_training_on_the_evaluation_set_alone_is_an_error(folder):
    with pytest.raises(ValueError, match="nothing is left to train on"):
        SuperResolution(SrSettings(data="folder", root=folder.root, eval_sets=[folder.root], **SMALL))


def test_div2k_trains_and_is_scored_on_its_own_splits(tmp_path, draw_image):
    for number in ("0001", "0002", "0801"):
        draw_image(tmp_path / "DIV2K" / "DIV2K_train_HR" / f"{number}.png", 60, 60)
    task = SuperResolution(SrSettings(data="folder", root=str(tmp_path / "DIV2K"), **SMALL))
    assert task.eval_sets == ("DIV2K",)
    assert [pair.high.stem for pair in task._train.pairs] == ["0001", "0002"]
    assert [pair.high.stem for pair in task.evaluation[0].pairs] == ["0801"]


def test_a_benchmark_has_a_set_for_each_name(tmp_path, draw_image):
    for path in ("train/A/1.png", "train/B/2.png", "test/C/3.png", "test/D/4.png"):
        draw_image(tmp_path / path)
    settings = SrSettings(data="benchmark", root=str(tmp_path), train_sets=["A", "B"], eval_sets=["D", "C"], **SMALL)
    task = SuperResolution(settings)
    assert (task.dataset, task.eval_sets) == ("A + B", ("D", "C"))
    assert len(task._train) == 2


def test_a_benchmark_root_without_its_folders_says_what_is_expected(tmp_path):
    with pytest.raises(ValueError, match="has no folder train; expected train/<set> and test/<set>"):
        SuperResolution(SrSettings(data="benchmark", root=str(tmp_path)))


def test_the_bicubic_baseline_is_cached_and_equals_its_definition(folder):
    task = SuperResolution(folder)
    scores = task.baselines()["bicubic"]["mine"]
    assert task.baselines()["bicubic"] is task.baselines()["bicubic"]
    assert set(scores) == {metric.name for metric in task.metrics}
    assert all(math.isfinite(value) for value in scores.values())


def test_an_image_that_bicubic_upscaling_gets_exactly_is_named(tmp_path, draw_image):
    for i in range(11):
        draw_image(tmp_path / f"{i:02}.png")
    Image.new("RGB", (64, 64), (9, 9, 9)).save(tmp_path / "10.png")
    task = SuperResolution(SrSettings(data="folder", root=str(tmp_path), **SMALL))
    with pytest.raises(
        ValueError, match=r"10\.png cannot be scored: bicubic upscaling gets it exactly.*PSNR is infinite"
    ):
        task.baselines()


def test_evaluation_is_in_eval_mode_and_restores_the_mode(folder):
    task, net = SuperResolution(folder), Repeat()
    (scores,) = task.evaluate(net.train())
    assert net.training
    assert tuple(scores) == task.eval_sets
    assert scores["mine"]["psnr"] > 5


def test_a_perfect_network_would_score_perfectly(tmp_path, draw_image):
    """Pixels repeated twice are recovered exactly: nothing is lost between decoding and scoring."""
    small = torch.from_numpy(draw_image(tmp_path / "mine" / "LR_bicubic" / "X2" / "ax2.png", 40, 40))
    high = tmp_path / "mine" / "HR" / "a.png"
    high.parent.mkdir()
    Image.fromarray(small.repeat_interleave(2, 0).repeat_interleave(2, 1).numpy()).save(high)
    draw_image(tmp_path / "train" / "b.png")
    root, sets = str(tmp_path / "train"), [str(tmp_path / "mine")]
    task = SuperResolution(SrSettings(data="folder", root=root, eval_sets=sets, **SMALL))
    assert task.evaluate(Repeat())[0]["mine"]["psnr"] == math.inf


@pytest.mark.parametrize("protocol", ["y", "rgb"])
def test_the_protocol_is_named_and_changes_the_score(folder, protocol):
    task = SuperResolution(SrSettings(data="folder", root=folder.root, protocol=protocol, **SMALL))
    assert f"border {PROTOCOLS[protocol].border(2)}" in task.protocol
    other = SuperResolution(folder)
    assert (task.evaluate(Repeat()) == other.evaluate(Repeat())) == (protocol == "y")


def test_the_published_learning_rates_and_their_schedule(folder):
    task = SuperResolution(folder)
    optimizer, scheduler = task.optimizer(task.build(), 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert [rates[i] for i in (0, 49, 50, 75, 90, 99)] == [1e-3, 1e-3, 5e-4, 2.5e-4, 1.25e-4, 1.25e-4]
    edsr = SuperResolution(SrSettings(model="edsr", data="folder", root=folder.root, **SMALL))
    assert edsr.optimizer(edsr.build(), 100)[0].param_groups[0]["lr"] == 1e-4


@pytest.mark.parametrize("model", ["wdsr-a", "wdsr-b", "edsr"])
def test_a_few_steps_lower_the_loss(model):
    task = SuperResolution(SrSettings(model=model, lr=5e-3, **SMALL))
    torch.manual_seed(0)
    net = task.build()
    optimizer, scheduler = task.optimizer(net, 20)
    losses = []
    for _ in range(20):
        x, target = next(task.batches(range(1), 0))
        optimizer.zero_grad()
        loss = task.loss(net(x), target)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_showcase_shows_every_method_beside_the_original():
    task = SuperResolution(SrSettings(**SMALL))
    figure = task.showcase({"width 0.5": Repeat().eval()}).figure
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 3 * len(EVALUATION)
    assert [title.split("\n")[0] for title in titles[:3]] == ["original", "bicubic", "width 0.5"]
    assert "Y (studio range), x2, border 2" in figure.get_supxlabel()
    assert all(photo.credit in figure.get_supxlabel() for photo in EVALUATION)


def test_only_packaged_photographs_are_shown(folder):
    assert SuperResolution(folder).showcase({}) is None


def test_a_folder_without_images_names_itself(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"no images .* in {Path(tmp_path).resolve()}/empty"):
        SuperResolution(SrSettings(data="folder", root=str(tmp_path / "empty")))
