"""A slimmable network is a module like any other: copies, formats, autocast, torch.compile, layers by hand."""

import copy
import pickle
from abc import ABC
from typing import Generic, TypeVar

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import slimlib as slim
from tests.converting import made_slimmable
from tests.extent import at_night
from tests.networks import MLP, NETWORKS, WDSR, MobileNet, Residual, image

COPIERS = {"deepcopy": copy.deepcopy, "pickle": lambda net: pickle.loads(pickle.dumps(net))}


@pytest.mark.parametrize("copier", COPIERS.values(), ids=COPIERS)
@pytest.mark.parametrize("name", ["mobilenet", "concatenating", "wdsr", "transformer", "shared", "transposed"])
def test_copy_equals_at_every_width(name, copier):
    torch.manual_seed(0)
    dense, args = NETWORKS[name]()
    net = made_slimmable(name, dense, args, norm="shared").eval()
    slim.set_width(net, 0.5)
    twin = copier(net)
    assert type(twin).__name__ == type(net).__name__
    assert slim.current_width(twin) == 0.5
    for width in (0.5, 0.25, 1.0):
        slim.set_width(net, width)
        slim.set_width(twin, width)
        assert torch.equal(twin(*args), net(*args))


def test_copies_of_a_network_that_torch_fx_traced():
    torch.manual_seed(0)
    traced, (x,) = torch.fx.symbolic_trace(MobileNet()), image()
    net = slim.convert(traced, (x,), norm="shared").eval()
    slim.set_width(net, 0.5)
    expected = net(x)
    for other in (copy.deepcopy(net), slim.extract(net, 0.5, x), slim.freeze(net, [0.5])):
        torch.testing.assert_close(other(x), expected)


class Holds(nn.Module):
    """A module that has to hold other numbers at each width."""

    def __init__(self):
        super().__init__()
        self.layer, self.size = nn.Linear(8, 16), 16

    def forward(self, x):
        return self.layer(x).reshape(len(x), 1, self.size).flatten(1)


T = TypeVar("T")


class HoldsAbstractly(ABC, Holds):
    pass


class HoldsGenerically(Generic[T], Holds):
    pass


class Slotted:
    __slots__ = ()


class HoldsAfterSlots(Slotted, Holds):
    pass


class Network(ABC, nn.Sequential):
    pass


@pytest.mark.parametrize("copier", COPIERS.values(), ids=COPIERS)
@pytest.mark.parametrize("kind", [Holds, HoldsAbstractly, HoldsGenerically, HoldsAfterSlots])
def test_modules_whose_class_has_another_base_before_nn_module(kind, copier):
    torch.manual_seed(0)
    x = torch.randn(2, 8)
    net = slim.convert(Network(kind(), nn.Linear(16, 3)), x)
    assert isinstance(net[0], kind) and net.slim.layout.full == (16,)
    slim.set_width(net, 0.5)
    expected, extracted = net(x), slim.extract(net, 0.5, x)
    assert type(extracted[0]) is kind and extracted[0].size == 8
    torch.testing.assert_close(copier(net)(x), expected)
    torch.testing.assert_close(slim.freeze(net, [0.5])(x), expected)


def test_copy_of_a_child_is_the_full_layer():
    net = slim.convert(Residual(), image())
    slim.set_width(net, 0.25)
    child = copy.deepcopy(net.blocks[0].a[0])
    assert child.weight.shape[0] == child.out_channels == 24


def test_slices_of_a_sequence_compute_at_the_width_that_is_set():
    net, x = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 7)), torch.randn(2, 8)
    slim.convert(net, x)
    first, rest = net[:2], net[2:]
    assert type(first) is nn.Sequential
    for width in (1.0, 0.5):
        slim.set_width(net, width)
        assert torch.equal(rest(first(x)), net(x))


def test_channels_last_is_kept():
    torch.manual_seed(0)
    net = slim.convert(MobileNet(), image(), norm="shared").eval()
    x = image()[0]
    slim.set_width(net, 0.5)
    expected = net(x)
    net.to(memory_format=torch.channels_last)
    seen = []
    hooks = [m.register_forward_hook(lambda m, a, y: seen.append(y)) for m in net.modules() if isinstance(m, nn.Conv2d)]
    torch.testing.assert_close(net(x.to(memory_format=torch.channels_last)), expected)
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in seen)
    for hook in hooks:
        hook.remove()
    for small in (slim.extract(net, 0.5), slim.freeze(net, [0.5])):
        weight = next(m for m in small.modules() if isinstance(m, nn.Conv2d)).weight
        assert weight.is_contiguous(memory_format=torch.channels_last)


def test_format_of_the_example_decides_nothing():
    torch.manual_seed(0)
    net = slim.convert(Residual(), image()[0].to(memory_format=torch.channels_last), norm="shared").eval()
    slim.set_width(net, 0.5)
    x = image()[0]
    torch.testing.assert_close(net(x), net(x.to(memory_format=torch.channels_last)))


@pytest.mark.parametrize("width", [1.0, 0.5])
def test_autocast_equals_the_dense_network_under_autocast(width):
    torch.manual_seed(0)
    net = slim.convert(Residual(), image(), norm="shared").eval()
    slim.set_width(net, width)
    plain, x = slim.extract(net, width), image()[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = net(x), plain(x)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, theirs)


def test_gradient_checkpointing_equals_plain():
    class Checkpointed(MLP):
        def forward(self, x):
            for layer in self.layers[:-1]:
                x = checkpoint(lambda v, layer=layer: torch.tanh(layer(v)), x, use_reentrant=False)
            return self.layers[-1](x)

    gradients = []
    for cls in (MLP, Checkpointed):
        torch.manual_seed(0)
        net = slim.convert(cls(), torch.randn(2, 8))
        rule = slim.Sandwich(slim.WidthRange(0.25, 1.0), samples=4, seed=1)
        rule.backward(net, torch.ones(3, 8), lambda out: out.square().sum())
        gradients.append([p.grad for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", [at_night("mlp"), "concatenating", at_night("wdsr")])
def test_compiled_network_follows_the_width(name):
    torch.manual_seed(0)
    dense, args = NETWORKS[name]()
    net = made_slimmable(name, dense, args, norm="shared").eval()
    compiled = torch.compile(net, backend="aot_eager")
    for width in (1.0, 0.5, 0.25, 0.5, 1.0):
        slim.set_width(compiled, width)
        assert slim.current_width(net) == width
        torch.testing.assert_close(compiled(*args), net(*args))


def test_compiled_network_sees_new_weights():
    torch.manual_seed(0)
    net = slim.convert(MLP(), torch.randn(2, 8))
    compiled, x = torch.compile(net, backend="aot_eager"), torch.randn(2, 8)
    slim.set_width(net, 0.5)
    compiled(x)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2.0)
    torch.testing.assert_close(compiled(x), net(x))


def test_network_prepared_without_gradients_can_be_trained():
    dense = MLP()
    with torch.inference_mode():
        net = slim.convert(dense, torch.randn(2, 8))
        slim.set_width(net, 0.5)
        net(torch.randn(2, 8))
    slim.set_width(net, 0.5)
    net(torch.randn(2, 8)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_autocast_around_convert_changes_nothing():
    net, args = NETWORKS["residual"]()
    plain = slim.convert(copy.deepcopy(net), args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert slim.convert(net, args).slim.layout == plain.slim.layout


@pytest.mark.parametrize("given", [None, "net", [nn.Linear(2, 2)], nn.Linear])
def test_what_is_no_module_is_told_so(given):
    for call in (slim.set_width, slim.calibrate, slim.cost, slim.latency, slim.extract, slim.export):
        with pytest.raises(TypeError, match=r"net must be a torch.nn.Module, and is (NoneType|str|list|the class)"):
            call(given, *[0.5, 0.5, 0.5][: {slim.calibrate: 2, slim.export: 3}.get(call, 1)])


def test_convert_refuses_a_slimmable_network():
    net = slim.convert(MLP(), torch.randn(2, 8))
    with pytest.raises(ValueError, match="slimmable already"):
        slim.convert(nn.Sequential(net), torch.randn(2, 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"norm": "batch"}, "universal, switchable, shared"),
        ({"norm": "switchable"}, r"widths=Switches\("),
        ({"norm": "switchable", "widths": [0.25, 1.0]}, r"widths=\[0.25, 1.0\] must be Switches"),
        ({"widths": [0.5, 1.0]}, r"widths=\[0.5, 1.0\] must be Switches, such as Switches\(0.5, 1.0\).*WidthRange\("),
        ({"widths": []}, r"widths=\[\] must be Switches"),
        ({"widths": 0.5}, "widths=0.5 must be Switches"),
        ({"widths": "0.25"}, "widths='0.25' must be Switches"),
        ({"divisor": 0}, "divisor 0"),
        ({"divisor": 2.5}, "divisor 2.5"),
        ({"keep": ["layerz"]}, "layerz"),
        ({"keep": "layers"}, r"keep='layers' must be of the form \["),
        ({"keep": None}, r"keep=None must be of the form \["),
        ({"keep": [0]}, r"keep=\[0\] must be of the form \["),
        ({"divisors": ["layers.0"]}, r"divisors=\['layers.0'\] must be of the form \{"),
        ({"heads": {2: 2}}, r"heads=\{2: 2\} must be of the form \{"),
        ({"heads": {"layers.0": 0}}, "0 bands of the widths 0.001 to 1; give a whole number of at least 1"),
        ({"layout": "universal"}, "layout must be a Layout, .* and is 'universal'"),
    ],
)
def test_convert_refuses_wrong_arguments_and_leaves_the_network(arguments, message):
    dense = MLP()
    with pytest.raises((ValueError, TypeError), match=message):
        slim.convert(dense, torch.randn(2, 8), **arguments)
    assert type(dense) is MLP
    assert "weight" not in dense.layers[0].__dict__


def test_convert_refuses_where_everything_keeps_statistics_of_one_width():
    norm = nn.InstanceNorm2d(8, track_running_stats=True)
    with pytest.raises(ValueError, match=r"nothing slims.*keeps running statistics.*track_running_stats=False"):
        slim.convert(nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.Conv2d(8, 3, 3)), image())


@pytest.mark.parametrize(
    "wrap", [lambda net: torch.compile(net), lambda net: nn.Sequential(slim.convert(net, torch.randn(2, 8)))]
)
def test_convert_refuses_wrapped_networks(wrap):
    with pytest.raises(ValueError, match=r"convert the network first|slimmable already"):
        slim.convert(wrap(MLP()), torch.randn(2, 8))


def test_keep_only_adds_to_what_stays_full():
    net = slim.convert(MLP(), torch.randn(2, 8), keep=["layers.0"])
    slim.set_width(net, 0.25)
    assert [tuple(m.weight.shape) for m in net.layers] == [(64, 8), (16, 64), (4, 16)]


def test_wrong_number_of_channels_names_the_layer():
    net = slim.convert(WDSR(), image(8))
    slim.set_width(net, 0.5)
    with pytest.raises(ValueError, match=r"layer 'body.0.0' got 32 channels and computes with 16"):
        net.body[0](torch.randn(1, 32, 8, 8))


class ByHand(nn.Module):
    """Plain, depthwise, grouped, transposed and linear slim layers, written without convert."""

    def __init__(self):
        super().__init__()
        self.a = slim.SlimConv2d(3, 32, 3, padding=1)
        self.depthwise = slim.SlimConv2d(32, 64, 3, groups=32)
        self.grouped = slim.SlimConv2d(64, 64, 1, groups=4)
        self.up = slim.SlimConvTranspose2d(64, 32, 2, groups=2)
        self.line = slim.SlimConv1d(32, 16, 3, padding=1, padding_mode="circular")
        self.out = slim.SlimLinear(16, 5, slim_output=False)

    def forward(self, x):  # [N, 3, H, W] -> [N, 5]
        x = self.up(self.grouped(self.depthwise(self.a(x)).relu()))
        return self.out(self.line(x.flatten(2)).mean(2))


def test_layers_by_hand_read_their_input_channels():
    torch.manual_seed(0)
    net, x = ByHand(), torch.randn(2, 3, 8, 8)
    full = net(x)
    assert slim.adopt(net) is net and torch.equal(net(x), full)
    slim.set_width(net, 0.5)
    assert net(x).shape == (2, 5)
    assert net.a.weight.shape[0] == 16
    assert net.grouped.weight.shape == (32, 16, 1, 1)
    net(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert torch.equal(copy.deepcopy(net)(x), net(x))
    slim.set_width(net, 1.0)
    assert torch.equal(net(x), full)


@pytest.mark.parametrize("cut", [slim.extract, lambda net, width: slim.freeze(net, [width])])
def test_layers_by_hand_are_cut_only_when_their_channels_have_been_followed(cut):
    def by_hand():
        return nn.Sequential(slim.SlimConv2d(3, 32, 3), nn.ReLU(), slim.SlimConv2d(32, 8, 1, slim_output=False))

    torch.manual_seed(0)
    net, x = slim.adopt(by_hand()), torch.randn(2, 3, 8, 8)
    assert torch.equal(cut(net, 1.0)(x), net(x))
    with pytest.raises(ValueError, match=r"layer '0' \(SlimConv2d\) was written by hand.*slimlib.convert"):
        cut(net, 0.5)
    followed = slim.convert(by_hand(), x)
    with slim.at_width(followed, 0.5):
        torch.testing.assert_close(cut(followed, 0.5)(x), followed(x))


def test_layers_by_hand_equal_the_dense_network_of_the_slices():
    torch.manual_seed(0)
    net, x = slim.adopt(ByHand()), torch.randn(2, 3, 8, 8)
    slim.set_width(net, 0.5)
    full = {name: p.detach() for name, p in net.named_parameters()}
    inside = lambda t, groups, keep: t.unflatten(0, (groups, -1))[:, :keep].flatten(0, 1)  # noqa: E731
    y = nn.functional.conv2d(x, full["a.weight"][:16], full["a.bias"][:16], padding=1)
    y = nn.functional.conv2d(y, full["depthwise.weight"][:32], full["depthwise.bias"][:32], groups=16).relu()
    y = nn.functional.conv2d(
        y, inside(full["grouped.weight"], 4, 8)[:, :8], inside(full["grouped.bias"], 4, 8), groups=4
    )
    y = nn.functional.conv_transpose2d(
        y, inside(full["up.weight"], 2, 16)[:, :8], inside(full["up.bias"], 2, 8), groups=2
    )
    y = nn.functional.pad(y.flatten(2), (1, 1), mode="circular")
    y = nn.functional.conv1d(y, full["line.weight"][:8, :16], full["line.bias"][:8]).mean(2)
    torch.testing.assert_close(net(x), y @ full["out.weight"][:, :8].T + full["out.bias"])


def test_norms_by_hand_ask_for_convert():
    net = nn.Sequential(slim.SlimConv2d(3, 32, 3), nn.BatchNorm2d(32), slim.SlimConv2d(32, 4, 1, slim_output=False))
    with pytest.raises(ValueError, match=r"layer '1' \(BatchNorm2d\) .* slimlib.convert\(net, example\)"):
        slim.adopt(net)
    slim.convert(net, torch.randn(2, 3, 8, 8))
    slim.set_width(net, 0.5)
    assert net(torch.randn(2, 3, 8, 8)).shape == (2, 4, 6, 6)


@pytest.mark.parametrize(
    "ask",
    [
        slim.current_width,
        lambda net: slim.set_width(net, 0.5),
        lambda net: slim.at_width(net, 0.5).__enter__(),
        lambda net: slim.cost(net, torch.zeros(1, 3, 8, 8), 0.5),
        lambda net: slim.Sandwich(slim.WidthRange(0.5, 1.0)).backward(net, torch.zeros(1, 3, 8, 8), torch.sum),
    ],
)
def test_a_network_by_hand_is_untouched_until_it_is_adopted(ask):
    net = ByHand()
    before = {module: dict(module.__dict__) for module in net.modules()}
    with pytest.raises(ValueError, match=r"ByHand is written by hand from slim layers; .* slimlib.adopt\(net\)"):
        ask(net)
    assert type(net) is ByHand
    assert all(module.__dict__ == before[module] for module in net.modules())
    ask(slim.adopt(net))


def test_adopting_twice_and_widths_outside_are_refused():
    with pytest.raises(ValueError, match="widths=0.5 must be Switches"):
        slim.adopt(ByHand(), widths=0.5)
    net = slim.adopt(ByHand(), widths=slim.Switches(0.5, 1.0))
    assert slim.current_width(net) == 1.0
    with pytest.raises(ValueError, match="allowed: 0.5, 1"):
        slim.set_width(net, 0.25)
    with pytest.raises(ValueError, match="slimmable already; adopt a network once"):
        slim.adopt(net)
    with pytest.raises(ValueError, match="nothing in this Linear is slimmable; .*slimlib.convert"):
        slim.current_width(nn.Linear(3, 3))


@pytest.mark.parametrize("ask", [lambda part: slim.set_width(part, 0.5), lambda part: slim.extract(part, 0.5)])
def test_a_part_of_a_slimmable_network_is_told_to_be_one(ask):
    net = slim.convert(MLP(), torch.randn(2, 8))
    with pytest.raises(ValueError, match="this ModuleList is a part of a slimmable network.*; give the whole network"):
        ask(net.layers)


def test_widths_and_paths_of_another_type_are_refused():
    net = slim.convert(MLP(), torch.randn(2, 8))
    for width in ([0.5], {0.5}, {"width": 0.5}):
        with pytest.raises(ValueError, match="is neither a number in .* nor a WidthPlan"):
            slim.set_width(net, width)
        with pytest.raises(ValueError, match="was not frozen; frozen: 0.5"):
            slim.set_width(slim.freeze(net, [0.5]), width)
    for call in (slim.save, lambda net, path: slim.load(path, into=net), lambda _, path: slim.read_recipe(path)):
        with pytest.raises(TypeError, match="the path must be a str or a Path, and is None"):
            call(net, None)


UNFIT = {
    "no module": (lambda: torch.relu, TypeError, "net must be a torch.nn.Module, and is builtin_function_or_method"),
    "a class": (lambda: nn.Linear, TypeError, "is the class Linear; make a network of it first"),
    "scripted": (lambda: torch.jit.script(nn.Sequential(nn.Linear(8, 8))), ValueError, "compiled by torch.jit"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(8)), ValueError, "'0.weight' has no size yet; call the network once"),
    "meta": (lambda: MLP().to("meta"), ValueError, "has no numbers, on the meta device; load the network on another"),
}


@pytest.mark.parametrize(("make", "error", "message"), UNFIT.values(), ids=UNFIT)
def test_what_is_no_network_yet_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        slim.convert(make(), torch.randn(2, 8))
