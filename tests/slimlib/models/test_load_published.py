"""Every tensor of a released checkpoint lands where it belongs, shown on networks put together by hand.

The networks to compare with are dense, and filled with leading slices of the checkpoint's tensors, key
by key; nothing of what `load_published` does is used for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimlib as slim
from slimlib.models import PUBLISHED, build, from_channels, load_published
from tests.extent import one_by_day
from tests.published import layout, paper_folder, seeded_state, tables

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))
S_WIDTHS = {
    "s_mobilenet_v1": ("mobilenet_v1", (0.25, 0.5, 0.75, 1.0)),
    "s_mobilenet_v2": ("mobilenet_v2", (0.35, 0.5, 0.75, 1.0)),
    "s_resnet50": ("resnet50", (0.25, 0.5, 0.75, 1.0)),
}
US_WIDTHS = {  # position of a width in the file: the first, two between, the one before the last, the last
    "us_mobilenet_v1": ("mobilenet_v1", {0: 0.25, 1: 0.275, 17: 0.675, 29: 0.975, 30: 1.0}),
    "us_mobilenet_v2": ("mobilenet_v2", {0: 0.35, 1: 0.375, 13: 0.675, 25: 0.975, 26: 1.0}),
}
AUTOSLIM = {
    "autoslim_mobilenet_v1": "mobilenet_v1",
    "autoslim_mobilenet_v2": "mobilenet_v2",
    "autoslim_mnasnet": "mnasnet",
    "autoslim_resnet": "resnet50",
}


def written(name: str, folder: Path) -> tuple[Mapping[str, Tensor], nn.Module]:
    """A checkpoint of random numbers, and the network that it is loaded as."""
    state = seeded_state(name)
    torch.save({"model": state}, folder / f"{name}.pt")
    return state, load_published(name, folder / f"{name}.pt")


def by_hand(dense: nn.Module, state: Mapping[str, Tensor], switch: int) -> nn.Module:
    """The dense network of one width (on the meta device) with the checkpoint's leading slices in it."""
    own: dict[str, Tensor] = {}
    for name, module in dense.named_modules():
        key = f"module.{name}"
        if isinstance(module, nn.BatchNorm2d):
            private, single = f"{key}.bn.{switch}", f"{key}.running_mean" in state
            for tensor in ("weight", "bias", "running_mean", "running_var"):
                shared = single or f"{private}.{tensor}" not in state
                own[f"{name}.{tensor}"] = state[f"{key if shared else private}.{tensor}"][: module.num_features]
            own[f"{name}.num_batches_tracked"] = torch.tensor(0)
        elif isinstance(module, nn.Conv2d):
            out, into = module.weight.shape[:2]
            own[f"{name}.weight"] = state[f"{key}.weight"][:out, :into]
        elif isinstance(module, nn.Linear):
            own[f"{name}.weight"] = state[f"{key}.weight"][:, : module.in_features]
            own[f"{name}.bias"] = state[f"{key}.bias"]
    dense.load_state_dict(own, assign=True)
    return dense.eval()


def assert_equal_outputs(net: nn.Module, width: slim.WidthPlan | float, dense: nn.Module) -> None:
    slim.set_width(net, width)
    with torch.no_grad():
        torch.testing.assert_close(net(IMAGES), dense(IMAGES), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", one_by_day(S_WIDTHS))
def test_each_switch_is_its_dense_network(name: str, tmp_path: Path) -> None:
    state, net = written(name, tmp_path)
    network, widths = S_WIDTHS[name]
    assert not net.training
    assert net.slim.widths == slim.Switches(*widths)
    for switch, width in enumerate(widths):
        with torch.device("meta"):
            dense = build(network, width=width)
        assert_equal_outputs(net, width, by_hand(dense, state, switch))


@pytest.mark.parametrize("name", one_by_day(US_WIDTHS))
def test_each_calibrated_width_is_its_dense_network(name: str, tmp_path: Path) -> None:
    state, net = written(name, tmp_path)
    network, widths = US_WIDTHS[name]
    assert net.slim.widths == slim.WidthRange(widths[0])
    for switch, width in widths.items():
        with torch.device("meta"):
            dense = build(network, width=width)
        assert_equal_outputs(net, width, by_hand(dense, state, switch))
    between = (widths[0] + widths[1]) / 2 + 0.1
    slim.set_width(net, between)
    with pytest.raises(slim.UncalibratedWidth, match=rf"calibrated: {widths[0]}, {widths[1]}, "):
        net(IMAGES)
    slim.calibrate(net, [IMAGES], widths=[between])
    assert net(IMAGES).isfinite().all()


def test_all_widths_of_the_universal_files_have_statistics_of_their_own() -> None:
    for name, (network, widths) in US_WIDTHS.items():
        smallest, count = widths[0], max(widths) + 1
        rows = tables()[name]["rows"]
        assert sorted(row["width"] for row in rows) == [round(smallest + 0.025 * i, 3) for i in range(count)]
        sizes = layout(name)
        for switch, width in enumerate(sorted(row["width"] for row in rows)):
            with torch.device("meta"):
                dense = build(network, width=width)
            for key, module in dense.named_modules():
                if isinstance(module, nn.BatchNorm2d) and f"module.{key}.bn.0.running_mean" in sizes:
                    assert sizes[f"module.{key}.bn.{switch}.running_mean"] == (module.num_features,)


@pytest.mark.parametrize("name", one_by_day(AUTOSLIM))
def test_each_plan_is_its_dense_network(name: str, tmp_path: Path) -> None:
    state, net = written(name, tmp_path)
    published = [row["plan"] for row in tables()[name]["rows"]]  # largest first, as `net.plans`; the file is reversed
    assert len(net.plans) == len(published)
    assert net.slim.widths == slim.Switches(*net.plans)
    for position, (plan, channels) in enumerate(zip(net.plans, published, strict=True)):
        with torch.device("meta"):
            dense = from_channels(AUTOSLIM[name], channels)
        assert_equal_outputs(net, plan, by_hand(dense, state, len(published) - 1 - position))


@torch.no_grad()
def shufflenet(state: Mapping[str, Tensor], switch: int, x: Tensor) -> Tensor:
    """The published ShuffleNet at a switch (0, 1 or 2), step by step: three convolutions where ours is grouped."""

    def conv_bn(name: str, position: int, x: Tensor, *, stride: int = 1, depthwise: bool = False) -> Tensor:
        conv, norm = f"module.{name}.{position}", f"module.{name}.{position + 1}.bn.{switch}"
        mean, var, weight, bias = (state[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        kernel = state[f"{conv}.weight"][: len(mean)]
        kernel = kernel if depthwise else kernel[:, : x.shape[1]]
        groups = len(mean) if depthwise else 1
        y = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2, groups=groups)
        return F.batch_norm(y, mean, var, weight, bias)

    x = torch.cat([F.max_pool2d(conv_bn(f"head_{g}", 0, x, stride=2).relu(), 3, 2) for g in range(3)], 1)
    for number in range(16):
        block, halves = f"features.{number}", number in (0, 4, 12)
        parts = [x] * 3 if number == 0 else x.chunk(3, 1)
        narrow = [conv_bn(f"{block}.a_{g}", 0, part).relu() for g, part in enumerate(parts)]
        mixed = torch.stack(narrow, 2).flatten(1, 2)  # channel 0 of each group, then channel 1 of each, ...
        mixed = conv_bn(f"{block}.b", 1, mixed, stride=2 if halves else 1, depthwise=True)
        y = torch.cat([conv_bn(f"{block}.c_{g}", 0, part) for g, part in enumerate(mixed.chunk(3, 1))], 1)
        x = torch.cat([y.relu(), F.avg_pool2d(x, 3, 2, 1)], 1) if halves else (x + y).relu()
    weight = state["module.classifier.0.weight"][:, : x.shape[1]]
    return F.linear(x.mean((2, 3)), weight, state["module.classifier.0.bias"])


def test_shufflenet_computes_as_published_at_each_switch(tmp_path: Path) -> None:
    state, net = written("s_shufflenet", tmp_path)
    assert net.slim.widths == slim.Switches(0.25, 0.5, 1.0)
    for switch, width in enumerate((0.25, 0.5, 1.0)):
        slim.set_width(net, width)
        expected = shufflenet(state, switch, IMAGES)
        with torch.no_grad():
            torch.testing.assert_close(net(IMAGES), expected, rtol=1e-4, atol=1e-4)
        extracted = slim.extract(net, width, example=IMAGES)
        with torch.device("meta"):
            individual = build("shufflenet_v1", width=width)
        individual.load_state_dict(extracted.state_dict(), assign=True)
        torch.testing.assert_close(individual.eval()(IMAGES), expected, rtol=1e-4, atol=1e-4)


def test_a_plan_network_is_saved_frozen_and_extracted(tmp_path: Path) -> None:
    _, net = written("autoslim_mobilenet_v1", tmp_path)
    slim.save(net, tmp_path / "net.safetensors")
    channels = tables()["autoslim_mobilenet_v1"]["rows"][0]["plan"]
    again = slim.load(tmp_path / "net.safetensors", into=from_channels("mobilenet_v1", channels)).eval()
    frozen = slim.freeze(net)
    for plan in net.plans:
        for other in (again, frozen, net):
            slim.set_width(other, plan)
        with torch.no_grad():
            expected = net(IMAGES)
            assert torch.equal(again(IMAGES), expected)
            torch.testing.assert_close(frozen(IMAGES), expected, rtol=1e-4, atol=1e-4)
        slim.extract(net, plan, example=IMAGES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_layouts_here_are_those_of_the_released_files(name: str) -> None:
    listed = (paper_folder() / "checkpoint_keys" / f"{name}.txt").read_text().splitlines()
    ours = [f"{key} {'x'.join(map(str, shape)) or 'scalar'}" for key, shape in layout(name).items()]
    assert ours == listed
