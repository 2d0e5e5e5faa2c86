"""Slimmable layers: their torch layers, same parameters and keys, computing with the leading channels.

`convert` turns a network's layers into these. They also work in a network written by hand, which
`adopt` makes slimmable: a layer then reads its input channels off the tensor that arrives, and `set_width` sets its
outputs (except where `slim_output=False`, for the last layer).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from slimlib.core.swapping import SwapsOut


class _SlimLayer(SwapsOut):
    """What the slimmable layers share: the output channels to set, and the error for impossible inputs."""

    slim_output: bool
    name_in_network: str | None = None  # given by `convert`; then the width decides and nothing is read off the input

    def __init__(self, *args: Any, slim_output: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slim_output = slim_output

    def refuse(self, arriving: int, expected: int) -> None:
        where = f"layer '{self.name_in_network}'" if self.name_in_network is not None else f"a {type(self).__name__}"
        mend = "Set the width with slimlib.set_width on the whole network, not in the middle of a forward."
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:  # within a backward pass
            mend = "Activation checkpointing computes it anew: run each width backward before you set the next."
        raise ValueError(f"{where} got {arriving} channels and computes with {expected} at this width. {mend}")


class _SlimConv(_SlimLayer):
    """A convolution that may be plain, grouped (leading channels inside each group) or depthwise."""

    def leading(self: Any, arriving: int) -> tuple[Tensor, Tensor | None, int]:
        """Weight, bias and groups for `arriving` input channels; in a converted network they must be as set."""
        weight, bias, groups = self.weight, self.bias, self.groups
        expected = weight.shape[0] if self.transposed else weight.shape[1] * groups
        full: _ConvNd = self
        per_group, rest = divmod(arriving, groups)
        depthwise = 1 < groups == full.in_channels
        if self.name_in_network is not None or arriving > expected or (rest and not depthwise):
            self.refuse(arriving, expected)
        if depthwise:
            outputs = arriving * full.out_channels // full.in_channels
            return (
                weight[: arriving if self.transposed else outputs],
                None if bias is None else bias[:outputs],
                arriving,
            )
        if self.transposed:
            weight = weight.unflatten(0, (groups, -1))[:, :per_group].flatten(0, 1)
        return (weight if self.transposed else weight[:, :per_group]), bias, groups


def as_pixels(x: Tensor, weight: Tensor) -> Tensor | None:
    """The pixels [N, H, W, C] of an image, where a product with a strided matrix is the faster pointwise convolution.

    So far on CPUs in channels_last; None elsewhere.
    """
    if not x.is_cpu or x.dtype is not weight.dtype or x.ndim != 4 or x.stride(1) != 1:
        return None
    pixels = x.permute(0, 2, 3, 1)
    return pixels if pixels.is_contiguous() else None  # torch.vmap cannot be asked for channels_last


class SlimConv1d(_SlimConv, nn.Conv1d):
    """`nn.Conv1d` whose active channels are leading ones. Input [N, C_in, L], output [N, C_out, L']."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias, groups = self.weight, self.bias, self.groups
        if input.shape[-2] != weight.shape[1] * groups:
            weight, bias, groups = self.leading(input.shape[-2])
        if self.padding_mode == "zeros":
            return F.conv1d(input, weight, bias, self.stride, self.padding, self.dilation, groups)
        input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
        return F.conv1d(input, weight, bias, self.stride, 0, self.dilation, groups)


class SlimConv2d(_SlimConv, nn.Conv2d):
    """`nn.Conv2d` whose active channels are leading ones. Input [N, C_in, H, W], output [N, C_out, H', W'].

    Source: Yu et al. 2019 (Slimmable Neural Networks), sec. 3.1.
    """

    as_matrix = False  # a pointwise kernel with a part of its input channels, which a convolution copies in each call

    def forward(self, input: Tensor) -> Tensor:
        weight, bias, groups = self.weight, self.bias, self.groups
        if input.shape[-3] != weight.shape[1] * groups:
            weight, bias, groups = self.leading(input.shape[-3])
        if self.as_matrix and (pixels := as_pixels(input, weight)) is not None:
            return F.linear(pixels, weight.flatten(1), bias).permute(0, 3, 1, 2)
        if self.padding_mode == "zeros":
            return F.conv2d(input, weight, bias, self.stride, self.padding, self.dilation, groups)
        input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
        return F.conv2d(input, weight, bias, self.stride, 0, self.dilation, groups)


class SlimConvTranspose2d(_SlimConv, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` whose active channels are leading ones. Input [N, C_in, H, W], output [N, C_out, H', W']."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        weight, bias, groups = self.weight, self.bias, self.groups
        if input.shape[-3] != weight.shape[0]:
            weight, bias, groups = self.leading(input.shape[-3])
        padding: Any = self.padding
        extra = self._output_padding(input, output_size, self.stride, padding, self.kernel_size, 2, self.dilation)  # type: ignore[arg-type]
        return F.conv_transpose2d(input, weight, bias, self.stride, padding, extra, groups, self.dilation)


class SlimLinear(_SlimLayer, nn.Linear):
    """`nn.Linear` whose active features are leading ones. Input [..., in], output [..., out]."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight
        arriving, expected = input.shape[-1], weight.shape[1]
        if arriving != expected:
            if self.name_in_network is not None or arriving > expected:
                self.refuse(arriving, expected)
            weight = weight[:, :arriving]
        return F.linear(input, weight, self.bias)


SLIM_LAYERS: dict[type, type] = {
    nn.Conv1d: SlimConv1d,
    nn.Conv2d: SlimConv2d,
    nn.ConvTranspose2d: SlimConvTranspose2d,
    nn.Linear: SlimLinear,
}
