"""Whole heads slim, and with them the trunk: at half width, the dense network with half of both."""

import copy

import pytest
import torch

import slimlib as slim
from tests.networks_of_attention import BLOCKS, Tokens


def tokens(batch=2):
    return torch.randn(batch, 8, 16, generator=torch.Generator().manual_seed(0))


def carry(full, twin, parts):
    """Give the twin the leading part of every axis, or of each of the parts that an axis holds."""
    state = full.state_dict()
    for name, tensor in twin.state_dict().items():
        value = state[name]
        own = parts.get(name.split(".", 2)[2], {}) if name.startswith("blocks.") else {}
        for dim, size in enumerate(tensor.shape):
            shares = own.get(dim, 1)
            shares = (1,) * shares if isinstance(shares, int) else shares
            channels = value.shape[dim]
            pieces = torch.arange(channels).split([channels * share // sum(shares) for share in shares])
            value = value.index_select(dim, torch.cat([piece[: len(piece) * size // channels] for piece in pieces]))
        tensor.copy_(value)
    return twin


@pytest.mark.parametrize("name", BLOCKS)
def test_half_width_equals_the_dense_network_of_half_the_heads(name):
    torch.manual_seed(0)
    block, parts = BLOCKS[name]
    dense, x = Tokens(block).eval(), tokens()
    twin = carry(dense, Tokens(block, trunk=16, heads=2).eval(), parts)
    full = dense(x)
    net = slim.convert(copy.deepcopy(dense), x)
    assert torch.equal(net(x), full)
    assert set(net.slim.layout.kept) <= {"leave", "blocks.0.q_norm", "blocks.1.q_norm"}
    slim.set_width(net, 0.5)
    assert torch.allclose(net(x), twin(x), atol=1e-5)
    small = slim.extract(net, 0.5)
    assert [p.shape for p in small.parameters()] == [p.shape for p in twin.parameters()]
    assert torch.allclose(small(x), twin(x), atol=1e-5)
    slim.set_width(net, 1.0)
    assert torch.equal(net(x), full)


def test_a_part_that_several_modules_share_holds_numbers():
    torch.manual_seed(0)
    dense, x = Tokens(BLOCKS["biased by a part"][0]).eval(), tokens()
    dense.blocks[1].distances = dense.blocks[0].distances
    full = dense(x)
    net = slim.convert(copy.deepcopy(dense), x)
    assert torch.equal(net(x), full)
    assert "blocks.0.qkv" in {layer for group in net.slim.layout.groups for layer in group.layers}
