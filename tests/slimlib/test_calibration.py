"""Post-statistics: exact, in one reading, keyed by channel numbers, refused where they are missing."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import slimlib as slim
from slimlib.calibration import Moments
from slimlib.core.norms.batchnorm import UncalibratedWidth
from tests.networks import MLP, MobileNet, Residual, image


def batches(count=3, size=8):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 3, 16, 16, generator=generator) * (i + 1) + i for i in range(count)]


def norms(net):
    return [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]


def by_hand(net, width, data):
    """Mean and unbiased variance of what enters each BatchNorm, in double, each batch normalised by itself."""
    dense = slim.convert(MobileNet(), image(), norm="shared")
    dense.load_state_dict({k: v for k, v in net.state_dict().items() if "_at_" not in k})
    dense.double().train()
    for m in dense.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    slim.set_width(dense, width)
    seen = {}
    hooks = [m.register_forward_pre_hook(lambda m, a: seen.setdefault(m, []).append(a[0])) for m in norms(dense)]
    with torch.no_grad():
        for x in data:
            dense(x.double())
    for hook in hooks:
        hook.remove()
    values = [torch.cat([x.transpose(0, 1).flatten(1) for x in seen[m]], 1) for m in norms(dense)]
    return [(v.mean(1), v.var(1)) for v in values]


@pytest.mark.parametrize("width", [1.0, 0.5, 0.25])
def test_statistics_are_the_exact_mean_and_variance(width):
    torch.manual_seed(0)
    net = slim.convert(MobileNet(), image())
    slim.calibrate(net, batches(), [0.25, 0.5, 1.0])
    slim.set_width(net, width)
    for layer, (mean, variance) in zip(norms(net), by_hand(net, width, batches()), strict=True):
        torch.testing.assert_close(layer.running_mean.double(), mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.running_var.double(), variance, rtol=1e-4, atol=1e-5)


def test_moments_join_unequal_batches_exactly():
    torch.manual_seed(0)
    parts = [torch.randn(n, 4, dtype=torch.double) * n + n for n in (3, 50, 7)]
    moments = Moments()
    for part in parts:
        moments.add(len(part), part.mean(0), part.var(0))
    whole = torch.cat(parts)
    torch.testing.assert_close(moments.mean, whole.mean(0))
    torch.testing.assert_close(moments.variance, whole.var(0))


def test_many_widths_in_one_reading_equal_one_by_one():
    torch.manual_seed(0)
    net = slim.convert(MobileNet(), image())
    slim.calibrate(net, iter(batches()), [0.25, 0.75])  # an iterator can be read only once
    together = {k: v.clone() for k, v in net.state_dict().items() if "_at_" in k}
    for width in (0.25, 0.75):
        slim.calibrate(net, batches(), [width])
    alone = {k: v for k, v in net.state_dict().items() if "_at_" in k}
    assert together.keys() == alone.keys()
    assert together
    for name in together:
        assert torch.equal(together[name], alone[name]), name


def test_widths_with_equal_channels_share_statistics():
    net = slim.convert(MobileNet(), image())
    slim.calibrate(net, batches(1), [0.5])
    slim.set_width(net.eval(), 0.501)  # rounds to the same channels
    assert net(batches(1)[0]).shape == (8, 10)


def test_uncalibrated_width_is_refused_in_eval_with_the_call_that_mends_it():
    net = slim.convert(MobileNet(), image()).eval()
    slim.calibrate(net, batches(1), [0.25])
    slim.set_width(net, 0.75)
    with pytest.raises(
        UncalibratedWidth, match=r"width 0.75 .* calibrated: 0.25.*slimlib.calibrate\(net, batches, widths=\[0.75\]\)"
    ):
        net(batches(1)[0])
    slim.calibrate(net, batches(1), [0.75])
    assert net(batches(1)[0]).isfinite().all()


def test_statistics_that_are_loaded_are_seen_at_a_width_set_before():
    net, other = slim.convert(MobileNet(), image()).eval(), slim.convert(MobileNet(), image())
    slim.calibrate(other, batches(1), [0.5])
    slim.set_width(net, 0.5)
    with pytest.raises(UncalibratedWidth):
        net(batches(1)[0])
    net.load_state_dict(other.state_dict())
    assert net(batches(1)[0]).isfinite().all()
    net.load_state_dict({k: v for k, v in other.state_dict().items() if "_at_" not in k})
    with pytest.raises(UncalibratedWidth):
        net(batches(1)[0])


def test_training_at_a_width_leaves_its_statistics_alone():
    net = slim.convert(MobileNet(), image())
    slim.calibrate(net, batches(1), [0.5])
    before = {k: v.clone() for k, v in net.state_dict().items() if "running" in k}
    slim.set_width(net.train(), 0.5)
    net(batches(1)[0])
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items() if "running" in k)


def test_full_width_trains_its_statistics_as_the_dense_network_does():
    torch.manual_seed(0)
    dense = MobileNet()
    net = slim.convert(MobileNet(), image())
    net.load_state_dict(dense.state_dict())
    for x in batches():
        torch.manual_seed(1)
        dense(x)
        torch.manual_seed(1)
        slim.set_width(net, 1.0)
        net(x)
        slim.set_width(net, 0.25)
        net(x)
    for name, value in dense.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name


def test_moving_average_is_torchs_begun_with_the_first_batch():
    torch.manual_seed(0)
    net = slim.convert(MobileNet(), image())
    dense = slim.extract(net, 1.0).train()
    for m in dense.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    for i, x in enumerate(batches()):
        for norm in norms(dense):
            norm.momentum = 0.1 if i else 1.0
        dense(x)
    with pytest.raises(ValueError, match=r"momentum=5.0 must be above 0 and at most 1"):
        slim.calibrate(net, batches(), [1.0], average="moving", momentum=5.0)
    slim.calibrate(net, batches(), [1.0], average="moving", momentum=0.1)
    for ours, theirs in zip(norms(net), norms(dense), strict=True):
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_calibration_leaves_modes_width_and_gradients_as_they_were():
    net = slim.convert(MobileNet(), image()).train()
    net.classifier.eval()
    slim.set_width(net, 0.5)
    slim.calibrate(net, batches(1), [0.25, 1.0])
    assert slim.current_width(net) == 0.5
    assert net.training
    assert not net.classifier.training
    assert all(p.grad is None for p in net.parameters())
    assert norms(net)[0].momentum == 0.1


def test_switches_keep_private_affine_and_statistics():
    torch.manual_seed(0)
    net = slim.convert(Residual(), image(), widths=slim.Switches(0.5, 1.0), norm="switchable")
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    full = {n: p.clone() for n, p in net.named_parameters() if n.endswith(("1.weight", "1.bias"))}
    slim.set_width(net, 0.5)
    net(batches(1)[0]).square().mean().backward()
    optimizer.step()
    now = dict(net.named_parameters())
    assert all(torch.equal(now[n], p) for n, p in full.items())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for n, p in net.named_parameters() if "_at_" in n)
    slim.set_width(net.eval(), 0.5)
    assert net(batches(1)[0]).isfinite().all()  # switches track their own statistics in training


def test_network_without_batchnorm_needs_no_calibration():
    net = slim.convert(MLP(), torch.randn(2, 8))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    slim.calibrate(net, [torch.randn(4, 8)], [0.5])
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": [], "widths": [0.5]}, "got no batch"),
        ({"batches": [torch.zeros(2, 3, 16, 16)], "widths": []}, r"widths=\[\] must be a list of one"),
        ({"batches": [torch.zeros(2, 3, 16, 16)], "widths": 0.5}, r"widths=0.5 must be a list .* such as \[0.25, 0.5"),
        ({"batches": [[torch.zeros(2, 3, 16, 16), torch.zeros(2)]], "widths": [0.5]}, "a list .*; give the inputs"),
        ({"batches": [(torch.zeros(2, 3, 16, 16), torch.zeros(2))], "widths": [0.5]}, "a tuple .*; give the inputs"),
        (
            {"batches": torch.zeros(2, 3, 16, 16), "widths": [0.5]},
            r"list of batches, .* not one tensor \[2, 3, 16, 16\]",
        ),
        ({"batches": None, "widths": [0.5]}, "batches must be a list of batches, .* not a NoneType"),
        ({"batches": [torch.zeros(2, 3, 16, 16)], "widths": [2.0]}, "allowed"),
        ({"batches": [torch.zeros(2, 3, 16, 16)], "widths": [0.5], "average": "median"}, "'exact' or 'moving'"),
    ],
)
def test_wrong_input_is_refused(arguments, message):
    net = slim.convert(MobileNet(), image())
    with pytest.raises(ValueError, match=message):
        slim.calibrate(net, **arguments)


def test_a_batch_without_finite_statistics_is_refused_with_its_number_and_the_layer():
    net, data = slim.convert(MobileNet(), image()), batches()
    data[1][0, 0, 0, 0] = float("nan")
    first = next(name for name, m in net.named_modules() if m in norms(net))
    before = {name: t.clone() for name, t in net.state_dict().items()}
    with pytest.raises(ValueError, match=f"batch number 2 gives layer '{first}' .* at width 0.5; leave it out"):
        slim.calibrate(net, data, [0.5, 1.0])
    after = net.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], t) for name, t in before.items())


def test_a_last_batch_of_one_sample_is_named():
    net = slim.convert(nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)), torch.randn(2, 8))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=r"batch number 3 has one value .* of a BatchNorm1d \[1, 8\].*drop_last=True"):
        slim.calibrate(net, torch.randn(9, 8).split(4), [0.5])
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_synchronised_norm_is_calibrated_as_its_plain_form():
    torch.manual_seed(0)
    plain = slim.convert(Residual(), image())
    synchronised = slim.convert(nn.SyncBatchNorm.convert_sync_batchnorm(Residual()), image())
    synchronised.load_state_dict(plain.state_dict())
    for net in (plain, synchronised):
        slim.calibrate(net, batches(), [0.5, 1.0])
    found, expected = synchronised.state_dict(), plain.state_dict()
    assert any("_at_" in name for name in expected)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_one_norm_for_all_widths_trains_as_one_with_post_statistics():
    trained = []
    for norm in ("shared", "universal"):
        torch.manual_seed(0)
        net = slim.convert(Residual(), image(), widths=slim.Switches(0.25, 0.5, 1.0), norm=norm)
        rule, optimizer = slim.EveryWidth(net.slim.widths), torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        for x in batches():
            optimizer.zero_grad()
            rule.backward(net, x, lambda output: output.square().mean())
            optimizer.step()
        trained.append(list(net.parameters()))
    for shared, universal in zip(*trained, strict=True):
        assert torch.equal(shared, universal)


def test_shared_norm_has_nothing_to_calibrate():
    net = slim.convert(MobileNet(), image(), norm="shared")
    with pytest.raises(ValueError, match="one set of statistics"):
        slim.calibrate(net, batches(1), [0.5])


class Experts(nn.Module):
    """Adds what some of its parts make."""

    def __init__(self, runs=(0, 1)):
        super().__init__()
        self.first, self.last, self.runs = nn.Linear(8, 32), nn.Linear(32, 3), runs
        part = [nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32)]
        self.parts = nn.ModuleList(nn.Sequential(*map(copy.deepcopy, part)) for _ in range(3))

    def forward(self, x):
        x = self.first(x)
        for number in self.runs:
            x = x + self.parts[number](x)
        return self.last(x)


@pytest.mark.parametrize("norm", ["universal", "switchable"])
def test_a_norm_that_no_batch_reaches_takes_the_statistics_of_the_full_width(norm):
    torch.manual_seed(0)
    net, x = Experts(), torch.randn(32, 8)
    slim.convert(net, x, widths=slim.Switches(0.5, 1.0), norm=norm)
    net.train()(x)
    slim.calibrate(net, [x], [0.5])
    net.eval()
    slim.set_width(net, 0.5)
    for made in (slim.extract(net, 0.5, x), slim.freeze(net, [0.5], x)):
        torch.testing.assert_close(made(x), net(x))
    net.runs = (0, 1, 2)
    slim.set_width(net, 1.0)
    net.train()(x)
    net.eval()
    slim.calibrate(net, [x], [0.5])
    slim.set_width(net, 0.5)
    expected = net(x)
    net.runs = (0, 1)
    slim.calibrate(net, [x], [0.5])  # what has statistics keeps them
    net.runs = (0, 1, 2)
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize("use_buffers", [False, True])
def test_an_average_goes_on_where_a_copy_was_calibrated_or_the_network_before_it_was_made(use_buffers):
    def plain():
        torch.manual_seed(0)
        return slim.convert(nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1)), image())

    def averaged(net):
        average = AveragedModel(net, use_buffers=use_buffers)
        average.update_parameters(net)
        return average

    net = plain()
    average = averaged(net)
    seen = copy.deepcopy(average)
    slim.calibrate(seen, batches(), [0.5])
    average.update_parameters(net)
    assert average.module.state_dict().keys() == net.state_dict().keys() < seen.module.state_dict().keys()

    net = plain()
    slim.calibrate(net, batches(), [0.5])
    average = averaged(net)
    slim.calibrate(net, batches(1), [0.5])
    average.update_parameters(net)
    if not use_buffers:  # they are those of the network
        expected = dict(net.named_buffers())
        assert all(torch.equal(buffer, expected[name]) for name, buffer in average.module.named_buffers())
