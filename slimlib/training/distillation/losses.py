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

import torch
from torch import Tensor
from torch.nn import functional as F

from slimlib.core.width import check_is, is_number
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
        temperature: above 0; 1 has the gradient of `soft_cross_entropy`, higher ones give unlikely classes more weight.

    Returns:
        A loss of logits [N, classes, ...].

    Raises:
        ValueError: the temperature is not a finite number above 0.

    Source: Hinton et al. 2015, sec. 2.
    """
    if not (is_number(temperature) and math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature {temperature!r} must be a finite number above 0, for example 4.0")
    return partial(_softened_kl, temperature=temperature)


def alpha_divergence(low: float = -1.0, high: float = 1.0, clip: float = 5.0) -> Distillation:
    """The larger of two alpha-divergences of each sample: one punishes a student too sure, one a student too unsure.

    With p of the teacher and q of the student, D_alpha = E_q[(p / q)^alpha - 1] / (alpha (alpha - 1)); at alpha = 1 it
    is KL(p, q). Its gradient is that of -E_q[(p / q)^alpha log q] / alpha with E_q and the ratio held fixed; powers of
    the ratio are clipped, also at alpha = 1, where the authors' code leaves them.

    Args:
        low, high: the two values of alpha; not 0.
        clip: greatest power of the ratio that counts.

    Returns:
        A loss of logits [N, classes, ...]. Its gradient is as above; its value is the weighted log-likelihood.

    Raises:
        ValueError: an alpha is 0, or `clip` is not above 0.

    Source: Wang et al. 2021 (AlphaNet), sec. 3.2 and 3.3.
    """
    if not all(is_number(alpha) and alpha and math.isfinite(alpha) for alpha in (low, high)):
        raise ValueError(f"alpha_divergence needs two finite values of alpha that are not 0; got {low!r}, {high!r}")
    if not (is_number(clip) and clip > 0):
        raise ValueError(f"clip={clip!r} must be above 0, for example 5.0")
    return partial(_alpha, alphas=(low, high), clip=clip)


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


def _alpha(student: Tensor, teacher: Tensor, alphas: tuple[float, float], clip: float) -> Tensor:
    _check_shapes(student, teacher)
    log_q, log_p = student.log_softmax(1), teacher.log_softmax(1)
    q, log_ratio = log_q.detach().exp(), (log_p - log_q).detach()
    values, surrogates = [], []
    for alpha in alphas:
        power = (alpha * log_ratio).exp().clamp(max=clip)
        value = (log_ratio * power if alpha == 1 else (power - 1) / (alpha * (alpha - 1))) * q
        # A constant added to the power changes no gradient: the probabilities of the student sum to 1.
        values.append(value.sum(1))
        surrogates.append(-(q * power * log_q).sum(1) / alpha)
    return torch.where(values[0] > values[1], surrogates[0], surrogates[1]).mean()


def _check_shapes(student: Tensor, teacher: Tensor) -> None:
    check_is(Tensor, "a tensor; write a function of both for outputs of another form", student=student, teacher=teacher)
    if student.shape != teacher.shape:
        raise ValueError(
            f"distillation compares equal shapes; the student gives {list(student.shape)}, "
            f"the teacher {list(teacher.shape)}. Does the network keep its output full?"
        )


DISTILLATIONS: Mapping[str, Callable[..., Distillation]] = MappingProxyType(
    {
        "soft_cross_entropy": constant(soft_cross_entropy),
        "kl_divergence": kl_divergence,
        "alpha_divergence": alpha_divergence,
        "l1": constant(l1),
        "mse": constant(mse),
    }
)
"""What makes each loss, from its own parameters, by the names that settings files use."""
