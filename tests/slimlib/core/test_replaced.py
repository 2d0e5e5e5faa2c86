"""A layer put into a slimmable network slims as the one before did, or is refused by name."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import slimlib as slim
from slimlib.core.swapping import dense_class
from tests.converting import made_slimmable
from tests.networks import NETWORKS

WIDTHS = (1.0, 0.5, 0.25)


def outputs(net, args):
    found = []
    for width in WIDTHS:
        slim.set_width(net, width)
        found.append(net(*args))
    return found


def put(net, path, layer):
    owner, _, name = path.rpartition(".")
    net.get_submodule(owner)._modules[name] = layer


def chain(norm=nn.BatchNorm2d):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3), norm(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(32, 10))


IMAGE = torch.randn(4, 3, 8, 8)


@pytest.mark.parametrize(
    "name", ["mobilenet", "residual", "concatenating", "glu", "shufflenet", "resnext", "transformer"]
)
def test_network_with_a_layer_replaced_equals_one_that_had_it(name):
    torch.manual_seed(0)
    (dense, args), (other, _) = NETWORKS[name](), NETWORKS[name]()
    paths = [path for path, m in dense.named_modules() if path and not [*m.children()] and [*m.parameters()]]
    net = made_slimmable(name, copy.deepcopy(dense), args, norm="shared").eval()
    outputs(net, args)
    for path in paths:
        put(net, path, copy.deepcopy(other.get_submodule(path)))
        put(dense, path, copy.deepcopy(other.get_submodule(path)))
        expected = outputs(made_slimmable(name, copy.deepcopy(dense), args, norm="shared").eval(), args)
        for ours, wanted in zip(outputs(net.eval(), args), expected, strict=True):
            assert torch.equal(ours, wanted), path


def test_new_head_of_other_classes_trains_copies_and_is_extracted():
    net = slim.convert(chain(), IMAGE)
    slim.set_width(net, 0.5)
    net(IMAGE)
    net[-1] = nn.Linear(32, 5)
    for twin in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert twin(IMAGE).shape == (4, 5)
    net(IMAGE).sum().backward()
    assert net[-1].state_dict(keep_vars=True)["weight"].grad[:, :16].abs().sum() > 0
    slim.calibrate(net, [IMAGE], widths=[0.5])
    assert slim.extract(net.eval(), 0.5)[-1].weight.shape == (5, 16)


def test_switches_have_a_batchnorm_each_in_the_new_one():
    net = slim.convert(chain(), IMAGE, widths=slim.Switches(*WIDTHS), norm="switchable")
    names = set(net.state_dict())
    net[1] = nn.BatchNorm2d(16)
    outputs(net, (IMAGE,))
    assert set(net.state_dict()) == names


def test_bands_have_a_head_each_in_the_new_one():
    net = slim.convert(chain(), IMAGE, heads={"6": 2})
    names = set(net.state_dict())
    net[6] = nn.Linear(32, 5)
    assert [out.shape[1] for out in outputs(net, (IMAGE,))] == [5, 5, 5]
    assert set(net.state_dict()) == names


def test_layers_that_read_their_inputs_off_what_arrives_still_do():
    net = slim.adopt(nn.Sequential(slim.SlimLinear(8, 16), nn.ReLU(), slim.SlimLinear(16, 4, slim_output=False)))
    net[0] = slim.SlimLinear(8, 16)
    net[2] = slim.SlimLinear(16, 4, slim_output=False)
    assert [out.shape for out in outputs(net, (torch.randn(2, 8),))] == [(2, 4)] * 3


def test_norm_taken_out_is_forgotten():
    dense = chain()
    net = slim.convert(copy.deepcopy(dense), IMAGE, norm="shared")
    net[1] = dense[1] = nn.Identity()
    expected = outputs(slim.convert(dense, IMAGE, norm="shared"), (IMAGE,))
    for ours, wanted in zip(outputs(net, (IMAGE,)), expected, strict=True):
        assert torch.equal(ours, wanted)


def test_head_taken_out_leaves_the_features_of_each_width():
    net = slim.convert(chain(), IMAGE, norm="shared")
    features = []
    net[5].register_forward_hook(lambda module, args, out: features.append(out))
    outputs(net, (IMAGE,))
    net[6] = nn.Identity()
    for ours, wanted in zip(outputs(net, (IMAGE,)), features[:3], strict=True):
        assert torch.equal(ours, wanted)
    assert torch.equal(copy.deepcopy(net)(IMAGE), features[2])


@pytest.mark.parametrize(
    ("path", "layer", "message"),
    [
        ("6", nn.Linear(24, 5), "'6' was replaced by another Linear, of which in_features is 24 and must be 32"),
        ("3", nn.Conv2d(16, 24, 3), "'3' was replaced by another Conv2d, of which out_channels is 24 and must be 32"),
        ("6", nn.Sequential(nn.Dropout(), nn.Linear(32, 5)), "'6', a Linear, was replaced by a Sequential"),
        ("1", nn.GroupNorm(4, 16), "'1', a BatchNorm2d, was replaced by a GroupNorm"),
        ("3", nn.Identity(), "'3', a Conv2d, made channels that other layers read, and is gone"),
    ],
)
def test_layer_that_does_not_fit_is_refused_until_one_does(path, layer, message):
    net = slim.convert(chain(), IMAGE)
    slim.set_width(net, 0.5)
    before = net.get_submodule(path)
    put(net, path, layer)
    for use in (lambda: net(IMAGE), lambda: slim.set_width(net, 0.25), lambda: copy.deepcopy(net), lambda: net(IMAGE)):
        with pytest.raises(ValueError, match=message):
            use()
    assert dense_class(type(layer)) is type(layer)
    put(net, path, before)
    assert net(IMAGE).shape == (4, 10)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(16, 16, 1), "'2', a Conv2d, was added after slimlib.convert, and keeps its full size"),
        (nn.GroupNorm(4, 16), "'2', a GroupNorm, was added after slimlib.convert, and keeps its full size"),
        (
            nn.Sequential(nn.BatchNorm2d(16)),
            "'2.0', a BatchNorm2d, was added after slimlib.convert, and keeps its full size",
        ),
    ],
)
def test_layer_with_weights_where_none_was_is_named_at_widths_that_it_does_not_fit(layer, message):
    net = slim.convert(chain(), IMAGE, norm="shared")
    net.append(nn.Linear(10, 5))
    assert [out.shape for out in outputs(net, (IMAGE,))] == [(4, 5)] * 3
    net[2] = layer
    slim.set_width(net, 1.0)
    assert net(IMAGE).shape == (4, 5)
    for twin in (net, copy.deepcopy(net)):
        slim.set_width(twin, 0.5)
        with pytest.raises(ValueError, match=message):
            twin(IMAGE)


def test_group_norm_of_other_groups_is_refused():
    net = slim.convert(chain(lambda channels: nn.GroupNorm(4, channels)), IMAGE)
    net[1] = nn.GroupNorm(2, 16)
    with pytest.raises(
        ValueError, match="'1' was replaced by another GroupNorm, of which num_groups is 2 and must be 4"
    ):
        net(IMAGE)


@pytest.mark.parametrize("path", ["0", "3", "6"])
@pytest.mark.parametrize("before", [True, False])
def test_bias_that_comes_or_goes_is_seen(path, before):
    dense = chain()
    if not before:
        dense.get_submodule(path).bias = None
    net = slim.convert(copy.deepcopy(dense), IMAGE, norm="shared")
    outputs(net, (IMAGE,))
    for each in (net, dense):
        layer = each.get_submodule(path)
        layer.bias = None if before else nn.Parameter(torch.linspace(-1, 1, len(layer._parameters["weight"])))
    expected = outputs(slim.convert(dense, IMAGE, norm="shared"), (IMAGE,))
    for ours, wanted in zip(outputs(net, (IMAGE,)), expected, strict=True):
        assert torch.equal(ours, wanted)


def test_parameter_of_another_size_is_refused():
    net = slim.convert(chain(), IMAGE)
    net[3].weight = nn.Parameter(torch.randn(48, 16, 3, 3))
    with pytest.raises(ValueError, match=r"'3.weight' is \[48, 16, 3, 3\], and must be 32 in dimension 0"):
        net(IMAGE)


def test_weights_that_something_else_computes_are_refused():
    net = slim.convert(chain(), IMAGE)
    with pytest.raises(ValueError, match=r"'weight' of this SlimConv2d slims.*before slimlib.convert"):
        parametrizations.weight_norm(net[3])
    assert net(IMAGE).shape == (4, 10)
    prune.l1_unstructured(net[3], "weight", 0.5)
    with pytest.raises(ValueError, match=r"'3.weight' was removed after slimlib.convert; .*pruning.* before it"):
        net(IMAGE)
