"""What `set_width` takes, for channel numbers seen before."""

from __future__ import annotations

from functools import partial

import torch

import slimlib as slim
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.networks import build, channel_rule
from benchmarks.perf.timing import Spread, take_turns

LIMITS = {"in place": 20.0, "frozen": 5.0}


def switching(name: str, *, size: int, rounds: int) -> list[Measurement]:
    """Microseconds of one `set_width`, in training in place and on a frozen network."""
    images = torch.randn(4, 3, size, size)
    full = build(name)
    net = slim.convert(full, images[:1], **channel_rule(full)).eval()
    slim.calibrate(net, [images], widths=[0.5])
    frozen = slim.freeze(net, widths=[0.5, 1.0])

    def there_and_back(target: torch.nn.Module) -> None:
        slim.set_width(target, 0.5)
        slim.set_width(target, 1.0)

    runs = {"in place": net, "frozen": frozen}
    times = take_turns({key: partial(there_and_back, target) for key, target in runs.items()}, rounds=rounds)
    return [
        Measurement("width switch", name, key, Spread.of([1e6 * s / 2 for s in seconds]), unit="us", limit=LIMITS[key])
        for key, seconds in times.items()
    ]
