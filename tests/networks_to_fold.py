"""Networks of a layer and a BatchNorm, most of which do something that forbids to fold the one into the other.

Name -> factory of (module, example arguments): in `KEPT` the norm must stay, in `FOLDED` it must go.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

C = 8


class Pair(nn.Module):
    """A convolution, a norm, and a forward of them that is given."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **others: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(C, C, 3, padding=1), nn.BatchNorm2d(C)
        for name, module in others.items():
            setattr(self, name, module)
        self.function = forward

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class ActivatedNorm(nn.BatchNorm2d):
    """A norm that does more, as those of timm do."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class BatchStatistics(nn.BatchNorm2d):
    """A norm that never leaves training mode."""

    def train(self, mode: bool = True) -> BatchStatistics:
        return super().train(True)


class StandardisedConv(nn.Conv2d):
    """A convolution whose weight is standardised in each forward."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight - weight.mean(), bias)


class NamedConv(nn.Conv2d):
    """A convolution of another class that does nothing else."""


class Plain(nn.Module):
    """Layers one after another, outside nn.Sequential."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def in_place(net: Pair, x: Tensor) -> Tensor:
    y = net.conv(x)
    y.mul_(2)
    return net.norm(y)


def residual(net: Pair, x: Tensor) -> Tensor:
    return net.norm(net.conv(x) + x)


def reused(net: Pair, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.norm(y) + y


def returned(net: Pair, x: Tensor) -> tuple[Tensor, Tensor]:
    y = net.conv(x)
    return net.norm(y), y


def returned_view(net: Pair, x: Tensor) -> dict[str, Tensor]:
    y = net.conv(x)
    return {"out": net.norm(y), "first": y[:, 0]}


def remembered(net: Pair, x: Tensor) -> Tensor:
    net.last = net.conv(x)
    return net.norm(net.last)


def kept_in_a_list(net: Pair, x: Tensor) -> Tensor:
    net.taps = [net.conv(x)]
    return net.norm(net.taps[0])


def layer_twice(net: Pair, x: Tensor) -> Tensor:
    return net.norm(net.conv(net.conv(x).relu()))


def norm_twice(net: Pair, x: Tensor) -> Tensor:
    return net.norm(net.norm(net.conv(x)).relu())


def two_norms(net: Pair, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.norm(y) * net.other(y)


def shared_norm(net: Pair, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)) + net.norm(net.other(x))


def weight_read(net: Pair, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)) * net.conv.weight.square().mean()


def layer_again_without_hooks(net: Pair, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)) + net.conv.forward(x)


def statistics_read(net: Pair, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)) + net.norm.running_mean.view(-1, 1, 1)


def functional_norm(net: Pair, x: Tensor) -> Tensor:
    norm = net.norm
    return F.batch_norm(net.conv(x), norm.running_mean, norm.running_var, norm.weight, norm.bias)


def other_weights(net: Pair, x: Tensor) -> Tensor:
    weights = {"weight": torch.ones(C, C, 3, 3), "bias": torch.zeros(C)}
    return net.norm(functional_call(net.conv, weights, x))


def before_padding(net: Pair, x: Tensor) -> Tensor:
    return net.conv(net.norm(x))


def before_activation(net: Pair, x: Tensor) -> Tensor:
    return net.conv(F.relu(net.norm(x)))


def view_between(net: Pair, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.norm(y.transpose(2, 3))


def concatenated(net: Pair, x: Tensor) -> Tensor:
    return net.wide(torch.cat([net.conv(x), x], 1))


def branch_on_values(net: Pair, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.norm(y) if x.mean() < 1e3 else y


def branch_on_a_list(net: Pair, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.norm(y) if x[0, 0, 0].tolist()[0] < 1e3 else y


def branch_on_an_array(net: Pair, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.norm(y) if x.numpy().mean() < 1e3 else y


def branch_on_a_count(net: Pair, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.norm(y) if len(x[x < 1e3]) else y


def branch_on_positions(net: Pair, x: Tensor) -> Tensor:
    y = net.conv(x)
    return y if len(torch.nonzero(x > 1e3)) else net.norm(y)


def hooked() -> Pair:
    net = Pair(in_order)
    net.conv.register_forward_hook(lambda module, args, output: output * 2)
    return net


def spectral() -> Pair:
    net = Pair(in_order)
    nn.utils.spectral_norm(net.conv)
    return net


def own_forward() -> Pair:
    net = Pair(in_order)
    net.norm.forward = MethodType(lambda self, x: 2 * nn.BatchNorm2d.forward(self, x), net.norm)  # type: ignore
    return net


def buffer_for_a_weight() -> Pair:
    net = Pair(in_order)
    net.conv.register_buffer("weight", net.conv._parameters.pop("weight").detach())
    return net


def prepared() -> Pair:
    net = Pair(in_order)
    net.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    return net


def in_order(net: Pair, x: Tensor) -> Tensor:
    return net.norm(net.conv(x))


def by_name(net: Pair, x: Tensor) -> Tensor:
    return net.norm(input=net.conv(input=x))


def dropped_between(net: Pair, x: Tensor) -> Tensor:
    return net.norm(net.dropout(net.conv(x)))


def in_place_after(net: Pair, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)).relu_() + x


def caught(net: Pair, x: Tensor) -> Tensor:
    try:
        net.other(x)
    except RuntimeError:
        return net.norm(net.conv(x))
    raise AssertionError("the other layer has other channels")


def gathered(net: Pair, x: Tensor) -> Tensor:
    return net.norm(net.conv(x[:, torch.tensor([1, 0, *range(2, C)])]))


def listed() -> Pair:
    net = Pair(lambda net, x: net.plain_list[1](net.plain_list[0](x)))
    net.plain_list = [net.conv, net.norm]
    return net


def image() -> tuple[Tensor]:
    return (torch.randn(2, C, 6, 6),)


Factory = Callable[[], tuple[nn.Module, tuple[Any, ...]]]


def pair(forward: Callable[[Any, Tensor], Any], **others: Callable[[], nn.Module]) -> Factory:
    return lambda: (Pair(forward, **{name: make() for name, make in others.items()}), image())


def conv() -> nn.Conv2d:
    return nn.Conv2d(C, C, 3, padding=1)


KEPT: dict[str, Factory] = {
    **{f.__name__: pair(f) for f in (
        residual, reused, in_place, returned, returned_view, remembered, kept_in_a_list, layer_twice, norm_twice,
        weight_read, layer_again_without_hooks, statistics_read, functional_norm, other_weights, before_padding,
        before_activation, view_between, branch_on_values, branch_on_a_list, branch_on_an_array, branch_on_a_count,
        branch_on_positions,
    )},
    "two_norms": pair(two_norms, other=lambda: nn.BatchNorm2d(C)),
    "shared_norm": pair(shared_norm, other=conv),
    "concatenated": pair(concatenated, wide=lambda: nn.BatchNorm2d(2 * C)),
    "hooked": lambda: (hooked(), image()),
    "spectral_norm": lambda: (spectral(), image()),
    "own_forward": lambda: (own_forward(), image()),
    "buffer_for_a_weight": lambda: (buffer_for_a_weight(), image()),
    "norm_of_another_class": lambda: (Plain(conv(), ActivatedNorm(C)), image()),
    "layer_of_another_class": lambda: (Plain(StandardisedConv(C, C, 3), nn.BatchNorm2d(C)), image()),
    "always_training": lambda: (Plain(conv(), BatchStatistics(C)), image()),
    "no_statistics": lambda: (Plain(conv(), nn.BatchNorm2d(C, track_running_stats=False)), image()),
    "activation_between": lambda: (Plain(conv(), nn.ReLU(), nn.BatchNorm2d(C)), image()),
    "activation_in_place_between": lambda: (Plain(conv(), nn.ReLU(inplace=True), nn.BatchNorm2d(C)), image()),
    "linear_on_the_last_axis": lambda: (Plain(nn.Linear(5, C), nn.BatchNorm1d(C)), (torch.randn(2, C, 5),)),
    "signal_without_batch": lambda: (Plain(nn.Conv1d(3, C, 3), nn.BatchNorm1d(C)), (torch.randn(3, C + 2),)),
    "image_without_batch": lambda: (Plain(nn.Conv2d(3, C, 1), nn.SyncBatchNorm(C)), (torch.randn(3, C, 4),)),
    "embedding": lambda: (Plain(nn.Embedding(9, C), nn.BatchNorm1d(C)), (torch.tensor([1, 2, 8]),)),
}  # fmt: skip
FOLDED: dict[str, Factory] = {
    **{f.__name__: pair(f) for f in (in_order, by_name, in_place_after, gathered)},
    "dropped_between": pair(dropped_between, dropout=lambda: nn.Dropout2d(0.5)),
    "caught": pair(caught, other=lambda: nn.Conv2d(C + 1, C, 3)),
    "prepared": lambda: (prepared(), image()),
    "listed": lambda: (listed(), image()),
    "class_without_a_forward": lambda: (Plain(NamedConv(C, C, 3), nn.BatchNorm2d(C)), image()),
    "circular_padding": lambda: (
        Plain(nn.Conv2d(C, C, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(C)),
        image(),
    ),
    "sync": lambda: (Plain(conv(), nn.SyncBatchNorm(C)), image()),
    "linear": lambda: (Plain(nn.Linear(5, C), nn.BatchNorm1d(C)), (torch.randn(4, 5),)),
    "own_eps": lambda: (Plain(conv(), nn.BatchNorm2d(C, eps=0.7)), image()),
    "no_bias_in_the_norm": lambda: (Plain(conv(), nn.BatchNorm2d(C, bias=False)), image()),
}


def scramble(net: nn.Module) -> nn.Module:
    """Affine parameters and statistics far from those that would do nothing."""
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            if module.weight is not None:
                sign = torch.where(torch.rand_like(module.weight) < 0.3, -1.0, 1.0)
                module.weight.data = sign * torch.empty_like(module.weight).uniform_(0.5, 2.0)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=2.0)
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_(std=2.0)
                module.running_var.uniform_(0.1, 4.0)
    return net


def norms(net: nn.Module) -> list[str]:
    """Names of the BatchNorms."""
    return [name for name, module in net.named_modules() if isinstance(module, _BatchNorm)]
