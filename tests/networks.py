"""Small networks for the tests, each built from explicit channel numbers.

A network at width 0.5 can so be built by hand, as a dense twin, without asking the library for its layout.
`NETWORKS` has them all: name -> factory of (module, example arguments).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from tests.networks_of_tokens import LastAxisNorm, Mixer, Transformer
from tests.networks_with_quirks import (
    ControlFlow,
    Fourier,
    HardView,
    PaddedShortcut,
    SharedModule,
    TrainingHead,
)


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class MobileNet(nn.Module):
    """Depthwise separable convolutions in a chain."""

    def __init__(self, stem: int = 16, channels: Sequence[int] = (32, 64), classes: int = 10) -> None:
        super().__init__()
        layers = [conv_bn(3, stem, stride=2), nn.ReLU6(inplace=True)]
        for inputs, outputs in zip([stem, *channels], channels, strict=False):
            layers += [conv_bn(inputs, inputs, groups=inputs), nn.ReLU6(inplace=True)]
            layers += [conv_bn(inputs, outputs, kernel=1), nn.ReLU6(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(channels[-1], classes))

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, classes]
        return self.classifier(self.features(x).mean((2, 3)))


class Residual(nn.Module):
    """A stem and blocks on its trunk; the last block widens the trunk by a projection."""

    class Block(nn.Module):
        def __init__(self, inputs: int, inner: int, outputs: int, *, project: bool = False) -> None:
            super().__init__()
            self.a, self.b = conv_bn(inputs, inner), conv_bn(inner, outputs)
            self.shortcut = conv_bn(inputs, outputs, kernel=1) if project else nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.b(F.relu(self.a(x))) + self.shortcut(x))

    def __init__(self, trunk: int = 16, inner: Sequence[int] = (24, 16, 32), last: int = 40, classes: int = 10) -> None:
        super().__init__()
        self.stem = conv_bn(3, trunk)
        blocks = [self.Block(trunk, n, trunk) for n in inner[:-1]]
        self.blocks = nn.Sequential(*blocks, self.Block(trunk, inner[-1], last, project=True))
        self.fc = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, classes]
        return self.fc(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


class DepthwiseResidual(nn.Module):
    """Inverted residuals: narrow trunk, wide depthwise middle."""

    def __init__(self, trunk: int = 16, expand: Sequence[int] = (48, 64), head: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.stem = conv_bn(3, trunk, stride=2)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                conv_bn(trunk, n, kernel=1),
                nn.ReLU6(),
                conv_bn(n, n, groups=n),
                nn.ReLU6(),
                conv_bn(n, trunk, kernel=1),
            )
            for n in expand
        )
        self.head = conv_bn(trunk, head, kernel=1)
        self.fc = nn.Linear(head, classes)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, classes]
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.fc(F.adaptive_avg_pool2d(F.relu6(self.head(x)), 1).flatten(1))


class Concatenating(nn.Module):
    """Every layer sees all earlier features, normalised together (DenseNet)."""

    def __init__(self, stem: int = 16, growth: Sequence[int] = (16, 16, 24), classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, padding=1)
        self.norms, self.convs = nn.ModuleList(), nn.ModuleList()
        inputs = stem
        for n in growth:
            self.norms.append(nn.BatchNorm2d(inputs))
            self.convs.append(nn.Conv2d(inputs, n, 3, padding=1, bias=False))
            inputs += n
        self.norm = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, classes]
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return self.fc(F.relu(self.norm(x)).mean((2, 3)))


class SqueezeExcite(nn.Module):
    """Channels weighted by a gate computed from their means."""

    def __init__(self, channels: int = 32, squeeze: int = 16, last: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.a = conv_bn(3, channels)
        self.reduce, self.expand = nn.Conv2d(channels, squeeze, 1), nn.Conv2d(squeeze, channels, 1)
        self.b = conv_bn(channels, last)
        self.fc = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, classes]
        x = F.hardswish(self.a(x))
        gate = self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1))))
        return self.fc(F.relu(self.b(x * gate.sigmoid())).mean((2, 3)))


class WDSR(nn.Module):
    """Super-resolution with weight normalisation, wide activations, a PixelShuffle tail and a global skip."""

    def __init__(self, features: int = 32, wide: int = 128, low: int = 24, blocks: int = 2, scale: int = 3) -> None:
        super().__init__()
        self.head = weight_norm(nn.Conv2d(3, features, 3, padding=1))
        self.body = nn.ModuleList(
            nn.Sequential(
                weight_norm(nn.Conv2d(features, wide, 1)),
                nn.ReLU(inplace=True),
                weight_norm(nn.Conv2d(wide, low, 1)),
                weight_norm(nn.Conv2d(low, features, 3, padding=1)),
            )
            for _ in range(blocks)
        )
        self.tail = nn.Sequential(weight_norm(nn.Conv2d(features, 3 * scale**2, 3, padding=1)), nn.PixelShuffle(scale))
        self.skip = nn.Sequential(weight_norm(nn.Conv2d(3, 3 * scale**2, 5, padding=2)), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 3, scale H, scale W]
        y = self.head(x)
        for block in self.body:
            y = y + block(y)
        return self.tail(y) + self.skip(x)


class OldWeightNorm(nn.Module):
    """Weight norm by hooks, as checkpoints of older networks have it."""

    def __init__(self, a: int = 16, b: int = 24) -> None:
        super().__init__()
        self.a = nn.utils.weight_norm(nn.Conv2d(3, a, 3, padding=1))
        self.b = nn.utils.weight_norm(nn.Conv2d(a, b, 3, padding=1))
        self.c = nn.utils.weight_norm(nn.Conv2d(b, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 3, H, W]
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


class EDSR(nn.Module):
    """Residual super-resolution with a PixelShuffle before the last convolution: units of scale^2 channels."""

    def __init__(self, features: int = 32, inner: Sequence[int] = (32, 32), up: int = 32, scale: int = 2) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(nn.Conv2d(features, n, 3, padding=1), nn.ReLU(), nn.Conv2d(n, features, 3, padding=1))
            for n in inner
        )
        self.up = nn.Conv2d(features, up * scale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(scale)
        self.tail = nn.Conv2d(up, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 3, scale H, scale W]
        y = self.head(x)
        for block in self.body:
            y = y + 0.1 * block(y)
        return self.tail(self.shuffle(self.up(y)))


class MLP(nn.Module):
    def __init__(self, sizes: Sequence[int] = (8, 64, 48, 4)) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:  # [N, sizes[0]] -> [N, sizes[-1]]
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(x))
        return self.layers[-1](x)


class GLU(nn.Module):
    """Gates made by halving the channels, GroupNorm, a grouped convolution and a flatten."""

    def __init__(self, a: int = 32, groups: int = 4, b: int = 64, gated: int = 48, m: int = 48) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 2 * a, 3, padding=1), nn.GroupNorm(groups, a)
        self.b = nn.Conv2d(a, b, 3, padding=1, groups=4)
        self.gate, self.m, self.out = nn.Linear(b * 16, 2 * gated), nn.Linear(gated, m), nn.Linear(m, 5)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 5]
        x = self.norm(F.glu(self.a(x), 1))
        x = F.adaptive_avg_pool2d(self.b(x).relu(), 4).flatten(1)
        u, v = self.gate(x).chunk(2, -1)
        return self.out(self.m(u * torch.sigmoid(v)).relu())


class FPN(nn.Module):
    """Two scales that meet: laterals are added, the sum and the upsampled one concatenated."""

    def __init__(self, a: int = 16, b: int = 32, lateral: int = 24, last: int = 32) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, a, 3, 2, 1), nn.Conv2d(a, b, 3, 2, 1)
        self.lateral_a, self.lateral_b = nn.Conv2d(a, lateral, 1), nn.Conv2d(b, lateral, 1)
        self.merge, self.out = nn.Conv2d(2 * lateral, last, 3, padding=1), nn.Conv2d(last, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # [N, 3, H, W] -> {"fine": [N, 2, H/2, W/2]}
        a = self.a(x).relu()
        top = F.interpolate(self.lateral_b(self.b(a).relu()), scale_factor=2)
        return {"fine": self.out(self.merge(torch.cat([self.lateral_a(a) + top, top], 1)).relu())}


class ShuffleNet(nn.Module):
    """ShuffleNet v1: grouped 1x1 convolutions, a channel shuffle, a shortcut that concatenates."""

    class Unit(nn.Module):
        def __init__(self, inputs: int, inner: int, outputs: int, groups: int, stride: int) -> None:
            super().__init__()
            self.groups, self.stride = groups, stride
            self.a = conv_bn(inputs, inner, kernel=1, groups=groups)
            self.depthwise = conv_bn(inner, inner, stride=stride, groups=inner)
            self.b = conv_bn(inner, outputs, kernel=1, groups=groups)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x).relu()
            n, c, h, w = y.shape
            y = y.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
            y = self.b(self.depthwise(y))
            return (torch.cat([F.avg_pool2d(x, 3, 2, 1), y], 1) if self.stride == 2 else x + y).relu()

    def __init__(self, stem: int = 48, inner: int = 32, added: int = 48, groups: int = 2) -> None:
        super().__init__()
        self.stem = conv_bn(3, stem, stride=2)
        self.down = self.Unit(stem, inner, added, groups, 2)
        self.unit = self.Unit(stem + added, 2 * inner, stem + added, groups, 1)
        self.fc = nn.Linear(stem + added, 10)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 10]
        return self.fc(self.unit(self.down(self.stem(x).relu())).mean((2, 3)))


class ResNeXt(nn.Module):
    """A grouped convolution between dense ones."""

    def __init__(self, trunk: int = 32, inner: int = 32, groups: int = 4) -> None:
        super().__init__()
        self.stem = conv_bn(3, trunk)
        self.a, self.b = conv_bn(trunk, inner, kernel=1), conv_bn(inner, inner, groups=groups)
        self.c = conv_bn(inner, trunk, kernel=1)
        self.fc = nn.Linear(trunk, 10)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 10]
        x = self.stem(x).relu()
        return self.fc((x + self.c(self.b(self.a(x).relu()).relu())).relu().mean((2, 3)))


class Normed(nn.Module):
    """conv, norm, conv, norm, conv with any norm over channels, with or without affine parameters."""

    def __init__(self, norm: Callable[[int], nn.Module], a: int = 32, b: int = 48) -> None:
        super().__init__()
        self.a, self.norm_a = nn.Conv2d(3, a, 3, padding=1), norm(a)
        self.b, self.norm_b = nn.Conv2d(a, b, 3, padding=1), norm(b)
        self.c = nn.Conv2d(b, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 3, H, W]
        return self.c(F.relu(self.norm_b(self.b(F.relu(self.norm_a(self.a(x)))))))


class Signal(nn.Module):
    """One-dimensional convolutions, one depthwise."""

    def __init__(self, a: int = 16, b: int = 32) -> None:
        super().__init__()
        self.a, self.depthwise = nn.Conv1d(2, a, 5, padding=2), nn.Conv1d(a, a, 3, padding=1, groups=a)
        self.b, self.norm = nn.Conv1d(a, b, 3, stride=2), nn.BatchNorm1d(b)
        self.out = nn.Conv1d(b, 4, 1)

    def forward(self, x: Tensor) -> Tensor:  # [N, 2, L] -> [N, 4, L']
        return self.out(self.norm(self.b(F.elu(self.depthwise(self.a(x))))).relu())


class Transposed(nn.Module):
    """An encoder and a decoder of transposed convolutions (dense, depthwise, grouped) with a skip between."""

    def __init__(self, a: int = 16, b: int = 32, c: int = 16) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, a, 3, padding=1), nn.Conv2d(a, b, 3, 2, 1)
        self.up = nn.ConvTranspose2d(b, a, 2, 2)
        self.depthwise = nn.ConvTranspose2d(a, a, 3, padding=1, groups=a)
        self.grouped = nn.ConvTranspose2d(a, c, 3, padding=1, groups=2)
        self.out = nn.ConvTranspose2d(c, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] -> [N, 3, H, W]
        a = F.relu(self.a(x))
        y = self.depthwise(F.relu(self.up(F.relu(self.b(a)))) + a)
        return self.out(F.relu(self.grouped(F.relu(y))))


def image(size: int = 16) -> tuple[Tensor]:
    return (torch.randn(2, 3, size, size),)


Factory = Callable[[], tuple[nn.Module, tuple[Any, ...]]]

NETWORKS: dict[str, Factory] = {
    "mobilenet": lambda: (MobileNet(), image()),
    "residual": lambda: (Residual(), image()),
    "depthwise_residual": lambda: (DepthwiseResidual(), image()),
    "concatenating": lambda: (Concatenating(), image()),
    "squeeze_excite": lambda: (SqueezeExcite(), image()),
    "wdsr": lambda: (WDSR(), image(12)),
    "old_weight_norm": lambda: (OldWeightNorm(), image(8)),
    "edsr": lambda: (EDSR(), image(12)),
    "mlp": lambda: (MLP(), (torch.randn(4, 8),)),
    "glu": lambda: (GLU(), image()),
    "fpn": lambda: (FPN(), image()),
    "shufflenet": lambda: (ShuffleNet(), image(32)),
    "resnext": lambda: (ResNeXt(), image()),
    "mixer": lambda: (Mixer(), image()),
    "transformer": lambda: (Transformer(), image()),
    "group_norm": lambda: (Normed(lambda n: nn.GroupNorm(n // 4, n)), image()),
    "instance_norm": lambda: (Normed(lambda n: nn.InstanceNorm2d(n, affine=True)), image()),
    "instance_norm_running": lambda: (Normed(lambda n: nn.InstanceNorm2d(n, track_running_stats=n == 32)), image()),
    "batch_norm_no_affine": lambda: (Normed(lambda n: nn.BatchNorm2d(n, affine=False)), image()),
    "layer_norm": lambda: (LastAxisNorm(nn.LayerNorm), (torch.randn(2, 5, 8),)),
    "rms_norm": lambda: (LastAxisNorm(nn.RMSNorm), (torch.randn(2, 5, 8),)),
    "rms_norm_no_affine": lambda: (
        LastAxisNorm(lambda n: nn.RMSNorm(n, elementwise_affine=False)),
        (torch.randn(2, 5, 8),),
    ),
    "signal": lambda: (Signal(), (torch.randn(2, 2, 33),)),
    "transposed": lambda: (Transposed(), image()),
    "control_flow": lambda: (ControlFlow(), image()),
    "fourier": lambda: (Fourier(), (torch.randn(2, 16),)),
    "padded_shortcut": lambda: (PaddedShortcut(), image()),
    "hard_view": lambda: (HardView(), image(32)),
    "shared": lambda: (SharedModule(), (torch.randn(4, 8),)),
    "training_head": lambda: (TrainingHead(), ({"x": torch.randn(4, 6), "token": torch.tensor([1, 2, 3, 4])},)),
}

try:
    from tests import networks_of_sb3 as sb3
except ImportError:  # stable-baselines3 is not installed; the networks above need torch alone
    pass
else:
    NETWORKS |= {"sb3_mlp": sb3.mlp, "sb3_cnn": sb3.cnn, "sb3_multi_input": sb3.multi_input}
