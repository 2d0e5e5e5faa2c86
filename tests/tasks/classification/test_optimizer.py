"""SGD: what decays, and the learning rate of every step."""

import math

import pytest
import torch
from torch import nn

import slimlib as slim
from slimlib import models
from tasks.classification.optimizer import make_optimizer, parameter_groups, schedule
from tasks.classification.settings import ClassificationSettings
from tests.extent import at_night

NORMS = (nn.BatchNorm2d, nn.GroupNorm)


def recipe(**given):
    return ClassificationSettings(root="x", **given)


def without_decay(net):
    """The names that the published recipes leave without decay, found by the kind of the layer."""
    names = set()
    for name, module in net.named_modules():
        own = dict(module.named_parameters(prefix=name, recurse=False))
        if isinstance(module, NORMS) or (isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1):
            names |= set(own)
        else:
            names |= {key for key in own if key.endswith("bias")}
    return names


def names_of(net, group):
    name_of = {id(parameter): name for name, parameter in net.named_parameters()}
    return {name_of[id(parameter)] for parameter in group["params"]}


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("model", models.NAMES)
def test_depthwise_kernels_norms_and_biases_do_not_decay(model, norm):
    net = models.build(model, classes=10, size=32, multiplier=0.25, norm=norm)
    decayed, free = parameter_groups(net, 0.1)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert names_of(net, free) == without_decay(net)
    assert names_of(net, decayed) == {name for name, _ in net.named_parameters()} - without_decay(net)
    assert names_of(net, decayed)


@pytest.mark.parametrize("model", [at_night("mobilenet_v2"), "resnet18", "shufflenet_v1"])
def test_nor_do_the_private_norms_of_switches(model):
    net = models.build(model, classes=10, size=32, multiplier=0.5)
    decayed, free = parameter_groups(net, 0.1)
    before = names_of(net, decayed), names_of(net, free)
    slim.convert(net, torch.randn(1, 3, 32, 32), widths=slim.Switches(0.5, 1.0), norm="switchable", **net.channel_rule)
    decayed, free = parameter_groups(net, 0.1)
    added = {name for name, _ in net.named_parameters()} - before[0] - before[1]
    assert added and all("_at_" in name for name in added)
    assert (names_of(net, decayed), names_of(net, free)) == (before[0], before[1] | added)


def test_grouped_convolutions_that_are_not_depthwise_decay():
    net = models.build("shufflenet_v1", classes=10, size=32)
    decayed, _ = parameter_groups(net, 0.1)
    grouped = [m for m in net.modules() if isinstance(m, nn.Conv2d) and 1 < m.groups < m.in_channels]
    assert grouped and {id(m.weight) for m in grouped} <= {id(p) for p in decayed["params"]}


def rates(steps=100, images=1000, **given):
    factor = schedule(recipe(**given), steps=steps, images=images)
    return [factor(step) for step in range(steps)]


def test_linear_goes_to_zero():
    assert rates() == pytest.approx([1 - t / 100 for t in range(100)])


def test_cosine_is_half_a_wave():
    assert rates(schedule="cosine") == pytest.approx([(1 + math.cos(math.pi * t / 100)) / 2 for t in range(100)])


def test_steps_are_at_the_milestones():
    assert rates(schedule="step") == pytest.approx([1.0] * 30 + [0.1] * 30 + [0.01] * 30 + [0.001] * 10)
    given = rates(schedule="step", milestones=[0.25, 0.5], decay=0.5)
    assert given == pytest.approx([1.0] * 25 + [0.5] * 25 + [0.25] * 50)


def test_exponential_is_once_an_epoch():
    assert rates(schedule="exponential", batch=50) == pytest.approx([0.98 ** (t // 20) for t in range(100)])
    assert rates(schedule="exponential", batch=30, decay=0.5) == pytest.approx(
        [0.5 ** math.floor(t * 30 / 1000) for t in range(100)]
    )


@pytest.mark.parametrize("kind", ["linear", "step", "exponential", "cosine"])
def test_a_warm_up_rises_to_the_schedule(kind):
    plain, warm = rates(schedule=kind), rates(schedule=kind, warmup=0.2)
    assert warm[:20] == pytest.approx([rate * (t + 1) / 20 for t, rate in enumerate(plain[:20])])
    assert warm[20:] == plain[20:]


def test_the_optimizer_has_the_rates_of_the_schedule_in_both_groups():
    net = models.build("resnet18", classes=10, size=32, multiplier=0.125)
    optimizer, scheduler = make_optimizer(net, recipe(lr=0.5, momentum=0.8, weight_decay=0.01), steps=10, images=1000)
    seen = []
    for _ in range(10):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert [pair[0] for pair in seen] == pytest.approx([0.5 * (1 - t / 10) for t in range(10)])
    assert all(one == other for one, other in seen)
    assert all(group["momentum"] == 0.8 and group["nesterov"] for group in optimizer.param_groups)
    assert optimizer.param_groups[0]["lr"] == 0


def test_a_schedule_goes_on_where_it_was_saved():
    net = nn.Linear(2, 2)
    optimizer, scheduler = make_optimizer(net, recipe(schedule="cosine", warmup=0.1), steps=20, images=100)
    for _ in range(7):
        optimizer.step()
        scheduler.step()
    again, resumed = make_optimizer(net, recipe(schedule="cosine", warmup=0.1), steps=20, images=100)
    again.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    for _ in range(5):
        assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
        for one in (optimizer, scheduler, again, resumed):
            one.step()
