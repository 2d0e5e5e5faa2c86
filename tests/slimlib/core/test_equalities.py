"""What a slimmable network is: at every width the dense network of the slices, at full width the original."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._pytree import tree_leaves

import slimlib as slim
from slimlib.core.width import round_channels
from tests.converting import made_slimmable
from tests.extent import NIGHTLY
from tests.networks import NETWORKS
from tests.twins import TWINS, dense_twin, slices

GRID = [i / 20 for i in range(2, 21)]


def in_double(name, divisor=8):
    torch.manual_seed(0)
    dense, args = NETWORKS[name]()
    for module in dense.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # its mask depends on the width
    for tensor in dense.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape) * 0.1)
    dense.double()
    args = tuple(a.double() for a in args)
    return made_slimmable(name, dense, args, divisor=divisor).train(), args


def assert_same(name, net, args, width, divisor):
    twin = dense_twin(name, net, width, divisor).train()
    slim.set_width(net, width)
    net.zero_grad()
    ours, theirs = net(*args), twin(*args)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    ours.square().mean().backward()
    theirs.square().mean().backward()
    full = dict(net.named_parameters())
    for key, p in twin.named_parameters():
        index = slices(name, full[key], p, lambda c: round_channels(c, width, divisor))
        torch.testing.assert_close(full[key].grad[index], p.grad, rtol=1e-8, atol=1e-10)
        outside = full[key].grad.clone()
        outside[index] = 0
        assert not outside.any(), f"{key} has gradients outside the slice"


@pytest.mark.parametrize("name", TWINS)
def test_every_width_equals_the_dense_network_of_the_slices(name):
    net, args = in_double(name)
    for width in GRID:
        assert_same(name, net, args, width, 8)


@settings(max_examples=200 if NIGHTLY else 12, deadline=None)
@given(name=st.sampled_from(sorted(TWINS)), width=st.floats(0.02, 1.0), divisor=st.sampled_from([1, 2, 3, 4, 8, 16]))
def test_any_width_and_divisor_equals_the_dense_network(name, width, divisor):
    net, args = in_double(name, divisor)
    assert_same(name, net, args, width, divisor)


@settings(max_examples=200 if NIGHTLY else 12, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 70), min_size=1, max_size=4),
    plan=st.data(),
)
def test_any_plan_of_an_mlp_equals_the_dense_network(sizes, plan):
    from tests.networks import MLP

    torch.manual_seed(0)
    net = slim.convert(MLP(sizes=(5, *sizes, 3)).double(), torch.randn(2, 5).double())
    numbers = tuple(plan.draw(st.integers(1, size)) for size in sizes)
    slim.set_width(net, slim.WidthPlan(numbers))
    twin = MLP(sizes=(5, *numbers, 3)).double()
    full = dict(net.named_parameters())
    for key, p in twin.named_parameters():
        p.data.copy_(full[key].detach()[tuple(slice(0, n) for n in p.shape)])
    x = torch.randn(4, 5).double()
    torch.testing.assert_close(net(x), twin(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_full_width_is_the_original_bit_for_bit(name):
    """In eval mode, and in training, whose statistics are compared too."""
    torch.manual_seed(0)
    dense, args = NETWORKS[name]()
    torch.manual_seed(0)
    net = slim.convert(NETWORKS[name]()[0], args)
    for training in (False, True):
        ours, theirs = (ran(each.train(training), args) for each in (net, dense))
        assert len(ours) == len(theirs) > 0
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)
        expected = dict(dense.named_parameters())
        for key, p in net.named_parameters():
            assert (p.grad is None) == (expected[key].grad is None), key
            assert p.grad is None or torch.equal(p.grad, expected[key].grad), key
        for key, buffer in net.named_buffers():
            assert torch.equal(buffer, dict(dense.named_buffers())[key]), key


def ran(net, args):
    """The outputs of a network, whose gradients are then those of their sum."""
    net.zero_grad(set_to_none=True)
    torch.manual_seed(1)
    outputs = [t for t in tree_leaves(net(*args)) if isinstance(t, torch.Tensor)]
    sum(t.float().sum() for t in outputs).backward()
    return outputs


@pytest.mark.parametrize("name", ["mobilenet", "concatenating", "wdsr", "mlp"])
def test_full_width_is_the_original_where_channels_are_no_multiple(name):
    odd = {
        "mobilenet": lambda: TWINS[name](lambda c: c - 3),
        "concatenating": lambda: TWINS[name](lambda c: c - 3),
        "wdsr": lambda: TWINS[name](lambda c: c - 5),
        "mlp": lambda: TWINS[name](lambda c: c + 1),
    }[name]
    torch.manual_seed(0)
    dense = odd().eval()
    args = NETWORKS[name]()[1]
    expected = dense(*args)
    net = slim.convert(dense, args)
    slim.set_width(net, 0.5)
    slim.set_width(net, 1.0)
    assert torch.equal(net(*args), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_names_shapes_and_count_of_parameters_stay(name):
    dense, args = NETWORKS[name]()
    before = {key: tensor.shape for key, tensor in dense.state_dict().items()}
    net = made_slimmable(name, dense, args)
    slim.set_width(net, 0.3)
    assert {key: tensor.shape for key, tensor in net.state_dict().items()} == before
    assert {key: p.shape for key, p in net.named_parameters()} == {k: before[k] for k, _ in net.named_parameters()}
