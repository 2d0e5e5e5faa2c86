"""Detectors at a width: what slims, what stays, and that they equal the dense detector of that width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import slimlib as slim
from slimlib import models
from slimlib.core.setting import slimming_of
from tasks.detection.networks import Detector, Plan, Regions, build_detector, tv
from tests.extent import at_night, one_by_day

WIDTHS = (0.25, 0.5, 1.0)
COUNTED = Regions(5, 2)


def detector(
    head: str = "boxes", *, width: float = 1.0, norm: Any = "batch", model: str = "resnet18", **given: Any
) -> Detector:
    torch.manual_seed(0)
    classifier = models.build(model, classes=1, width=width, multiplier=0.25, divisor=4, norm=norm)
    plan = Plan(head, 3, 17, (64,), 96, 8, 12, 16, (40, 20), (16, 16))  # type: ignore[arg-type]
    return build_detector(classifier, model, plan, **given)


def converted(net: Detector, **given: Any) -> Detector:
    example = ([torch.rand(3, 64, 64)], None, COUNTED)
    slim.convert(net, example, divisor=net.divisor, keep=net.shared, **given)
    return net


def batch(head: str = "boxes") -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(3, 64, 64, generator=generator), torch.rand(3, 48, 80, generator=generator)]
    target = {"boxes": torch.tensor([[4.0, 5.0, 30.0, 40.0]]), "labels": torch.tensor([1])}
    if head == "masks":
        target["masks"] = torch.ones(1, 64, 64, dtype=torch.uint8)
    if head == "keypoints":
        target["keypoints"] = torch.full((1, 17, 3), 20.0)
        target["keypoints"][..., 2] = 1
    empty = {key: value[:0] for key, value in target.items()}
    if head == "masks":
        empty["masks"] = torch.zeros(0, 48, 80, dtype=torch.uint8)
    return images, [target, empty]


@pytest.mark.parametrize(
    ("model", "norm"),
    [
        ("resnet18", "batch"),
        at_night("resnet18", "group"),
        at_night("resnet50", "batch"),
        at_night("resnet50", "group"),
    ],
)
def test_a_detector_at_a_width_is_the_dense_one_of_that_width(model: str, norm: str) -> None:
    """The weights of the slice, loaded into a detector that was built for the width, find the same."""
    net = converted(detector(model=model, norm=norm), widths=slim.WidthRange(0.25, 1.0)).eval()
    images, _ = batch()
    slim.calibrate(net, [(images, None)], WIDTHS)
    for width in WIDTHS:
        dense = detector(width=width, model=model, norm=norm).eval()
        slice_ = slim.extract(net, width)
        dense.load_state_dict(slice_.state_dict())
        slim.set_width(net, width)
        with torch.no_grad():
            for own, other in zip(net(images), dense(images), strict=True):
                for key, value in other.items():
                    torch.testing.assert_close(own[key], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", [at_night("boxes"), "masks", "keypoints"])  # the others have its heads, too
def test_only_the_backbone_and_the_inputs_of_the_pyramid_slim(head: str) -> None:
    net = converted(detector(head, norm="group"))
    narrow = {name: parameter.shape for name, parameter in slim.extract(net, 0.25).named_parameters()}
    for name, parameter in net.named_parameters():
        if name.startswith("backbone.body."):
            assert narrow[name].numel() < parameter.numel(), name
        elif "inner_blocks" in name and name.endswith("weight"):
            assert narrow[name][0] == parameter.shape[0] and narrow[name][1] < parameter.shape[1]
        else:
            assert narrow[name] == parameter.shape, name


def test_multiply_adds_are_those_of_all_parts() -> None:
    net = detector("masks").eval()
    side = 64
    found = slim.cost(net, ([torch.rand(3, side, side)], None, COUNTED)).macs
    macs = {"all": 0}

    def count(module: nn.Module, args: Any, output: Tensor) -> None:
        per_output = module.weight[0].numel() if not isinstance(module, nn.ConvTranspose2d) else 0
        inputs = args[0].numel() // module.weight.shape[0] if isinstance(module, nn.ConvTranspose2d) else 0
        macs["all"] += output.numel() * per_output + inputs * module.weight.numel()

    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.ConvTranspose2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    net([torch.rand(3, side, side)], None, COUNTED)
    for hook in hooks:
        hook.remove()
    assert found == macs["all"]


def test_frozen_batchnorm_stays_as_it_is() -> None:
    net = converted(detector(frozen=True, frozen_stages=2), widths=slim.Switches(*WIDTHS), norm="switchable").train()
    images, targets = batch()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.1)
    rule = slim.EveryWidth(slim.Switches(*WIDTHS))
    rule.backward(net, (images, targets), lambda output: output.loss)
    optimizer.step()
    norms = [name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)]
    stem = ("backbone.body.0.", "backbone.body.1.", "backbone.body.2.")
    for key, value in net.state_dict().items():
        still = key.rpartition(".")[0] in norms or key.startswith(stem)
        assert torch.equal(value, before[key]) == still, key


@pytest.mark.parametrize("head", ["boxes", "masks", "keypoints"])
@pytest.mark.parametrize("distance", ["from_pyramid", "from_heads"])
def test_distances_to_a_teacher_reach_the_backbone_of_the_student_alone(head: str, distance: str) -> None:
    student, teacher = detector(head).train(), detector(head).train()
    with torch.no_grad():
        for parameter in teacher.backbone.parameters():
            parameter.add_(0.05)
    inputs = batch(head)
    getattr(student(*inputs), distance)(teacher(*inputs)).backward()
    assert all(parameter.grad is not None for parameter in student.backbone.body.parameters())
    assert not any(parameter.grad is not None for parameter in teacher.roi_heads.parameters())
    if distance == "from_heads":
        learned = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in student.roi_heads.parameters()]
        assert all(learned), "every head is compared"
    same = student(*inputs)
    if distance == "from_pyramid":
        assert same.from_pyramid(same).item() == 0


@pytest.mark.parametrize("name", one_by_day(["retinanet", "ssdlite"]))
def test_detectors_of_other_kinds_slim_by_convert_alone(name: str) -> None:
    """The backbone with its pyramid, or with the extra layers of SSD: what it puts out stays full."""
    torch.manual_seed(0)
    detection = tv.models.detection
    if name == "retinanet":
        pyramid = detection.backbone_utils.resnet_fpn_backbone(
            backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, returned_layers=[2, 3, 4],
            extra_blocks=tv.ops.feature_pyramid_network.LastLevelP6P7(256, 256),
        )  # fmt: skip
        net = detection.RetinaNet(pyramid, num_classes=3)
    else:
        net = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    body = net.eval().backbone
    image = torch.rand(1, 3, 64, 64)
    before = body(image)
    slim.convert(body, image, widths=slim.WidthRange(0.25, 1.0))
    for key, value in body(image).items():
        assert torch.equal(value, before[key])
    slim.calibrate(body, [torch.cat([image, image.flip(-1)])], [0.5])
    slim.set_width(body, 0.5)
    assert [value.shape for value in body(image).values()] == [value.shape for value in before.values()]
    assert slim.cost(body, image, 0.5).params < 0.6 * slim.cost(body, image, 1.0).params
    assert net([image[0]])[0]["boxes"].shape[1] == 4
    assert slimming_of(net).width == 0.5


@pytest.mark.nightly  # the refusal of what looks at values is tested with the exports
def test_what_torch_cannot_export_is_named(tmp_path: Path) -> None:
    """The number of boxes that non-maximum suppression keeps decides how a detector goes on."""
    net = converted(detector(norm="group")).eval()
    with pytest.raises(
        ValueError, match=r"cannot follow the forward of Detector: .* \(at boxes.py:\d+ in _batched_nms"
    ):
        slim.export(net, tmp_path / "whole", [0.5], ([torch.rand(3, 64, 64)],), formats=["torch"])
    assert not (tmp_path / "whole").exists()
