"""Pointwise convolutions that compute with a strided matrix equal those that copy their kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import slimlib as slim

CHANNELS = 512


def network(bias: bool) -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, CHANNELS, 3),
        nn.ReLU(),
        nn.Conv2d(CHANNELS, CHANNELS, 1, bias=bias),
        nn.Conv2d(CHANNELS, 4, 3),
    ]
    net = nn.Sequential(*layers).double().to(memory_format=torch.channels_last)
    return slim.convert(net, torch.randn(2, 3, 8, 8).double(), widths=slim.WidthRange(0.25, 1.0))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("width", [0.3, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_the_same_outputs_and_gradients(width: float, memory_format: torch.memory_format, bias: bool) -> None:
    net = network(bias)
    slim.set_width(net, width)
    assert net[2].as_matrix is (0.4 < width < 1.0)
    found, expected = [], []
    for outputs, layer in ((found, net[2]), (expected, None)):
        x = torch.randn(2, net[2].in_channels, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        x = x.to(memory_format=memory_format).requires_grad_()
        parameters = [p for p in (net[2].weight, net[2].bias) if p is not None]
        y = F.conv2d(x, net[2].weight, net[2].bias) if layer is None else layer(x)
        outputs += [y, *torch.autograd.grad(y.square().sum(), [x, *parameters])]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert memory_format != torch.channels_last or found[0].is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_each_sample_by_vmap_is_a_row_of_the_batch(memory_format: torch.memory_format) -> None:
    net = network(bias=True)
    slim.set_width(net, 0.5)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64).to(memory_format=memory_format)
    torch.testing.assert_close(torch.vmap(lambda sample: net(sample[None])[0])(x), net(x))
