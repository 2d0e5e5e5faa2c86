"""The keys of a run, of scale and data, which say what others are, and of an ablation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tasks.settings import Lax, Plain, Settings, Width, Widths, Words, each_once, setting

Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...],
    Lax,
    Field(min_length=1, examples=[[0, 1, 2]]),
    BeforeValidator(lambda given: [given] if type(given) is int else given),
    AfterValidator(each_once),
]


def _folder(given: object) -> object:
    return Path(given) if isinstance(given, str) and given and "\0" not in given else given


SWITCHES: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "quarters": {
        "two": (0.25, 1.0),
        "four": (0.25, 0.5, 0.75, 1.0),
        "eight": (0.25, 0.3125, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0),
    },
    "sixteenths": {
        "two": (0.0625, 1.0),
        "four": (0.0625, 0.25, 0.5, 1.0),
        "eight": (0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5, 0.75, 1.0),
    },
}
"""Lists of switches to compare, from a quarter of the channels up, and from a sixteenth up."""


class Training(Settings):
    """What of a run's own keys is in force when it trains."""

    steps: int = setting(..., "optimizer steps of every network; of a policy: steps of its environments", ge=1)
    seeds: Seeds = setting(..., "seeds that each recipe is trained with")
    results: Annotated[Path, BeforeValidator(_folder)] = setting(Path("results"), "where results go")
    overwrite: Literal["only-missing", "always", "never"] = setting(
        "only-missing", "which recipes are trained: those without a record, all, or none (only tables and figures)"
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto takes a GPU where there is one")
    threads: int = setting(1, "threads of each process", ge=1)
    precision: Literal["float32", "bfloat16", "float16"] = setting(
        "float32", "what networks compute in while they train; they are scored in float32"
    )
    graphs: bool = setting(
        False, "on a GPU: record the passes as CUDA graphs, which trains small networks several times faster"
    )
    checkpoint_seconds: float = setting(30.0, "seconds between two checkpoints", ge=0)


class Run(Training):
    """The keys of a run that belong to no group."""

    only: Words = setting((), "recipes of the ablation by name; none: all")
    smallest: Width = setting(0.25, "lowest width that is trained")
    switches: Literal["quarters", "sixteenths"] | Mapping[str, Widths] = setting(
        "quarters", "lists of switches that are compared"
    )
    tune: Mapping[str, Any] = setting(
        {}, "each recipe also with the best of these values, as a row of its own", examples=[{"lr": [0.1, 0.2]}]
    )
    tune_steps: float | None = setting(None, "of tune: share of the steps that a trial takes; null: all", gt=0, le=1)
    tune_seeds: int | None = setting(None, "of tune: seeds of each trial; null: one", ge=1)
    effort: Mapping[str, int] = setting({}, "of searches: steps, evaluations, population, batches")
    debug: bool = setting(False, "whether an error shows its whole trace")


BY_SCALE = ("steps", "seeds", "smallest", "switches", "precision", "effort")
"""Keys of a run that a scale may set for each task, and data for all their tasks."""


class Scale(Settings):
    """What a scale says for a task; it may also set any key of the task, and those of `BY_SCALE`."""

    group: ClassVar[str] = "scale.<task>"

    data: str = setting(..., "data that are used where none are chosen")


class Data(Settings):
    """What data are; they may also set any key of the task, and those of `BY_SCALE`, and then a scale does not.

    What a file does not have is said by that of the data named in its key `like`.
    """

    group: ClassVar[str] = "data"

    tasks: Words = setting(..., "tasks that can use the data")
    steps: Mapping[str, Any] = setting({}, "steps at each scale")
    algorithms: Mapping[str, Plain] = setting({}, "keys of the task for each task.algorithm")


class Ablation(Settings):
    """A question, and the recipes that answer it."""

    group: ClassVar[str] = "ablation"

    name: str = setting(..., "how it is chosen")
    question: str = setting("", "what it answers")
    tasks: Words = setting((), "tasks that it is for; none: all")
    slimmable: Mapping[str, Any] = setting({}, "what all slimmable recipes share", examples=[{"rule": "sandwich"}])
    of_task: Mapping[str, Mapping[str, Any]] = setting(
        {}, "what they share for a task beside it", examples=[{"sr": {"distill": "l1"}}]
    )
    of_scale: Mapping[str, Mapping[str, Mapping[str, Any]]] = setting(
        {}, "what they share for a task at a scale beside it", examples=[{"small": {"sr": {"distill": "none"}}}]
    )
    recipes: Annotated[tuple[Mapping[str, Any], ...], Lax] = setting(
        (), "what each has of its own, and the tasks and scales that it is for"
    )

    @model_validator(mode="after")
    def _check_question(self) -> Self:
        if not self.question.strip():
            raise ValueError(f"ablation={self.name} must open with the question it answers")
        return self
