"""The second stage of a network with a gate: the gate learns, the network does not; resumable at any step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

import slimlib as slim
from tasks.points import OperatingPoint
from tasks.training.run import Interrupted, TrainingFailed, derive_seed
from tasks.training.saved import Saved, read_saved
from tasks.training.scoring import calibrate
from tasks.training.supervised import Loop

SHARE = 0.2  # of the steps of the network: 30 epochs after 150
RATE, DECAY, MOMENTUM = 0.08, 0.01, 0.9


def train_gate(
    loop: Loop,
    net: nn.Module,
    widths: Sequence[float],
    *,
    gated: slim.Gated | None = None,
    steps: int | None = None,
) -> slim.Gated:
    """Put a gate into a trained network and train it, from the checkpoint of the run if there is one.

    `gated`: it is there already. `steps`: in the place of a fifth of the network's.

    The cost penalty is .5 times the square of the mean cost, as a share of the full width's: as published, but for
    the unit of 1e9 multiply-adds, beside which those of a small network are nothing.

    Raises:
        ValueError: the task does not say where its networks may have a gate.
        Interrupted: `run.watch.stop` asked for it.
        TrainingFailed: a loss is not finite.

    Source: Li et al. 2021 (DS-Net), sec. 4.1, and their published settings.
    """
    task, run = loop.task, loop.run
    example = task.example().to(run.device)
    gated = gated or _with_gate(loop, net, widths, example)
    training = slim.GateTraining(gated, example, unit=float(slim.cost(net, example).macs))
    steps = steps or max(1, round(SHARE * run.steps))
    optimizer = SGD(gated.gate.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True)
    schedule = CosineAnnealingLR(optimizer, steps)
    parts: dict[str, Any] = {"gate": gated.gate, "optimizer": optimizer, "schedule": schedule}
    done = _resume(loop, parts)
    data = task.batches(range(done, steps), derive_seed(run.seed, "data of the gate"), device=run.device)
    for step, (inputs, target) in enumerate(data, start=done + 1):
        optimizer.zero_grad()
        losses = training.backward(inputs, target, task.loss)
        if not all(math.isfinite(value) for value in losses.values()):
            raise TrainingFailed(f"a loss of the gate is not finite at its step {step}")
        optimizer.step()
        schedule.step()
        run.watch.step(run.steps, float(losses["task"]))
        stop = run.watch.stop()
        if run.checkpoint is not None and (stop or run.checkpoint.due()):
            run.checkpoint.write(Saved(training=_state(loop, net, parts, step)).state())
        if stop:
            raise Interrupted
    return gated.eval()


def _with_gate(loop: Loop, net: nn.Module, widths: Sequence[float], example: Any) -> slim.Gated:
    """A fresh gate where the task says, the BatchNorms calibrated for what runs around it."""
    task, run = loop.task, loop.run
    before = task.gate_before(net)
    plans = [OperatingPoint("plan", plan) for plan in slim.gated_plans(net, before, widths)]
    calibrate(task, loop.recipe, net, plans, derive_seed(run.seed, "calibration"), run.device, run.ranks)
    torch.manual_seed(derive_seed(run.seed, "gate"))
    return slim.Gated.at(net, before, widths, example)


def _state(loop: Loop, net: nn.Module, parts: dict[str, Any], step: int) -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state(loop.run.device) if loop.run.device.type == "cuda" else None
    random = {"cpu": torch.get_rng_state(), "cuda": cuda}
    own = {name: part.state_dict() for name, part in parts.items()}
    return {"net": net.state_dict(), "gate": own, "step": step, "random": random}


def _resume(loop: Loop, parts: dict[str, Any]) -> int:
    """Load what a checkpoint holds of the gate; returns the steps that are done."""
    saved = read_saved(loop.run.checkpoint).training
    if saved is None or "gate" not in saved:
        return 0
    for name, part in parts.items():
        part.load_state_dict(saved["gate"][name])
    torch.set_rng_state(saved["random"]["cpu"])
    if saved["random"]["cuda"] is not None and loop.run.device.type == "cuda":
        torch.cuda.set_rng_state(saved["random"]["cuda"], loop.run.device)
    return int(saved["step"])
