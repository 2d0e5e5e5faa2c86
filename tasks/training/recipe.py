"""A recipe: all that decides how one row of an ablation is trained, apart from the task itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import ConfigDict, Field, model_validator
from torch import nn

import slimlib as slim
from slimlib.core.norms import NORMS
from slimlib.dynamic.cutting import modules_before
from slimlib.models.resnet import zero_last_scales
from slimlib.training.distillation import DISTILLATIONS, LESSON, Distillation, Lessons, lesson_settings, lessons_named
from slimlib.training.named import make, parameters_of
from slimlib.training.rule import Rule
from slimlib.training.rules import RULES, check_for_policy, rule_named, rule_parameters, takes_lessons
from tasks.points import OperatingPoint
from tasks.settings import Width, Widths, setting, unknown
from tasks.training.choosing import OF_INDIVIDUALS, Choosing
from tasks.training.deciding import Deciding
from tasks.training.problem import HELD_OUT, Problem
from tasks.training.run import derive_seed
from tasks.training.tuning import Tuning

MEASURED = ("calibrate", "average", "calibrate_on", "tested", "spectrum", "per_input", "costs")
"""Keys that decide how a trained network is scored, and nothing of its training."""
ACTING = ("behaviour", "stability")
"""Keys that only a policy has a meaning for."""
OF_CLASSES = ("heads", "stem")
"""Keys that only the classification of images has a meaning for."""
OF_BLOCKS = ("zero_scale", "calibrate", "average", "calibrate_on")
"""Keys of residual blocks and BatchNorm, which networks of some tasks have none of."""
FOREIGN: Mapping[str, tuple[str, ...]] = {
    "classification": ACTING,
    "sr": (*ACTING, *OF_CLASSES, *OF_BLOCKS),
    "rl": (*OF_CLASSES, *OF_BLOCKS, "tested", "order", "retrain", "held_out"),
}
"""Keys that have no meaning for a task; for others, those of `ACTING` and `OF_CLASSES`."""
NORM_KINDS: dict[str, tuple[str, Any]] = {name: ("batch", name) for name in NORMS}
NORM_KINDS |= {"group": ("group", "universal")}
"""What the layers normalise by, and what becomes of BatchNorm when the network serves several widths."""


class HasWidths(Protocol):
    """A task, or its settings."""

    @property
    def widths(self) -> tuple[float, ...]:
        """Which are evaluated."""
        ...


def of_the_algorithm(student: Any, teacher: Any) -> Any:
    """What an algorithm of slimlib.rl distils by: action distributions, or Q-values."""
    raise NotImplementedError("an algorithm of slimlib.rl has a distillation of its own")


def outputs(distill_values: float = 0.0) -> Any:
    """`of_the_algorithm`, and this weight of the values in it."""
    if not 0 <= distill_values < float("inf"):
        raise ValueError(f"distill_values={distill_values!r} must be a weight, at least 0")
    return of_the_algorithm


def pyramid() -> Distillation:
    """What a detector distils by: the features of its pyramid."""
    return lambda student, teacher: student.from_pyramid(teacher)


def heads() -> Distillation:
    """What a detector distils by: the outputs of its heads."""
    return lambda student, teacher: student.from_heads(teacher)


DISTILLED: Mapping[str, Callable[..., Distillation | None]]
DISTILLED = {"none": lambda: None, **DISTILLATIONS, "outputs": outputs, "pyramid": pyramid, "heads": heads}
OF_TASK = {"rl": ("outputs",), "detection": ("pyramid", "heads"), "sr": ("l1", "mse")}
"""The distillations of tasks whose outputs are no logits."""


class Recipe(Choosing, Deciding, Tuning):
    """How one network (slimmable), or one for each evaluated width (individual), is trained.

    Beside the keys here, of `Choosing`, `Deciding` and `Tuning` it has those of its rule (`samples`), of its
    distillation (`temperature` of kl_divergence, `distill_values` of outputs), and of its lesson: `data`, `weight`,
    `teacher`, and `smallest` and `largest`, which hold those three where they differ; see `lessons_named` of slimlib.

    Raises:
        ValueError: a value is impossible, or a key has no meaning for this kind, rule or distillation.
    """

    model_config = ConfigDict(extra="allow")

    name: str = setting(..., "of the row in tables", min_length=1)
    kind: Literal["individual", "slimmable"] = setting(
        "slimmable", "individual: ordinary networks, one for each evaluated width; slimmable: one network for all"
    )
    range: Annotated[tuple[Width, Width], Field(strict=False)] | None = setting(
        None, "smallest and largest width of a universally slimmable network", examples=[[0.25, 1.0]]
    )
    switches: Widths | None = setting(None, "the widths of a switchable network", examples=[[0.25, 0.5, 1.0]])
    rule: str | None = setting(None, f"which widths a step trains: {', '.join(RULES)}")
    distill: str = setting("none", f"what all but the largest width are distilled by: {', '.join(DISTILLED)}")
    norm: str = setting("universal", f"what becomes of BatchNorm: {', '.join(NORMS)}; or group: GroupNorm instead")
    zero_scale: bool | None = setting(None, "true: the last norm of each residual block begins with scale 0")
    heads: int | None = setting(None, "bands of widths that have a last layer of their own; none: all share it", ge=1)
    calibrate: int = setting(
        16, "training batches that statistics are computed from afterwards; 0: those of the full width for all", ge=0
    )
    average: Literal["exact", "moving"] = setting("exact", "of the statistics over these batches")
    calibrate_on: Literal["augmented", "plain"] = setting("augmented", "the images of these batches")
    tested: Literal["uniform", "nonuniform"] = setting(
        "uniform", "nonuniform: a width is scored as the mean over random plans around it"
    )
    spectrum: int = setting(0, "number of evenly spaced widths to score instead of the task's; 0: the task's", ge=0)
    behaviour: Literal["full", "smallest", "sampled"] | Width = setting(
        "full", "the width of a policy that acts in training; sampled: another for each rollout"
    )
    stability: Literal["none", "certainty", "clip", "conflict", "late", "ratio"] | None = setting(
        None, "how the narrow widths of a policy are kept from slowing down the full one; null: not at all"
    )

    def __init__(self, name: str | None = None, /, **given: Any) -> None:
        super().__init__(**given if name is None else {"name": name, **given})

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.check_tuning()
        if self.tune is not None and (self.search or self.per_input or self.budgets):
            raise ValueError("'tune' cannot be combined with search, budgets or per_input")
        if self.kind == "individual":
            plain = type(self).model_fields
            for key, value in self:
                if key in ("name", "kind", *OF_INDIVIDUALS, *Tuning.model_fields):
                    continue
                if key not in plain or value != plain[key].default:
                    raise ValueError(f"'{key}' has no meaning for individual networks")
            self.check_choosing(individual=True)
            return self
        if (self.range is None) == (self.switches is None):
            raise ValueError("a slimmable recipe needs its widths: either range: [0.25, 1.0] or switches: [0.5, 1.0]")
        for what, given, table in (
            ("width rule", self.rule, RULES),
            ("distillation", self.distill, DISTILLED),
            ("norm", self.norm, NORM_KINDS),
        ):
            if given not in table:
                raise unknown(what, given, table)
        self._check_parameters()
        self._check_scoring()
        if self.heads is not None and (self.search or self.per_input):
            raise ValueError("'heads' cannot be combined with search or per_input")
        if self.rule == "incremental" and self.norm == "shared":
            raise ValueError("norm 'shared' has statistics that every width moves; rule: incremental needs another")
        self.check_choosing(individual=False)
        self.check_deciding()
        self.make_rule(0)
        return self

    def _check_parameters(self) -> None:
        own = self.of_rule() | self.of_distillation() | dict.fromkeys(LESSON)
        for key in self.model_extra or {}:
            if key in own:
                continue
            for what, chosen, table in (("rule", self.rule, RULES), ("distill", self.distill, DISTILLED)):
                if has := [name for name, made_by in table.items() if key in parameters_of(made_by)]:
                    owners = " or ".join(has)
                    raise ValueError(f"'{key}' has no meaning for {what}: {chosen}; {key} belongs to {what}: {owners}")
            raise unknown("key of a recipe", key, [*type(self).model_fields, *own])

    def _check_scoring(self) -> None:
        NORMS[NORM_KINDS[self.norm][1]].check(self.widths())
        if self.tested == "nonuniform" and self.range is None:
            raise ValueError("tested: nonuniform needs a range of widths, not switches")
        if self.spectrum == 1 or (self.spectrum and self.range is None):
            raise ValueError("spectrum is a number of widths, at least 2, over a range")
        if isinstance(self.behaviour, float) and self.behaviour not in self.widths():
            raise ValueError(f"behaviour={self.behaviour} must be a width of {self.widths()}")

    def check_for(self, task: str) -> None:
        """Raise ValueError where a key has no meaning for a task."""
        fields = type(self).model_fields
        foreign = [
            key for key in FOREIGN.get(task, (*ACTING, *OF_CLASSES)) if getattr(self, key) != fields[key].default
        ]
        if self.distill not in ("none", *OF_TASK.get(task, DISTILLATIONS)):
            foreign.append(f"distill: {self.distill}")
        if task != "classification":
            foreign += ["rule: resolutions"] if self.rule == "resolutions" else []
            foreign += ["mean: probabilities"] if self._learns_from_probabilities() else []
        if task == "rl" and self.norm == "group":
            foreign.append("norm: group")
        if foreign:
            raise ValueError(f"recipe '{self.name}': '{foreign[0]}' has no meaning for task={task}")
        if task == "rl" and self.rule is not None:
            try:
                check_for_policy(self.rule, self.make_rule(0), self.stability or "none")
            except ValueError as error:
                raise ValueError(f"recipe '{self.name}': {error}") from None

    def _learns_from_probabilities(self) -> bool:
        teachers = [] if self.kind == "individual" else [lesson.taught_by for lesson in self.lessons().all]
        return any(isinstance(teacher, slim.Ensemble) and teacher.mean == "probabilities" for teacher in teachers)

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Recipe:
        """The recipe that a settings file describes; null is as good as nothing.

        Raises:
            ValueError: an unknown key or an impossible value, with the recipe's name and the nearest right one.
        """
        try:
            return cls(**{key: value for key, value in given.items() if value is not None})
        except ValueError as error:
            raise ValueError(f"recipe '{given.get('name', 'without a name')}': {error}") from None

    def settings(self) -> dict[str, Any]:
        """What decides the result, as plain values, defaults included: everything but the name."""
        individual = self.kind == "individual"
        keys = ("kind", *OF_INDIVIDUALS, *Tuning.model_fields) if individual else type(self).model_fields
        fields = {key: getattr(self, key) for key in keys if key != "name"}
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}
        own = {} if individual else self.of_rule() | self.of_distillation() | lesson_settings(self.lessons())
        return {key: value for key, value in (plain | own).items() if value is not None}

    def training(self) -> dict[str, Any]:
        """What of the settings decides the trained network; recipes that agree in it can share one."""
        held_out = {} if self.per_input is None else {"held_out": HELD_OUT}
        return {key: value for key, value in self.settings().items() if key not in MEASURED} | held_out

    def begins_with(self) -> dict[str, Any]:
        """What decides the network that channels are chosen in; empty where none are."""
        if self.search is None:
            return {}
        held_out = {"held_out": self.held_out or HELD_OUT}
        if self.order is not None:
            return {"kind": "individual", "width": 1.0} | held_out
        return {key: value for key, value in self.training().items() if key not in Choosing.model_fields} | held_out

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
            assert self.range is not None
            return tuple(evenly_spaced(self.range[0], self.range[-1], self.spectrum))
        inside = tuple(width for width in task.widths if width in self.widths())
        if not inside:
            raise ValueError(f"recipe '{self.name}': no evaluated width of {list(task.widths)} is in {self.widths()}")
        return inside

    def points(self, task: HasWidths) -> list[OperatingPoint]:
        """The operating points that this recipe is scored at where no plans are searched: the evaluated widths."""
        return [OperatingPoint.of_width(width) for width in self.evaluated(task)]

    def networks(self, task: HasWidths) -> tuple[float | None, ...]:
        """What is trained, one network after another: the width of each individual one; None for a slimmable one."""
        if self.kind == "individual":
            return tuple(task.widths) if self.budgets is None else (1.0,) * len(self.budgets)
        return (None,) if self.retrain is None else (None, None)

    def steps(self, task: HasWidths, each: int) -> int:
        """Of all its networks together, where an ordinary one takes `each`."""
        one = each if self.kind == "individual" else self.make_rule(0).ends(each)[-1]
        trials = len(self.grid()) * (self.tune_seeds or 1) * self.steps_of_trial(each) * (one // each)
        return len(self.networks(task)) * (one + trials)

    def make_rule(self, seed: int) -> Rule:
        """The training rule, its random widths derived from the recipe's seed."""
        assert self.rule is not None
        taught = takes_lessons(self.rule) or self.distill != "none" or self.lesson
        lessons = self.lessons() if taught else None
        own_seed = derive_seed(seed, "widths")
        return rule_named(self.rule, self.widths(), lessons=lessons, seed=own_seed, **self.of_rule())

    def lessons(self) -> Lessons:
        """What each width learns from."""
        distill = make("distillation", DISTILLED, self.distill, self.of_distillation())
        return lessons_named(distill, **self.lesson)

    @property
    def lesson(self) -> dict[str, Any]:
        """What was given of the lessons beside the loss."""
        return {key: value for key, value in (self.model_extra or {}).items() if key in LESSON}

    def build(self, task: Problem, width: float = 1.0) -> nn.Module:
        """The task's dense network, with the normalisation that the recipe asks for."""
        net = task.build(width, norm=NORM_KINDS[self.norm][0])
        if self.zero_scale:
            zero_last_scales(net)
        return net

    def convert(self, dense: nn.Module, task: Problem, widths: slim.Switches | None = None) -> nn.Module:
        """Make the task's network slimmable, in place; `widths` in place of the recipe's."""
        keep = () if self.stem is None else modules_before(dense, task.gate_before(dense))
        return task.convert(dense, widths or self.widths(), NORM_KINDS[self.norm][1], bands=self.heads, keep=keep)

    def of_rule(self) -> dict[str, Any]:
        """The rule's own parameters, defaults included."""
        return self._given(rule_parameters(self.rule or ""))

    def of_distillation(self) -> dict[str, Any]:
        """The distillation's own parameters, defaults included."""
        return self._given(parameters_of(DISTILLED[self.distill]))

    def _given(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        extra = self.model_extra or {}
        return {key: extra.get(key, default) for key, default in defaults.items()}


def evenly_spaced(smallest: float, largest: float, count: int) -> list[float]:
    """`count` widths from `smallest` to `largest`, in the four digits that tables and records show.

    Raises:
        ValueError: fewer than the two ends are asked for.
    """
    if count < 2:
        raise ValueError(f"count={count} must be at least 2: the smallest and the largest width are among them")
    return [round(smallest + (largest - smallest) * i / (count - 1), 4) for i in range(count)]
