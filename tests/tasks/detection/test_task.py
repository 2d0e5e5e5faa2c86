"""The detection task as the runner uses it."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import slimlib as slim
from slimlib import models
from slimlib.core.layout import Layout
from slimlib.core.setting import slimming_of
from slimlib.core.statistics import OfWidth
from tasks.detection.images import DetectionImages
from tasks.detection.scoring import results_of, scores
from tasks.detection.settings import DetectionSettings
from tasks.detection.task import Detection
from tasks.points import OperatingPoint
from tasks.training.checkpoint import Checkpoint
from tasks.training.ranks import Shard, joined
from tasks.training.recipe import Recipe
from tasks.training.run import TrainingRun, Watch
from tests.extent import at_night, one_by_day
from tests.tasks.detection.conftest import SMALL
from tests.tasks.training.test_ranks import free_port

SWITCHES = Recipe("switches", switches=(0.5, 1.0), rule="every", norm="switchable")
HEADS = Recipe("heads", range=(0.5, 1.0), rule="sandwich", samples=2, distill="heads", norm="group")
PYRAMID = Recipe("pyramid", range=(0.5, 1.0), rule="sandwich", samples=2, distill="pyramid", calibrate=1)


LAYOUTS: dict[str, Layout] = {}


class FollowedOnce(Detection):
    """Finds what slims together once in a process for detectors of equal layers, which takes longer than to train."""

    def channel_rule(self, net: nn.Module) -> Mapping[str, Any]:
        layers = str(net)
        if layers not in LAYOUTS:
            followed = slim.convert(copy.deepcopy(net), self.example(), **super().channel_rule(net))
            LAYOUTS[layers] = slimming_of(followed).layout
        return {"layout": LAYOUTS[layers]}


def make(small: dict[str, Any], **changes: Any) -> Detection:
    return FollowedOnce(DetectionSettings(**small | changes))


class Killed(Exception):
    pass


def kill(done: int, _loss: float) -> None:
    if done == 2:
        raise Killed


@pytest.mark.parametrize("recipe", [at_night(SWITCHES), at_night(HEADS), PYRAMID], ids=lambda recipe: recipe.name)
def test_resume_equals_uninterrupted(recipe: Recipe, small: dict[str, Any], tmp_path: Path) -> None:
    task = make(small, norm="batch")
    checkpoint = Checkpoint(tmp_path / "run.pt", "run", every=0.0)
    with pytest.raises(Killed):
        task.train(recipe, TrainingRun(4, 0, checkpoint=checkpoint, watch=Watch(step=kill)))
    torch.manual_seed(99)
    resumed: list[float] = []
    whole: list[float] = []
    again = TrainingRun(4, 0, checkpoint=checkpoint, watch=Watch(step=lambda _, loss: resumed.append(loss)))
    uninterrupted = TrainingRun(4, 0, watch=Watch(step=lambda _, loss: whole.append(loss)))
    assert task.train(recipe, again) == task.train(recipe, uninterrupted)
    assert resumed == whole[-len(resumed) :] and 1 < len(resumed) < 4


@pytest.mark.parametrize("head", [at_night("boxes"), "masks", "keypoints"])  # the others have its heads, too
def test_each_head_trains_and_is_scored(head: str, small: dict[str, Any]) -> None:
    task = make(small, head=head)
    results = task.train(HEADS, TrainingRun(1, 0))
    assert [result.point for result in results] == ["0.5", "1"]
    assert results[0].macs < results[1].macs and results[0].params < results[1].params
    assert list(results[0].metrics["held-out"]) == [metric.name for metric in task.metrics]


def test_shards_make_up_the_batch(small: dict[str, Any]) -> None:
    task = make(small, batch=4)
    ((images, targets), _) = next(task.batches(range(3, 4), seed=1))
    for rank in range(2):
        ((own, own_targets), _) = next(task.batches(range(3, 4), seed=1, shard=Shard(rank, 2)))
        assert all(map(torch.equal, own, images[rank::2]))
        assert all(map(torch.equal, (t["boxes"] for t in own_targets), (t["boxes"] for t in targets[rank::2])))


def test_workers_read_what_this_process_reads(small: dict[str, Any]) -> None:
    drawn = torch.get_rng_state()
    alone, helped = (list(make(small, workers=workers).batches(range(2), 0)) for workers in (0, 1))
    assert torch.equal(torch.get_rng_state(), drawn), "training would depend on the number of workers"
    for ((images, targets), _), ((others, of_others), _) in zip(alone, helped, strict=True):
        assert all(map(torch.equal, images, others))
        assert all(map(torch.equal, (t["boxes"] for t in targets), (t["boxes"] for t in of_others)))


def test_mirroring_depends_on_the_step_and_can_be_left_out(small: dict[str, Any]) -> None:
    task = make(small, images=8, batch=8)
    plain, varied = (next(task.batches(range(1), 0, augmented=augmented))[0][0] for augmented in (False, True))
    same = [torch.equal(a, b) for a, b in zip(plain, varied, strict=True)]
    assert any(same) and not all(same)
    assert all(torch.equal(a, b) or torch.equal(a, b.flip(-1)) for a, b in zip(plain, varied, strict=True))


class Oracle(nn.Module):
    """Knows what is in the images, in their order."""

    def __init__(self, data: DetectionImages) -> None:
        super().__init__()
        self.data, self.seen = data, 0
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        targets = [self.data[self.seen + n][1] for n in range(len(images))]
        self.seen += len(images)
        return [{**target, "scores": torch.ones(len(target["boxes"]))} for target in targets]


def test_an_oracle_scores_full_marks_on_whole_images(small: dict[str, Any]) -> None:
    task = make(small, held_out=11)
    (found,) = task.evaluate(Oracle(task._evaluation))
    assert found["held-out"] == pytest.approx(dict.fromkeys(found["held-out"], 100.0))


def test_a_constant_predictor_scores_next_to_nothing() -> None:
    """The box that fits best on average, of every class, in each image."""
    task = Detection(DetectionSettings(**{**SHAPES, "held_out": 100}))
    boxes = torch.cat([task._evaluation[n][1]["boxes"] for n in range(100)])
    constant = {"boxes": boxes.mean(0).expand(4, 4), "labels": torch.arange(1, 5), "scores": torch.ones(4)}
    own = task._evaluation.annotations
    found = [one for image in own.images for one in results_of(image, constant, own)]
    assert scores(own, found)["box_ap50"] < 5


SHAPES: dict[str, Any] = {
    "data": "shapes", "model": "resnet18", "start": "scratch", "sides": (64,), "longest": 64, "side": 64, "images": 4,
}  # fmt: skip


def test_switches_start_with_the_batchnorm_of_a_classification_run(small: dict[str, Any], tmp_path: Path) -> None:
    """Each switch gets the scale, shift and statistics that it has in the network that the run has kept."""
    torch.manual_seed(0)
    net = models.build("resnet18", classes=10, multiplier=0.125, divisor=2)
    slim.convert(net, torch.rand(2, 3, 64, 64), widths=slim.Switches(0.5, 1.0), norm="switchable", **net.channel_rule)
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(len(name)))
    slim.save(net, tmp_path / "run.safetensors")
    task = make(small, start="classification", weights=str(tmp_path / "run.safetensors"))
    detector = SWITCHES.convert(SWITCHES.build(task), task)
    for width in (0.5, 1.0):
        slim.set_width(net, width)
        slim.set_width(detector, width)
        image = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            expected = net.eval().features(image)
            torch.testing.assert_close(detector.eval().backbone.body(image)["3"], expected)
            individual = task.build(width).eval()
            torch.testing.assert_close(individual.backbone.body(image)["3"], expected)
    narrow = slimming_of(detector).channels_at(0.5)
    assert not getattr(detector.backbone.body["0"][1], str(OfWidth("weight", narrow))).requires_grad


def test_weights_of_another_network_are_refused(small: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    with pytest.raises(ValueError, match=r"task.weights=.*run.safetensors is not a network from a run"):
        make(small, start="classification", weights=str(file)).build()
    net = models.build("resnet18", classes=10, multiplier=0.25)
    slim.convert(net, torch.rand(2, 3, 64, 64), **net.channel_rule)
    slim.save(net, file)
    with pytest.raises(ValueError, match=r"run.safetensors"):
        make(small, start="classification", weights=str(file)).build()


def test_a_network_of_other_classes_is_not_loaded(small: dict[str, Any], tmp_path: Path) -> None:
    task = make(small)
    task.keep(HEADS.convert(HEADS.build(task), task), HEADS, tmp_path / "net")
    persons = make(small, head="keypoints")
    with pytest.raises(ValueError, match=r"net.safetensors.*roi_heads.box_predictor.cls_score"):
        persons.show(HEADS, tmp_path / "net")


@pytest.mark.parametrize("head", one_by_day(["masks", "keypoints"]))
def test_the_showcase_has_a_picture_for_each_width(head: str, small: dict[str, Any], tmp_path: Path) -> None:
    task = make(small, head=head, images=12, held_out=6)
    task.keep(HEADS.convert(HEADS.build(task), task), HEADS, tmp_path / "net")
    shown = task.show(HEADS, tmp_path / "net")
    assert shown is not None
    names = {name.rpartition("/")[2] for name in shown.files}
    assert names == {"original.png", "annotated.png", "width-0.5.png", "width-1.png", "index.json"}
    assert shown.figure.get_suptitle().partition(" objects; found: ")[0].isdigit()


def test_images_that_may_not_be_shown_are_not(small: dict[str, Any]) -> None:
    task = make(small)
    object.__setattr__(task.settings, "data", "coco")
    assert task.showcase({}) is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"norm": "frozen"}, "task.norm=frozen would keep statistics that fit nothing from scratch"),
        ({"start": "classification"}, "task.start=classification needs task.weights=<file>"),
        ({"start": "s_resnet50"}, "task.start=s_resnet50 is of task.model=resnet50"),
        ({"root": "x"}, "data=shapes is drawn and would ignore data.root=x"),
        ({"data": "coco"}, "data=coco needs data.root"),
        ({"longest": 32}, r"task.longest=32 is below task.sides=\[64\]"),
        ({"momentum": 0.5}, "task.momentum has no meaning for task.optimizer=adamw"),
    ],
)
def test_settings_that_do_not_fit_are_refused(wrong: dict[str, Any], message: str, small: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        DetectionSettings(**small | wrong)


def test_the_rate_rises_and_falls(small: dict[str, Any]) -> None:
    task = make(small, warmup=4, milestones=(0.5, 0.75), lr=0.3)
    optimizer, scheduler = task.optimizer(nn.Linear(1, 1), 20)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates[:5], [0.1, 0.15, 0.2, 0.25, 0.3])
    np.testing.assert_allclose([rates[9], rates[10], rates[15]], [0.3, 0.03, 0.003])


def test_operating_points_are_scored_each_for_itself(small: dict[str, Any]) -> None:
    task = make(small)
    net = HEADS.convert(HEADS.build(task), task).eval()
    points = [OperatingPoint.of_width(width) for width in (0.5, 1.0)]
    together = task.evaluate(net, points)
    assert together == [task.evaluate(net, [point])[0] for point in points]


def on_rank(index: int, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(index), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    state: dict[str, Tensor] = {}
    watch = Watch(trained=lambda _, net: state.update(net.state_dict()))
    with joined() as ranks:
        results = make(dict(SMALL), norm="batch").train(SWITCHES, TrainingRun(2, 0, watch=watch, ranks=ranks))
    torch.save([str(results), state], folder / f"{index}.pt")


@pytest.mark.nightly
def test_two_processes_train_one_detector(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(on_rank, (tmp_path, free_port()), nprocs=2)
    (results, state), (others, of_other) = (torch.load(tmp_path / f"{index}.pt") for index in range(2))
    assert results == others
    torch.testing.assert_close(state, of_other, rtol=0, atol=0)
