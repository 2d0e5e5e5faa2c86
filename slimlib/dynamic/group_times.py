"""What a group of samples takes at a width on this device, measured when it is first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from slimlib.core.setting import at_width, set_width
from slimlib.core.structures import tensors
from slimlib.core.width import Width
from slimlib.dynamic.batches import take
from slimlib.serving.cost import computing_clock, timed

REPEATS, WARMUP = 7, 2
Key = tuple[Any, ...]


class GroupTimes:
    """Seconds of one pass over a group, for groups of 1, 2, 4, ... samples; between these it is interpolated.

    Args:
        net: the network that serves, in eval mode.
        args: its arguments for a batch: what is measured are parts of it, or repetitions.
        widths: that are asked for, at least two, narrow to wide.
    """

    def __init__(self, net: nn.Module, args: tuple[Any, ...], widths: Sequence[Width]) -> None:
        self.net, self.args, self.widths = net, args, widths
        self.samples = next(len(tensor) for tensor in tensors(args) if tensor.dim())
        self.device = tensors(args)[0].device
        self.measured = _MEASURED.setdefault(net, {}).setdefault(_kind(args), {})

    def among_others(self, width: Width, samples: int) -> float:
        """Where other widths run between, whose kernels take the place of these in the caches."""
        return self._between(width, samples, next(w for w in reversed(self.widths) if w != width))

    def alone(self, width: Width, samples: int) -> float:
        """Where nothing else runs."""
        return self._between(width, samples, None)

    def _between(self, width: Width, samples: int, other: Width | None) -> float:
        below = 1 << (samples.bit_length() - 1)
        if below == samples:
            return self._seconds(width, samples, other)
        low, high = (self._seconds(width, size, other) for size in (below, 2 * below))
        return low + (high - low) * (samples - below) / below

    def _seconds(self, width: Width, samples: int, other: Width | None) -> float:
        key = width, samples, other is None
        if key not in self.measured:
            group = take(self.args, torch.arange(samples, device=self.device) % self.samples)
            found, now = [], computing_clock(self.device)
            with at_width(self.net, width), torch.inference_mode():
                for _ in range(WARMUP + REPEATS):
                    if other is not None:
                        set_width(self.net, other)
                        self.net(*group)
                        set_width(self.net, width)
                    found.append(timed(self.net, group, self.device, now))
            self.measured[key] = min(found[WARMUP:])  # what other work on the machine delays least
        return self.measured[key]


_MEASURED: WeakKeyDictionary[nn.Module, dict[Key, dict[tuple[Width, int, bool], float]]] = WeakKeyDictionary()


def _kind(args: Any) -> Key:
    """All but the values and the number of the samples that decides how long a pass takes."""
    return (torch.get_num_threads(), *map(_kind_of, tensors(args)))


def _kind_of(tensor: Tensor) -> Key:
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return (tensor.shape[1:], tensor.dtype, tensor.device, last)
