"""How long until a policy solves its environment: `python -m benchmarks.tables.solving results=... goal=...`.

results=results/rl/stability/small    the folder of an ablation
goal=475                              solved is: the mean return of a point of the learning curve reaches this; by
                                      default what gymnasium registers for the environment

A seed that never solves counts as all steps. A cell is the mean over the seeds that every recipe has; at the full width
also its multiple of that of the ordinary policy, where a recipe trains one; in brackets stands how many seeds never
solved. The table is also written to `solved.md` in the folder.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
from rich.console import Console

from benchmarks.analysis.ablation import grid_of_points
from benchmarks.analysis.collecting import comparable
from benchmarks.analysis.grid import markdown
from benchmarks.analysis.results import Results
from benchmarks.records.folder import ResultsFolder
from benchmarks.running.command import DONE, command, key_values, say
from tasks.atomic import write_atomically
from tasks.rl.environments import find_environment


@dataclass(frozen=True)
class SolvingSettings:
    """Which records, and the return that solves; None: that of the environment."""

    results: Path
    goal: float | None


@dataclass(frozen=True)
class Solved:
    """When the seeds of a recipe and width solved: the steps of each, all steps where it never did."""

    steps: list[float]
    never: int

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.steps))

    def text(self, ordinary: Solved | None) -> str:
        """Mean steps, their multiple of the ordinary policies', and how many seeds never solved."""
        text = f"{self.mean:,.0f}"
        if ordinary is not None:
            text += f" ({self.mean / ordinary.mean:.2f} x)"
        return text + (f" [{self.never} of {len(self.steps)} never]" if self.never else "")


def solved(results: Results, recipe: str, point: str, seeds: Collection[int], goal: float) -> Solved | None:
    """When each seed first reached the goal at an operating point; None without a curve."""
    curves = results.curves(recipe, point, results.first.eval_sets[0], results.primary.name)
    if not curves.keys() >= set(seeds):
        return None
    found = [next((step for step, value in curves[seed] if value >= goal), math.inf) for seed in seeds]
    all_steps = float(results.first.steps)
    return Solved([min(step, all_steps) for step in found], sum(map(math.isinf, found)))


def solving_table(results: Results, goal: float) -> str:
    """Markdown: a row a recipe, a column an operating point; of the seeds that every recipe has.

    Raises:
        ValueError: there is none.
    """
    first, full = results.first, results.points[-1]
    seeds = [s for s in results.seeds if all(s in {one.seed for one in results.of(r)} for r in results.recipes)]
    if not seeds:
        raise ValueError(f"no seed was run with all of the recipes {', '.join(results.recipes)}")
    title = (
        f"{first.step_unit.capitalize()} until the mean return is {goal:g} on {first.dataset}; mean over seeds "
        f"{', '.join(map(str, seeds))}, of which one that never gets there counts as all {first.steps:,}"
    )
    at_full = {recipe: solved(results, recipe, full, seeds, goal) for recipe in results.recipes}
    ordinary = next((at_full[recipe] for recipe in results.recipes if _trains_full_alone(results, recipe)), None)
    rows = []
    for recipe in results.recipes:
        cells = {point: solved(results, recipe, point, seeds, goal) for point in results.points}
        texts = ["" if c is None else c.text(ordinary if point == full else None) for point, c in cells.items()]
        if any(texts):
            rows.append([recipe, *texts])
    return markdown(grid_of_points(title, "width", results.points, rows))


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
    records, _ = ResultsFolder(settings.results).read()
    tables = []
    for results in comparable(records):
        goal = registered_goal(results.first.dataset) if settings.goal is None else settings.goal
        tables.append(solving_table(results, goal))
    text = "\n\n".join(tables) + "\n"
    write_atomically(settings.results / "solved.md", text)
    say(Console(), text)
    return DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and write the table; returns the exit code, as `benchmarks.running.command` has them."""
    return command(arguments, __doc__, read_arguments, _make, interrupted="nothing was written")


if __name__ == "__main__":
    sys.exit(main())
