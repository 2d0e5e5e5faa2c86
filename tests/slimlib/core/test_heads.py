"""A last layer for each band of widths is the ordinary layer wherever one width is looked at alone."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimlib as slim
from slimlib.core.slimming import Slimming

RANGE = slim.WidthRange(0.25, 1.0)
WIDTHS = (0.25, 0.4, 0.5, 0.7, 0.9, 1.0)
BANDS = (0, 0, 1, 2, 3, 3)  # of these widths, of four


def network(heads: dict[str, int] | None = None, *, widths: Any = RANGE, norm: Any = "universal") -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 5),
    )  # fmt: skip
    return slim.convert(net, images(), widths=widths, norm=norm, divisor=1, heads=heads)


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def trained(heads: dict[str, int] | None, **given: Any) -> nn.Module:
    """By three steps in which every band learns, and calibrated."""
    net = network(heads, **given).train()
    rule, optimizer = slim.Sandwich(RANGE, samples=6), torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    for step in range(3):
        labels = torch.randint(5, (4,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        rule.backward(net, images(), lambda out, labels=labels: F.cross_entropy(out, labels))
        optimizer.step()
    slim.calibrate(net, [images()], WIDTHS)
    return net.eval()


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return trained({"5": 4})


@torch.no_grad()
def at(net: nn.Module, width: Any) -> Tensor:
    with slim.at_width(net, width):
        output: Tensor = net(images())
    return output


def test_one_band_is_the_ordinary_network() -> None:
    one, ordinary = trained({"5": 1}), trained(None)
    assert list(one.state_dict()) == list(ordinary.state_dict())
    for width in WIDTHS:
        assert torch.equal(at(one, width), at(ordinary, width))


def test_before_training_every_band_computes_as_the_ordinary_network() -> None:
    banded, ordinary = network({"5": 4}), network()
    for width in WIDTHS:
        assert torch.equal(at(banded, width), at(ordinary, width))


def test_the_full_width_keeps_the_plain_names() -> None:
    banded, ordinary = network({"5": 4}), network()
    state = {name: value for name, value in banded.state_dict().items() if "_at_" not in name}
    assert state.keys() == ordinary.state_dict().keys() and len(banded.state_dict()) == len(state) + 6


def test_a_width_trains_the_head_of_its_band_alone() -> None:
    net = network({"5": 4}).train()
    heads = {name: p for name, p in net.named_parameters() if name.startswith("5.")}
    touched = {}
    for width, band in zip(WIDTHS, BANDS, strict=True):
        net.zero_grad(set_to_none=True)
        with slim.at_width(net, width):
            net(images()).sum().backward()
        touched[band] = touched.get(band, set()) | {name for name, p in heads.items() if p.grad is not None}
    assert all(len(names) == 2 for names in touched.values())
    assert set.union(*touched.values()) == set(heads)
    assert touched[3] == {"5.weight", "5.bias"}


def test_the_bands_have_learned_apart(net: nn.Module) -> None:
    biases = [parameter for name, parameter in net.named_parameters() if name.startswith("5.bias")]
    assert len(biases) == 4
    assert not any(torch.equal(a, b) for i, a in enumerate(biases) for b in biases[i + 1 :])


@pytest.mark.parametrize("width", WIDTHS)
def test_extracted_and_frozen_equal_in_place(net: nn.Module, width: float) -> None:
    plain = slim.extract(net, width, example=images())
    torch.testing.assert_close(plain(images()), at(net, width))
    assert not any("_at_" in name for name in plain.state_dict())
    assert sum(p.numel() for p in plain.parameters()) == slim.cost(net, images(), width).params
    frozen = slim.freeze(net, WIDTHS, example=images())
    slim.set_width(frozen, width)
    torch.testing.assert_close(frozen(images()), at(net, width))


def test_saved_loaded_copied_and_pickled_are_the_same(net: nn.Module, tmp_path: Path) -> None:
    slim.save(net, tmp_path / "net.safetensors")
    dense = nn.Sequential(*(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)), *copy.deepcopy(network())[2:5])
    dense.append(nn.Linear(32, 5))
    loaded = [slim.load(tmp_path / "net.safetensors", into=each) for each in (dense, network({"5": 4}))]
    for other in (*loaded, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        for width in WIDTHS:
            assert torch.equal(at(other.eval(), width), at(net, width))
    with pytest.raises(ValueError, match="saved with other heads of bands of widths"):
        slim.load(tmp_path / "net.safetensors", into=network())


def test_heads_that_are_moved_in_memory_are_seen(net: nn.Module) -> None:
    other = copy.deepcopy(net)
    for name, parameter in other.named_parameters():
        if name.startswith("5.bias"):
            parameter.data = torch.zeros_like(parameter)
    other(images())  # notices
    for width in WIDTHS:
        torch.testing.assert_close(at(other, width) + of_band(net, width), at(net, width))


def of_band(net: nn.Module, width: float) -> Tensor:
    return slim.extract(net, width)[5].bias.detach()


@torch.no_grad()
@pytest.mark.parametrize("format", ["torch", "onnx-any-width"])
def test_exported_widths_equal_in_place(net: nn.Module, format: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    widths = [0.25, 0.5, 1.0]
    slim.export(net, tmp_path / "out", widths, images(), formats=[format])
    for number, width in enumerate(widths):
        if format == "torch":
            output = torch.export.load(tmp_path / "out" / f"width-{width}.pt2").module()(images())
        else:
            import onnxruntime

            session = onnxruntime.InferenceSession(tmp_path / "out" / "any-width.onnx")
            first, index = (given.name for given in session.get_inputs())
            (found,) = session.run(None, {first: images().numpy(), index: np.array(number)})
            output = torch.from_numpy(found)
        torch.testing.assert_close(output, at(net, width), rtol=1e-4, atol=1e-5)


def test_sorting_channels_leaves_the_full_network_and_moves_every_head_along() -> None:
    net = trained({"5": 4})
    before, heads = at(net, 1.0), {n: p.detach().clone() for n, p in net.named_parameters() if n.startswith("5.weight")}
    with pytest.warns(UserWarning, match="trained at narrower widths"):
        slim.sort_channels(net, slim.channel_scores(net, "l2"))
    torch.testing.assert_close(at(net, 1.0), before)
    order = [int((heads["5.weight"] == column[:, None]).all(0).nonzero()) for column in net[5]._parameters["weight"].T]
    assert order != sorted(order)
    for name, parameter in net.named_parameters():
        if name in heads:
            assert torch.equal(parameter, heads[name][:, order])


@pytest.mark.parametrize("norm", ["switchable", "universal"])
def test_switches_are_shared_out_among_the_bands(norm: str) -> None:
    net = network({"5": 2}, widths=slim.Switches(0.25, 0.5, 0.75, 1.0), norm=norm)
    slimming: Slimming = net.slim
    assert slimming.heads == {"5": ((16,),)} and "2 heads for bands of widths: 5" in str(slimming)
    assert slimming.has_private_parameters


def test_bands_that_round_to_the_same_channels_are_one() -> None:
    torch.manual_seed(0)
    small = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    net = slim.convert(small, torch.randn(1, 6), widths=RANGE, divisor=8, heads={"2": 8})
    assert net.slim.heads == {"2": ((8,),)}


@pytest.mark.parametrize(
    ("heads", "says"),
    [
        ({"6": 2}, "this Sequential has no layer '6'"),
        ({"1": 2}, r"'1' \(BatchNorm2d\) is not a layer with its own weight and bias"),
        ({"2": 2}, r"'2' \(ReLU\) is not a layer"),
        ({"5": 0}, "0 bands of the widths 0.25 to 1; give a whole number of at least 1"),
        ({"5": True}, "True bands"),
    ],
)
def test_what_is_wrong_is_named(heads: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        network(heads)
    with pytest.raises(ValueError, match="from 1 to 2"):
        network({"5": 3}, widths=slim.Switches(0.5, 1.0))
