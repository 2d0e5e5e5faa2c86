"""At half width a network equals a dense twin, built by hand from channel numbers, that carries its slices.

The twins know nothing of the layout that `follow` finds: which slices they carry is written here.
"""

import pytest
import torch
from torch.utils._pytree import tree_leaves

import slimlib as slim
from tests import networks
from tests.networks import image


def leading(shape):
    """The leading part of every axis."""
    return [torch.arange(n) for n in shape]


def parts(*pairs):
    """The leading `active` of each stretch of `full` channels."""
    picked, begin = [], 0
    for full, active in pairs:
        picked.append(torch.arange(begin, begin + active))
        begin += full
    return torch.cat(picked)


def carry(full, twin, special):
    """Give the twin its slices; `special`: name of a parameter -> {dimension: positions}, all others are leading."""
    state = full.state_dict()
    for name, tensor in twin.state_dict().items():
        value = state[name]
        picks = dict(enumerate(leading(tensor.shape))) | special.get(name, {})
        for dim, index in picks.items():
            value = value.index_select(dim, index)
        tensor.copy_(value.reshape(tensor.shape))


def of(name, dims):
    """The positions for a weight and everything else of a layer or norm."""
    return {f"{name}.{part}": dims for part in ("weight", "bias", "running_mean", "running_var")}


def concatenated():
    stretches = [(16, 8), (16, 8), (16, 8), (24, 16)]
    special = {}
    for i in range(1, 3):
        special |= of(f"norms.{i}", {0: parts(*stretches[: i + 1])})
        special[f"convs.{i}.weight"] = {1: parts(*stretches[: i + 1])}
    special |= of("norm", {0: parts(*stretches)})
    special["fc.weight"] = {1: parts(*stretches)}
    return special


GATE = parts((48, 24), (48, 24))
GROUPED = parts((16, 8), (16, 8), (16, 8), (16, 8))
IN_GROUPS = parts((8, 4), (8, 4), (8, 4), (8, 4))
TWINS = {
    "mobilenet": (networks.MobileNet, {}, {"stem": 8, "channels": (16, 32)}, {}),
    "residual": (networks.Residual, {}, {"trunk": 8, "inner": (16, 8, 16), "last": 24}, {}),
    "depthwise_residual": (networks.DepthwiseResidual, {}, {"trunk": 8, "expand": (24, 32), "head": 32}, {}),
    "concatenating": (networks.Concatenating, {}, {"stem": 8, "growth": (8, 8, 16)}, concatenated()),
    "squeeze_excite": (networks.SqueezeExcite, {}, {"channels": 16, "squeeze": 8, "last": 16}, {}),
    "wdsr": (networks.WDSR, {}, {"features": 16, "wide": 64, "low": 16}, {}),
    "old_weight_norm": (networks.OldWeightNorm, {}, {"a": 8, "b": 16}, {}),
    "edsr": (networks.EDSR, {}, {"features": 16, "inner": (16, 16), "up": 16}, {}),
    "mlp": (networks.MLP, {"sizes": (8, 64, 48, 4)}, {"sizes": (8, 32, 24, 4)}, {}),
    "fpn": (
        networks.FPN,
        {},
        {"a": 8, "b": 16, "lateral": 16, "last": 16},
        {"merge.weight": {1: parts((24, 16), (24, 16))}},
    ),
    "glu": (
        networks.GLU,
        {},
        {"a": 32, "b": 32, "gated": 24, "m": 24},
        {
            **of("b", {0: GROUPED}),
            "gate.weight": {0: GATE, 1: parts(*[(16 * 16, 8 * 16)] * 4)},
            "gate.bias": {0: GATE},
        },
    ),
    "resnext": (
        networks.ResNeXt,
        {},
        {"trunk": 16, "inner": 16},
        of("a.0", {0: IN_GROUPS})
        | of("a.1", {0: IN_GROUPS})
        | of("b.0", {0: IN_GROUPS})
        | of("b.1", {0: IN_GROUPS})
        | {"c.0.weight": {1: IN_GROUPS}},
    ),
    "mixer": (networks.Mixer, {}, {"dim": 16, "hidden": 32}, {}),
    "transformer": (networks.Transformer, {}, {"dim": 16, "inner": 16, "hidden": 32}, {}),
    "signal": (networks.Signal, {}, {"a": 8, "b": 16}, {}),
    "control_flow": (networks.ControlFlow, {}, {"a": 16}, {}),
    "hard_view": (networks.HardView, {}, {"a": 8, "hidden": 16}, {}),
}


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("training", [False, True])
def test_half_width_equals_a_dense_twin_built_by_hand(name, training):
    torch.manual_seed(0)
    kind, full_channels, half_channels, special = TWINS[name]
    example = networks.NETWORKS[name]()[1]
    net, twin = kind(**full_channels).double(), kind(**half_channels).double()
    for tensor in [*net.parameters(), *net.buffers()]:
        if tensor.is_floating_point():
            tensor.data.add_(torch.rand_like(tensor) * 0.1)
    carry(net, twin, special)
    for module in [*net.modules(), *twin.modules()]:
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    args = tuple(x.double() for x in example)
    slim.convert(net, args, norm="shared")
    slim.set_width(net, 0.5)
    ours, theirs = net.train(training)(*args), twin.train(training)(*args)
    for a, b in zip(tree_leaves(ours), tree_leaves(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_norm_over_groups_equals_a_twin_with_fewer_groups():
    torch.manual_seed(0)
    net = networks.Normed(lambda n: torch.nn.GroupNorm(n // 4, n), a=32, b=48).double()
    twin = networks.Normed(lambda n: torch.nn.GroupNorm(n // 4, n), a=16, b=24).double()
    carry(net, twin, {})
    (x,) = image()
    slim.convert(net, x.double())
    slim.set_width(net, 0.5)
    torch.testing.assert_close(net(x.double()), twin(x.double()), rtol=1e-9, atol=1e-9)
