"""What SlimPPO, SlimA2C, SlimDQN and SlimSAC share: a slimmable policy, a training rule, and the width that acts."""

from __future__ import annotations

import base64
import copy
import io
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from inspect import signature
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from slimlib.core.layout import Layout
from slimlib.core.random_numbers import own_random_numbers
from slimlib.core.slimming import Slimming
from slimlib.core.width import Switches, Width, WidthRange, Widths, as_widths, check_width
from slimlib.rl.batchnorm import check_targets, check_widths_run
from slimlib.rl.callbacks import at_full_width
from slimlib.rl.loading import attributes, check_algorithm, check_environment_fits, check_methods_stay, read_safely
from slimlib.rl.narrowing import narrow_policy_kwargs
from slimlib.rl.paths import check_rows
from slimlib.rl.policies import TARGETS, make_slimmable
from slimlib.rl.stability import STABILITY
from slimlib.saving import widths_from_json, widths_to_json
from slimlib.serving.extraction import extract
from slimlib.training.distillation import LARGEST, AveragedTeacher, lessons_named
from slimlib.training.rule import Rule
from slimlib.training.rules import check_for_policy, rule_named, rule_parameters, takes_lessons

Self = TypeVar("Self", bound="SlimAlgorithm")
BEHAVIOURS = ("full", "smallest", "sampled")
DIVISOR = {"divisor": 4}
DEFAULT_WIDTHS = WidthRange(0.25, 1.0)
WEIGHT = 0.1  # of distillation in each narrow width
OWN = (
    "slim_widths",
    "slim_layout",
    "slim_random",
    "rule_name",
    "samples",
    "rule_options",
    "distill",
    "distill_values",
    "lesson",
    "stability",
    "behaviour",
    "convert_options",
)
"""The attributes that the plain algorithm does not have; all are plain data, which any reader of the file can skip."""


class SlimAlgorithm:
    """Mixin in front of an algorithm of stable-baselines3, whose constructor arguments it keeps.

    What a slimmable policy costs: with four widths an update takes about as long as those of the four ordinary policies
    together, and a training on CartPole twice as long as an ordinary one. Until its full width solves an
    environment it takes 1.0 to 1.2 times the steps (A2C on the identity task, PPO on CartPole and Acrobot); with
    lessons as published, `stability="none"` and `lesson={"weight": 1.0}`, 1.7 to 2.1 times.

    Args:
        widths: that the policy is trained for, `WidthRange` or `Switches`; the largest must be 1.0, or a plan of all
            units.
        rule: which widths an update trains: sandwich (by default, of a range), random, smallest-random,
            largest-random, every (by default, of switches), or largest: plain training, of a policy that is cut
            down afterwards.
        samples: widths an update; not for every and largest.
        rule_options: further parameters of the rule, by name.
        distill: all but the largest width learn from the largest: by the KL divergence between their action
            distributions (PPO, A2C, SAC), or by its Q-values (DQN). False: from the algorithm's own loss.
        distill_values: weight of the squared difference of the values (SAC: Q-values) in distillation. In PPO and
            A2C it shares the limit on the norm of the gradient with the policy, which it can starve.
        lesson: more of what the widths learn from, as plain data: `data`, `weight` and `teacher` of a
            `slimlib.Lesson`, and those of the `smallest` and the `largest` width where they differ, for example
            {"data": 0.5, "weight": 1.0, "teacher": {"averaged": {"decay": 0.997}}}. By default distillation
            weighs 0.1 in the loss of each narrow width, which PPO and A2C needed least steps with; an action of several
            parts needs less, such as 0.01.
        stability: how the narrow widths are kept from slowing down the full one, which shares its weights with them.
            certainty (by default, but in DQN): they make it no surer of its actions than its returns do (where the rule
            trains it); clip (not in SAC): the gradient of each width is clipped by itself; conflict: what points
            against the gradient of the full width, which the rule must train each time, is taken out; late: they begin
            after half of the training; ratio (PPO): each width is compared with old probabilities of its own; none (by
            default in DQN). See `slimlib.rl.stability`.
        behaviour: the width that acts in training: full, smallest, a number, or sampled: another for each rollout.
            With a BatchNorm in the policy, all but full need {"norm": "shared"} in `convert_options`, or, in PPO and
            A2C with `Switches`, "switchable".
        convert_options: further arguments of `slimlib.convert`: divisor, divisors, keep, norm; by default
            {"divisor": 4}.

    Raises:
        ValueError: an argument is impossible, or the policy cannot be made slimmable.

    Source: Yu & Huang 2019 (US-Nets), sandwich rule and in-place distillation.
    """

    plain: ClassVar[type[BaseAlgorithm]]
    values_apart: ClassVar[bool] = True
    """Whether there are values beside what the policy acts by."""
    stabilities: ClassVar[tuple[str, ...]] = ("none", "clip", "conflict", "late")
    """What `stability` may be; first the default."""
    slim_layout: dict[str, Any] | None = None
    slim_random: Mapping[str, Any] | None = None
    rule_options: Mapping[str, Any] = {}
    lesson: Mapping[str, Any] = {}
    rule: Rule

    def __init__(
        self,
        *args: Any,
        widths: Widths = DEFAULT_WIDTHS,
        rule: str | None = None,
        samples: int = 4,
        rule_options: Mapping[str, Any] | None = None,
        distill: bool = True,
        distill_values: float = 0.0,
        lesson: Mapping[str, Any] | None = None,
        stability: str | None = None,
        behaviour: str | float = "full",
        convert_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.slim_widths, self.samples = widths_to_json(as_widths(widths)), samples
        self.rule_name = rule or _default_rule(widths)
        self.rule_options, self.lesson = dict(rule_options or {}), dict(lesson or {})
        self.distill, self.distill_values, self.behaviour = distill, distill_values, behaviour
        self.stability = stability or self.stabilities[0]
        self.convert_options = DIVISOR | dict(convert_options or {})
        self._check()
        super().__init__(*args, **kwargs)

    def _check(self) -> None:
        rule = self._make_rule(seed=0)
        if self.stability not in self.stabilities:
            raise ValueError(
                f"stability {self.stability!r} must be one of {', '.join(self.stabilities)} for {type(self).__name__}"
            )
        check_for_policy(self.rule_name, rule, self.stability)
        if isinstance(self.behaviour, str) and self.behaviour not in BEHAVIOURS:
            raise ValueError(f"behaviour {self.behaviour!r} must be full, smallest, sampled, or a width such as 0.5")
        if not isinstance(self.behaviour, str):
            check_width(self.behaviour, self.widths)
        if not self.distill_values >= 0:
            raise ValueError(f"distill_values {self.distill_values!r} is a weight, at least 0")
        if self.distill_values and not self.distill:
            raise ValueError("distill_values is a part of distillation, and distill is False")
        if self.distill_values and not self.values_apart:
            raise ValueError(
                f"{type(self).__name__} acts by its values, which distill=True regresses; leave out distill_values"
            )

    @property
    def widths(self) -> Widths:
        """What the policy is trained for, and may be set to."""
        return widths_from_json(self.slim_widths)

    def _setup_model(self) -> None:
        self._check()
        full: Any = self
        check_rows("observations", full.observation_space)
        check_rows("actions", full.action_space)
        super()._setup_model()  # type: ignore[misc]
        known = None if self.slim_layout is None else _read_layout(self.slim_layout)
        policy: Any = self.policy  # type: ignore[attr-defined]
        make_slimmable(policy, widths=self.widths, options=self.convert_options, layout=known)
        check_targets(policy)
        if self.behaviour != "full":
            acting = [self.behaviour] if not isinstance(self.behaviour, str) else [self.widths.smallest]
            check_widths_run(f"behaviour={self.behaviour!r}", policy, acting)
        self.slim_layout = self.slimming.layout.to_json()
        self.rule = self._make_rule(self._seed)
        self.stabilizer = STABILITY[self.stability](self)
        if self.slim_random is not None:
            self.rule.load_state_dict(from_plain(self.slim_random))

    @property
    def slimming(self) -> Slimming:
        """The state of the policy: its width, and what widths there are."""
        state: Slimming = self.policy.slim  # type: ignore[attr-defined]
        return state

    @property
    def narrow_actors_alone(self) -> bool:
        """Whether the narrow widths learn from nothing but the actions of the full one."""
        _, *narrow = self.rule.lessons.all
        teachers = all(isinstance(lesson.teacher, type(LARGEST) | AveragedTeacher) for lesson in narrow)
        return self.distill and not self.distill_values and teachers and not any(lesson.data for lesson in narrow)

    @property
    def _seed(self) -> int:
        return self.seed or 0  # type: ignore[attr-defined]

    def _make_rule(self, seed: int) -> Rule:
        lessons = None
        if self.lesson or (self.distill and takes_lessons(self.rule_name)):
            weight = {"weight": WEIGHT} if self.distill else {}
            lessons = lessons_named(self.distillation if self.distill else None, **weight | dict(self.lesson))
        options: dict[str, Any] = {"samples": self.samples} if "samples" in rule_parameters(self.rule_name) else {}
        return rule_named(self.rule_name, self.widths, lessons=lessons, seed=seed, **options | dict(self.rule_options))

    def distillation(self, student: Any, teacher: Any) -> Tensor:
        """How far the outputs of a narrow width are from those of the largest: a scalar."""
        raise NotImplementedError

    def uncertainties(self, output: Any) -> list[tuple[nn.Module, Tensor]]:
        """How unsure the outputs of a policy are: a scalar of each layer that makes its actions."""
        raise NotImplementedError

    # -- the width that acts

    def _init_callback(self, callback: Any, progress_bar: bool = False) -> Any:
        return super()._init_callback(at_full_width(callback), progress_bar)  # type: ignore[misc]

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> Any:
        # Not `at_width`, which looks for slimmable parts: DQN and SAC come here for every step of the environment.
        state = self.slimming
        before = state.width
        if state.stale():
            state.refresh()
        state.set(self._next_behaviour())
        try:
            return super().collect_rollouts(*args, **kwargs)  # type: ignore[misc]
        finally:
            state.set(before)

    def _next_behaviour(self) -> Width:
        widths = self.slimming.widths
        if not isinstance(self.behaviour, str):
            return self.behaviour
        if self.behaviour != "sampled":
            return widths.largest if self.behaviour == "full" else widths.smallest
        # Of the step that the rollout begins at alone, so that a resumed training draws the same.
        steps: int = self.num_timesteps  # type: ignore[attr-defined]
        drawn = float(np.random.default_rng([self._seed, steps]).random())
        if isinstance(widths, Switches):
            return widths.widths[int(drawn * len(widths.widths))]
        return widths.smallest + (widths.largest - widths.smallest) * drawn

    # -- files

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.slim_random = to_plain(self.rule.state_dict())
        super().save(*args, **kwargs)  # type: ignore[misc]

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "rule", "stabilizer"]  # type: ignore[misc]

    @classmethod
    def load(
        cls: type[Self],
        path: Any,
        env: Any = None,
        device: Any = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        *,
        trusted: bool = False,
        allow: Sequence[Any] = (),
        **kwargs: Any,
    ) -> Self:
        """Load a model that this class saved, or one that the plain algorithm did, which becomes slimmable.

        Only what is known to be harmless is unpickled.

        Args:
            path: the file, with or without its ending ".zip", or an open one.
            env: an environment to go on with; None: none.
            device: where to; "auto": a GPU if there is one.
            custom_objects: attribute -> value that is taken in place of the one in the file.
            print_system_info: print the system that the model was saved on, and this one.
            force_reset: reset the environment before the next training.
            **kwargs: attributes to change; with a plain model also `widths=...` and the other arguments of the
                constructor. Other widths of a slimmable model change no layers: those that slim in the file do. The
                default rule of a range becomes that of switches, and the reverse.
            trusted: let stable-baselines3 unpickle everything in the file, which can run any code.
            allow: classes and functions of your own that the file may refer to.

        Raises:
            UnsafeModelError: the file holds or refers to code that is not known.
            ValueError: it is no model, one of another algorithm, or of another environment; or an argument does not
                exist, or is wrong.
        """
        given = dict(custom_objects or {})
        arguments, kwargs = kwargs, _as_attributes(kwargs)
        if trusted:
            data = attributes(path)
        else:
            kept = ("policy_kwargs", "slim_widths")  # those of the file are compared with what is given
            replaced = {name: value for name, value in kwargs.items() if name not in kept}
            data = read_safely(path, allow=allow, custom_objects=replaced | given)
        cls._check_arguments(arguments, data)
        if "widths" in arguments and data.get("rule_name") == _default_rule_of(data):
            kwargs.setdefault("rule_name", _default_rule(arguments["widths"]))
        check_algorithm(path, data, cls.plain)
        if not trusted:
            check_methods_stay(path, data, cls.plain)
            if env is not None:
                check_environment_fits(path, data, env)
            given = data | given
        loaded: Self = super().load(path, env, device, given, print_system_info, force_reset, **kwargs)  # type: ignore[misc]
        return loaded

    @classmethod
    def _check_arguments(cls, given: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        known = {*signature(SlimAlgorithm).parameters, *signature(cls.plain).parameters} - {"args", "kwargs"}
        for name in given.keys() - known - data.keys():
            close = get_close_matches(name, known, n=1)
            advice = f"did you mean {close[0]}?" if close else f"{cls.__name__} takes {', '.join(sorted(known))}"
            raise ValueError(
                f"{cls.__name__}.load got {name}={given[name]!r}, which is not one of its arguments; {advice}"
            )

    def extract(self, width: Width) -> BaseAlgorithm:
        """An ordinary model of stable-baselines3 with the policy of one width: it loads and trains without slimlib.

        It has no environment; `set_env` gives it one.

        Raises:
            ValueError: the width is not allowed.
        """
        full: Any = self
        narrow = extract(full.policy, width)
        modules, variables = full._get_torch_save_params()
        left_out = {*full._excluded_save_params(), *(name.split(".")[0] for name in (*modules, *variables)), *OWN}
        kept = {name: value for name, value in full.__dict__.items() if name not in left_out}
        plain: Any = self.plain
        made = plain(full.policy_class, None, device=full.device, _init_setup_model=False)
        made.__dict__.update(copy.deepcopy(kept), policy_kwargs=narrow_policy_kwargs(narrow, full.policy_kwargs))
        with own_random_numbers():
            made._setup_model()
        made.policy.load_state_dict(_with_targets(narrow.state_dict()))
        for name in variables:
            getattr(made, name).data.copy_(getattr(full, name).data)
        made.policy.set_training_mode(False)
        narrowed: BaseAlgorithm = made
        return narrowed


def to_plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """A rule's state as stable-baselines3 writes it without pickle: numbers, and text for what holds tensors."""
    plain = dict(state)
    if "averages" in state:
        buffer = io.BytesIO()
        torch.save(state["averages"], buffer)
        plain["averages"] = base64.b64encode(buffer.getvalue()).decode()
    return plain


def from_plain(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The state that `to_plain` wrote."""
    state = dict(plain)
    if "averages" in plain:
        state["averages"] = torch.load(io.BytesIO(base64.b64decode(plain["averages"])), weights_only=True)
    return state


def _default_rule(widths: Widths) -> str:
    return "every" if isinstance(widths, Switches) else "sandwich"


def _default_rule_of(data: Mapping[str, Any]) -> str | None:
    """That of the widths in a file; None: of an ordinary model."""
    return _default_rule(widths_from_json(data["slim_widths"])) if "slim_widths" in data else None


def _as_attributes(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the constructor under the names, and in the form, that a model keeps them in."""
    kept = dict(given)
    if "rule" in kept:
        kept["rule_name"] = kept.pop("rule")
    if "widths" in kept:
        kept["slim_widths"] = widths_to_json(as_widths(kept.pop("widths")))
    if "convert_options" in kept:
        kept["convert_options"] = DIVISOR | dict(kept["convert_options"])
        kept["slim_layout"] = None  # that of the file rounds by other divisors
    return kept


def _read_layout(saved: Mapping[str, Any]) -> Layout:
    try:
        return Layout.from_json(saved)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"the model's slim_layout is damaged ({type(error).__name__}: {error})") from None


def _with_targets(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A narrow policy's state, its target networks, which are those of the full width, begun anew from the others."""
    online = {target: own for target, own in TARGETS.items() if any(name.startswith(target) for name in state)}
    made = dict(state)
    for target, own in online.items():
        made |= {target + n.removeprefix(own): t.clone() for n, t in state.items() if n.startswith(own)}
    return made
