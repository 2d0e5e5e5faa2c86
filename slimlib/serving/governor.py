"""`Governor`: the width of each request, chosen so that it is answered in time on a machine whose load changes."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from slimlib.core.arguments import arguments
from slimlib.core.setting import slimmable_parts
from slimlib.core.width import Width, is_number, label
from slimlib.serving.cost import wait_for
from slimlib.serving.profiling import HasQuality, Profile, adjust, check_profile

QUICK = 3  # requests whose median shows that the budget is missed
SETTLED = 12  # requests that must all have left room before a wider width is tried
ROOM = 0.9  # share of the budget that a wider width may be expected to take
MOST_PATIENCE = 64  # times SETTLED


class Governor:
    """Runs each request at the widest width that meets a time budget under the present load.

    Every request is timed. Its time divided by the time in the profile says how much slower the machine is now, and
    predicts the other widths. If the median of three requests misses the budget, the governor goes at once to the
    widest width that is predicted to fit; if twelve requests left room, it goes one step wider. A step wider that is
    soon taken back doubles the number of requests before the next one, so that it does not swing back and forth.

    Args:
        net: a frozen network, for several threads, or a slimmable one, for one; or a cascade, for one, whose quality
            is then what is chosen (and `width` the quality).
        profile: of this network, on this device.
        budget_ms: milliseconds that a request may take; can be changed at any time.
        clock: seconds, for tests.

    Raises:
        ValueError: the budget is not above 0, or `net` cannot be set to a width of the profile.
        TypeError: `profile` is not a profile.
    """

    def __init__(
        self,
        net: nn.Module | HasQuality,
        profile: Profile,
        budget_ms: float,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        check_profile(profile)
        for part in [] if isinstance(net, HasQuality) else slimmable_parts(net):
            for row in profile.rows:
                part.check(row.width)
        self.net, self.profile, self.clock = net, profile, clock
        self._lock = threading.Lock()
        self._slower: deque[float] = deque(maxlen=SETTLED)  # than the profile, of the latest requests at this width
        self._last = 1.0  # how much slower the machine was known to be
        self._patience = 1
        self._widened_at = -(10**9)
        self._requests = 0
        self.budget_ms = budget_ms
        self._place = self._widest(budget_ms)

    @property
    def budget_ms(self) -> float:
        """Milliseconds that a request may take."""
        return self._budget

    @budget_ms.setter
    def budget_ms(self, milliseconds: float) -> None:
        if not is_number(milliseconds) or not milliseconds > 0:
            raise ValueError(f"budget_ms={milliseconds!r} must be a number of milliseconds above 0")
        with self._lock:
            self._budget = float(milliseconds)
            self._patience = 1
            self._slower.clear()

    @property
    def width(self) -> Width:
        """The width that the next request is computed with."""
        return self.profile.rows[self._place].width

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Compute one request, without gradients, and learn from the time that it took.

        A single dict whose keys are names of arguments of forward gives them by name.
        """
        if len(args) == 1 and isinstance(args[0], Mapping) and isinstance(self.net, nn.Module):
            args = arguments(self.net, args[0])
        with self._lock:
            place = self._place
        leaves = tree_leaves((args, named))
        device = next((leaf.device for leaf in leaves if isinstance(leaf, Tensor)), torch.device("cpu"))
        adjust(self.net, self.profile.rows[place].width)
        with torch.inference_mode():
            begin = self.clock()
            output = self.net(*args, **named)
            wait_for(device)
            took = 1e3 * (self.clock() - begin)
        self.observe(took, place)
        return output

    def observe(self, milliseconds: float, place: int | None = None) -> None:
        """Learn from a request that took so long at the width of `place` in the profile, by default the present one."""
        with self._lock:
            self._requests += 1
            if place is not None and place != self._place:
                return  # another thread has changed the width meanwhile
            expected = self.profile.rows[self._place].milliseconds
            self._slower.append(milliseconds / expected)
            quick = list(self._slower)[-QUICK:]
            if len(quick) == QUICK and statistics.median(quick) * expected > self._budget:
                self._narrow(statistics.median(quick))
            elif len(self._slower) == SETTLED and self._patient():
                self._widen(_high(self._slower))

    def _patient(self) -> bool:
        return self._requests - self._widened_at >= SETTLED * self._patience

    def _narrow(self, slower: float) -> None:
        self._last = slower
        soon = self._requests - self._widened_at <= 2 * SETTLED
        self._patience = min(2 * self._patience, MOST_PATIENCE) if soon else 1
        if soon:
            self._widened_at = self._requests
        self._move(min(self._widest(ROOM * self._budget), max(self._place - 1, 0)))

    def _widen(self, slower: float) -> None:
        wider = self._place + 1
        if wider == len(self.profile.rows) or slower * self.profile.rows[wider].milliseconds > ROOM * self._budget:
            return
        self._last, self._widened_at = slower, self._requests
        self._move(wider)

    def _widest(self, milliseconds: float) -> int:
        """The place of the widest width that is predicted to take no more than this; else the narrowest."""
        fits = [i for i, row in enumerate(self.profile.rows) if self._last * row.milliseconds <= milliseconds]
        return max(fits, default=0)

    def _move(self, place: int) -> None:
        if place != self._place:
            self._place = place
            self._slower.clear()

    def __repr__(self) -> str:
        return f"Governor(width {label(self.width)}, budget {self.budget_ms:g} ms)"


def _high(values: deque[float]) -> float:
    """What nearly all of the values are below."""
    return sorted(values)[-2]
