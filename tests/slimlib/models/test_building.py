"""`build`: what it makes runs, slims by its own rule, and is at every width the converted network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import slimlib as slim
from slimlib.models import NAMES, build, from_channels

SMALL = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def shapes(net: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in net.state_dict().items()}


BATCH = {"size": 32, "norm": "batch", "multiplier": 0.375, "divisor": 4}
GROUP = {"size": 64, "norm": "group", "multiplier": 0.5}
IN_GROUPS = ("mobilenet_v2", "resnet18", "shufflenet_v1")  # the others differ from these as they do in batches


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(pytest.param(name, BATCH, id=f"{name}-batch") for name in NAMES),
        *(
            pytest.param(name, GROUP, marks=() if name in IN_GROUPS else pytest.mark.nightly, id=f"{name}-group")
            for name in NAMES
        ),
    ],
)
def test_individual_networks_are_the_converted_one_at_each_width(name: str, options: dict[str, Any]) -> None:
    net = build(name, classes=10, **options).eval()
    full = net(SMALL)
    slim.convert(net, SMALL, norm="shared", **net.channel_rule)
    assert torch.equal(net(SMALL), full)
    for width in (0.25, 0.4, 0.7):
        extracted = slim.extract(net, width)
        individual = build(name, classes=10, width=width, **options).eval()
        assert shapes(individual) == shapes(extracted)
        individual.load_state_dict(extracted.state_dict())
        slim.set_width(net, width)
        torch.testing.assert_close(individual(SMALL), net(SMALL), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("size", "stride"), [(224, 32), (64, 16), (32, 8)])
def test_size_decides_the_total_stride(name: str, size: int, stride: int) -> None:
    net = build(name, classes=7, size=size, multiplier=0.25).eval()
    stride //= 2 if name == "resnet8" else 1  # it has one stage less
    with torch.no_grad():
        assert net.features(torch.randn(1, 3, size, size)).shape[2:] == (size // stride, size // stride)
        assert net(torch.randn(2, 3, size + 16, size)).shape == (2, 7)


@pytest.mark.parametrize("name", NAMES)
def test_digits_of_8_by_8_run(name: str) -> None:
    assert build(name, classes=10, size=32, multiplier=0.25).eval()(torch.randn(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("name", NAMES)
def test_the_modules_are_plain_torch_and_seeded_by_torch(name: str) -> None:
    torch.manual_seed(3)
    one = build(name, multiplier=0.25)
    torch.manual_seed(3)
    other = build(name, multiplier=0.25)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not any("slim" in type(module).__name__.lower() for module in one.modules())
    assert not one.classifier[0].bias.any()


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("mobilenet_v1", 4_231_976),
        ("mobilenet_v2", 3_504_872),
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
    ],
)
def test_full_networks_have_the_published_number_of_parameters(name: str, params: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in build(name).parameters()) == params


def test_group_norm_keeps_whole_groups_of_eight_at_every_width() -> None:
    net = build("mobilenet_v1", classes=10, size=32, multiplier=0.5, norm="group")
    sizes = {m.num_channels // m.num_groups for m in net.modules() if isinstance(m, nn.GroupNorm)}
    assert 8 in sizes
    slim.convert(net, SMALL, **net.channel_rule)
    for width in (0.25, 0.45, 0.8):
        slim.set_width(net, width)
        now = {m.num_channels // m.num_groups for m in net.modules() if isinstance(m, nn.GroupNorm)}
        assert now == sizes
        assert net(SMALL).shape == (2, 10)


def test_a_slimmable_shufflenet_trains_and_calibrates() -> None:
    net = build("shufflenet_v1", classes=10, size=32, multiplier=0.5)
    slim.convert(net, SMALL, **net.channel_rule)
    rule = slim.Sandwich(slim.WidthRange(0.25, 1.0), samples=3, distill=slim.soft_cross_entropy)
    losses = rule.backward(net, SMALL, lambda out: nn.functional.cross_entropy(out, torch.tensor([1, 2])))
    assert len(losses) == 3
    assert all(p.grad is not None for p in net.parameters())
    slim.calibrate(net, [SMALL], widths=[0.25])
    slim.extract(net.eval(), 0.25, example=SMALL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "mobilenet_v3"}, "network 'mobilenet_v3' does not exist; the nearest is 'mobilenet_v"),
        ({"size": 96}, "size 96 must be one of 224, 64, 32"),
        ({"width": 1.5}, r"width 1.5 must be in \(0, 1\]; a wider network is build\('mnasnet', multiplier="),
        ({"width": 0.0}, "width 0.0 must be in"),
        ({"multiplier": -1}, "multiplier -1 must be a positive number"),
        ({"divisor": 0}, "divisor 0 must be a whole number"),
        ({"classes": 2.5}, "classes 2.5 must be a whole number"),
        ({"norm": "layer"}, "norm 'layer' does not exist; choose one of batch, group"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**{"name": "mnasnet", **arguments})


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ([8] * 14, "mobilenet_v1 has 15 layers with channels of their own, classifier last; got 14"),
        ([8] * 3 + [0] + [8] * 11, "channel number 3 of mobilenet_v1 is 0; it must be"),
    ],
)
def test_wrong_channel_numbers_are_told(channels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_channels("mobilenet_v1", channels)


def test_blocks_that_add_other_channels_are_told() -> None:
    channels = [8, 8, 16, 8, 16, 16, *[16] * 29, 10]
    with pytest.raises(ValueError, match=r"block features.3 adds its input of 8 channels to its output of 16"):
        from_channels("mobilenet_v2", channels)
    with pytest.raises(ValueError, match=r"block features.1 adds a shortcut of 16 channels to its output of 8"):
        from_channels("resnet50", [8, 16, 4, 4, 8, *[8] * 48, 10])
