"""How sure a network is of its answer for each sample: what a cascade decides by."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from slimlib.core.structures import tensors

Confidence = str | Callable[[Any], Tensor]


def max_probability(logits: Tensor) -> Tensor:
    """The largest probability, [N, classes] -> [N]."""
    return logits.softmax(1).amax(1)


def margin(logits: Tensor) -> Tensor:
    """The largest probability less the second, [N, classes] -> [N]."""
    first, second = logits.softmax(1).topk(2, 1).values.unbind(1)
    return first - second


def entropy(logits: Tensor) -> Tensor:
    """1 less the entropy of the probabilities over that of even ones, [N, classes] -> [N]."""
    nats: Tensor = torch.special.entr(logits.softmax(1)).sum(1)
    return 1 - nats / math.log(logits.shape[1])


CONFIDENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "max_probability": max_probability,
    "margin": margin,
    "entropy": entropy,
}
"""By name; each is from 0, unsure, to 1, sure, and of logits in double precision: in single precision it is exactly 1
for all samples whose likeliest class is 17 ahead, which no threshold could then tell apart."""


def check_confidence(confidence: Confidence) -> None:
    """Raise ValueError unless it is a name of `CONFIDENCES` or a function."""
    if not callable(confidence) and confidence not in list(CONFIDENCES):
        names = ", ".join(CONFIDENCES)
        raise ValueError(
            f"confidence={confidence!r} must be one of {names}, or a function of the output that returns [N]"
        )


def confidence_in(output: Any, confidence: Confidence, samples: int) -> Tensor:
    """How sure the network is of each sample, [N].

    Raises:
        ValueError: the output is no scores of classes, and `confidence` is no function; or this does not return [N].
    """
    if callable(confidence):
        found = confidence(output)
        if not isinstance(found, Tensor) or found.shape != (samples,):
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"the confidence of {samples} samples must be a tensor [{samples}], not {shape}")
        return found.detach()
    scores = tensors(output)
    if len(scores) != 1 or scores[0].dim() != 2 or scores[0].shape[1] < 2:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in scores)
        raise ValueError(
            f"the confidence '{confidence}' is of scores [N, classes], and the network returned {shapes}; give a "
            "function of the output that returns a tensor [N]"
        )
    return CONFIDENCES[confidence](torch.as_tensor(scores[0]).detach().double())
