"""Families whose classes take channel numbers: the same network built twice, the second with half of them.

The halves are built by their own constructors and carry the leading half of every axis of the wide one. Where an
axis is made of several stretches (concatenated features, groups of a convolution) its stretches are written down
here, from how the class is built. slimlib is not asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.families.packages import module

Stretches = Callable[[str, int], Sequence[int]]  # parameter, dimension -> sizes in the wide network; none: one stretch


def plain(name: str, dim: int) -> Sequence[int]:
    return ()


@dataclass(frozen=True)
class Twin:
    """`build(n)` gives the network with n halves of its channels; `size` is the side of its images."""

    build: Callable[[int], nn.Module]
    stretches: Stretches = plain
    size: int = 64

    def pair(self) -> tuple[nn.Module, nn.Module]:
        """The wide network and the twin that carries its slices, in double precision."""
        torch.manual_seed(0)
        wide, twin = self.build(2).double(), self.build(1).double()
        own = wide.state_dict()
        for tensor in own.values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.05)
        for name, tensor in twin.state_dict().items():
            tensor.copy_(self.slice(name, own[name], tensor.shape))
        return wide, twin

    def slice(self, name: str, value: Tensor, shape: torch.Size) -> Tensor:
        for dim, (wide, half) in enumerate(zip(value.shape, shape, strict=True)):
            if wide != half:
                value = value.index_select(dim, leading_halves(self.stretches(name, dim) or (wide,)))
        return value


def leading_halves(stretches: Sequence[int]) -> Tensor:
    begins = [sum(stretches[:i]) for i in range(len(stretches))]
    return torch.cat([torch.arange(b, b + size // 2) for b, size in zip(begins, stretches, strict=True)])


def resnet(n: int) -> nn.Module:
    kind = module("timm.models.resnet")
    return kind.ResNet(
        kind.Bottleneck, [1, 2, 1, 1], num_classes=10, stem_type="deep", stem_width=16 * n, avg_down=True,
        channels=(32 * n, 64 * n, 128 * n, 256 * n),
    )  # fmt: skip


def mobilenet_v3(n: int) -> nn.Module:
    kind = module("torchvision.models.mobilenetv3")
    rows = [
        (16, 3, 64, 16, True, "RE", 2, 1), (16, 5, 96, 24, True, "HS", 1, 1), (24, 5, 96, 24, False, "HS", 1, 1),
    ]  # fmt: skip
    return kind.MobileNetV3([kind.InvertedResidualConfig(*row, width_mult=n) for row in rows], 128 * n, num_classes=10)


def efficientnet(n: int) -> nn.Module:
    kind = module("torchvision.models.efficientnet")
    rows = [(1, 3, 1, 32, 16, 1), (6, 3, 2, 16, 24, 2), (6, 5, 2, 24, 40, 2)]
    settings = [kind.MBConvConfig(*row, width_mult=n) for row in rows]
    return kind.EfficientNet(settings, dropout=0.0, stochastic_depth_prob=0.0, num_classes=10)


def densenet(n: int) -> nn.Module:
    return module("torchvision.models").DenseNet(8 * n, (3, 2), num_init_features=16 * n, num_classes=10)


def of_densenet(name: str, dim: int) -> Sequence[int]:
    """Each layer sees the stem, or what the last transition left, and 16 channels of each layer before it."""
    first = {"1": 32, "2": 40}
    layer = re.match(r"features\.denseblock(\d)\.denselayer(\d)\.(norm1|conv1)", name)
    if layer and (layer[3] == "norm1" or dim == 1):
        return first[layer[1]], *[16] * (int(layer[2]) - 1)
    if re.match(r"features\.transition1\.norm|features\.transition1\.conv", name) and ("norm" in name or dim == 1):
        return 32, 16, 16, 16
    if name.startswith("features.norm5") or (name == "classifier.weight" and dim == 1):
        return 40, 16, 16
    return ()


# Channels of the four branches that an inception module concatenates (Szegedy et al. 2014, table 1).
BRANCHES: Mapping[str, Sequence[int]] = {
    "3a": (64, 128, 32, 32), "3b": (128, 192, 96, 64), "4a": (192, 208, 48, 64), "4b": (160, 224, 64, 64),
    "4c": (128, 256, 64, 64), "4d": (112, 288, 64, 64), "4e": (256, 320, 128, 128), "5a": (256, 320, 128, 128),
    "5b": (384, 384, 128, 128),
}  # fmt: skip


def googlenet(n: int) -> nn.Module:
    kind = module("torchvision.models.googlenet")

    def conv(inputs: int, outputs: int, **more: Any) -> nn.Module:
        return kind.BasicConv2d(inputs if inputs == 3 else inputs * n // 2, outputs * n // 2, **more)

    def inception(*channels: int) -> nn.Module:
        return kind.Inception(*[c * n // 2 for c in channels])

    blocks = [conv, inception, kind.InceptionAux]
    net = kind.GoogLeNet(10, aux_logits=False, init_weights=False, blocks=blocks, dropout=0.0)
    net.fc = nn.Linear(512 * n, 10)
    return net


def of_googlenet(name: str, dim: int) -> Sequence[int]:
    if name == "fc.weight" and dim == 1:
        return BRANCHES["5b"]
    first = re.match(r"inception(\d\w)\.(branch1|branch2\.0|branch3\.0|branch4\.1)\.conv\.weight", name)
    if first and dim == 1 and first[1] != "3a":
        names = list(BRANCHES)
        return BRANCHES[names[names.index(first[1]) - 1]]
    return ()


def regnet(n: int) -> nn.Module:
    kind = module("torchvision.models.regnet")
    blocks = kind.BlockParams(
        depths=[1, 2], widths=[32 * n, 64 * n], group_widths=[8 * n, 16 * n], bottleneck_multipliers=[1.0, 1.0],
        strides=[2, 2], se_ratio=0.25,
    )  # fmt: skip
    return kind.RegNet(blocks, num_classes=10, stem_width=16 * n)


def of_regnet(name: str, dim: int) -> Sequence[int]:
    """Four groups from the first convolution of a block to the inputs of the last."""
    block = re.match(r"trunk_output\.block(\d)\.block\d-\d\.f\.(\w+)\.(\w+)", name)
    if block is None:
        return ()
    inside = {"a": 0, "b": 0, "c": 1, "fc1": 1, "fc2": 0}
    layer = block[3] if block[2] == "se" else block[2]
    normed = layer == "c" and block[3] == "1"
    grouped = not normed and dim == inside[layer] and not (layer in ("c", "fc1") and name.endswith("bias"))
    return [{"1": 16, "2": 32}[block[1]]] * 4 if grouped else ()


def convnext(n: int) -> nn.Module:
    return module("timm.models.convnext").ConvNeXt(
        depths=(1, 1, 2, 1), dims=(16 * n, 24 * n, 32 * n, 40 * n), ls_init_value=0.5, num_classes=10
    )


def mixer(n: int) -> nn.Module:
    """The mixing over tokens has 32 hidden units in both."""
    return module("timm.models.mlp_mixer").MlpMixer(
        num_classes=10, img_size=64, num_blocks=2, embed_dim=32 * n, mlp_ratio=(1 / n, 4.0)
    )


TWINS: Mapping[str, Twin] = {
    "ResNet": Twin(resnet),
    "MobileNetV3": Twin(mobilenet_v3),
    "EfficientNet": Twin(efficientnet),
    "DenseNet": Twin(densenet, of_densenet),
    "GoogLeNet": Twin(googlenet, of_googlenet),
    "RegNet": Twin(regnet, of_regnet),
    "ConvNeXt": Twin(convnext),
    "MLP-Mixer": Twin(mixer),
}
