"""What a group of samples takes at a width on this device, measured when it is first asked for."""

from __future__ import annotations

import statistics
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from slimlib.core.setting import at_width
from slimlib.core.structures import tensors
from slimlib.core.width import Width
from slimlib.dynamic.batches import take
from slimlib.serving.cost import timed

REPEATS, WARMUP = 5, 2
Key = tuple[Any, ...]


class GroupTimes:
    """Seconds of one pass over a group, for groups of 1, 2, 4, ... samples; between these it is interpolated.

    Args:
        net: the network that serves, in eval mode.
        args: its arguments for a batch: what is measured are parts of it, or repetitions.
    """

    def __init__(self, net: nn.Module, args: tuple[Any, ...]) -> None:
        self.net, self.args = net, args
        self.samples = next(len(tensor) for tensor in tensors(args) if tensor.dim())
        self.device = tensors(args)[0].device
        self.measured = _MEASURED.setdefault(net, {}).setdefault(_kind(args), {})

    def __call__(self, width: Width, samples: int) -> float:
        below = 1 << (samples.bit_length() - 1)
        if below == samples:
            return self._seconds(width, samples)
        low, high = self._seconds(width, below), self._seconds(width, 2 * below)
        return low + (high - low) * (samples - below) / below

    def _seconds(self, width: Width, samples: int) -> float:
        if (width, samples) not in self.measured:
            places = torch.arange(samples, device=self.device) % self.samples
            group = take(self.args, places)
            with at_width(self.net, width), torch.inference_mode():
                found = [timed(self.net, group, self.device) for _ in range(WARMUP + REPEATS)]
            self.measured[width, samples] = statistics.median(found[WARMUP:])
        return self.measured[width, samples]


_MEASURED: WeakKeyDictionary[nn.Module, dict[Key, dict[tuple[Width, int], float]]] = WeakKeyDictionary()


def _kind(args: Any) -> Key:
    """All but the values and the number of the samples that decides how long a pass takes."""
    return (torch.get_num_threads(), *map(_kind_of, tensors(args)))


def _kind_of(tensor: Tensor) -> Key:
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return (tensor.shape[1:], tensor.dtype, tensor.device, last)
