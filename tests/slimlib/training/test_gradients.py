"""Gradients of narrow widths that are added in place are those of autograd's own way, bit for bit."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import slimlib as slim
from slimlib.serving.profiling import peak_bytes
from slimlib.training import gradients
from slimlib.training.sandwich import Rule
from tests.networks import MLP, NETWORKS, Residual
from tests.slimlib.training.gradient_steps import (
    RANGE,
    RULES,
    Case,
    Loss,
    by_rule,
    in_turns,
    loss,
    network,
    same,
    sliced,
    trained_alike,
)


@pytest.fixture(autouse=True)
def in_place_at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "SMALL", 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_steps_are_bit_equal_to_autograds_own(name: str) -> None:
    assert trained_alike(*network(name))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("set_to_none", [True, False])
def test_every_rule_and_way_to_clear_gradients(rule: Callable[[], Rule], set_to_none: bool) -> None:
    assert trained_alike(*network("depthwise_residual"), rule, set_to_none=set_to_none)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_gradients_of_two_calls_add_up(rule: Callable[[], Rule]) -> None:
    assert trained_alike(*network(), rule, passes=2)


def test_switchable_norm_has_private_parameters() -> None:
    widths = slim.Switches(0.25, 0.5, 1.0)
    assert trained_alike(*network(widths=widths, norm="switchable"), lambda: slim.EveryWidth(widths))


def test_distillation() -> None:
    net, args = network()
    twin = copy.deepcopy(net)
    slim.EveryWidth(slim.Switches(0.5, 1.0), distill=slim.mse).backward(net, args, loss)
    teacher = twin(*args)
    loss(teacher).backward()
    with slim.at_width(twin, 0.5):
        slim.mse(twin(*args), teacher.detach()).backward()
    assert same(net, twin)


def test_channels_last() -> None:
    net, (x,) = network()
    x = x.contiguous(memory_format=torch.channels_last)
    assert trained_alike(net.to(memory_format=torch.channels_last), (x,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_scaled_losses(dtype: torch.dtype) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    assert trained_alike(*network(), autocast=dtype, scaler=scaler)


def test_autocast_around_the_step() -> None:
    net, args = network()
    twin = copy.deepcopy(net)
    for run, one in ((by_rule, net), (in_turns, twin)):
        with torch.autocast("cpu", torch.bfloat16):
            run(one, args, RULES["sandwich"]())
    assert same(net, twin)


@pytest.mark.parametrize("around", [False, True])
def test_kernels_that_are_cast_are_not_copied_before(around: bool) -> None:
    """What a pass at a narrow width holds most, in bfloat16, has no copy of the kernels in float32."""
    torch.manual_seed(0)
    x = torch.randn(1, 256, 2, 2)
    net = slim.convert(nn.Sequential(*(nn.Conv2d(256, 256, 3, padding=1) for _ in range(3))), x)
    rule = slim.SingleWidth(0.75)
    kernels = sum(p.numel() for p in net.parameters()) * 0.75  # the first kernel has all inputs, the last all outputs

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=around):
            rule.backward(net, x, lambda out: out.square().mean(), autocast=None if around else torch.bfloat16)

    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    step()
    cast, in_float32 = 2 * kernels, 4 * kernels
    assert peak_bytes(step, torch.device("cpu")) < cast + in_float32


def test_frozen_parameters_stay_without_gradient() -> None:
    def freeze(net: nn.Module) -> None:
        for p in list(net.parameters())[::2]:
            p.requires_grad_(False)

    net, args = network()
    assert trained_alike(net, args, prepare=freeze)
    assert [p.grad is None for p in net.parameters()] == [i % 2 == 0 for i, _ in enumerate(net.parameters())]


def test_parameters_unfrozen_and_replaced_between_steps() -> None:
    net, args = network()
    twin = copy.deepcopy(net)
    for run, one in ((by_rule, net), (in_turns, twin)):
        rule = RULES["sandwich"]()
        one.requires_grad_(False).fc.requires_grad_(True)
        run(one, args, rule)
        one.requires_grad_(True)
        run(one, args, rule)
        for p in one.parameters():
            p.data = p.data * 0.5
        run(one, args, rule)
    assert same(net, twin)


def test_tied_weights() -> None:
    def tied() -> Case:
        torch.manual_seed(0)
        dense = MLP((8, 32, 32, 32, 4))
        dense.layers[2].weight = dense.layers[1].weight
        args = (torch.randn(4, 8),)
        return slim.convert(dense, args), args

    assert trained_alike(*tied())


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_activation_checkpointing(use_reentrant: bool) -> None:
    class Checkpointed(Residual):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu()
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=use_reentrant)
            return self.fc(x.mean((2, 3)))

    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    net = slim.convert(Checkpointed(), (x,), norm="shared").eval()  # a shared norm would see each batch twice
    assert trained_alike(net, (x,))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_layers_computed_anew_at_another_width_say_what_to_do(use_reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:  # [N, 8] -> [N, 4]
            x = checkpoint(self.second, self.first(x).relu(), use_reentrant=use_reentrant)
            return self.last(x.relu())  # type: ignore[no-any-return]

    x = torch.randn(2, 8)
    net = slim.convert(Checkpointed(), x)
    with slim.at_width(net, 0.5):
        loss = net(x).sum()
    with pytest.raises(ValueError, match="layer 'second' got 16 .* run each width backward before you set the next"):
        loss.backward()


def test_narrow_widths_add_in_place_and_the_full_one_needs_not() -> None:
    net, args = network()
    found: list[list[str]] = []

    def look(output: Any) -> Tensor:
        found.append(sliced(net))
        return loss(output)

    slim.EveryWidth(slim.Switches(0.5, 1.0)).backward(net, args, look)
    at_full, at_half = found
    assert not at_full
    assert {"stem.0.weight", "blocks.0.a.0.weight", "blocks.0.a.1.bias", "fc.weight"} <= set(at_half)


def test_small_parameters_are_left_to_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    net, args = network()
    monkeypatch.setattr(gradients, "SMALL", 5000)
    found: list[str] = []
    rule = slim.EveryWidth(slim.Switches(0.5, 1.0))
    rule.backward(net, args, lambda out: found.extend(sliced(net)) or loss(out))
    assert found == [name for name, p in net.named_parameters() if p.numel() > 5000]


class Wrapper(nn.Module):
    """What DistributedDataParallel is to the network in it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any) -> Any:
        return self.module(*args)


def compiled_in_place(net: nn.Module) -> nn.Module:
    net.compile(backend="eager")
    return net


@pytest.mark.parametrize("wrap", [Wrapper, compiled_in_place])
def test_wrapped_and_compiled_networks_see_ordinary_views(wrap: Callable[[nn.Module], nn.Module]) -> None:
    net, args = network("mlp")
    found: list[str] = []
    rule = slim.EveryWidth(slim.Switches(0.5, 1.0))
    rule.backward(wrap(net), args, lambda out: found.extend(sliced(net)) or loss(out))
    assert not found


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_see_what_they_always_saw(register: str) -> None:
    net, args = network()
    nets, seen = [net, copy.deepcopy(net)], ([], [])
    for run, one, calls in zip((by_rule, in_turns), nets, seen, strict=True):
        for name, p in list(one.named_parameters())[::2]:

            def hook(t: Tensor, name: str = name, calls: list[Any] = calls) -> Tensor | None:
                shown = t if register == "register_hook" else t.grad
                calls.append((name, shown.clone()))
                return 2 * t if register == "register_hook" else None

            getattr(p, register)(hook)
        run(one, args, RULES["sandwich"]())
    assert same(*nets)
    ours, expected = (sorted(calls, key=lambda call: call[0]) for calls in seen)
    assert [name for name, _ in ours] == [name for name, _ in expected]
    assert len(ours) == 4 * len(list(net.parameters())[::2])
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours, expected, strict=True))


def test_a_loss_may_differentiate_by_the_parameters() -> None:
    net, args = network("mlp")
    twin = copy.deepcopy(net)

    def penalised(one: nn.Module) -> Loss:
        def of(output: Tensor) -> Tensor:
            found = torch.autograd.grad(output.sum(), [*one.parameters()], create_graph=True)
            return loss(output) + sum(g.square().sum() for g in found)

        return of

    by_rule(net, args, RULES["sandwich"](), penalised(net))
    in_turns(twin, args, RULES["sandwich"](), penalised(twin))
    assert any(p.grad.any() for p in net.parameters())
    assert same(net, twin)


def test_a_graph_that_outlives_the_step_still_reaches_the_parameters() -> None:
    net, args = network("mlp")
    twin = copy.deepcopy(net)
    for run, one in ((by_rule, net), (in_turns, twin)):
        more: list[Tensor] = []
        run(one, args, RULES["sandwich"](), lambda out, one=one, more=more: more.append(loss(one(*args))) or loss(out))
        for value in more:
            value.backward()
    assert same(net, twin)


@pytest.mark.parametrize("clear", [None, torch.zeros_like])
def test_a_loss_may_clear_or_replace_gradients(clear: Any) -> None:
    net, args = network("mlp")
    twin = copy.deepcopy(net)

    def clearing(one: nn.Module) -> Loss:
        def of(output: Tensor) -> Tensor:
            for p in one.parameters():
                p.grad = clear(p) if clear else None
            return loss(output)

        return of

    by_rule(net, args, RULES["sandwich"](), clearing(net))
    in_turns(twin, args, RULES["sandwich"](), clearing(twin))
    assert same(net, twin)


def test_a_loss_may_copy_the_network_and_set_other_widths() -> None:
    net, args = network("mlp")
    twin, copies = copy.deepcopy(net), []

    def of(output: Tensor) -> Tensor:
        copies.append((copy.deepcopy(net), pickle.loads(pickle.dumps(net))))
        with slim.at_width(net, 0.4), torch.no_grad():
            net(*args)
        return loss(output)

    by_rule(net, args, RULES["sandwich"](), of)
    in_turns(twin, args, RULES["sandwich"]())
    assert same(net, twin)
    for one in (each for pair in copies for each in pair):
        assert not sliced(one)
        assert all(torch.equal(p, q) for p, q in zip(one.parameters(), net.parameters(), strict=True))


@pytest.fixture(params=[None, RuntimeError], ids=["finished", "failed"])
def after_a_step(request: pytest.FixtureRequest) -> Case:
    """A network in training, set to 0.5, after a step that ended well or in its last, narrowest, loss."""
    net, args = network()
    slim.set_width(net, 0.5)
    calls = []

    def of(output: Any) -> Tensor:
        calls.append(output.shape)
        if request.param and len(calls) == 4:
            raise request.param("the loss failed")
        return loss(output)

    try:
        slim.Sandwich(RANGE, 4).backward(net, args, of)
    except RuntimeError as error:
        assert "the loss failed" in str(error)
    assert len(calls) == 4
    return net, args


def test_modules_hold_ordinary_views_again(after_a_step: Case) -> None:
    net, _ = after_a_step
    fresh, _ = network()
    slim.set_width(fresh, 0.5)
    assert slim.current_width(net) == 0.5
    assert not sliced(net)
    for (name, m), (_, n) in zip(net.named_modules(), fresh.named_modules(), strict=True):
        for key, expected in n.__dict__.items():
            if isinstance(expected, Tensor):
                assert m.__dict__[key].shape == expected.shape, (name, key)
                assert (m.__dict__[key]._base is m._parameters[key]) == (expected._base is n._parameters[key])


def test_the_network_trains_copies_and_pickles_on(after_a_step: Case) -> None:
    net, args = after_a_step
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert slim.current_width(twin) == 0.5
        assert all(torch.equal(p, q) for p, q in zip(twin.parameters(), net.parameters(), strict=True))
    net.zero_grad()
    assert trained_alike(net, args)


def test_nothing_keeps_gradients_alive() -> None:
    net, args = network()
    slim.Sandwich(RANGE, 4).backward(net, args, loss)
    grads = [weakref.ref(p.grad) for p in net.parameters()]
    net.zero_grad()
    gc.collect()
    assert [ref() for ref in grads] == [None] * len(grads)
