"""`Cascade`: narrow first, and wider only for the samples of which the narrow answer is unsure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from slimlib.core.arguments import arguments
from slimlib.core.norms.batchnorm import refuse_uncalibrated
from slimlib.core.setting import at_width, set_width, slimmable_parts
from slimlib.core.structures import tensors
from slimlib.core.width import Width, check_is, is_number, label
from slimlib.dynamic.batches import check_batched, joined, samples_in, take
from slimlib.dynamic.confidence import CONFIDENCES, Confidence, check_confidence, confidence_in
from slimlib.dynamic.grouping import channels_of
from slimlib.dynamic.routing import check_mode

STEPS = 8  # of the knob on either side of thresholds that were given by hand


@dataclass(frozen=True)
class CascadePoint:
    """One setting of a cascade, with what it cost and scored where it was fitted.

    Attributes:
        thresholds: of all widths but the last. -inf: all samples stop there; inf: the width is left out.
        cost: mean of a sample, as a share of what the widest alone costs; score: mean, such as the accuracy.
        shares: of the samples that stop at each width.
    """

    thresholds: tuple[float, ...]
    cost: float | None = None
    score: float | None = None
    shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a cascade or gate says of a batch, and the width at which each sample was answered."""

    output: Any
    widths: tuple[Width, ...]


class Cascade:
    """Runs a batch at the narrowest width, and the samples that it is unsure of at the next, and so on.

    A sample costs all widths that it ran at. `quality` trades accuracy for cost at run time; a `Governor` uses it to
    keep a latency budget.

    Args:
        net: a slimmable or frozen network in eval mode, with BatchNorm statistics for each of the widths.
        widths: from narrow to wide.
        thresholds: for each width but the last, the confidence from which an answer is taken; none may be higher than
            the one before it, since an answer that cost more need not be more certain. -inf takes every answer; inf
            takes none, and the width is left out.
        confidence: "max_probability", "margin" (between the two likeliest classes) or "entropy", of scores [N, classes]
            and from 0 to 1; or a function of the output that returns a tensor [N], larger for more certain answers.
        path: settings from cheap to good that `quality` chooses from, as `fit_cascade` finds them.

    Attributes:
        answered: the widths at which the samples of the latest batch were answered.

    Raises:
        ValueError: widths or thresholds out of order, another number of them, a width that is not allowed or was not
            frozen, or a threshold that is no number.
        UncalibratedWidth: a width has no BatchNorm statistics.

    Source: Wang et al. 2022 (Wisdom of Committees), sec. 4: thresholds on the largest probability.
    """

    def __init__(
        self,
        net: nn.Module,
        widths: Sequence[Width],
        thresholds: Sequence[float],
        *,
        confidence: Confidence = "max_probability",
        path: Sequence[CascadePoint] = (),
    ) -> None:
        check_widths(net, widths)
        thresholds = check_thresholds(thresholds, len(widths))
        check_confidence(confidence)
        self.net, self.widths, self.confidence = net, tuple(widths), confidence
        self.thresholds = thresholds
        check_is(Iterable, "the settings that fit_cascade found", path=path)
        self.path = tuple(path) or self._path_by_hand()
        self._quality: float | None = None
        self.answered: tuple[Width, ...] = ()

    @property
    def quality(self) -> float:
        """The run-time knob from 0, cheapest, to 1, best: where on the path the thresholds lie.

        At 0 and 1 of a path by hand all samples are answered by the narrowest and by the widest width.
        """
        if self._quality is not None:
            return self._quality
        places = [place for place, point in enumerate(self.path) if point.thresholds == self.thresholds]
        return places[0] / max(len(self.path) - 1, 1) if places else math.nan

    @quality.setter
    def quality(self, quality: float) -> None:
        if not is_number(quality) or not 0 <= quality <= 1:
            raise ValueError(f"quality={quality!r} must be a number from 0, cheapest, to 1, best")
        self.thresholds = self.path[round(quality * (len(self.path) - 1))].thresholds
        self._quality = float(quality)

    def __call__(self, *args: Any) -> Any:
        """The outputs for a batch, in its order; each sample at the first width that is sure of it."""
        return self.answer(*args).output

    def answer(self, *args: Any) -> Answer:
        """The outputs, and at which width each sample was answered.

        Raises:
            ValueError: an input or output without a batch, an output that the confidence cannot judge, or BatchNorm in
                training mode.
        """
        check_mode(self.net)
        args = arguments(self.net, args[0]) if len(args) == 1 else args
        samples = samples_in(args)
        left = torch.arange(samples, device=tensors(args)[0].device)
        outputs: list[Any] = []
        stopped: list[Tensor] = []
        stages: list[int] = []
        with at_width(self.net, self.widths[-1]):
            for stage in self.stages():
                if not len(left) and outputs:
                    break
                set_width(self.net, self.widths[stage])
                output = self.net(*args)
                check_batched(output, len(left))
                sure = self._sure(output, stage, len(left))
                if sure is None:
                    outputs.append(output)
                    stopped.append(left)
                    stages += [stage] * len(left)
                    break
                if not bool(sure.any()):
                    continue
                outputs.append(take(output, sure))
                stopped.append(left[sure])
                stages += [stage] * len(stopped[-1])
                left, args = left[~sure], take(args, ~sure)
        answer = _in_order(outputs, torch.cat(stopped), [self.widths[stage] for stage in stages])
        self.answered = answer.widths
        return answer

    def stages(self) -> list[int]:
        """The places of the widths that are not left out."""
        return [*(place for place, least in enumerate(self.thresholds) if least < math.inf), len(self.widths) - 1]

    def on(self, net: nn.Module) -> Cascade:
        """The same cascade over another form of the network: frozen, or on another device."""
        return Cascade(net, self.widths, self.thresholds, confidence=self.confidence, path=self.path)

    def _sure(self, output: Any, stage: int, samples: int) -> Tensor | None:
        """Which samples stop here; None: all."""
        if stage == len(self.thresholds) or self.thresholds[stage] == -math.inf:
            return None
        return confidence_in(output, self.confidence, samples).double() >= self.thresholds[stage]

    def _path_by_hand(self) -> tuple[CascadePoint, ...]:
        """From the narrowest alone to the widest alone by way of the given thresholds."""
        cheapest, best = (CascadePoint((bound,) * len(self.thresholds)) for bound in (-math.inf, math.inf))
        given = CascadePoint(self.thresholds)
        if self.confidence not in CONFIDENCES or not all(0 <= least <= 1 for least in self.thresholds):
            return cheapest, given, best
        parts = [step / STEPS for step in range(1, STEPS)]
        below = [CascadePoint(tuple(part * least for least in self.thresholds)) for part in parts]
        above = [CascadePoint(tuple(least + part * (1 - least) for least in self.thresholds)) for part in parts]
        return cheapest, *below, given, *above, best

    def __repr__(self) -> str:
        steps = [
            f"{label(width)} from {_shown(least)}" for width, least in zip(self.widths, self.thresholds, strict=False)
        ]
        return f"Cascade({', '.join([*steps, label(self.widths[-1])])} by {self.confidence})"


def _shown(threshold: float) -> str:
    """A threshold just below 1 is not shown as 1."""
    short = f"{threshold:g}"
    return f"1 - {1 - threshold:.2g}" if float(short) == 1 != threshold else short


def _in_order(outputs: Sequence[Any], samples: Tensor, widths: Sequence[Width]) -> Answer:
    places = samples.tolist()
    by_sample = dict(zip(places, widths, strict=True))
    output = outputs[0] if len(outputs) == 1 else joined(outputs, samples)
    return Answer(output, tuple(by_sample[sample] for sample in range(len(places))))


def check_widths(net: nn.Module, widths: Sequence[Width]) -> None:
    """Raise unless these are at least two widths of a network, from narrow to wide, that can run in eval mode."""
    if not isinstance(widths, Sequence) or len(widths) < 2:
        raise ValueError(f"a list of at least two widths is needed, from narrow to wide; got {widths!r}")
    for width in widths:
        for part in slimmable_parts(net):
            part.check(width)
    for narrow, wide in pairwise(widths):
        sizes = [sum(map(sum, channels_of(net, width))) for width in (narrow, wide)]
        if sizes[0] >= sizes[1]:
            raise ValueError(
                f"widths out of order: {label(narrow)} comes before {label(wide)} and does not have fewer channels; "
                "give them from narrow to wide, each once"
            )
    for width in widths:
        with at_width(net, width):
            for module in net.modules():
                refuse_uncalibrated(module)


def check_thresholds(given: Any, widths: int) -> tuple[float, ...]:
    """The thresholds as plain numbers.

    Raises:
        ValueError: not one for each width but the last, or one higher than one before it.
    """
    thresholds = given.tolist() if hasattr(given, "tolist") else given  # of a tensor or array
    if not isinstance(thresholds, Sequence) or isinstance(thresholds, str):
        raise ValueError(f"thresholds={given!r} must be a list, with one for each width but the last")
    if len(thresholds) != widths - 1:
        raise ValueError(
            f"a cascade of {widths} widths has {widths - 1} thresholds, one for each but the last; "
            f"got {len(thresholds)}"
        )
    for least in thresholds:
        if not is_number(least) or math.isnan(least):
            raise ValueError(f"threshold {least!r} must be a number; -inf takes every answer, inf none")
    used = [least for least in thresholds if least < math.inf]
    for earlier, later in pairwise(used):
        if later > earlier:
            raise ValueError(
                f"thresholds out of order: {later:g} comes after {earlier:g}. A wider width need not be surer than a "
                f"narrower one; give for example {sorted(used, reverse=True)}"
            )
    return tuple(map(float, thresholds))
