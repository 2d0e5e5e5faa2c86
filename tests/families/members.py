"""The table of families: which networks of torchvision and timm are converted, and on how large an image.

An image is as small as the network's strides allow, since neither channels nor parameters depend on it. `at_most`
is the share of the parameters that may be left where every group has half its units, from a study of channel
flow that was made before this library and knows nothing of it; `refused` is what `convert` says of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tests.extent import NIGHTLY
from tests.families.packages import module

EVERY_TIME = (
    "torchvision-resnet18",
    "torchvision-mobilenet_v3_small",
    "timm-convnext_atto",
    "timm-vit_tiny_patch16_224",
    "timm-nf_resnet26",
)
"""Tested in minutes; the others with NIGHTLY=1."""


@dataclass(frozen=True)
class Member:
    """A network of a family: its name in its package, the side of its images, and what its builder is given."""

    family: str
    package: str
    name: str
    size: int = 64
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    at_most: float | None = None
    refused: str = ""

    @property
    def tested(self) -> bool:
        """Whether it is, in this run of the tests."""
        return NIGHTLY or str(self) in EVERY_TIME

    def __str__(self) -> str:
        return f"{self.package}-{self.name}"

    def build(self) -> nn.Module:
        """The network with random weights, the same at each call."""
        torch.manual_seed(0)
        if self.package == "timm":
            net: nn.Module = module("timm").create_model(self.name, pretrained=False, **self.options)
        else:
            net = module("torchvision.models").get_model(self.name, weights=None, **self.options)
        return net

    def images(self) -> torch.Tensor:
        return torch.randn(2, 3, self.size, self.size, generator=torch.Generator().manual_seed(1))


def tv(family: str, name: str, size: int = 64, *, at_most: float | None = None, **options: Any) -> Member:
    return Member(family, "torchvision", name, size, options, at_most)


def tm(family: str, name: str, size: int = 64, *, at_most: float | None = None, **options: Any) -> Member:
    return Member(family, "timm", name, size, options, at_most)


CONVERTED = (
    tv("ResNet", "resnet18"),
    tv("ResNet", "resnet50", at_most=0.271),
    tm("ResNet", "resnet26d"),
    tm("ResNet", "seresnet18"),
    tv("ResNeXt", "resnext50_32x4d"),
    tv("MobileNetV2", "mobilenet_v2"),
    tm("MobileNetV2", "mobilenetv2_050"),
    tv("MobileNetV3", "mobilenet_v3_small"),
    tv("MobileNetV3", "mobilenet_v3_large", at_most=0.314),
    tm("MobileNetV3", "mobilenetv3_small_050"),
    tv("MNASNet", "mnasnet0_5"),
    tm("GhostNet", "ghostnet_050"),
    tv("EfficientNet", "efficientnet_b0", at_most=0.322),
    tm("EfficientNet", "efficientnet_lite0"),
    tm("EfficientNetV2", "efficientnetv2_rw_t"),
    tv("DenseNet", "densenet121", at_most=0.285),
    tm("DenseNet", "densenet121"),
    tv("ShuffleNetV2", "shufflenet_v2_x0_5"),
    tv("ShuffleNetV2", "shufflenet_v2_x1_0", at_most=0.407),
    tv("GoogLeNet", "googlenet", init_weights=False, at_most=0.310),
    tm("Inception", "inception_v3", 96),
    tv("RegNet", "regnet_x_400mf"),
    tv("RegNet", "regnet_y_400mf", at_most=0.277),
    tm("RegNet", "regnetx_002"),
    tm("RegNet", "regnety_002"),
    tv("ConvNeXt", "convnext_tiny", at_most=0.260),
    tm("ConvNeXt", "convnext_atto"),
    tm("ConvNeXtV2", "convnextv2_atto"),
    tm("MLP-Mixer", "mixer_s16_224", 224, at_most=0.295),
    tm("MLP-Mixer", "mixer_s32_224", img_size=64),
    tm("ResMLP", "resmlp_12_224", img_size=64),
    tm("gMLP", "gmlp_ti16_224", img_size=64),
    tv("ViT", "vit_b_16", image_size=64, at_most=0.673),
    tm("ViT", "vit_tiny_patch16_224", img_size=64, at_most=0.346),
    tm("DeiT", "deit_tiny_patch16_224", img_size=64),
    tm("CaiT", "cait_xxs24_224", img_size=64),
    tv("Swin", "swin_t", at_most=0.695),
    tm("Swin", "swin_tiny_patch4_window7_224", img_size=64, window_size=4),
    tm("PoolFormer", "poolformer_s12"),
    tv("SqueezeNet", "squeezenet1_1"),
)
REFUSED = (
    Member(
        "NFNet",
        "timm",
        "nf_resnet26",
        refused=r"nothing slims in this NormFreeNet. 'stem.conv': .* forward of 'stem.conv' \(ScaledStdConv2d\)",
    ),
)
MEMBERS = CONVERTED + REFUSED
TESTED = tuple(member for member in MEMBERS if member.tested)
FAMILIES = tuple(dict.fromkeys(member.family for member in MEMBERS))
