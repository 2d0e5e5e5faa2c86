"""Action distributions as plain tensors, and how far a narrow width's is from the largest's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Normal, kl_divergence

Parameters = tuple[Tensor, ...]
"""Logits of each categorical or Bernoulli distribution; or mean and standard deviation of a normal one."""


def parameters_of(distribution: Any) -> Parameters:
    """Of the torch distribution, or list of them, that a distribution of stable-baselines3 holds."""
    if isinstance(distribution, list):
        return tuple(each.logits for each in distribution)
    if isinstance(distribution, Normal):
        return distribution.mean, distribution.stddev
    return (distribution.logits,)


def divergence(student: Parameters, teacher: Parameters, kind: Any, *, own_scale: bool) -> Tensor:
    """KL(teacher || student), summed over the dimensions of an action, mean over the batch: a scalar.

    Args:
        student, teacher: of the two widths, [N, ...] each; the teacher's detached.
        kind: the torch distribution, or list of them, that they are the parameters of.
        own_scale: whether a normal distribution's deviation comes out of the network. Otherwise it is one
            parameter of all widths, which is the largest's to learn: a student could widen it to hide how far
            its mean is off, so both get the teacher's.

    Source: Yu & Huang 2019 (US-Nets), in-place distillation.
    """
    pairs: list[tuple[Distribution, Distribution]]
    if isinstance(kind, Normal):
        (mean, deviation), (aim, allowed) = student, teacher
        pairs = [(Normal(aim, allowed), Normal(mean, deviation if own_scale else allowed))]
    else:
        made = Bernoulli if isinstance(kind, Bernoulli) else Categorical
        pairs = [(made(logits=t), made(logits=s)) for s, t in zip(student, teacher, strict=True)]
    each = [kl_divergence(true, narrow) for true, narrow in pairs]
    return torch.stack([d.sum(1) if d.dim() > 1 else d for d in each]).sum(0).mean()


def nearness(parameters: Parameters) -> Tensor:
    """How near normally distributed actions are to the middle: -(mean / deviation)^2 / 2, mean over the batch."""
    mean, deviation = parameters
    return -((mean / deviation.detach()) ** 2).sum(1).mean() / 2
