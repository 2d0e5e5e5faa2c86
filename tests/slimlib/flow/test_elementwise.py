"""Elementwise operations, and those that torch puts together of others, slim as a network built narrow does."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slimlib.flow import follow
from tests.slimlib.flow.judging import Net, conv, image, share_left_as_twin, tokens

OF_TWO = {
    "exp2": lambda y, z: y * torch.exp2(z),
    "logaddexp": torch.logaddexp,
    "fmax": torch.fmax,
    "bits": lambda y, z: y * ((y > 0) ^ (z > 0)),
    "gaussian error": lambda y, z: torch.erfinv(y.tanh()) + torch.special.entr(z.abs() + 0.1),
    "sign": lambda y, z: torch.copysign(y, z) * z.signbit(),
    "squared error": lambda y, z: F.mse_loss(y, z, reduction="none"),
    "huber": lambda y, z: y * F.huber_loss(y, z),
    "smooth l1": lambda y, z: y * F.smooth_l1_loss(y, z),
    "cross entropy": lambda y, z: y * F.binary_cross_entropy_with_logits(y, z.sigmoid()),
    "cross entropies": lambda y, z: F.binary_cross_entropy_with_logits(y, z.sigmoid(), reduction="none"),
    "quantised": lambda y, z: torch.fake_quantize_per_tensor_affine(y, 0.1, 0, -128, 127) + z,
    "in bins": lambda y, z: y * torch.bucketize(z, torch.tensor([-1.0, 0.0, 1.0])),
    "lengths": lambda y, z: torch.renorm(y, 2, 0, 1.0) + z,
}


@pytest.mark.parametrize("name", OF_TWO)
def test_what_meets_element_by_element_slims_together(name):
    def forward(net, x):
        return net.last(OF_TWO[name](net.a(x), net.b(x)))

    assert share_left_as_twin(lambda c: Net(forward, a=conv(3, c), b=conv(3, c), last=conv(c, 3, 1)), image()) < 0.55


def test_images_that_are_written_into_a_text_have_its_channels():
    def forward(net, x, images, places):
        text = net.a(x)
        return net.last(text.masked_scatter(places[..., None].expand_as(text), net.b(images)))

    example = tokens(), torch.randn(4, 8), torch.arange(10).view(2, 5) % 5 > 2
    left = share_left_as_twin(
        lambda c: Net(forward, a=nn.Linear(16, c), b=nn.Linear(8, c), last=nn.Linear(c, 3)), example
    )
    assert left < 0.55


def test_the_order_of_all_elements_is_no_order_of_channels():
    def forward(net, x):
        y = net.a(x)
        return net.last(net.between(y.masked_scatter(y > 0, net.b(x))))

    kept = follow(Net(forward, a=conv(3, 32), b=conv(3, 32), between=conv(32, 32), last=conv(32, 3, 1)), image()).kept
    assert "masked_scatter in the network's own forward" in kept["a"]
    assert "between" not in kept


def test_weights_that_are_quantised_slim():
    def forward(net, x):
        weight = torch.fake_quantize_per_tensor_affine(net.b.weight, 0.1, 0, -128, 127)
        return net.last(F.conv2d(net.a(x), weight, net.b.bias, padding=1))

    left = share_left_as_twin(lambda c: Net(forward, a=conv(3, c), b=conv(c, c), last=conv(c, 3, 1)), image())
    assert left < 0.35
