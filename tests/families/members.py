"""The table of families: which networks are converted, and on which example.

The list was fixed before anything on it was measured. An image is as small as the network's strides allow, since
neither channels nor parameters depend on it. `at_most` is the share of the parameters that may be left where every
group has half its units, from a study of channel flow that was made before this library and knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.extent import NIGHTLY
from tests.families.configurations import CONFIGURATIONS, configured
from tests.families.packages import module

EVERY_TIME = (
    "torchvision-mobilenet_v3_small",
    "timm-convnext_atto",
    "timm-vit_tiny_patch16_224",
    "transformers-Bert",
    "transformers-Llama",
    "segmentation_models_pytorch-FPN",
    "torchvision-resnet18 with pyramid",
)
"""Tested in minutes; the others with NIGHTLY=1."""


@dataclass(frozen=True)
class Member:
    """A network of a family: its name in its package, how it is made, and what it is called with."""

    family: str
    package: str
    name: str
    make: Callable[[], nn.Module] = field(hash=False)
    give: Callable[[], tuple[Any, ...]] = field(hash=False)
    at_most: float | None = None

    @property
    def tested(self) -> bool:
        """Whether it is, in this run of the tests."""
        return NIGHTLY or str(self) in EVERY_TIME

    def __str__(self) -> str:
        return f"{self.package}-{self.name}"

    def build(self) -> nn.Module:
        """The network with random weights, the same at each call."""
        torch.manual_seed(0)
        return self.make()

    def example(self) -> tuple[Any, ...]:
        torch.manual_seed(1)
        return self.give()


def images(size: int) -> tuple[Tensor]:
    return (torch.randn(2, 3, size, size),)


def tv(family: str, name: str, size: int = 64, *, at_most: float | None = None, **options: Any) -> Member:
    def make() -> Any:
        return module("torchvision.models").get_model(name, weights=None, **options)

    return Member(family, "torchvision", name, make, partial(images, size), at_most)


def tm(family: str, name: str, size: int = 64, *, at_most: float | None = None, **options: Any) -> Member:
    def make() -> Any:
        return module("timm").create_model(name, pretrained=False, **options)

    return Member(family, "timm", name, make, partial(images, size), at_most)


def smp(name: str) -> Member:
    """Segmentation on a ResNet-18."""

    def make() -> Any:
        return getattr(module("segmentation_models_pytorch"), name)("resnet18", encoder_weights=None, classes=2)

    return Member("segmentation", "segmentation_models_pytorch", name, make, partial(images, 64))


def pyramid(name: str, make: Callable[[Any], Any]) -> Member:
    """A backbone with its feature pyramid, as torchvision's detectors have them."""

    def built() -> Any:
        return make(module("torchvision.models.detection.backbone_utils"))

    return Member("detection", "torchvision", f"{name} with pyramid", built, partial(images, 64))


def hf(family: str, name: str) -> Member:
    make, give = CONFIGURATIONS[name]
    return Member(family, "transformers", name, partial(configured, *make), give)


MEMBERS = (
    tv("ResNet", "resnet18"),
    tv("ResNet", "resnet50", at_most=0.271),
    tm("ResNet", "resnet26d"),
    tm("ResNet", "seresnet18"),
    tv("ResNeXt", "resnext50_32x4d"),
    tm("SKNet", "skresnet18"),
    tm("Res2Net", "res2net50_14w_8s"),
    tm("ResNeSt", "resnest14d"),
    tm("CSPNet", "cspresnet50"),
    tm("DLA", "dla34"),
    tm("HRNet", "hrnet_w18_small"),
    tm("VoVNet", "ese_vovnet19b_dw"),
    tm("RepVGG", "repvgg_a0"),
    tv("VGG", "vgg11_bn"),
    tv("AlexNet", "alexnet"),
    tv("SqueezeNet", "squeezenet1_1"),
    tv("MobileNetV2", "mobilenet_v2"),
    tm("MobileNetV2", "mobilenetv2_050"),
    tv("MobileNetV3", "mobilenet_v3_small"),
    tv("MobileNetV3", "mobilenet_v3_large", at_most=0.314),
    tm("MobileNetV3", "mobilenetv3_small_050"),
    tm("MobileNetV3", "tf_mobilenetv3_small_075"),
    tm("MobileOne", "mobileone_s0"),
    tv("MNASNet", "mnasnet0_5"),
    tm("GhostNet", "ghostnet_050"),
    tm("LCNet", "lcnet_050"),
    tv("EfficientNet", "efficientnet_b0", at_most=0.322),
    tm("EfficientNet", "efficientnet_lite0"),
    tm("EfficientNet", "tf_efficientnet_b0"),
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
    tm("EdgeNeXt", "edgenext_xx_small"),
    tm("NFNet", "nf_resnet26"),
    tm("MLP-Mixer", "mixer_s16_224", 224, at_most=0.295),
    tm("MLP-Mixer", "mixer_s32_224", img_size=64),
    tm("ResMLP", "resmlp_12_224", img_size=64),
    tm("gMLP", "gmlp_ti16_224", img_size=64),
    tv("ViT", "vit_b_16", image_size=64, at_most=0.673),
    tm("ViT", "vit_tiny_patch16_224", img_size=64, at_most=0.346),
    tm("DeiT", "deit_tiny_patch16_224", img_size=64),
    tm("CaiT", "cait_xxs24_224", img_size=64),
    tm("EVA", "eva02_tiny_patch14_224", 28, img_size=28),
    tm("XCiT", "xcit_nano_12_p16_224", img_size=64),
    tv("Swin", "swin_t", at_most=0.695),
    tv("Swin", "swin_v2_t"),
    tm("Swin", "swin_tiny_patch4_window7_224", img_size=64, window_size=4),
    tm("PVT", "pvt_v2_b0"),
    tm("VOLO", "volo_d1_224", img_size=64),
    tm("CoaT", "coat_lite_tiny", img_size=64),
    tm("LeViT", "levit_128s", img_size=64),
    tm("FastViT", "fastvit_t8"),
    tm("EfficientFormer", "efficientformerv2_s0", img_size=64),
    tm("MobileViT", "mobilevit_xxs"),
    tm("MobileViTV2", "mobilevitv2_050"),
    tm("PoolFormer", "poolformer_s12"),
    tv("DeepLabV3", "deeplabv3_mobilenet_v3_large", weights_backbone=None),
    tv("LR-ASPP", "lraspp_mobilenet_v3_large", weights_backbone=None),
    *(smp(name) for name in ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3Plus")),
    pyramid("resnet18", lambda made: made.resnet_fpn_backbone(backbone_name="resnet18", weights=None)),
    pyramid("resnet50", lambda made: made.resnet_fpn_backbone(backbone_name="resnet50", weights=None)),
    pyramid(
        "mobilenet_v3_large",
        lambda made: made.mobilenet_backbone(backbone_name="mobilenet_v3_large", weights=None, fpn=True),
    ),
    *(hf("text", name) for name in ("Bert", "Roberta", "DistilBert", "Electra", "Albert", "DebertaV2")),
    *(hf("language", name) for name in ("GPT2", "Llama", "Mistral", "Qwen3", "Gemma2", "Phi", "GPTNeoX", "OPT")),
    *(hf("language", name) for name in ("Bloom", "Falcon", "Mamba")),
    *(hf("encoder and decoder", name) for name in ("T5", "Bart", "Whisper")),
    *(hf("images", name) for name in ("ViT", "Swin", "Segformer", "PoolFormer", "MobileViT", "Clip", "Detr")),
    hf("speech", "Wav2Vec2"),
)
TESTED = tuple(member for member in MEMBERS if member.tested)
FAMILIES = tuple(dict.fromkeys(member.family for member in MEMBERS))
