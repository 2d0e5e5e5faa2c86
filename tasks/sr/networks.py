"""The super-resolution networks: WDSR-A, WDSR-B and EDSR-baseline, none with BatchNorm.

They are written plainly, with every channel number a constructor argument, so that the same class
is the full network that `slimlib.convert` slims and the individual network of any smaller width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

# Mean colour of DIV2K's training images in [0, 1]. Source: the published code of EDSR and of WDSR.
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


def _normed(inputs: int, outputs: int, kernel: int) -> nn.Module:
    conv: nn.Module = weight_norm(_conv(inputs, outputs, kernel))
    return conv


class WideBlock(nn.Module):
    """WDSR-A: few channels on the identity path, many before the activation.

    Source: Yu et al. 2018 (WDSR), sec. 3.1.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.expand = _normed(features, hidden, 3)
        self.act = nn.ReLU(inplace=True)
        self.reduce = _normed(hidden, features, 3)

    def forward(self, x: Tensor) -> Tensor:  # [N, features, H, W] -> the same
        y: Tensor = x + self.reduce(self.act(self.expand(x)))
        return y


class LinearLowRankBlock(nn.Module):
    """WDSR-B: wider still, with 1x1 convolutions and a linear low-rank convolution behind the activation.

    Source: Yu et al. 2018 (WDSR), sec. 3.2.
    """

    def __init__(self, features: int, hidden: int, low_rank: int) -> None:
        super().__init__()
        self.expand = _normed(features, hidden, 1)
        self.act = nn.ReLU(inplace=True)
        self.linear = _normed(hidden, low_rank, 1)
        self.spatial = _normed(low_rank, features, 3)

    def forward(self, x: Tensor) -> Tensor:  # [N, features, H, W] -> the same
        y: Tensor = x + self.spatial(self.linear(self.act(self.expand(x))))
        return y


class Wdsr(nn.Module):
    """Wide-activation network: a body of wide blocks, beside one 5x5 convolution from input to output.

    Args:
        block: makes one residual block of `features` channels.
        features: channels of the identity path.
        blocks: number of residual blocks.
        scale: 2, 3 or 4.

    Source: Yu et al. 2018 (WDSR), sec. 3; input and output scaled as in its published code.
    """

    mean: Tensor

    def __init__(self, block: Callable[[], nn.Module], *, features: int, blocks: int, scale: int) -> None:
        super().__init__()
        subpixels = 3 * scale * scale
        self.head = _normed(3, features, 3)
        self.body = nn.Sequential(*(block() for _ in range(blocks)))
        self.tail = _normed(features, subpixels, 3)
        self.skip = _normed(3, subpixels, 5)
        self.shuffle = nn.PixelShuffle(scale)
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] in [0, 1] -> [N, 3, scale * H, scale * W]
        x = (x - self.mean) * 2
        y = self.tail(self.body(self.head(x))) + self.skip(x)  # [N, 3 * scale^2, H, W]
        upscaled: Tensor = self.shuffle(y) / 2 + self.mean
        return upscaled


def wdsr_a(*, features: int = 32, hidden: int = 128, blocks: int = 16, scale: int = 2) -> Wdsr:
    """WDSR-A; `hidden` channels before each activation, published as 4 x features."""
    return Wdsr(lambda: WideBlock(features, hidden), features=features, blocks=blocks, scale=scale)


def wdsr_b(*, features: int = 32, hidden: int = 192, low_rank: int = 25, blocks: int = 16, scale: int = 2) -> Wdsr:
    """WDSR-B; published as 6 x features before each activation and int(0.8 x features) after the linear layer."""
    return Wdsr(lambda: LinearLowRankBlock(features, hidden, low_rank), features=features, blocks=blocks, scale=scale)


class PlainBlock(nn.Module):
    """EDSR's residual block: no norm, nothing after the sum."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = _conv(features, hidden, 3)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = _conv(hidden, features, 3)

    def forward(self, x: Tensor) -> Tensor:  # [N, features, H, W] -> the same
        y: Tensor = x + self.conv2(self.act(self.conv1(x)))
        return y


class Edsr(nn.Module):
    """EDSR-baseline: residual blocks of constant width, upsampled by PixelShuffle inside the network.

    Args:
        features: channels of the identity path and after each step of the upsampler, published as 64.
        hidden: channels inside each block, published as `features`.
        blocks: number of residual blocks, published as 16.
        scale: 2, 3 or 4; 4 is two steps of 2.

    Source: Lim et al. 2017 (EDSR), sec. 3.2 and table 1; residual scale 1.
    """

    mean: Tensor

    def __init__(self, *, features: int = 64, hidden: int = 64, blocks: int = 16, scale: int = 2) -> None:
        super().__init__()
        self.head = _conv(3, features, 3)
        self.body = nn.Sequential(*(PlainBlock(features, hidden) for _ in range(blocks)))
        self.body_end = _conv(features, features, 3)
        upsampler: list[nn.Module] = []
        for factor in (2, 2) if scale == 4 else (scale,):
            upsampler += [_conv(features, features * factor * factor, 3), nn.PixelShuffle(factor)]
        self.upsampler = nn.Sequential(*upsampler)
        self.tail = _conv(features, 3, 3)
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W] in [0, 1] -> [N, 3, scale * H, scale * W]
        x = self.head((x - self.mean) * 255)  # the published network works on 0 .. 255
        x = x + self.body_end(self.body(x))
        upscaled: Tensor = self.tail(self.upsampler(x)) / 255 + self.mean
        return upscaled
