"""What slims in each network, its segments and units, and that the user's module is left alone."""

import contextlib
import copy
import gc
import json
import re
import sys

import pytest
import torch
from torch import nn

from slimlib.core.layout import Layout, Segment, axis_size
from slimlib.flow import FlowError, follow, progress
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
    "instance_norm_running": 0.54,  # one of its two norms keeps statistics of one width
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


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("outputs", [2, 16])
def test_what_the_garbage_collector_was_told_stays(frozen, outputs):
    (gc.freeze if frozen else gc.unfreeze)()
    try:
        with contextlib.nullcontext() if outputs == 2 else pytest.raises(FlowError):
            follow(nn.Sequential(nn.Linear(4, 16), *[nn.Linear(16, 2)] * (outputs == 2)), torch.randn(3, 4))
        assert (gc.get_freeze_count() > 0) == frozen
    finally:
        gc.unfreeze()


def test_a_long_search_shows_where_it_is_and_leaves_no_trace(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    follow(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)), torch.randn(2, 8))
    shown = capsys.readouterr().err
    assert re.search(r" 0%, \d+ s, attempt 1: follows channels", shown)
    assert "attempt 1: compares with the full network" in shown
    assert shown.rsplit("\r", 2)[-2].strip() == ""
