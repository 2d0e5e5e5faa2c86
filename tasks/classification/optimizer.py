"""SGD as published for ImageNet: which parameters decay, and how the learning rate goes over a training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from tasks.classification.settings import ClassificationSettings

MILESTONES = (0.3, 0.6, 0.9)
DECAYS = {"step": 0.1, "exponential": 0.98}  # Source: the published recipes of ResNet-50 and of S-MobileNet


def make_optimizer(
    net: nn.Module, settings: ClassificationSettings, *, steps: int, images: int
) -> tuple[SGD, LambdaLR]:
    """The optimizer of a training, and its schedule.

    Args:
        net: dense or slimmable.
        settings: rates, decay and schedule.
        steps: of the training.
        images: in the training set: so many make an epoch.
    """
    s = settings
    optimizer = SGD(parameter_groups(net, s.weight_decay), lr=s.lr, momentum=s.momentum, nesterov=s.nesterov)
    return optimizer, LambdaLR(optimizer, schedule(s, steps=steps, images=images))


def parameter_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: what decays, and what does not: depthwise kernels, norms (of every switch) and biases.

    Source: Yu et al. 2019 (Slimmable Neural Networks), the recipe of their published code.
    """
    spared = {id(module.weight) for module in net.modules() if isinstance(module, _ConvNd) and _is_depthwise(module)}
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for parameter in net.parameters():
        # Norms and biases, by whatever name, are the parameters with one number a channel.
        (free if parameter.ndim <= 1 or id(parameter) in spared else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def schedule(settings: ClassificationSettings, *, steps: int, images: int) -> Callable[[int], float]:
    """The learning rate of each step, as a fraction of the highest.

    Args:
        settings: its kind and numbers.
        steps: of the training, T. Over t = 0 ... T - 1: linear 1 - t / T, cosine (1 + cos(pi t / T)) / 2,
            step decay^(milestones passed), exponential decay^(epochs passed).
        images: in the training set: so many make an epoch.

    Returns:
        A function of the step. In a warm-up of W steps the schedule is multiplied by (t + 1) / W.
    """
    kind, batch = settings.schedule, settings.batch
    decay = settings.decay or DECAYS.get(kind, 1.0)
    ends = [round(fraction * steps) for fraction in settings.milestones or MILESTONES]
    warmup = round(settings.warmup * steps)

    def factor(step: int) -> float:
        if kind == "linear":
            value = 1 - step / steps
        elif kind == "cosine":
            value = (1 + math.cos(math.pi * step / steps)) / 2
        elif kind == "step":
            value = decay ** sum(step >= end for end in ends)
        else:
            value = decay ** (step * batch // images)
        return value * min(1.0, (step + 1) / warmup) if warmup else value

    return factor


def _is_depthwise(layer: _ConvNd) -> bool:
    return 1 < layer.groups == layer.in_channels
