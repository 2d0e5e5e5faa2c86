"""What each width says of held-out samples, how sure it is, and how right: what thresholds are found from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimlib.core.arguments import arguments, run_on
from slimlib.core.setting import at_width, in_eval, set_width
from slimlib.core.structures import map_tensors, tensors
from slimlib.core.width import Width
from slimlib.dynamic.batches import samples_in, take
from slimlib.dynamic.confidence import Confidence, confidence_in, max_probability
from slimlib.serving.cost import count_operations
from slimlib.serving.freezing import FrozenNetwork

Score = Callable[[Any, Any], Tensor]
Corrupt = Callable[[Any], Any]
NOISE = 0.5  # deviations of the batch


@dataclass(frozen=True)
class Outcomes:
    """Of K widths on N samples; all float64, on the CPU.

    Attributes:
        confidence: [K, N]; score: [K, N], such as 1 where the answer is right and 0 where it is wrong.
        probability: the largest one [K, N]; None where the network returns no scores of classes.
    """

    confidence: Tensor
    score: Tensor
    probability: Tensor | None


def is_right(output: Any, target: Any) -> Tensor:
    """1 where the likeliest class is the target, else 0: [N, classes], [N] -> [N]."""
    scores = tensors(output)
    if (
        len(scores) != 1
        or scores[0].dim() != 2
        or not isinstance(target, Tensor)
        or target.shape != scores[0].shape[:1]
    ):
        raise ValueError(
            "accuracy is of scores [N, classes] and targets [N]; for other outputs give score=, a function of output "
            "and target that returns how good each sample is, [N]"
        )
    return (scores[0].argmax(1) == target).double()


def with_noise(inputs: Any) -> Any:
    """A copy of a batch with Gaussian noise of half its own deviation, always the same; other than floats stay."""
    generator = torch.Generator().manual_seed(0)

    def change(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        noise = torch.randn(tensor.shape, generator=generator).to(tensor)
        return tensor + NOISE * tensor.std() * noise

    return map_tensors(change, inputs)


@torch.no_grad()
def outcomes_of(
    net: nn.Module,
    widths: Sequence[Width],
    batches: Iterable[tuple[Any, Any]],
    confidence: Confidence,
    score: Score,
    changes: Sequence[Corrupt],
) -> list[Outcomes]:
    """What the widths say of each sample of the (inputs, target) batches, once for each change of the inputs."""
    found: list[list[list[tuple[Tensor, ...]]]] = [[[] for _ in widths] for _ in changes]
    with in_eval(net), at_width(net, widths[0]):
        for inputs, target in batches:
            for change, of_widths in zip(changes, found, strict=True):
                args = arguments(net, change(inputs))
                for width, of_width in zip(widths, of_widths, strict=True):
                    set_width(net, width)
                    of_width.append(_outcome(run_on(net, args), target, samples_in(args), confidence, score))
    return [_put_together(of_widths) for of_widths in found]


def _outcome(output: Any, target: Any, samples: int, confidence: Confidence, score: Score) -> tuple[Tensor, ...]:
    good = torch.as_tensor(score(output, target))
    if good.shape != (samples,):
        raise ValueError(
            f"score must return how good each of {samples} samples is, [{samples}]; got {list(good.shape)}"
        )
    found = [confidence_in(output, confidence, samples), good]
    if _of_classes(output):
        found.append(max_probability(tensors(output)[0].double()))
    return tuple(tensor.double().cpu() for tensor in found)


def _of_classes(output: Any) -> bool:
    """Whether these are scores [N, classes]."""
    found = tensors(output)
    return len(found) == 1 and found[0].dim() == 2


def _put_together(of_widths: Sequence[Sequence[tuple[Tensor, ...]]]) -> Outcomes:
    """From a tuple of [n] for each batch of each width."""
    rows = [[torch.cat(same) for same in zip(*of_width, strict=True)] for of_width in of_widths]
    confidence, score, *probability = (torch.stack(same) for same in zip(*rows, strict=True))
    for name, found in (("confidence", confidence), ("score", score)):
        if bool(found.isnan().any()):
            width, sample = found.isnan().nonzero()[0].tolist()
            raise ValueError(
                f"the {name} of sample {sample} is NaN at width {width + 1} of {len(found)}, from narrow to wide; are "
                "the outputs of the network finite?"
            )
    return Outcomes(confidence, score, probability[0] if probability else None)


def pairs(batches: Iterable[Any], targets: Any) -> Iterator[tuple[Any, Any]]:
    """Each batch with its targets, which are one tensor for all of them, or one of each.

    Raises:
        ValueError: there are more batches or targets than the others.
    """
    if not isinstance(targets, Tensor):
        try:
            yield from zip(batches, targets, strict=True)
        except ValueError as error:
            raise ValueError(f"batches and targets do not fit: {error}; give the targets of each batch") from None
        return
    begin = 0
    for inputs in batches:
        end = begin + samples_in(inputs)
        if end > len(targets):
            break
        yield inputs, targets[begin:end]
        begin = end
    else:
        if begin == len(targets):
            return
    raise ValueError(f"batches and targets do not fit: there are {len(targets)} targets, and not as many samples")


def macs_at(net: nn.Module, args: tuple[Any, ...], width: Width) -> int:
    """Multiply-adds of one sample at a width, also of a frozen network."""
    one = take(args, slice(0, 1))
    if isinstance(net, FrozenNetwork):
        return sum(macs for _, macs in count_operations(net.slim.nets[width], one, 1.0).products)
    return sum(macs for _, macs in count_operations(net, one, width).products)
