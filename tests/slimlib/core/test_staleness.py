"""Nothing goes stale: after any edit of the parameters every width computes with the new values."""

import copy
import gc

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad

import slimlib as slim
from slimlib.core.layout import axis_index
from tests.converting import made_slimmable
from tests.networks import NETWORKS

WIDTHS = (1.0, 0.5, 0.25)


def network():
    torch.manual_seed(0)
    dense, args = NETWORKS["concatenating"]()
    return made_slimmable("concatenating", dense, args, norm="shared").eval(), args


def outputs(net, args):
    found = []
    for width in WIDTHS:
        slim.set_width(net, width)
        with torch.no_grad():
            found.append(net(*args))
    return found


def optimizer_step(net, args):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    slim.set_width(net, 0.5)
    net(*args).sum().backward()
    optimizer.step()


def in_place_edit(net, args):
    for p in net.parameters():
        p.data.mul_(1.5)


def replaced_data(net, args):
    for p in net.parameters():
        p.data = p.data * 1.5


def loaded(net, args):
    net.load_state_dict({k: v * 1.5 if v.is_floating_point() else v for k, v in net.state_dict().items()})


def loaded_by_assignment(net, args):
    state = {k: v * 1.5 if v.is_floating_point() else v for k, v in net.state_dict().items()}
    net.load_state_dict(state, assign=True)


def new_parameter(net, args):
    layer = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    layer.weight = nn.Parameter(layer._parameters["weight"].detach() * 1.5)


def flattened(net, args):
    vector = nn.utils.parameters_to_vector(net.parameters()).detach() * 1.5
    nn.utils.vector_to_parameters(vector, net.parameters())


EDITS = [optimizer_step, in_place_edit, replaced_data, loaded, loaded_by_assignment, new_parameter, flattened]


@pytest.mark.parametrize("edit", EDITS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("width", [1.0, 0.5])
def test_edit_is_seen_at_every_width(edit, width):
    net, args = network()
    before = outputs(net, args)
    snapshot = slim.freeze(net, WIDTHS)
    slim.set_width(net, width)
    edit(net, args)
    dense, _ = NETWORKS["concatenating"]()
    dense.load_state_dict(net.state_dict())
    fresh = made_slimmable("concatenating", dense, args, norm="shared").eval()
    slim.set_width(fresh, slim.current_width(net))
    with torch.no_grad():
        assert torch.equal(net(*args), fresh(*args)), "at the width that was set during the edit"
    for ours, expected, old in zip(outputs(net, args), outputs(fresh, args), before, strict=True):
        assert torch.equal(ours, expected)
        assert not torch.equal(ours, old)
    for served, old in zip(outputs(snapshot, args), before, strict=True):
        torch.testing.assert_close(served, old)


@pytest.mark.parametrize("width", WIDTHS)
def test_parameters_that_torch_func_gives_are_seen_while_it_does(width):
    net, args = network()
    other = copy.deepcopy(net)
    in_place_edit(other, args)
    for each in (net, other):
        slim.set_width(each, width)
    before, given = net(*args), {name: p.detach().clone() for name, p in other.named_parameters()}
    assert torch.equal(functional_call(net, given, args), other(*args))
    gradients = grad(lambda parameters: functional_call(net, parameters, args).square().sum())(given)
    other(*args).square().sum().backward()
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)
    assert torch.equal(net(*args), before)


@pytest.mark.parametrize("width", WIDTHS)
def test_parameters_by_name_are_whole(width):
    net, _ = network()
    slim.set_width(net, width)
    for name, parameter in net.named_parameters():
        assert net.get_parameter(name) is parameter


@pytest.mark.parametrize("width", WIDTHS)
def test_to_another_type_is_seen(width):
    net, args = network()
    slim.set_width(net, width)
    expected = net(*args)
    net.double()
    assert net(args[0].double()).dtype == torch.double
    torch.testing.assert_close(net(args[0].double()).float(), expected)


def test_requires_grad_switched_later_is_seen():
    net, args = network()
    net.requires_grad_(False)
    outputs(net, args)
    net.requires_grad_(True)
    slim.set_width(net, 0.5)
    net(*args).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("width", WIDTHS)
def test_copy_is_independent(width):
    net, args = network()
    slim.set_width(net, width)
    twin = copy.deepcopy(net)
    assert slim.current_width(twin) == width
    expected = outputs(net, args)
    for p in net.parameters():
        p.data.zero_()
    for ours, old in zip(outputs(twin, args), expected, strict=True):
        assert torch.equal(ours, old)


@pytest.mark.parametrize("width", [0.5, 0.25])
def test_weights_outside_the_slice_change_nothing(width):
    net, args = network()
    slim.set_width(net, width)
    expected = net(*args)
    expected.square().sum().backward()
    outside = {name: outside_of(net, p) for name, p in net.named_parameters()}
    assert sum(int(mask.sum()) for mask in outside.values()) > 0
    for name, p in net.named_parameters():
        assert p.grad[outside[name]].eq(0).all(), name
        p.data[outside[name]] = 1e6
    assert torch.equal(net(*args), expected)


def outside_of(net, parameter):
    """True where an element of a parameter is not active at the width that is set."""
    active = torch.zeros_like(parameter, dtype=torch.bool)
    for part in net.slim.parts:
        for slot in part.slots:
            if slot.store[slot.name] is parameter:
                indices = [
                    axis_index(slot.axes[d], net.slim.channels) if d in slot.axes else parameter.shape[d]
                    for d in range(parameter.dim())
                ]
                active[
                    torch.meshgrid(*[torch.arange(i) if isinstance(i, int) else i for i in indices], indexing="ij")
                ] = True
                return ~active
    return active


def test_views_made_after_all_were_dropped_have_new_nodes_of_autograd():
    """A node that accumulates gradients belongs to the stream on which the first view was made, while one lives."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))
    slim.convert(net, torch.randn(2, 3, 6, 6), widths=slim.Switches(0.25, 0.5))

    def node():
        return net[2].weight.grad_fn.next_functions[0][0]

    x = torch.randn(2, 3, 6, 6)
    before = net(x).detach()  # its graph would hold the node
    node().metadata["made"] = "before"
    net.slim.refresh()
    assert node().metadata  # the views of before lived until the new ones were made
    net.slim.drop_views()
    assert net[2].weight is net[2]._parameters["weight"]
    gc.collect()
    net.slim.refresh()
    assert not node().metadata
    assert torch.equal(net(x), before)
