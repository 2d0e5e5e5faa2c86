"""What users rely on, on each device that is here: the CPU, and a GPU where there is one.

The comparisons are in double precision, in which TF32 and the order of sums do not show.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimlib as slim
from slimlib import models
from slimlib.core.layout import Layout
from slimlib.core.setting import slimming_of
from tests.networks import NETWORKS

WIDTHS = [0.25, 0.5, 0.75, 1.0]
KINDS = ["resnet8", "mobilenet", "wdsr", "glu", "shufflenet", "mlp", "squeeze_excite", "transformer"]
RELATIVE = 1e-9  # of the largest output, in double precision

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs and their memory need a GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=needs_gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


def built(kind: str, device: torch.device) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """A network with statistics of its own, in double precision on the device, and arguments of its forward."""
    torch.manual_seed(0)
    if kind in NETWORKS:
        net, args, rule = *NETWORKS[kind](), {}
    else:
        net = models.build(kind, classes=10, size=64)
        args, rule = (torch.randn(4, 3, 32, 32),), net.channel_rule
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    move: Callable[[Any], Any] = lambda t: t.to(device, torch.float64) if t.is_floating_point() else t.to(device)  # noqa: E731
    return net.to(device, torch.float64), tuple(move(arg) for arg in args), rule


LAYOUTS: dict[str, Layout] = {}


def slimmable(kind: str, device: torch.device) -> tuple[nn.Module, tuple[Any, ...]]:
    """Its channels are followed once in a process."""
    net, args, rule = built(kind, device)
    known = {"layout": LAYOUTS[kind]} if kind in LAYOUTS else rule
    slim.convert(net, args, widths=slim.WidthRange(0.25, 1.0), **known)
    LAYOUTS[kind] = slimming_of(net).layout
    slim.calibrate(net, [args], WIDTHS)
    return net.eval(), args


def assert_close(found: Tensor, expected: Tensor, relative: float = RELATIVE) -> None:
    assert found.shape == expected.shape and found.device.type == expected.device.type
    assert (found - expected).abs().max() <= relative * expected.abs().max().clamp_min(1e-6)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_in_place_frozen_and_extracted_networks_agree(kind: str, device: torch.device) -> None:
    net, args = slimmable(kind, device)
    frozen = slim.freeze(net, WIDTHS)
    for width in WIDTHS:
        slim.set_width(net, width)
        expected = net(*args)
        assert_close(slim.extract(net, width)(*args), expected)
        slim.set_width(frozen, width)
        assert_close(frozen(*args), expected)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_calibration_on_a_device_equals_that_on_the_cpu(kind: str, device: torch.device) -> None:
    net, args = slimmable(kind, device)
    here, there = slimmable(kind, torch.device("cpu"))
    for width in WIDTHS:
        slim.set_width(net, width)
        slim.set_width(here, width)
        assert_close(net(*args).cpu(), here(*there), 1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sandwich_step_adds_the_gradients_of_its_widths(kind: str, device: torch.device) -> None:
    net, args = slimmable(kind, device)
    rule = slim.EveryWidth(slim.Switches(*WIDTHS))
    losses = rule.backward(net, args, lambda output: output.square().mean())
    stepped = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    for width, loss in losses.items():
        slim.set_width(net, width)
        value = net(*args).square().mean()
        assert_close(value.detach(), loss)
        value.backward()
    for name, p in net.named_parameters():
        if name in stepped and p.grad is not None:
            assert_close(stepped[name], p.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_distilled_steps_in_lower_precision_lower_the_loss(dtype: torch.dtype, device: torch.device) -> None:
    if device.type == "cpu" and dtype == torch.float16:
        pytest.skip("torch has no float16 convolutions on CPUs")
    net = models.build("resnet8", classes=10, size=64)
    slim.convert(net, torch.randn(1, 3, 32, 32), widths=slim.WidthRange(0.25, 1.0), **net.channel_rule)
    net.to(device, memory_format=torch.channels_last)
    y = torch.arange(64, device=device) % 10
    x = torch.randn(10, 3, 32, 32, device=device)[y] + 0.1 * torch.randn(64, 3, 32, 32, device=device)
    rule = slim.Sandwich(slim.WidthRange(0.25, 1.0), samples=4, distill=slim.soft_cross_entropy)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler(device.type) if dtype == torch.float16 else None
    full = []
    for _ in range(12):
        optimizer.zero_grad(set_to_none=True)
        losses = rule.backward(net, x, lambda out: F.cross_entropy(out, y), autocast=dtype, scaler=scaler)
        full.append(losses[1.0].item())
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
    assert full[-1] < 0.7 * full[0]


@torch.no_grad()
def test_channels_last_changes_nothing(device: torch.device) -> None:
    net, (x,) = slimmable("resnet8", device)
    expected = {}
    for width in WIDTHS:
        slim.set_width(net, width)
        expected[width] = net(x)
    net.to(memory_format=torch.channels_last)
    for width in WIDTHS:
        slim.set_width(net, width)
        assert_close(net(x.to(memory_format=torch.channels_last)), expected[width])


@torch.no_grad()
def test_extracted_networks_compile(device: torch.device) -> None:
    net, args = slimmable("resnet8", device)
    # On a CPU the compiler of C++ may be missing: there the graph alone is tested.
    backend = "inductor" if device.type == "cuda" else "aot_eager"
    for width in (0.25, 1.0):
        plain = slim.extract(net, width)
        assert_close(torch.compile(plain, backend=backend)(*args), plain(*args), 1e-7)


@needs_gpu
@torch.no_grad()
@pytest.mark.parametrize("kind", ["resnet8", "mobilenet"])
def test_a_cuda_graph_for_each_width(kind: str) -> None:
    net, (x,) = slimmable(kind, torch.device("cuda"))
    graphs = {}
    for width in WIDTHS:
        slim.set_width(net, width)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            net(x)  # what a first pass allocates is not captured
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = net(x)
        graphs[width] = graph, output
    other = torch.randn_like(x)
    x.copy_(other)
    for width in (0.25, 1.0, 0.5, 0.75, 0.25):
        graph, output = graphs[width]
        graph.replay()
        slim.set_width(net, width)
        assert_close(output, net(other))


@needs_gpu
@pytest.mark.parametrize("lesson", ["data", "largest", "average", "ensemble"])
def test_training_with_recorded_passes_equals_training_without(lesson: str) -> None:
    averaged = slim.AveragedTeacher(decay=0.9)
    teacher = {"largest": "largest", "average": averaged, "ensemble": slim.Ensemble(of=averaged)}.get(lesson)
    lessons = slim.Lesson() if teacher is None else slim.Lesson(0.5, slim.soft_cross_entropy, 0.5, teacher)

    def trained(*, recorded: bool) -> tuple[dict[str, Tensor], list[float]]:
        net, (x,) = slimmable("resnet8", torch.device("cuda"))
        net.train()
        rule = slim.Sandwich(slim.WidthRange(0.25, 1.0), samples=4, lesson=lessons)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        graphs, losses = slim.Graphs(net) if recorded else None, []
        torch.manual_seed(1)
        with graphs.stream() if graphs else nullcontext():
            for _ in range(25):
                batch = torch.randn_like(x), torch.randint(10, (len(x),), device="cuda")
                inputs, labels = graphs.hold(batch) if graphs else batch
                optimizer.zero_grad()
                of_widths = rule.backward(net, inputs, lambda out: F.cross_entropy(out, labels), graphs=graphs)  # noqa: B023
                optimizer.step()
                losses.append(sum(of_widths.values()).item())
        return net.state_dict(), losses

    (plain, expected), (replayed, found) = trained(recorded=False), trained(recorded=True)
    assert found == pytest.approx(expected, rel=1e-7)
    for name, value in plain.items():
        assert_close(replayed[name].double(), value.double(), 1e-6)


@needs_gpu
def test_a_step_of_several_widths_takes_the_memory_of_the_widest() -> None:
    net, dense = (models.build("resnet50", classes=10, size=64) for _ in range(2))
    dense.cuda()
    x = torch.randn(16, 3, 128, 128, device="cuda")

    def peak(step: Callable[[], Any]) -> int:
        step()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before

    alone = peak(lambda: dense(x).square().mean().backward())
    dense.cpu()
    slim.convert(net, torch.randn(1, 3, 128, 128), widths=slim.WidthRange(0.25, 1.0), **net.channel_rule)
    net.cuda()
    rule = slim.Sandwich(slim.WidthRange(0.25, 1.0), samples=4)
    assert peak(lambda: rule.backward(net, x, lambda out: out.square().mean())) <= 1.05 * alone


def test_recorded_passes_need_a_gpu() -> None:
    with pytest.raises(ValueError, match="CUDA graphs need a network on a GPU, and this one is on cpu; train without"):
        slim.Graphs(nn.Linear(2, 2))


def test_what_a_device_saves_another_loads(tmp_path: Path, device: torch.device) -> None:
    net, args = slimmable("resnet8", device)
    slim.save(net, tmp_path / "net.safetensors")
    other, (x,), rule = built("resnet8", torch.device("cpu"))
    slim.convert(other, (x,), widths=slim.WidthRange(0.25, 1.0), **rule)
    slim.load(tmp_path / "net.safetensors", into=other)
    with torch.no_grad():
        for width in WIDTHS:
            slim.set_width(net, width)
            slim.set_width(other, width)
            assert_close(other.eval()(x), net(*args).cpu(), 1e-7)
