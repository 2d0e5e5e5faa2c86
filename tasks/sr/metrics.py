"""PSNR and SSIM the way the super-resolution papers measure them.

Two protocols: "y" (luma, border = scale) is that of most papers; "rgb" (border = scale + 6) is that
of the WDSR report. They differ by dB, so every table names its own. PSNR and SSIM themselves are
kornia's, called one image at a time (it pools a batch; papers average over images), with the valid
window as in MATLAB. Its luma is not used: it has full range, and papers use MATLAB's studio range
(16 .. 235), in which the same images read 1.32 dB higher.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from kornia.metrics import psnr as kornia_psnr
from kornia.metrics import ssim as kornia_ssim
from torch import Tensor

STUDIO_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # of R, G, B; 16 is added. Source: ITU-R BT.601
FULL_LUMA = (0.299, 0.587, 0.114)  # Source: ITU-R BT.601


@dataclass(frozen=True)
class Protocol:
    """Which channels are compared, and how many rim pixels beyond the scale are left out."""

    name: str
    extra_border: int

    def describe(self, scale: int) -> str:
        """What is compared, for captions: "Y (studio range), x2, border 2"."""
        channels = "Y (studio range)" if self.name == "y" else "RGB"
        return f"{channels}, x{scale}, border {self.border(scale)}, outputs rounded to 8 bits"

    def border(self, scale: int) -> int:
        return scale + self.extra_border

    def smallest_side(self, scale: int) -> int:
        """The least height and width of an image that leaves a whole SSIM window inside the border."""
        return 2 * self.border(scale) + 11


PROTOCOLS = {"y": Protocol("y", 0), "rgb": Protocol("rgb", 6)}


def to_uint8(image: Tensor) -> Tensor:
    """An output in [0, 1] as the image that would be saved: clamped and rounded."""
    return (image.detach().float() * 255).round_().clamp_(0, 255).to(torch.uint8)


def score(output: Tensor, target: Tensor, protocol: Protocol, scale: int) -> dict[str, float]:
    """PSNR (dB) and SSIM of one image.

    Args:
        output: [3, H, W] or [1, H, W], uint8.
        target: [C, H, W], uint8. One channel: a grey image, compared as grey.

    Returns:
        {"psnr": ..., "ssim": ...}.
    """
    return {"psnr": psnr(output, target, protocol, scale), "ssim": ssim(output, target, protocol, scale)}


def psnr(output: Tensor, target: Tensor, protocol: Protocol, scale: int) -> float:
    """PSNR of one image in dB, inf for equal images; arguments as of `score`."""
    return float(kornia_psnr(*_compared(output, target, protocol, scale), 255.0))


def ssim(output: Tensor, target: Tensor, protocol: Protocol, scale: int) -> float:
    """SSIM of one image; arguments as of `score`. Single precision: three times faster, and right to 1e-5."""
    a, b = _compared(output, target, protocol, scale)
    return float(kornia_ssim(a.float(), b.float(), 11, max_val=255.0, eps=0.0, padding="valid").mean())


def mean_scores(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """The average over images of each metric.

    Raises:
        ValueError: there is no image.
    """
    if not scores:
        raise ValueError("no images to average over; an evaluation set must hold at least one")
    return {name: sum(s[name] for s in scores) / len(scores) for name in scores[0]}


def _compared(output: Tensor, target: Tensor, protocol: Protocol, scale: int) -> tuple[Tensor, Tensor]:
    """What is compared of both images, without the border: [1, C, H', W'] in double precision, 0 .. 255."""
    inside = slice(protocol.border(scale), -protocol.border(scale))
    a, b = (image[None, :, inside, inside].double() for image in (output, target))
    if target.shape[0] == 1:
        return (_weighted(a, FULL_LUMA) if a.shape[1] == 3 else a), b
    if protocol.name == "y":
        return _weighted(a, STUDIO_LUMA) + 16, _weighted(b, STUDIO_LUMA) + 16
    return a, b


def _weighted(image: Tensor, weights: Sequence[float]) -> Tensor:  # [1, 3, H, W] -> [1, 1, H, W]
    red, green, blue = weights
    return red * image[:, 0:1] + green * image[:, 1:2] + blue * image[:, 2:3]
