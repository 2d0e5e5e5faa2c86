"""Policies of stable-baselines3 made slimmable: what reaches actions and values stays full, all hidden layers slim."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import get_device
from torch import nn

from slimlib.convert import check_divisors, convert
from slimlib.core.layout import Layout
from slimlib.core.random_numbers import own_random_numbers
from slimlib.core.statistics import OfWidth
from slimlib.core.swapping import SwapsOut, dense_class, no_inference_mode, slim_class
from slimlib.core.tracing import cut_in_graph
from slimlib.core.width import Width, WidthPlan, Widths, as_widths, by_size, round_channels
from slimlib.flow import FlowError, follow
from slimlib.rl.noise import NoiseOfAnyWidth, forget_samples
from slimlib.rl.paths import computing, path_of
from slimlib.rl.policy_files import ABOUT, read_policy
from slimlib.saving import widths_from_json, widths_to_json
from slimlib.serving.freezing import CANNOT_TRAIN
from slimlib.training.named import unknown

OPTIONS = ("divisor", "divisors", "keep", "norm")
"""Arguments of `slimlib.convert` that may be chosen."""
TARGETS = {"q_net_target.": "q_net.", "critic_target.": "critic."}
CRITICS = ("mlp_extractor.value_net.", "vf_features_extractor.", "value_net.", "critic.")
"""Names of what values alone are computed with begin so."""


class FrozenPolicy:
    """Mixin of a frozen policy, which is in eval mode and stays there."""

    def set_training_mode(self, mode: bool) -> None:
        if mode:
            raise RuntimeError(CANNOT_TRAIN)

    def save(self, path: Any) -> None:
        raise RuntimeError(
            "a frozen policy is a snapshot for serving, which no file holds; save the policy that it was made from, or "
            "slimlib.extract(policy, width)"
        )

    @property
    def device(self: Any) -> torch.device:
        modules = (module.__dict__ for module in self.modules())
        where: torch.device = next(m[name].device for m in modules for name in m.get("frozen_names", ()))
        return where


class SlimPolicy(SwapsOut):
    """Mixin of a slimmable policy."""

    frozen_mixins = (FrozenPolicy,)

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_exporting():
            with cut_in_graph(self):
                return nn.Module.__call__(self, *args, **kwargs)
        return nn.Module.__call__(self, *args, **kwargs)  # replaced parameters are looked for once a rollout

    modes: list[nn.Module] | None = None

    def set_training_mode(self: Any, mode: bool) -> None:
        """As the policy's own, which visits every module, and which each `predict` calls."""
        if self.modes is None:
            plain = all(type(module).train is nn.Module.train for module in self.modules())
            self.__dict__["modes"] = self._modes_that_follow() if plain else []
        if not self.modes:
            super().set_training_mode(mode)  # type: ignore[misc]
        for module in self.modes:
            module.__dict__["training"] = mode

    def _modes_that_follow(self: Any) -> list[nn.Module]:
        """The modules whose mode the policy sets: target networks, say, always stay in eval."""
        modules = list(self.modules())
        before = [module.training for module in modules]
        super().set_training_mode(False)  # type: ignore[misc]
        off = [module.training for module in modules]
        super().set_training_mode(True)  # type: ignore[misc]
        on = [module.training for module in modules]
        for module, mode in zip(modules, before, strict=True):
            module.__dict__["training"] = mode
        return [m for m, was, now in zip(modules, off, on, strict=True) if now and not was]

    def in_targets(self: Any) -> dict[nn.Parameter, nn.Parameter]:
        """Parameters -> what is in their place in the target network, which keeps all channels, and in their order."""
        named = dict(self.named_parameters())
        pairs = [(own + n.removeprefix(t), n) for n in named for t, own in TARGETS.items() if n.startswith(t)]
        return {named[path]: named[name] for path, name in pairs}

    def load_from_vector(self: Any, vector: np.ndarray) -> None:
        super().load_from_vector(vector)  # type: ignore[misc]
        self.slim.refresh()  # it replaces `parameter.data`

    def save(self: Any, path: Any) -> None:
        """As the policy's own, which can load the file; layout and widths are in it, too."""
        about = {
            "layout": self.slim.layout.to_json(),
            "widths": widths_to_json(self.slim.widths),
            "norm": self.slim.norm.name,
        }
        data = self._get_constructor_parameters()
        if hasattr(self, "share_features_extractor"):  # left out by stable-baselines3
            data["share_features_extractor"] = self.share_features_extractor
        content = {"state_dict": self.state_dict(), "data": data}
        torch.save(content | {ABOUT: {"class": dense_class(type(self)), **about}}, path)

    @classmethod
    def load(cls, path: Any, device: Any = "auto", **safety: Any) -> BasePolicy:
        """The slimmable policy that `save` wrote; see `load_policy`."""
        loaded = load_policy(path, device, **safety)
        if dense_class(type(loaded)) is not dense_class(cls):
            raise ValueError(
                f"the policy in {path} is a {dense_class(type(loaded)).__name__}, and no {dense_class(cls).__name__}"
            )
        return loaded

    def __getstate__(self: Any) -> dict[str, Any]:
        for module in self.modules():
            forget_samples(module.__dict__.get("action_dist"))
        return {name: value for name, value in super().__getstate__().items() if name != "modes"}


def load_policy(path: Any, device: Any = "auto", *, trusted: bool = False, allow: Sequence[Any] = ()) -> BasePolicy:
    """The slimmable policy that `model.policy.save(path)` wrote, at its full width, with nothing else of the model.

    Only what is known to be harmless is unpickled.

    Args:
        path: the file, or an open one.
        device: where the policy goes, for example "cpu".
        trusted: let torch unpickle everything in the file, which can run any code.
        allow: classes and functions of your own that the file may refer to.

    Raises:
        UnsafeModelError: the file holds or refers to code that is not known.
        ValueError: it is damaged, or holds no slimmable policy; or `allow` is no list.
    """
    device = get_device(device)
    saved = read_policy(path, device, trusted=trusted, allow=allow)
    about = saved[ABOUT]
    policy: BasePolicy = about["class"](**saved["data"])
    layout, widths = Layout.from_json(about["layout"]), widths_from_json(about["widths"])
    make_slimmable(policy, widths=widths, options={"norm": about["norm"]}, layout=layout)
    policy.load_state_dict(saved["state_dict"])
    return policy.to(device)


def make_slimmable(
    policy: BasePolicy, *, widths: Widths, options: Mapping[str, Any], layout: Layout | None = None
) -> BasePolicy:
    """Make a policy slimmable, in place; `slimlib.set_width(policy, width)` then sets what it acts with.

    Target networks stay full.

    Args:
        policy: an actor-critic (PPO, A2C), DQN or SAC policy of stable-baselines3, with any features extractor, with
            or without state-dependent noise.
        widths: what may be set; the largest must be 1.0, or a plan of all units, which the target networks have.
        options: further arguments of `slimlib.convert`: `divisor`, `divisors`, `keep` and `norm`.
        layout: of this very policy, where it is known: it says what slims, whatever the widths.

    Warns:
        UserWarning: a layer has less than one unit at the smallest width, and so stays full, where others slim; or
            nothing slims but the critic.

    Raises:
        ValueError: the policy is of another family or slimmable already, nothing in it slims, or there is no such
            option; or what `convert` raises.
    """
    path = path_of(policy)
    if isinstance(policy, SwapsOut):
        raise ValueError(f"this {type(policy).__name__} is slimmable already; set a width with slimlib.set_width")
    for name in options:
        if name not in OPTIONS:
            raise unknown("option of slimlib.convert:", name, OPTIONS)
    noise: list[Any] = [m.__dict__["action_dist"] for m in policy.modules() if "action_dist" in m.__dict__]
    for each in noise:
        forget_samples(each)
    widths = as_widths(widths)
    smallest, largest = sorted((widths.smallest, widths.largest), key=by_size)
    if not isinstance(largest, WidthPlan) and largest != 1.0:
        raise ValueError(
            f"the largest width must be 1.0, not {largest}; for a narrower policy make its net_arch smaller"
        )
    if layout is None:
        with computing(policy, path), own_random_numbers(), no_inference_mode():
            layout = _found_layout(policy, path.example(policy), smallest, options)
    if isinstance(largest, WidthPlan) and largest.channels != layout.full:
        raise ValueError(
            f"the largest width must be all of the policy, {WidthPlan(layout.full)}, and not {largest}; add it to the "
            "Switches"
        )
    _check_slims(policy, layout, smallest)
    convert(policy, None, widths=widths, norm=options.get("norm", "universal"), layout=layout)
    _optimize_private(policy)
    for each in noise:
        if isinstance(each, StateDependentNoiseDistribution):
            each.__class__ = NoiseOfAnyWidth
    policy.__class__ = slim_class(type(policy), (SlimPolicy,))
    return policy


def _found_layout(policy: BasePolicy, example: Any, smallest: Width, options: Mapping[str, Any]) -> Layout:
    """What slims; layers too small for the smallest width stay full, unless there are only such."""
    check_divisors(options.get("divisor", 1), options.get("divisors") or {})
    given = {name: value for name, value in options.items() if name not in ("norm", "keep")}
    keep = list(options.get("keep", ()))
    try:
        layout = follow(policy, example, keep=keep, **given)
    except FlowError as error:
        hidden: Any = policy.net_arch
        sizes = [size for part in hidden.values() for size in part] if isinstance(hidden, dict) else hidden
        if "nothing slims" not in str(error) or any(size > 1 for size in sizes):
            raise
        raise ValueError(
            f"{error}. Without hidden layers of several units a policy is the same at every width: give it some, for "
            "example policy_kwargs={'net_arch': [64, 64]}, or train it with stable-baselines3 itself"
        ) from None
    units = 1 if isinstance(smallest, WidthPlan) else ceil(1 / smallest)  # a plan has a number for small groups, too
    small = [group for group in layout.groups if group.units < units]
    if small and len(small) < len(layout.groups):
        names = [name for group in small for name in group.layers]
        warnings.warn(
            f"at every width all units of {', '.join(names)} are active: at {smallest:g}, the smallest, they would "
            f"have less than one. With {units} units or more in net_arch they slim",
            stacklevel=2,
        )
        layout = follow(policy, example, keep=[*keep, *names], **given)
    elif all(name.startswith(CRITICS) for name in layout.axes):
        warnings.warn(
            "the actor of this policy has nothing that slims, and acts alike at every width; only its critic slims. "
            "Give the actor hidden layers of several units in net_arch",
            stacklevel=2,
        )
    return layout


def _check_slims(policy: BasePolicy, layout: Layout, smallest: Width) -> None:
    if isinstance(smallest, WidthPlan) or smallest == 1:
        return
    if all(round_channels(g.units, smallest, g.divisor) == g.units for g in layout.groups):
        sizes = ", ".join([f"'{group.name}' has {group.units} units" for group in layout.groups])
        raise ValueError(
            f"nothing slims in this {type(policy).__name__}: at the smallest width {smallest:g} every layer has all "
            f"its units ({sizes}). Give it more units in net_arch, or lower the smallest width"
        )


def _optimize_private(policy: BasePolicy) -> None:
    """What switches have alone was not there when the policy made its optimizers: it goes to what it was copied from.

    Private parameters that no optimizer has would not learn, and their gradients would add up for ever.
    """
    optimizers = [module.__dict__["optimizer"] for module in policy.modules() if "optimizer" in module.__dict__]
    for group in [group for optimizer in optimizers for group in optimizer.param_groups]:
        known = {id(parameter) for parameter in group["params"]}
        for module in policy.modules():
            for name, own in module._parameters.items():
                of = OfWidth.parse(name)
                if of is not None and id(module._parameters[of.key]) in known:
                    group["params"].append(own)
