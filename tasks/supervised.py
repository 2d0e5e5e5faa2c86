"""The training loop of every supervised task: individual networks and slimmable ones, resumable at any step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import slimlib as slim
from slimlib.rules import Rule
from tasks.checkpoint import Checkpoint
from tasks.recipe import Recipe
from tasks.seeds import derive_seed
from tasks.task import Scores, SupervisedTask


@dataclass(frozen=True)
class WidthResult:
    """What was measured at one width."""

    width: float
    macs: int
    params: int
    metrics: Scores


class Interrupted(Exception):
    """The run was asked to stop; its checkpoint is written."""


class TrainingFailed(Exception):
    """Training cannot go on, for example because the loss is not a finite number."""


def _nothing(*_: Any) -> None:
    return None


@dataclass(frozen=True)
class Watch:
    """How the surroundings follow a run.

    Attributes:
        step: called with (steps done of all networks of the recipe, loss of the widest) after each step.
        stop: asked after each step; once true, a checkpoint is written and `Interrupted` raised.
        trained: called with (width or None, network) for each network when it is evaluated.
    """

    step: Callable[[int, float], None] = _nothing
    stop: Callable[[], bool] = lambda: False
    trained: Callable[[float | None, nn.Module], None] = _nothing


@dataclass
class Training:
    """One network in training. `width` is that of an individual network, None of a slimmable one."""

    net: nn.Module
    width: float | None
    rule: Rule | None
    optimizer: Optimizer
    scheduler: LRScheduler
    step: int = 0

    def state(self) -> dict[str, Any]:
        """Everything that decides the next steps, as tensors and plain values."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rule": None if self.rule is None else self.rule.state_dict(),
            "step": self.step,
            "random": _random_states(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.rule is not None:
            self.rule.load_state_dict(state["rule"])
        self.step = state["step"]
        _restore_random_states(state["random"])


def train_recipe(
    task: SupervisedTask,
    recipe: Recipe,
    *,
    steps: int,
    seed: int,
    device: torch.device | str = "cpu",
    checkpoint: Checkpoint | None = None,
    watch: Watch = Watch(),
) -> list[WidthResult]:
    """Train and score all networks of a recipe, from its checkpoint if there is one.

    Args:
        task: what to train for.
        recipe: how.
        steps: of the optimizer, for each network of the recipe alike.
        seed: decides weights, data and random widths.
        device: where to train.
        checkpoint: where the state is kept until the run is recorded; None: nowhere.
        watch: how the run is followed and stopped.

    Returns:
        A result for each evaluated width, narrowest first: the same whether or not the run was interrupted.

    Raises:
        Interrupted: `watch.stop` asked for it.
        TrainingFailed: the loss or a score is not finite.
        HostileCheckpointError: the checkpoint would run code.
    """
    run = _Run(task, recipe, steps, seed, torch.device(device))
    try:
        return _train_networks(run, checkpoint, watch, _read(checkpoint))
    except _UnusableState as unusable:
        assert checkpoint is not None
        checkpoint.set_aside(unusable.reason)
        return _train_networks(run, checkpoint, watch, _Saved())


def networks_of(recipe: Recipe, task: SupervisedTask) -> tuple[float | None, ...]:
    """The networks that a recipe trains, one after another.

    Returns:
        The width of each individual network; a single None for a slimmable one.
    """
    return tuple(task.widths) if recipe.kind == "individual" else (None,)


@dataclass(frozen=True)
class _Run:
    task: SupervisedTask
    recipe: Recipe
    steps: int
    seed: int
    device: torch.device


@dataclass(frozen=True)
class _Saved:
    """What a checkpoint holds: the results of the finished networks, and the state of the next one, if it had begun."""

    finished: int = 0
    results: Sequence[WidthResult] = ()
    training: Mapping[str, Any] | None = None


class _UnusableState(Exception):
    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _train_networks(run: _Run, checkpoint: Checkpoint | None, watch: Watch, saved: _Saved) -> list[WidthResult]:
    results = list(saved.results)
    networks = networks_of(run.recipe, run.task)
    for number, width in enumerate(networks[saved.finished :], start=saved.finished):
        training = _start(run, width)
        if saved.training is not None and number == saved.finished:
            _load(training, saved.training)
        for step, loss in _train(run, training):
            watch.step(number * run.steps + step, loss)
            stop = watch.stop()
            if checkpoint is not None and (stop or checkpoint.due()):
                _write(checkpoint, number, results, training.state())
            if stop:
                raise Interrupted
        results += _score(run, training)
        watch.trained(width, training.net)
        if checkpoint is not None and number < len(networks) - 1:
            _write(checkpoint, number + 1, results, None)
    return sorted(results, key=lambda result: result.width)


def _start(run: _Run, width: float | None) -> Training:
    """A freshly initialised network. All slimmable recipes of a seed start from the same weights."""
    torch.manual_seed(derive_seed(run.seed, "weights"))
    net = run.task.build(1.0 if width is None else width)
    rule = None
    if width is None:
        net, rule = run.recipe.convert(net, run.task), run.recipe.make_rule(run.seed)
    net.to(run.device)
    torch.manual_seed(derive_seed(run.seed, "training"))
    optimizer, scheduler = run.task.optimizer(net, run.steps)
    return Training(net, width, rule, optimizer, scheduler)


def _train(run: _Run, training: Training) -> Iterator[tuple[int, float]]:
    """Train to the last step; yields (steps done, loss of the widest) after each."""
    data_seed = derive_seed(run.seed, "data")
    training.net.train()
    while training.step < run.steps:
        x, target = (tensor.to(run.device) for tensor in run.task.batch(training.step, data_seed))
        training.optimizer.zero_grad(set_to_none=True)
        losses = _backward(training, x, partial(run.task.loss, target=target))
        values = torch.stack(list(losses.values())).tolist()
        for width, value in zip(losses, values, strict=True):
            if not math.isfinite(value):
                where = f"at step {training.step + 1}, width {width:g}"
                raise TrainingFailed(f"the loss is {value} {where}; a smaller learning rate may help")
        training.optimizer.step()
        training.scheduler.step()
        training.step += 1
        yield training.step, values[0]


def _backward(training: Training, x: Tensor, loss: Callable[[Tensor], Tensor]) -> dict[Any, Tensor]:
    if training.rule is not None:
        return training.rule.backward(training.net, x, loss)
    value = loss(training.net(x))
    value.backward()
    return {training.width: value.detach()}


def _score(run: _Run, training: Training) -> list[WidthResult]:
    """Evaluate a trained network at each of its widths, BatchNorm calibrated first."""
    net = training.net
    if training.width is not None:
        return [_result(run, net.eval(), training.width, cost_width=1.0)]
    recipe, widths = run.recipe, run.recipe.evaluated(run.task)
    if recipe.calibrate and recipe.norm == "universal":
        seed = derive_seed(run.seed, "calibration")
        batches = (run.task.batch(step, seed)[0].to(run.device) for step in range(recipe.calibrate))
        slim.calibrate(net, batches, list(widths), average=recipe.average)  # type: ignore[arg-type]
    net.eval()
    results = []
    for width in widths:
        slim.set_width(net, width)
        results.append(_result(run, net, width, cost_width=width))
    return results


def _result(run: _Run, net: nn.Module, width: float, *, cost_width: float) -> WidthResult:
    cost = slim.cost(net, run.task.example().to(run.device), cost_width)
    with torch.no_grad():
        metrics = run.task.evaluate(net)
    for name, scores in metrics.items():
        for metric, value in scores.items():
            if not math.isfinite(value):
                raise TrainingFailed(f"{metric} on {name} is {value} at width {width:g}")
    return WidthResult(width, cost.macs, cost.params, metrics)


def _write(
    checkpoint: Checkpoint, finished: int, results: Sequence[WidthResult], training: Mapping[str, Any] | None
) -> None:
    checkpoint.write({"finished": finished, "results": [asdict(r) for r in results], "training": training})


def _read(checkpoint: Checkpoint | None) -> _Saved:
    state = None if checkpoint is None else checkpoint.read()
    if state is None or checkpoint is None:
        return _Saved()
    try:
        results = [WidthResult(**result) for result in state["results"]]
        return _Saved(int(state["finished"]), results, state["training"])
    except (KeyError, TypeError, ValueError) as error:
        checkpoint.set_aside(error)
        return _Saved()


def _load(training: Training, state: Mapping[str, Any]) -> None:
    try:
        training.load_state(state)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise _UnusableState(error) from error


def _random_states() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _restore_random_states(states: Mapping[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
