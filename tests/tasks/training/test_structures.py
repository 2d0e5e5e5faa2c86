"""Batches of any structure: a network that takes its targets in training and puts out its losses, as detectors do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tasks.task import SupervisedTask
from tasks.training.problem import CPU
from tasks.training.ranks import WHOLE, Shard
from tasks.training.recipe import Recipe
from tasks.training.run import TrainingRun
from tests.tasks.training.toy import ToyTask

RECIPES = (
    Recipe("individual", kind="individual"),
    Recipe("sandwich", range=(0.5, 1.0), rule="sandwich", samples=3, calibrate=2),
)


class Detector(nn.Module):
    """With targets, a list of dicts, it puts out a dict of losses; else what it found in each image."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, targets: list[dict[str, Tensor]] | None = None) -> dict[str, Tensor]:
        found = self.net(x)
        if targets is None:
            return {"found": found}
        return {"error": F.mse_loss(found, torch.stack([target["image"] for target in targets]))}


class Detecting(ToyTask):
    """The toy task with a detector's batches."""

    def build(self, width: float = 1.0, *, norm: str = "batch") -> nn.Module:
        return Detector(super().build(width, norm=norm))

    def batches(
        self, steps: range, seed: int, *, device: torch.device = CPU, shard: Shard = WHOLE, augmented: bool = True
    ) -> Iterator[tuple[Any, Any]]:
        for x, target in super().batches(steps, seed, device=device, shard=shard, augmented=augmented):
            targets = [{"image": image} for image in target]
            yield (x, targets), targets

    def loss(self, output: Mapping[str, Tensor], target: list[dict[str, Tensor]]) -> Tensor:
        assert all(set(of_image) == {"image"} for of_image in target)
        return sum(output.values(), torch.zeros(()))

    def _scores(self, net: Callable[..., Any]) -> Any:
        return super()._scores(lambda x: net(x)["found"])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_losses_of_the_network_itself_train_as_those_of_its_outputs(recipe: Recipe, precision: str) -> None:
    plain, detecting = (task.train(recipe, TrainingRun(4, 0, precision=precision)) for task in (ToyTask(), Detecting()))
    assert [result.width for result in plain] == [0.5, 0.75, 1.0]
    if precision == "float32":
        assert detecting == plain
    for one, other in zip(plain, detecting, strict=True):
        assert other.metrics["noise"]["error"] == pytest.approx(one.metrics["noise"]["error"], rel=0.05)


def test_a_task_that_says_too_little_is_refused_by_what_it_lacks() -> None:
    class Half(SupervisedTask):
        def loss(self, output: Any, target: Any) -> Tensor:
            return torch.zeros(())

    with pytest.raises(TypeError, match="abstract methods? .*batches.*build.*evaluate"):
        Half()  # type: ignore[abstract]
