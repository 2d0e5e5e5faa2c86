"""The stream: images to upscale, a budget for each, and other work on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import slimlib as slim
from slimlib.core.width import Width
from slimlib.serving.profiling import WidthProfile
from tasks.sr.data import to_float
from tasks.sr.metrics import PROTOCOLS, psnr, to_uint8

PATCH = 96  # pixels of a side, low resolution
TOGETHER = 8  # images whose mean time is that of one
QUALITIES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
COMPUTE = "import os\nwhile os.getppid() != 1: sum(number * number for number in range(10_000))"


@dataclass(frozen=True)
class Phase:
    """A part of the stream: what a request may take, and whether other processes load the machine."""

    name: str
    budget: float  # times what the full width takes on the idle machine
    loaded: bool = False


PHASES = (
    Phase("room", 1.6),
    Phase("half the budget", 0.5),
    Phase("room again", 1.6),
    Phase("a loaded machine", 1.6, loaded=True),
    Phase("idle again", 1.6),
)


@dataclass(frozen=True)
class Request:
    """One image, upscaled by one of the servers.

    Attributes:
        seconds: since the stream began.
        milliseconds: that the answer took; budget: that it might take.
        psnr: of the answer, in dB.
    """

    server: str
    phase: str
    seconds: float
    width: float
    milliseconds: float
    budget: float
    psnr: float


@dataclass(frozen=True)
class Image:
    """A part of a photograph: what arrives, and what it should become."""

    low: Tensor  # [1, 3, PATCH, PATCH] in [0, 1]
    high: Tensor  # uint8 [3, scale * PATCH, scale * PATCH]


def images_of(pairs: Any, scale: int) -> list[Image]:
    """Every part of the photographs that fills a patch; `pairs`: (low, high) of uint8 [3, ...]."""
    found = []
    for low, high in pairs:
        for top in range(0, low.shape[-2] - PATCH + 1, PATCH):
            for left in range(0, low.shape[-1] - PATCH + 1, PATCH):
                part = low[:, top : top + PATCH, left : left + PATCH]
                whole = high[:, scale * top : scale * (top + PATCH), scale * left : scale * (left + PATCH)]
                found.append(Image(to_float(part[None]), whole))
    return found


def serve(
    frozen: nn.Module,
    measured: slim.Profile,
    images: Sequence[Image],
    cascade: slim.Cascade,
    *,
    scale: int,
    seconds: float,
) -> Iterator[Request]:
    """The requests of all phases, each `seconds` long; four servers answer each image, one after another.

    The servers are the governor of the width, the governor of the cascade's quality, the full width, and the narrowest.
    """
    widest, narrowest = measured.rows[-1], measured.rows[0]
    governor = slim.Governor(frozen, measured, PHASES[0].budget * widest.milliseconds)
    of_cascade = slim.Governor(cascade, profile_of(cascade, images), PHASES[0].budget * widest.milliseconds)
    began, number = time.perf_counter(), 0
    for phase in PHASES:
        governor.budget_ms = of_cascade.budget_ms = budget = phase.budget * widest.milliseconds
        servers: dict[str, Callable[[Tensor], Any]] = {
            "governor": governor,
            "cascade": of_cascade,
            "full width": _fixed(frozen, widest.width),
            "narrowest": _fixed(frozen, narrowest.width),
        }
        ends = time.perf_counter() + seconds
        with load() if phase.loaded else _idle():
            while time.perf_counter() < ends:
                image = images[number % len(images)]
                number += 1
                for name, server in servers.items():
                    widths = {"governor": governor.width, "full width": widest.width, "narrowest": narrowest.width}
                    begin = time.perf_counter()
                    output = server(image.low)
                    took = 1e3 * (time.perf_counter() - begin)
                    quality = psnr(to_uint8(output[0]), image.high, PROTOCOLS["y"], scale)
                    width = widths.get(name) or cascade.answered[0]
                    assert isinstance(width, float)
                    yield Request(name, phase.name, begin - began, width, took, budget, quality)


def profile_of(cascade: slim.Cascade, images: Sequence[Image]) -> slim.Profile:
    """What an image takes on average at each quality, from a batch of them: single images are answered or go on."""
    batch = torch.cat([image.low for image in images[:TOGETHER]])
    measured = slim.profile(cascade, batch, QUALITIES, rounds=10, threads=1)
    rows = [replace(row, milliseconds=row.milliseconds / len(batch), p95=row.p95 / len(batch)) for row in measured.rows]
    return replace(measured, rows=tuple(_rising(rows)))


def _rising(rows: Sequence[WidthProfile]) -> list[WidthProfile]:
    """Without qualities that take no longer than a lower one, which are no worse choice."""
    kept = list(rows[:1])
    for row in rows[1:]:
        if row.milliseconds > kept[-1].milliseconds:
            kept.append(row)
        else:
            kept[-1] = replace(row, milliseconds=kept[-1].milliseconds)
    return kept


def _fixed(frozen: nn.Module, width: Width) -> Callable[[Tensor], Any]:
    def answer(low: Tensor) -> Any:
        slim.set_width(frozen, width)
        with torch.inference_mode():
            return frozen(low)

    return answer


@contextmanager
def load() -> Iterator[None]:
    """Other processes compute meanwhile, two for each core."""
    processes = [subprocess.Popen([sys.executable, "-c", COMPUTE]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


@contextmanager
def _idle() -> Iterator[None]:
    yield
