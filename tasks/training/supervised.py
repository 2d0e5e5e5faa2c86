"""The training loop of every supervised task: individual networks and slimmable ones, resumable at any step."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from slimlib.core.setting import slimming_of
from slimlib.core.width import label
from slimlib.training.graphs import Graphs
from slimlib.training.incremental import Incremental
from slimlib.training.rule import Rule
from slimlib.training.sandwich import EveryWidth
from slimlib.training.step import in_lower_precision
from tasks.points import PointResult, by_cost
from tasks.training.checkpoint import Checkpoint
from tasks.training.problem import Problem
from tasks.training.ranks import Ranks
from tasks.training.recipe import Recipe
from tasks.training.run import PRECISIONS, Interrupted, TrainingFailed, TrainingRun, derive_seed
from tasks.training.saved import Saved, UnusableState, read_saved
from tasks.training.scoring import score


@dataclass
class Training:
    """One network in training.

    Attributes:
        width: of an individual network; None: a slimmable one.
        ends: the step after which each stage of it ends.
    """

    net: nn.Module
    width: float | None
    rule: Rule | None
    optimizer: Optimizer
    scheduler: LRScheduler
    ends: Sequence[int]
    scaler: GradScaler | None = None
    step: int = 0

    def state(self, ranks: Ranks) -> dict[str, Any]:
        """Everything that decides the next steps of all ranks, as tensors and plain values."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rule": None if self.rule is None else self.rule.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "step": self.step,
            "random": ranks.gathered(self._random_states),
        }

    def load_state(self, state: Mapping[str, Any], ranks: Ranks) -> None:
        """Go on where `state` was taken; also with more or fewer ranks than it was taken with."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.rule is not None:
            self.rule.load_state_dict(state["rule"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.step = int(state["step"])
        if ranks.index < len(state["random"]):
            self._restore_random_states(state["random"][ranks.index])

    @property
    def finished(self) -> bool:
        """Whether its last step is done."""
        return self.step == self.ends[-1]

    @property
    def kept(self) -> bool:
        """Whether it is the one network of its recipe that is kept: the slimmable one, or the full individual one."""
        return self.width in (None, 1.0)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.net.parameters()).device

    def _random_states(self) -> dict[str, Tensor | None]:
        """Of the generators that the layers of the network draw from."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def _restore_random_states(self, states: Mapping[str, Tensor | None]) -> None:
        torch.set_rng_state(states["cpu"])  # type: ignore[arg-type]
        if states["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], self.device)


def _of_task(_: float | None) -> Mapping[str, Any]:
    return {}


def train_recipe(
    task: Problem, recipe: Recipe, run: TrainingRun, *, values: Callable[[float | None], Mapping[str, Any]] = _of_task
) -> list[PointResult]:
    """Train and score all networks of a recipe, from its checkpoint if there is one.

    Args:
        values: width of a network, None: the slimmable one -> hyperparameters of its own.

    Returns:
        A result for each operating point, cheapest first: the same whether or not the run was interrupted,
        and the same on every rank.

    Raises:
        Interrupted: `run.watch.stop` asked for it.
        TrainingFailed: the loss or a score is not finite.
        HostileCheckpointError: the checkpoint would run code.
    """
    loop = Loop(task, recipe, run, values)
    try:
        return _train_networks(loop, run.ranks.first(lambda: read_saved(run.checkpoint)))
    except UnusableState as unusable:
        _set_aside(run, run.checkpoint, unusable.reason)
        return _train_networks(loop, Saved())


@dataclass(frozen=True)
class Loop:
    """What all trainings of a recipe have in common."""

    task: Problem
    recipe: Recipe
    run: TrainingRun
    values: Callable[[float | None], Mapping[str, Any]] = _of_task

    @property
    def autocast(self) -> torch.dtype | None:
        return PRECISIONS[self.run.precision]


def _train_networks(loop: Loop, saved: Saved) -> list[PointResult]:
    task, recipe, run = loop.task, loop.recipe, loop.run
    checkpoint, ranks = run.checkpoint, run.ranks
    results = list(saved.results)
    networks = recipe.networks(task)
    for number, width in enumerate(networks[saved.finished :], start=saved.finished):
        own = replace(loop, task=task.tuned(loop.values(width)))
        training = ranks.together(partial(start, own, width))
        _take_trained(run, training)
        train_network(own, training, saved.training if number == saved.finished else None, before=results)
        _keep_trained(run, training)
        results += score(task, recipe, training.net, width, seed=run.seed, device=run.device, ranks=ranks)
        run.watch.trained(width, training.net)
        if checkpoint is not None and number < len(networks) - 1:
            _write(run, checkpoint, Saved(number + 1, results))
    return sorted(results, key=by_cost)


def trained_once(loop: Loop) -> nn.Module:
    """The slimmable network of a recipe after its training, which recipes that agree in it share."""
    run = loop.run

    def make() -> Training:
        training = start(loop, None)
        _take_trained(run, training)
        saved = read_saved(run.checkpoint).training
        if saved is not None and "gate" in saved:  # a second stage has begun, which needs no more of the first
            training.net.load_state_dict(saved["net"])
            training.step = training.ends[-1]
        return training

    first = [make()]  # which is not made again if it has to be trained
    training = first[0] if first[0].finished else resumed(loop, lambda: first.pop() if first else make())
    _keep_trained(run, training)
    return training.net


def resumed(loop: Loop, make: Callable[[], Training]) -> Training:
    """The training of a single network to its last step, from the run's checkpoint if there is one."""
    saved, training = read_saved(loop.run.checkpoint), make()
    try:
        train_network(loop, training, saved.training)
    except UnusableState as unusable:
        _set_aside(loop.run, loop.run.checkpoint, unusable.reason)
        training = make()
        train_network(loop, training)
    return training


def train_network(
    loop: Loop, training: Training, state: Mapping[str, Any] | None = None, *, before: Sequence[PointResult] = ()
) -> None:
    """Train a network to the last step of the run, with checkpoints.

    Args:
        state: of its training, where that has begun.
        before: results of the networks that were trained before it.

    Raises:
        Interrupted: `run.watch.stop` asked for it.
        TrainingFailed: the loss is not finite.
        UnusableState: the state is of another network.
    """
    run, number = loop.run, len(before)
    checkpoint, watch, ranks = run.checkpoint, run.watch, run.ranks
    if state is not None:
        _load(loop, training, state)
    for step, loss in _stages(loop, training):
        watch.step(number * run.steps + step, loss)
        stop, due = ranks.any(watch.stop(), ranks.leads and checkpoint is not None and checkpoint.due())
        if checkpoint is not None and (stop or due):
            _write(run, checkpoint, Saved(number, before, training.state(ranks)))
        if stop:
            raise Interrupted
    ranks.share_buffers(training.net)


def start(loop: Loop, width: float | None) -> Training:
    """A freshly initialised network. All slimmable recipes of a seed start from the same weights."""
    net = fresh(loop, 1.0 if width is None else width)
    rule = None
    if width is None:
        net = loop.recipe.convert(net, loop.task)
        rule = loop.recipe.make_rule(loop.run.seed)
    return begin(loop, net, width, rule)


def fresh(loop: Loop, width: float = 1.0) -> nn.Module:
    """The dense network, its weights drawn by the run's seed."""
    torch.manual_seed(derive_seed(loop.run.seed, "weights"))
    return loop.recipe.build(loop.task, width)


def begin(loop: Loop, net: nn.Module, width: float | None, rule: Rule | None) -> Training:
    """The training of a network before its first step, on the run's device."""
    run = loop.run
    net.to(run.device)
    # Each rank has other items of the batch, and so draws other dropout; the first draws what a process alone does.
    torch.manual_seed(derive_seed(run.seed, "training" if run.ranks.leads else f"training of rank {run.ranks.index}"))
    ends = [run.steps] if rule is None else rule.ends(run.steps)
    optimizer, scheduler = loop.task.optimizer(net, ends[0])
    scaler = GradScaler(run.device.type) if loop.autocast == torch.float16 else None
    return Training(net, width, rule, optimizer, scheduler, ends, scaler)


def _take_trained(run: TrainingRun, training: Training) -> None:
    """Spare the training where another recipe has done the very same."""
    trained = run.trained
    state = None if trained is None or not training.kept else run.ranks.first(trained.read)
    if state is None:
        return
    try:
        run.ranks.together(lambda: training.net.load_state_dict(state["net"]))
        training.step = training.ends[-1]
    except (KeyError, RuntimeError) as error:
        _set_aside(run, trained, error)


def _keep_trained(run: TrainingRun, training: Training) -> None:
    trained = run.trained
    if trained is not None and training.kept:
        net = training.net.state_dict()
        run.ranks.first(lambda: None if trained.path.exists() else trained.write({"net": net}))


def _stages(loop: Loop, training: Training) -> Iterator[tuple[int, float]]:
    """Train to the last step, as `_train` does."""
    for number, end in enumerate(training.ends):
        if training.step < end:
            if number and training.step == training.ends[number - 1]:
                _begin_stage(loop, training, number)
            rule, net = training.rule, training.net
            with nullcontext() if rule is None else rule.stage(number, net, training.optimizer):
                yield from _train(loop, training, end)


def _begin_stage(loop: Loop, training: Training, number: int) -> None:
    """Give it an optimizer and a schedule of its own."""
    begin, end = (0, *training.ends)[number : number + 2]
    training.optimizer, training.scheduler = loop.task.optimizer(training.net, end - begin)


def _train(loop: Loop, training: Training, end: int) -> Iterator[tuple[int, float]]:
    """Train to a step; yields (steps done, loss of the widest) after each."""
    task, run = loop.task, loop.run
    data_seed = derive_seed(run.seed, "data")
    training.net.train()
    # Switches have BatchNorm parameters, and bands heads, of their own, which other widths' passes give no gradient.
    private = training.width is None and slimming_of(training.net).has_private_parameters
    net = run.ranks.wrap(training.net, some_unused=private)
    steps = range(training.step, end)
    batches = task.batches(steps, data_seed, device=run.device, shard=run.ranks.shard)
    recorded = run.graphs and run.device.type == "cuda" and run.ranks.count == 1
    graphs = Graphs(net) if recorded and (not private or isinstance(training.rule, EveryWidth | Incremental)) else None
    with nullcontext() if graphs is None else graphs.stream():
        for batch in batches:
            inputs, target = batch if graphs is None else graphs.hold(batch)
            training.optimizer.zero_grad(set_to_none=True)
            losses = _backward(loop, training, net, inputs, target, graphs)
            values = run.ranks.mean(torch.stack(list(losses.values())).tolist())
            _check_finite(training, losses, values)
            _update(training)
            training.step += 1
            yield training.step, values[0]


def _check_finite(training: Training, widths: Iterable[Any], losses: list[float]) -> None:
    for width, value in zip(widths, losses, strict=True):
        if not math.isfinite(value):
            where = f"at step {training.step + 1}, width {label(width)}"
            raise TrainingFailed(f"the loss is {value} {where}; a smaller learning rate may help")


def _backward(
    loop: Loop, training: Training, net: nn.Module, inputs: Any, target: Any, graphs: Graphs | None
) -> dict[Any, Tensor]:
    scaler, autocast = training.scaler, loop.autocast

    def loss(output: Any) -> Tensor:
        return loop.task.loss(output, target)

    if training.rule is not None:
        return training.rule.backward(net, inputs, loss, scaler=scaler, autocast=autocast, graphs=graphs)
    args = inputs if isinstance(inputs, tuple) else (inputs,)

    def pass_once() -> tuple[Tensor, None]:
        value = loss(net(*args) if autocast is None else in_lower_precision(net, args, autocast))
        (value if scaler is None else scaler.scale(value)).backward()
        return value.detach(), None

    if graphs is None:
        return {training.width: pass_once()[0]}
    graphs.begin()
    return {training.width: graphs.run("the network", pass_once)[0]}


def _update(training: Training) -> None:
    if training.scaler is None:
        training.optimizer.step()
    else:
        training.scaler.step(training.optimizer)
        training.scaler.update()
    training.scheduler.step()


def _write(run: TrainingRun, checkpoint: Checkpoint, saved: Saved) -> None:
    run.ranks.first(lambda: checkpoint.write(saved.state()))


def _set_aside(run: TrainingRun, checkpoint: Checkpoint | None, reason: Exception) -> None:
    assert checkpoint is not None
    run.ranks.first(lambda: checkpoint.set_aside(reason))


def _load(loop: Loop, training: Training, state: Mapping[str, Any]) -> None:
    ranks = loop.run.ranks

    def load() -> None:
        _begin_stage(loop, training, bisect_left(training.ends, state["step"]))
        training.load_state(state, ranks)

    try:
        ranks.together(load)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UnusableState(error) from error
