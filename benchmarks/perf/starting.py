"""What one waits for before anything runs: imports, the help of the benchmark, `convert` and `freeze`."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import torch

import slimlib as slim
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.networks import build, calibrated
from benchmarks.perf.timing import CPU, Spread
from tasks.detection.operators import torchvision

IMPORT = "import time, torch; began = time.process_time(); import slimlib; print(time.process_time() - began)"
HELP = "-m benchmarks.run help"
IMPORT_LIMIT, HELP_LIMIT, FREEZE_LIMIT = 0.1, 2.0, 3.0  # seconds
CONVERT_LIMITS = {"ResNet-50": 2.0, "ViT-B/16": 8.0}


def starting(*, rounds: int) -> Iterator[Measurement]:
    """CPU seconds of `import slimlib` beyond `import torch`, and of `python -m benchmarks.run help`.

    Both with their bytecode cached, as from the second time on.
    """
    with tempfile.TemporaryDirectory() as cache:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = cache

        def run(*arguments: str) -> tuple[str, float]:
            before = _children()
            done = subprocess.run(
                [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True
            )
            return done.stdout, _children() - before

        run("-c", IMPORT)
        imports = Spread.of([float(run("-c", IMPORT)[0]) for _ in range(rounds)])
        yield Measurement("start", "slimlib", "import, beyond torch's", imports, unit="s", limit=IMPORT_LIMIT)
        run(*HELP.split())
        helps = Spread.of([run(*HELP.split())[1] for _ in range(rounds)])
        yield Measurement("start", "slimlib", f"python {HELP}", helps, unit="s", limit=HELP_LIMIT)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def converting(name: str, *, size: int, rounds: int) -> Iterator[Measurement]:
    """CPU seconds of one `convert` of a network that was just built, for images of `size` x `size`."""
    example = torch.randn(1, 3, size, size)
    spent = []
    for _ in range(rounds):
        net = torchvision().models.vit_b_16() if name == "ViT-B/16" else build(name)
        began = time.process_time()
        slim.convert(net, example)
        spent.append(time.process_time() - began)
    limit = CONVERT_LIMITS.get(name)
    yield Measurement("convert", name, f"{size} px", Spread.of(spent), unit="s", limit=limit)


def freezing(name: str, widths: Sequence[float], *, size: int, device: torch.device = CPU) -> Iterator[Measurement]:
    """CPU seconds of one `freeze` of these widths: as it is, and with folded norms."""
    images = torch.randn(2, 3, size, size, device=device)
    net = calibrated(name, images, widths)
    for setting, example in (("", None), (", folded", images[:1])):
        gc.collect()  # what other measurements left
        began = time.process_time()
        slim.freeze(net, list(widths), example)
        value = Spread.of([time.process_time() - began])
        yield Measurement("freeze", name, f"{len(widths)} widths{setting}", value, unit="s", limit=FREEZE_LIMIT)
