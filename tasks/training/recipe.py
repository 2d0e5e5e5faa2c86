"""A recipe: all that decides how one row of an ablation is trained, apart from the task itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from torch import nn

import slimlib as slim
from slimlib.training.distillation import DISTILLATIONS, Distillation, as_lessons, kl_divergence
from slimlib.training.rule import Rule
from slimlib.training.rules import RULES, rule_named, rule_parameters, takes_lessons
from tasks.choices import check_choice, check_keys, check_number, check_whole
from tasks.task import SupervisedTask
from tasks.training.seeds import derive_seed

KINDS = ("individual", "slimmable")
TEACHING_RULES = ("sandwich", "largest-random", "every")
WITHOUT_SAMPLES = ("every", "largest")
NORMS = ("universal", "switchable", "shared", "group")
AVERAGES = ("exact", "moving")
IMAGES = ("augmented", "plain")
DRAWS = ("uniform", "nonuniform")
MEASURED = ("calibrate", "average", "calibrate_on", "tested", "spectrum")
"""Keys that decide how a trained network is scored, and nothing of its training."""
LATER = ("calibrate_on", "trained", "tested", "spectrum", "behaviour", "distill_values")
"""Keys that were not always there; at their default they are left out, so that older records keep their hash."""
ACTING = ("behaviour", "distill_values")
"""Keys that only a policy has a meaning for."""
BEHAVIOURS = ("full", "smallest", "sampled")


class HasWidths(Protocol):
    """A task, or its settings."""

    @property
    def widths(self) -> tuple[float, ...]:
        """Which are evaluated."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How one network (slimmable), or one for each evaluated width (individual), is trained.

    Attributes:
        name: of the row in tables.
        kind: "individual": ordinary networks, one built and trained for each evaluated width, with the
            same number of optimizer steps each; "slimmable": one network for all.
        range: (smallest, largest) of a universally slimmable network; or
        switches: the widths of a switchable one.
        rule: which widths a step trains: sandwich, random, smallest-random, largest-random; every (switches only);
            largest: an ordinary network that is cut down afterwards.
        samples: widths a step; not for `every` and `largest`.
        distill: what all but the largest width learn from: none (the data), l1, mse, soft_cross_entropy,
            kl_divergence; of policies none or outputs (action distributions, or Q-values).
        temperature: of kl_divergence.
        norm: BatchNorm: universal, switchable, shared; or group: GroupNorm in its place, which needs no statistics.
        calibrate: training batches that BatchNorm statistics are computed from after training; 0: none,
            every width is scored with those of the full width.
        average: of the statistics over these batches: exact, moving.
        calibrate_on: the images of these batches: augmented as in training, or plain.
        trained: random widths are uniform, one number for the network, or nonuniform, one for each group of layers.
        tested: the same, of the widths that are scored; nonuniform: the mean over several random plans around
            each width.
        spectrum: so many evenly spaced widths are scored in place of the task's; 0: the task's.
        behaviour: the width of a policy that acts in training: full, smallest, sampled for each rollout, or a number.
        distill_values: weight of the values in the distillation of a policy.

    Raises:
        ValueError: a value is impossible, or a key has no meaning for this kind or rule.
    """

    name: str
    kind: str = "slimmable"
    range: tuple[float, float] | None = None
    switches: tuple[float, ...] | None = None
    rule: str | None = None
    samples: int | None = None
    distill: str = "none"
    temperature: float | None = None
    norm: str = "universal"
    calibrate: int = 16
    average: str = "exact"
    calibrate_on: str = "augmented"
    trained: str = "uniform"
    tested: str = "uniform"
    spectrum: int = 0
    behaviour: str | float = "full"
    distill_values: float = 0.0

    def __post_init__(self) -> None:
        check_choice("kind of recipe", self.kind, KINDS)
        if self.kind == "individual":
            self._check_individual()
            return
        if (self.range is None) == (self.switches is None):
            raise ValueError("a slimmable recipe needs its widths: either range: [0.25, 1.0] or switches: [0.5, 1.0]")
        self._check_rule()
        check_choice("distillation", self.distill, ("none", *DISTILLATIONS, "outputs"))
        if self.distill != "none" and self.rule not in TEACHING_RULES:
            raise ValueError(
                f"rule '{self.rule}' cannot distil: the largest width, which teaches, is not in every step"
            )
        if self.temperature is not None:
            if self.distill != "kl_divergence":
                raise ValueError("temperature belongs to distill: kl_divergence")
            kl_divergence(self.temperature)
        check_choice("norm", self.norm, NORMS)
        if self.norm == "switchable" and self.switches is None:
            raise ValueError("norm: switchable needs switches, not a range")
        check_whole("calibrate", self.calibrate, at_least=0)
        check_choice("average", self.average, AVERAGES)
        check_choice("kind of images in calibrate_on", self.calibrate_on, IMAGES)
        self._check_spectrum()
        self._check_acting()
        self.make_rule(0)

    def _check_spectrum(self) -> None:
        for key in ("trained", "tested"):
            check_choice(f"value of {key}", getattr(self, key), DRAWS)
            if getattr(self, key) == "nonuniform" and self.range is None:
                raise ValueError(f"{key}: nonuniform needs a range of widths, not switches")
        if self.trained == "nonuniform" and self.rule != "sandwich":
            raise ValueError("trained: nonuniform needs rule: sandwich")
        check_whole("spectrum", self.spectrum, at_least=0)
        if self.spectrum == 1 or (self.spectrum and self.range is None):
            raise ValueError("spectrum is a number of widths, at least 2, over a range")

    def _check_acting(self) -> None:
        if isinstance(self.behaviour, str):
            check_choice("behaviour", self.behaviour, BEHAVIOURS)
        else:
            check_number(
                "behaviour", self.behaviour, lambda width: width in self.widths(), f"a width of {self.widths()}"
            )
        check_number(
            "distill_values", self.distill_values, lambda weight: 0 <= weight < math.inf, "a weight, at least 0"
        )
        if self.distill_values and self.distill != "outputs":
            raise ValueError("distill_values belongs to distill: outputs")

    def check_for(self, task: str) -> None:
        """Raise ValueError where a key has no meaning for a task."""
        default = Recipe.__dataclass_fields__
        if task == "rl":
            check_choice("distillation of a policy", self.distill, ("none", "outputs"))
            foreign = [key for key in ("trained", "tested") if getattr(self, key) != default[key].default]
        else:
            foreign = [key for key in ACTING if getattr(self, key) != default[key].default]
            foreign += ["distill: outputs"] if self.distill == "outputs" else []
        if foreign:
            raise ValueError(f"recipe '{self.name}': '{foreign[0]}' has no meaning for task={task}")

    def _check_individual(self) -> None:
        plain = Recipe.__dataclass_fields__
        extra = [key for key in plain if key not in ("name", "kind") and getattr(self, key) != plain[key].default]
        if extra:
            raise ValueError(f"'{extra[0]}' has no meaning for individual networks")

    def _check_rule(self) -> None:
        check_choice("width rule", self.rule, RULES)
        if self.rule == "every" and self.switches is None:
            raise ValueError("rule: every needs switches, not a range")
        if self.rule in WITHOUT_SAMPLES:
            if self.samples is not None:
                raise ValueError(f"'samples' has no meaning for rule: {self.rule}")
        else:
            check_whole("samples", self.samples, at_least=1)

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Recipe:
        """The recipe that a settings file describes.

        Raises:
            ValueError: an unknown key or an impossible value, with the recipe's name and the nearest right one.
        """
        name = str(given.get("name", "without a name"))
        try:
            check_keys("a recipe", given, cls)
            values = dict(given)
            for key in ("range", "switches"):
                values[key] = None if values.get(key) is None else _widths(key, values[key])
            if values["range"] is not None and len(values["range"]) != 2:
                raise ValueError(f"range is [smallest, largest]; got {list(values['range'])}")
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"recipe '{name}': {error}") from None

    def settings(self) -> dict[str, Any]:
        """What decides the result, as plain values: everything but the name."""
        default = Recipe.__dataclass_fields__
        given = asdict(self)
        return {k: v for k, v in given.items() if k != "name" and not (k in LATER and v == default[k].default)}

    def training(self) -> dict[str, Any]:
        """What of the settings decides the trained network; recipes that agree in it can share one."""
        return {key: value for key, value in self.settings().items() if key not in MEASURED}

    def widths(self) -> slim.WidthRange | slim.Switches:
        """What the slimmable network may be set to."""
        if self.switches is not None:
            return slim.Switches(*self.switches)
        assert self.range is not None
        return slim.WidthRange(*self.range)

    def evaluated(self, task: HasWidths) -> tuple[float, ...]:
        """The widths that this recipe is scored at: its switches, or those of the task that it allows."""
        if self.kind == "individual":
            return tuple(task.widths)
        if self.switches is not None:
            return self.switches
        if self.spectrum:
            return tuple(evenly_spaced(*self.range, self.spectrum))  # type: ignore[misc]
        inside = tuple(width for width in task.widths if width in self.widths())
        if not inside:
            raise ValueError(f"recipe '{self.name}': no evaluated width of {list(task.widths)} is in {self.widths()}")
        return inside

    def make_rule(self, seed: int) -> Rule:
        """The training rule, its random widths derived from the recipe's seed."""
        assert self.rule is not None
        name = "nonuniform" if self.trained == "nonuniform" else self.rule
        lessons = as_lessons(self.distillation(), None) if takes_lessons(name) else None
        own = {"samples": self.samples} if "samples" in rule_parameters(name) else {}
        return rule_named(name, self.widths(), lessons=lessons, seed=derive_seed(seed, "widths"), **own)

    def distillation(self) -> Distillation | None:
        """The loss of all but the largest width, or None."""
        if self.temperature is not None:
            return kl_divergence(self.temperature)
        return DISTILLATIONS[self.distill]() if self.distill in DISTILLATIONS else None

    def build(self, task: SupervisedTask, width: float = 1.0) -> nn.Module:
        """The task's dense network, with the normalisation that the recipe asks for."""
        return task.build(width, norm="group" if self.norm == "group" else "batch")

    def convert(self, dense: nn.Module, task: SupervisedTask) -> nn.Module:
        """Make the task's network slimmable, in place."""
        norm = "universal" if self.norm == "group" else self.norm
        return slim.convert(dense, task.example(), widths=self.widths(), norm=norm, **task.channel_rule(dense))  # type: ignore[arg-type]


def evenly_spaced(smallest: float, largest: float, count: int) -> list[float]:
    """`count` widths from `smallest` to `largest`, in the four digits that tables and records show."""
    return [round(smallest + (largest - smallest) * i / (count - 1), 4) for i in range(count)]


def _widths(key: str, given: Any) -> tuple[float, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(f"{key} is a list of widths; got {given!r}")
    for width in given:
        if isinstance(width, bool) or not isinstance(width, int | float) or not math.isfinite(width):
            raise ValueError(f"{key}: {width!r} is not a width")
    return tuple(float(width) for width in given)
