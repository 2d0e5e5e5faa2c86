"""Kernels that are made for each sample, and convolve its channels as a group of their own."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimlib as slim
from slimlib.core.width import WidthPlan
from tests.slimlib.flow.judging import between_linears, parameter, share_left, tokens


class Modulated(nn.Module):
    """Karras et al. 2020 (StyleGAN2), sec. 2.2: inputs scaled by a style; each output of the kernel has norm 1."""

    def __init__(self, inputs: int, outputs: int, *, demodulates: bool = True) -> None:
        super().__init__()
        self.outputs, self.demodulates = outputs, demodulates
        self.weight, self.style = nn.Parameter(torch.randn(1, outputs, inputs, 3, 3)), nn.Linear(16, inputs)

    def kernel(self, style: Tensor) -> Tensor:  # [N, 16] -> [N, O, I, 3, 3]
        kernel = self.weight * self.style(style)[:, None, :, None, None]
        if self.demodulates:
            kernel = kernel * torch.rsqrt(kernel.pow(2).sum([2, 3, 4]) + 1e-8).view(len(style), -1, 1, 1, 1)
        return kernel

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernel = self.kernel(style).view(n * self.outputs, c, 3, 3)
        return F.conv2d(x.reshape(1, n * c, h, w), kernel, padding=1, groups=n).view(n, self.outputs, h, w)


class Upsampling(Modulated):
    """Transposed, with twice as many places."""

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernel = self.kernel(style).transpose(1, 2).reshape(n * c, self.outputs, 3, 3)
        y = F.conv_transpose2d(x.reshape(1, n * c, h, w), kernel, stride=2, padding=1, groups=n)
        return y.view(n, self.outputs, *y.shape[2:])


class Experts(nn.Module):
    """Yang et al. 2019 (CondConv), eq. 1: each sample mixes the kernels of all experts."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.mix = nn.Parameter(torch.randn(4, outputs, inputs, 3, 3)), nn.Linear(16, 4)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernel = (self.mix(style).sigmoid().view(n, 4, 1, 1, 1, 1) * self.weight).sum(1)
        y = F.conv2d(x.reshape(1, n * c, h, w), kernel.flatten(0, 1), padding=1, groups=n)
        return y.view(n, -1, h, w)


class ExpertsInAProduct(Experts):
    """Chen et al. 2020 (Dynamic Convolution), as it is usually written."""

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        n, c, h, w = x.shape
        kernel = (self.mix(style).softmax(1) @ self.weight.flatten(1)).view(-1, c, 3, 3)
        return F.conv2d(x.reshape(1, n * c, h, w), kernel, padding=1, groups=n).view(n, -1, h, w)


class Generator(nn.Module):
    """From an image, or as StyleGAN from a constant that is learned."""

    def __init__(self, kind, first=16, second=32, constant=False, **options):
        super().__init__()
        self.style = nn.Linear(8, 16)
        self.first = nn.Parameter(torch.randn(1, first, 4, 4)) if constant else nn.Conv2d(3, first, 1)
        self.a, self.b = kind(first, second, **options), kind(second, first, **options)
        self.last = nn.Conv2d(first, 3, 1)

    def forward(self, x, z):
        style = self.style(z).relu()
        x = self.first(x) if isinstance(self.first, nn.Module) else self.first.repeat(len(z), 1, 1, 1)
        return self.last(self.b(self.a(x, style).relu(), style).relu())


KINDS = {
    "modulated": (Modulated, {"demodulates": False}),
    "demodulated": (Modulated, {}),
    "from a constant": (Modulated, {"constant": True}),
    "upsampling": (Upsampling, {}),
    "experts": (Experts, {}),
    "experts in a product": (ExpertsInAProduct, {}),
}


@pytest.mark.parametrize("sizes", [(8, 16), (8, 8), (16, 8)], ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_kernels_of_samples_slim_on_both_sides(name, sizes):
    torch.manual_seed(0)
    kind, options = KINDS[name]
    dense = Generator(kind, **options).double().eval()
    args = (torch.randn(2, 3, 4, 4).double(), torch.randn(2, 8).double())
    net = slim.convert(copy.deepcopy(dense), args, keep=["style"])
    assert torch.equal(net(*args), dense(*args))
    assert set(net.slim.layout.kept) <= {"style", "last", "a.mix", "b.mix"}
    counts = {"first": sizes[0], "a.style": sizes[0], "a": sizes[1], "b": sizes[0]}
    slim.set_width(net, WidthPlan([counts[group.layers[0]] for group in net.slim.layout.groups]))
    twin = Generator(kind, *sizes, **options).double().eval()
    full = dense.state_dict()
    twin.load_state_dict(
        {key: full[key][tuple(slice(size) for size in own.shape)] for key, own in twin.state_dict().items()}
    )
    torch.testing.assert_close(net(*args), twin(*args))


def test_a_table_that_is_gated_is_data():
    net = between_linears(
        lambda net, x: x + net.gate(x.mean(1, keepdim=True)).sigmoid() * net.table,
        gate=nn.Linear(32, 32),
        table=parameter(5, 32),
    )
    assert share_left(net, tokens()) < 0.4
