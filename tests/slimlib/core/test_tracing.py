"""torch.jit.trace and torch.export see a network as it computes at the width that is set."""

import pytest
import torch

import slimlib as slim
from tests.converting import made_slimmable
from tests.networks import NETWORKS

NAMES = ["mobilenet", "concatenating", "wdsr", "transformer", "shared", "transposed"]


def converted(name, width):
    torch.manual_seed(0)
    dense, args = NETWORKS[name]()
    net = made_slimmable(name, dense, args, norm="shared").eval()
    slim.set_width(net, width)
    return net, args


def traced(net, args):
    return torch.jit.freeze(torch.jit.trace(net, args, check_trace=False))


def exported(net, args):
    return torch.export.export(net, args).run_decompositions().module()


@pytest.mark.parametrize("see", [traced, exported])
@pytest.mark.parametrize("width", [0.5, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_what_a_tracer_saw_computes_the_same(name, width, see):
    net, args = converted(name, width)
    expected = net(*args)
    program = see(net, args)
    torch.testing.assert_close(program(*args), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("see", [traced, exported])
def test_the_network_trains_on_afterwards(see):
    net, args = converted("concatenating", 0.5)
    see(net, args)
    net(*args).sum().backward()
    whole = dict(net.named_parameters())
    alone, _ = converted("concatenating", 0.5)
    alone(*args).sum().backward()
    assert all(torch.equal(p.grad, whole[name].grad) for name, p in alone.named_parameters() if p.grad is not None)
