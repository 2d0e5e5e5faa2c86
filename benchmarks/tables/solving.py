"""How long until a policy solves its environment: `python -m benchmarks.tables.solving results=... goal=...`.

results=results/rl/stability/small    the folder of an ablation
goal=475                              solved is: the mean return of a point of the learning curve reaches this; by
                                      default what gymnasium registers for the environment

A seed that never solves counts as all steps. A cell is the mean over the seeds of a recipe; at the full width also its
multiple of that of the ordinary policy with the same seeds, where a recipe trains one, with the 95 % interval of a
bootstrap over them where there are five or more; in brackets stands how many seeds never solved. The table is also
written to `solved.md` in the folder.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import gymnasium
from rich.console import Console

from benchmarks.analysis.aggregates import LEAST_SEEDS, ratio_of_means
from benchmarks.analysis.collecting import comparable
from benchmarks.analysis.grid import Grid, markdown
from benchmarks.analysis.results import Results
from benchmarks.records.folder import ResultsFolder
from benchmarks.running.command import DONE, FAILED, command, complain, key_values, say
from tasks.atomic import write_atomically
from tasks.rl.environments import find_environment


@dataclass(frozen=True)
class SolvingSettings:
    """Which records, and the return that solves; None: that of the environment."""

    results: Path
    goal: float | None


@dataclass(frozen=True)
class Solved:
    """When a seed of a recipe first reached the goal at an operating point: seed -> steps, inf where it never did."""

    steps: Mapping[int, float]
    longest: float

    def counted(self, seeds: Collection[int]) -> list[float]:
        """The steps of some seeds; one that never got there counts as all steps."""
        return [min(self.steps[seed], self.longest) for seed in seeds]

    def text(self, ordinary: Solved | None) -> str:
        """Mean steps, their multiple of the ordinary policies' with the same seeds, and how many never got there."""
        text = f"{fmean(self.counted(self.steps)):,.0f}"
        shared = [] if ordinary is None else [seed for seed in self.steps if seed in ordinary.steps]
        if ordinary is not None and shared:
            own, other = self.counted(shared), ordinary.counted(shared)
            several = len(shared) >= LEAST_SEEDS and own != other
            times = ratio_of_means(own, other).text(2) if several else f"{fmean(own) / fmean(other):.2f}"
            text += f" ({times} x)"
        never = sum(map(math.isinf, self.steps.values()))
        return text + (f" [{never} never]" if never else "")


def solved(results: Results, recipe: str, point: str, goal: float) -> Solved | None:
    """When each seed first reached the goal at an operating point; None without a curve."""
    curves = results.curves(recipe, point, results.first.eval_sets[0], results.primary.name)
    first = {seed: next((step for step, value in m if value >= goal), math.inf) for seed, m in sorted(curves.items())}
    return Solved(first, float(results.first.steps)) if first else None


def solving_table(results: Results, goal: float) -> str:
    """Markdown: a row a recipe, a column an operating point; the full width also as a multiple of its ordinary one."""
    first, full = results.first, results.points[-1]
    title = (
        f"{first.step_unit.capitalize()} until the mean return is {goal:g} on {first.dataset}; mean over seeds, of "
        f"which one that never gets there counts as all {first.steps:,}"
    )
    at_full = {recipe: solved(results, recipe, full, goal) for recipe in results.recipes}
    alone = (at_full[recipe] for recipe in results.recipes if _trains_full_alone(results, recipe))
    ordinary = next((one for one in alone if one is not None), None)
    rows = []
    for recipe in results.recipes:
        cells = {point: solved(results, recipe, point, goal) for point in results.points}
        texts = ["" if c is None else c.text(ordinary if point == full else None) for point, c in cells.items()]
        if any(texts):
            rows.append([recipe, str(len(results.of(recipe))), *texts])
    return markdown(Grid(title, ["width", "seeds", *results.points], rows))


def _trains_full_alone(results: Results, recipe: str) -> bool:
    """Whether the full width is trained as an ordinary policy is."""
    return results.individual(recipe) or results.of(recipe)[0].training.get("rule") == "largest"


def read_arguments(arguments: Sequence[str]) -> SolvingSettings:
    """The settings that `key=value` arguments say.

    Raises:
        ValueError: in one line: an unknown key, no goal, or a folder without records.
    """
    given = key_values(arguments, ("results", "goal"), example="goal=475")
    folder = Path(given.get("results", "results/rl/stability/small")).expanduser()
    if not (folder / "records").is_dir():
        raise ValueError(
            f"results={folder} has no records; name the folder of an ablation, results/rl/<ablation>/<scale>"
        )
    try:
        goal = float(given["goal"]) if "goal" in given else None
        if goal is not None and not math.isfinite(goal):
            raise ValueError
    except ValueError:
        raise ValueError(f"goal={given['goal']} must be a return that solves, for example goal=475") from None
    return SolvingSettings(folder, goal)


def registered_goal(environment: str) -> float:
    """The return at which an environment counts as solved.

    Raises:
        ValueError: gymnasium registers none, or does not know the environment here.
    """
    find_environment(environment)
    goal = gymnasium.spec(environment.rpartition(":")[2]).reward_threshold
    if goal is None:
        raise ValueError(f"gymnasium does not say which return solves {environment}; say it, for example goal=-200")
    return goal


def _make(settings: SolvingSettings) -> int:
    records, damaged = ResultsFolder(settings.results).read()
    complain(f"damaged record, left out: {why}" for why in damaged.values())
    if not records:
        raise ValueError(f"results={settings.results} has no readable record")
    if records[0].task != "rl":
        raise ValueError(
            f"results={settings.results} is of task={records[0].task}; what is solved are environments of rl"
        )
    tables = []
    for results in comparable(records):
        goal = registered_goal(results.first.dataset) if settings.goal is None else settings.goal
        tables.append(solving_table(results, goal))
    text = "\n\n".join(tables) + "\n"
    write_atomically(settings.results / "solved.md", text)
    say(Console(), text)
    return FAILED if damaged else DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and write the table; returns the exit code, as `benchmarks.running.command` has them."""
    return command(arguments, __doc__, read_arguments, _make, interrupted="nothing was written")


if __name__ == "__main__":
    sys.exit(main())
