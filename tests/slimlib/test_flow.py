"""What slims in each network, which layers are kept and why, and that the user's module is left alone."""

import copy
import json

import pytest
import torch
from torch import nn

from slimlib.flow import FlowError, follow
from slimlib.layout import Layout, Segment, axis_size
from tests import networks
from tests.networks import NETWORKS

# Share of the parameters that is left when half of each group's units are active. The larger ones of the study
# (WDSR with 8 blocks .28, FPN .26, a PixelShuffle in the middle .26, GLU .27, ShuffleNet v1 .36 ...) are among them.
SHARES = {
    "mobilenet": 0.356,
    "residual": 0.262,
    "depthwise_residual": 0.345,
    "concatenating": 0.271,
    "squeeze_excite": 0.281,
    "wdsr": 0.351,
    "old_weight_norm": 0.315,
    "edsr": 0.258,
    "mlp": 0.304,
    "glu": 0.276,
    "fpn": 0.259,
    "shufflenet": 0.336,
    "resnext": 0.314,
    "mixer": 0.420,
    "transformer": 0.316,
    "group_norm": 0.288,
    "instance_norm": 0.288,
    "instance_norm_running": 0.286,
    "batch_norm_no_affine": 0.286,
    "layer_norm": 0.325,
    "rms_norm": 0.319,
    "rms_norm_no_affine": 0.312,
    "signal": 0.310,
    "transposed": 0.282,
    "control_flow": 0.279,
    "fourier": 0.580,
    "padded_shortcut": 0.318,
    "hard_view": 0.501,
    "shared": 0.315,
    "training_head": 0.341,
    "sb3_mlp": 0.292,
    "sb3_cnn": 0.253,
    "sb3_multi_input": 0.256,
}


def share_left(net, layout, width=0.5):
    """Parameters at a width, as a share of all."""
    channels = [max(1, round(group.units * width)) for group in layout.groups]
    left = 0
    for name, parameter in net.named_parameters():
        axes = layout.axes.get(name, {})
        left += torch.Size(
            axis_size(axes[d], channels) if d in axes else parameter.shape[d] for d in range(parameter.dim())
        ).numel()
    return left / sum(parameter.numel() for parameter in net.parameters())


@pytest.fixture(scope="module")
def layouts():
    """Every network with its layout, found once."""
    found = {}

    def get(name):
        if name not in found:
            torch.manual_seed(0)
            net, example = NETWORKS[name]()
            found[name] = net, follow(net, example)
        return found[name]

    return get


@pytest.mark.parametrize("name", NETWORKS)
def test_slims_at_least_as_much_as_the_study(layouts, name):
    net, layout = layouts(name)
    assert share_left(net, layout) <= SHARES[name]


def test_full_size_wdsr_of_the_study():
    net = networks.WDSR(features=32, wide=128, low=25, blocks=8)
    assert share_left(net, follow(net, networks.image(12))) <= 0.285


@pytest.mark.parametrize("name", NETWORKS)
def test_layout_survives_json(layouts, name):
    layout = layouts(name)[1]
    assert Layout.from_json(json.loads(json.dumps(layout.to_json()))) == layout


@pytest.mark.parametrize("name", NETWORKS)
def test_axes_cover_their_parameters(layouts, name):
    net, layout = layouts(name)
    tensors = net.state_dict()
    for parameter, axes in layout.axes.items():
        for dim, axis in axes.items():
            assert axis_size(axis, layout.full) == tensors[parameter].shape[dim]


def test_segments_after_concatenation(layouts):
    layout = layouts("concatenating")[1]
    assert layout.axes["convs.1.weight"][1] == (Segment(0, 16), Segment(1, 16))
    assert layout.axes["norms.2.running_var"][0] == (Segment(0, 16), Segment(1, 16), Segment(2, 16))
    assert layout.axes["fc.weight"] == {1: (Segment(0, 16), Segment(1, 16), Segment(2, 16), Segment(3, 24))}


def test_units_of_a_pixel_shuffle(layouts):
    layout = layouts("edsr")[1]
    group = next(i for i, g in enumerate(layout.groups) if g.name == "up")
    assert layout.axes["up.weight"][0] == (Segment(group, 32, 4),)
    assert layout.axes["tail.weight"][1] == (Segment(group, 32),)
    assert layout.groups[group].divisor == 8  # the next layer has one channel for each unit


def test_units_of_a_flatten(layouts):
    layout = layouts("sb3_cnn")[1] if "sb3_cnn" in NETWORKS else pytest.skip("no stable-baselines3")
    weight = layout.axes["policy.features_extractor.linear.0.weight"][1]
    assert [(s.units, s.channels) for s in weight] == [(64, 49)]


def test_halves_of_a_gate_are_tied(layouts):
    layout = layouts("glu")[1]
    low, high = layout.axes["gate.weight"][0]
    assert low == high
    assert low.units == 48


def test_groups_keep_their_number_and_slim_inside(layouts):
    layout = layouts("resnext")[1]
    outputs = layout.axes["b.0.weight"][0]
    assert len(outputs) == 4
    assert len(set(outputs)) == 1
    assert layout.axes["b.0.weight"][1] == (Segment(outputs[0].group - 1, 8),)


def test_group_norm_keeps_its_group_size(layouts):
    layout = layouts("group_norm")[1]
    assert layout.axes["norm_a.weight"][0] == (Segment(0, 8, 4),)
    assert layout.groups[0].divisor == 2


def test_heads_of_attention_are_units(layouts):
    layout = layouts("transformer")[1]
    group = layout.axes["query.weight"][0][0].group
    for name in ("query", "key", "value"):
        assert layout.axes[f"{name}.weight"][0] == (Segment(group, 4, 8),)


def test_position_embedding_and_layer_scale_slim(layouts):
    layout = layouts("mixer")[1]
    trunk = layout.axes["patches.weight"][0]
    assert layout.axes["position"] == {2: trunk}
    assert layout.axes["scale"] == {0: trunk}


def test_weight_norm_parameters_slim(layouts):
    layout = layouts("wdsr")[1]
    wide = layout.axes["body.0.0.parametrizations.weight.original1"]
    assert layout.axes["body.0.0.parametrizations.weight.original0"] == {0: wide[0]}
    assert set(wide) == {0, 1}


def test_norms_without_parameters_know_what_enters(layouts):
    layout = layouts("batch_norm_no_affine")[1]
    assert layout.norm_inputs == {"norm_a": (Segment(0, 32),), "norm_b": (Segment(1, 48),)}
    assert layout.axes["norm_a.running_mean"] == {0: (Segment(0, 32),)}


def test_shared_weight_slims_under_all_its_names(layouts):
    layout = layouts("shared")[1]
    assert layout.axes["left.weight"] == layout.axes["right.weight"]
    assert layout.axes["twice.bias"] == layout.axes["again.bias"]


def test_layers_that_run_only_in_training_are_covered(layouts):
    layout = layouts("training_head")[1]
    assert any(group.name == "aux" for group in layout.groups)
    assert layout.idle == ("never",)
    assert layout.axes["embed.weight"] == {1: layout.axes["a.weight"][0]}


def test_a_smaller_divisor_where_a_group_has_fewer_than_two():
    net = networks.MLP((8, 8, 12, 64, 4))
    assert [g.divisor for g in follow(net, torch.randn(2, 8)).groups] == [4, 4, 8]
    assert [g.divisor for g in follow(net, torch.randn(2, 8), divisor=3).groups] == [3, 3, 3]


# -- what stays full


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        ("mlp", "layers.2", "reaches the network's output"),
        ("fourier", "b", "no rule for this operation: _fft_r2c in the network's own forward"),
        ("padded_shortcut", "fc", "reaches the network's output"),
        ("hard_view", "b", "view in the network's own forward"),
        ("mixer", "token_a", "acts along another axis than the channels: mm in 'token_a' (Linear)"),
        ("glu", "a", "tied into one unit"),
    ],
)
def test_kept_layers_have_their_reason(layouts, name, layer, reason):
    assert reason in layouts(name)[1].kept[layer]


class Wrapped(nn.Module):
    """conv, then whatever is tested, then conv: its first layer stays full where that mixes channels."""

    class Middle(nn.Module):
        def __init__(self, function, **layers):
            super().__init__()
            self.function = function
            for name, layer in layers.items():
                setattr(self, name, layer)

        def forward(self, x):
            return self.function(self, x)

    def __init__(self, function, channels=16, **layers):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.a = nn.Conv2d(16, channels, 3, padding=1)
        self.middle = self.Middle(function, **layers)
        self.b = nn.Conv2d(channels, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x):
        return self.last(self.b(self.middle(self.a(self.first(x).relu()))).relu())


def attention_of_cbam(middle, x):
    both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
    return x * middle.conv(both).sigmoid()


def recurrent(middle, x):
    n, c, h, w = x.shape
    y, _ = middle.lstm(x.flatten(2).transpose(1, 2))
    return y.transpose(1, 2).reshape(n, c, h, w)


def index_put(middle, x):
    y = torch.zeros_like(x)
    y[:, torch.arange(16)] = x
    return y


KEPT = {
    "softmax": (lambda m, x: x.softmax(1), {}, "softmax over channels: _softmax in 'middle' (Middle)"),
    "l2": (
        lambda m, x: nn.functional.normalize(x, dim=1),
        {},
        "statistic over channels: linalg_vector_norm in 'middle'",
    ),
    "cbam": (attention_of_cbam, {"conv": nn.Conv2d(2, 1, 7, padding=3)}, "statistic over channels: mean in 'middle'"),
    "lstm": (
        recurrent,
        {"lstm": nn.LSTM(16, 16, batch_first=True)},
        "no rule for this operation: lstm in 'middle.lstm'",
    ),
    "sort": (lambda m, x: x.sort(1).values, {}, "ordered along channels: sort in 'middle'"),
    "scalar": (lambda m, x: x / x.std(), {}, "statistic over channels: std in 'middle'"),
    "literal slice": (lambda m, x: torch.cat([x[:, :8] + x[:, 8:]] * 2, 1), {}, "forward of 'middle'"),
    "literal narrow": (lambda m, x: torch.cat([x.narrow(1, 0, 8), x.narrow(1, 8, 8)], 1), {}, "slice in 'middle'"),
    "literal index": (lambda m, x: x[:, torch.arange(15, -1, -1)], {}, "index in 'middle'"),
    "literal view": (lambda m, x: x.view(-1, 16, 64).view_as(x), {}, "view in 'middle'"),
    "index put": (index_put, {}, "index_put in 'middle'"),
    "unequal split": (lambda m, x: torch.cat(x.split([4, 12], 1), 1), {}, "cut into unequal parts"),
    "assertion": (
        lambda m, x: x if x.shape[1] == 16 else 1 / 0,
        {},
        "(division by zero): forward of 'middle' (Middle)",
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_mixes_channels_is_kept_and_reported(name):
    function, layers, reason = KEPT[name]
    layout = follow(Wrapped(function, **layers), torch.randn(2, 3, 8, 8))
    assert reason in layout.kept["a"]
    assert {group.name for group in layout.groups} == {"first", "b"}


def test_a_recurrent_layer_itself_is_reported():
    layout = follow(Wrapped(recurrent, lstm=nn.LSTM(16, 16, batch_first=True)), torch.randn(2, 3, 8, 8))
    assert "lstm" in layout.kept["middle.lstm"]


def test_tensors_that_draw_noise_still_slim():
    net = Wrapped(lambda m, x: x + torch.randn_like(x) * nn.functional.dropout(x, 0.5))
    assert "a" not in follow(net, torch.randn(2, 3, 8, 8)).kept


def test_control_flow_on_a_statistic_of_all_channels_still_slims(layouts):
    assert set(layouts("control_flow")[1].kept) == {"fc"}


def test_halves_by_shape_slim():
    net = Wrapped(lambda m, x: torch.cat([x[:, : x.shape[1] // 2].relu(), x[:, x.shape[1] // 2 :]], 1))
    assert "a" not in follow(net, torch.randn(2, 3, 8, 8)).kept


def test_sum_over_channels_slims():
    net = Wrapped(lambda m, x: x * (x * x).sum(1, keepdim=True).sigmoid().detach())
    assert "a" not in follow(net, torch.randn(2, 3, 8, 8)).kept


def test_norms_called_as_functions_slim():
    def normed_twice(middle, x):
        x = nn.functional.group_norm(nn.functional.batch_norm(x, None, None, training=True), x.shape[1] // 2)
        return nn.functional.instance_norm(nn.functional.layer_norm(x, x.shape[-1:]))

    assert "a" not in follow(Wrapped(normed_twice), torch.randn(2, 3, 8, 8)).kept


def test_heads_whose_number_is_a_literal_slim_inside():
    def attend(middle, x):
        n, c, h, w = x.shape
        q, k, v = middle.qkv(x).reshape(n, 3, 4, c // 4, h * w).transpose(-1, -2).unbind(1)
        y = (q @ k.transpose(-1, -2) * 0.1).softmax(-1) @ v
        return middle.out(y.transpose(-1, -2).reshape(n, c, h, w))

    net = Wrapped(attend, qkv=nn.Conv2d(16, 48, 1), out=nn.Conv2d(16, 16, 1))
    layout = follow(net, torch.randn(2, 3, 8, 8))
    assert set(layout.kept) <= {"last", "middle.qkv"}


def test_an_embedding_that_is_also_the_output_slims_in_its_columns():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.hidden = nn.Embedding(10, 16), nn.Linear(16, 16)

        def forward(self, x):
            return self.hidden(self.embed(x)).relu() @ self.embed.weight.t()

    layout = follow(Tied(), torch.tensor([[1, 2, 3]]))
    assert layout.axes["embed.weight"] == {1: layout.axes["hidden.weight"][0]} == {1: layout.axes["hidden.weight"][1]}


def test_one_image_is_enough_for_batch_norm_behind_global_pooling():
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(16, 2)
    )
    assert len(follow(net, torch.randn(1, 3, 8, 8)).groups) == 1


def test_layers_added_to_the_input_stay_full():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 8)

        def forward(self, x):
            return self.c(x + self.b(self.a(x).relu()))

    assert follow(Skip(), torch.randn(2, 8)).kept["b"] == "is joined with the network's input"


# -- keep


def test_keep_adds_to_what_stays_full(layouts):
    net, layout = layouts("residual")
    kept = follow(net, networks.image(), keep=["blocks.2", "blocks.0.a"])
    assert kept.kept["blocks.2.a.0"] == "kept by keep='blocks.2'"
    assert kept.kept["blocks.0.a.0"] == "kept by keep='blocks.0.a'"
    assert layout.kept.items() < kept.kept.items()


def test_keep_of_an_unknown_name_tells_the_nearest(layouts):
    with pytest.raises(ValueError, match=r"keep='block.1' names no module of this Residual; the nearest is 'blocks.1'"):
        follow(layouts("residual")[0], networks.image(), keep=["block.1"])


# -- what is refused


def slice_assignment(middle, x):
    y = torch.zeros_like(x)
    y[:, : x.shape[1] // 2] = x[:, x.shape[1] // 2 :]
    return x + y


def slice_of_itself(middle, x):
    x = x * 1
    x[:, :4] = x[:, 4:8]
    return x


def standardised(middle, x):
    weight = middle.conv.weight
    weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
    return nn.functional.conv2d(x, weight, padding=1)


def spectral():
    return nn.utils.parametrizations.spectral_norm(nn.Conv2d(16, 16, 3, padding=1))


REFUSED = {
    "slice assignment": (slice_assignment, {}, r"copy in 'middle' \(Middle\) writes channels into a view"),
    "slice of itself": (slice_of_itself, {}, r"copy in 'middle' \(Middle\) writes channels into a view"),
    "standardised weight": (
        standardised,
        {"conv": nn.Conv2d(16, 16, 3)},
        r"convolution in 'middle' \(Middle\) is computed from 'middle.conv.weight' by sub",
    ),
    "spectral norm": (
        lambda m, x: m.conv(x),
        {"conv": spectral()},
        r"convolution in 'middle.conv' \(ParametrizedConv2d\) is computed from 'middle.conv.parametrizations.weight",
    ),
    "wrong numbers": (
        lambda m, x: x / x.shape[1] ** 0.5,
        {},
        r"div in 'middle' \(Middle\) gives other numbers when fewer channels are active",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(name):
    function, layers, message = REFUSED[name]
    net = Wrapped(function, **layers)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(FlowError, match=message):
        follow(net, torch.randn(2, 3, 8, 8))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_wrong_numbers_can_be_kept_full():
    net = Wrapped(lambda m, x: x / x.shape[1] ** 0.5)
    assert "a" in follow(net, torch.randn(2, 3, 8, 8), keep=["a"]).kept


def test_a_network_in_which_nothing_slims_is_refused():
    with pytest.raises(FlowError, match=r"nothing slims in this Linear. .* reaches the network's output"):
        follow(nn.Linear(4, 4), torch.randn(2, 4))


def test_harmless_writes_into_views_are_followed():
    net = Wrapped(lambda m, x: x.flatten(2).relu_().add_(x.flatten(2)).view_as(x))
    assert "a" not in follow(net, torch.randn(2, 3, 8, 8)).kept


# -- the user's module


@pytest.mark.parametrize("name", ["residual", "wdsr", "old_weight_norm", "hard_view", "training_head"])
def test_the_module_is_left_as_it_was(name):
    torch.manual_seed(0)
    net, example = NETWORKS[name]()
    for module in net.modules():
        module.training = hash(type(module).__name__) % 2 == 0
    state, flags = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    attributes = [set(m.__dict__) for m in net.modules()]
    classes = [type(m) for m in net.modules()]
    random = torch.get_rng_state()
    follow(net, example)
    assert torch.equal(random, torch.get_rng_state())
    assert flags == [m.training for m in net.modules()]
    assert attributes == [set(m.__dict__) for m in net.modules()]
    assert classes == [type(m) for m in net.modules()]
    assert not any(m._forward_hooks or (m._forward_pre_hooks and name != "old_weight_norm") for m in net.modules())
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_the_example_is_left_as_it_was():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 16), nn.Linear(16, 2))
    x = torch.randn(3, 4)
    before = x.clone()
    follow(net, x)
    assert torch.equal(x, before)
