"""Losses for in-place distillation: how far a student's output is from its teacher's.

Each takes (student, teacher) outputs, the teacher's already detached, and returns a scalar. Any
callable of that form works in their place.

Source: Yu & Huang 2019 (US-Nets), in-place distillation; Hinton et al. 2015, sec. 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from slimlib.training.named import constant

Distillation = Callable[[Any, Any], Tensor]
"""(output of the student, detached output of the teacher) -> scalar."""


def soft_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of the student with the teacher's class probabilities as labels: for classification.

    Args:
        student: logits [N, classes, ...].
        teacher: logits of the same shape.

    Returns:
        -sum_c softmax(teacher)_c log_softmax(student)_c, mean over the rest.
    """
    _check_shapes(student, teacher)
    return F.cross_entropy(student, teacher.softmax(1))


def kl_divergence(temperature: float = 1.0) -> Distillation:
    """KL divergence of the student from the teacher, both softened: for classification and policies.

    The factor temperature**2 keeps the size of the gradient independent of the temperature.

    Args:
        temperature: above 0; 1 has the gradient of `soft_cross_entropy`, more tells of unlikely classes.

    Returns:
        A loss of logits [N, classes, ...].

    Raises:
        ValueError: the temperature is not a finite number above 0.

    Source: Hinton et al. 2015, sec. 2.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature {temperature} must be a finite number above 0, for example 4.0")
    return partial(_softened_kl, temperature=temperature)


def l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference: for images and other real outputs trained with L1."""
    _check_shapes(student, teacher)
    return F.l1_loss(student, teacher)


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference: for real outputs where large differences matter most."""
    _check_shapes(student, teacher)
    return F.mse_loss(student, teacher)


def _softened_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    _check_shapes(student, teacher)
    divergence = F.kl_div(
        (student / temperature).log_softmax(1),
        (teacher / temperature).log_softmax(1),
        reduction="none",
        log_target=True,
    )
    return divergence.sum(1).mean() * temperature**2


def _check_shapes(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ValueError(
            f"distillation compares equal shapes; the student gives {list(student.shape)}, "
            f"the teacher {list(teacher.shape)}. Does the network keep its output full?"
        )


DISTILLATIONS: Mapping[str, Callable[..., Distillation]] = MappingProxyType(
    {
        "soft_cross_entropy": constant(soft_cross_entropy),
        "kl_divergence": kl_divergence,
        "l1": constant(l1),
        "mse": constant(mse),
    }
)
"""What makes each loss, from its own parameters, by the names that settings files use."""
