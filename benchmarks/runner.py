"""Run an ablation: bring its records up to date, then write and show what they say."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.analysis.ablation import grids, shown_name
from benchmarks.analysis.grid import show_grid
from benchmarks.analysis.results import Results
from benchmarks.records.folder import ResultsFolder
from benchmarks.records.record import write_record
from benchmarks.running.command import (
    DONE,
    FAILED,
    INTERRUPTED,
    WRONG_SETTINGS,
    complain,
    ended,
    notes,
    one_line,
    refuse,
    say,
)
from benchmarks.running.jobs import Job, MakeTask, Outcome, plan, tuning_file
from benchmarks.running.launchers.launch import among_ranks, launch
from benchmarks.settings.run import RunSettings, read_settings
from benchmarks.settings.task import make_task
from benchmarks.tables.writing import is_shown, select, write_showcase, write_tables
from tasks.training.ranks import ALONE, Ranks

INTERRUPTION = "the same command goes on from the last checkpoint"


def start(given: Sequence[str]) -> int:
    """Run what the command line says, in each process that torchrun has started; returns the exit code."""
    if any(argument.replace(" ", "").lower() in ("debug=true", "++debug=true") for argument in given):
        os.environ["HYDRA_FULL_ERROR"] = "1"
    return among_ranks(partial(_start, given))


def _start(given: Sequence[str], ranks: Ranks) -> int:
    with notes(shown=ranks.leads):
        try:
            settings = ranks.together(lambda: read_settings(given))
        except ValueError as error:
            return refuse(error, WRONG_SETTINGS, ranks)
        make = partial(make_task, settings.task, settings.task_settings)
        return run(settings, make, Console(quiet=not ranks.leads), ranks)


def run(settings: RunSettings, make: MakeTask, console: Console, ranks: Ranks = ALONE) -> int:
    """Bring the ablation's records up to date, then write and show what they say.

    All ranks train; the first alone reads and writes the folder.
    """
    folder = ResultsFolder(settings.folder)
    if ranks.count > 1 and settings.launcher.name != "serial":
        own = f"launcher={settings.launcher.name} starts processes of its own"
        taken = f"{own}; torchrun has started {ranks.count} already"
        return refuse(ValueError(f"{taken}. Use launcher=serial, or start without torchrun"), WRONG_SETTINGS, ranks)

    def work() -> int:
        ranks.together(lambda: ranks.device(settings.device))
        with ExitStack() as held:
            ranks.first(lambda: held.enter_context(folder.locked()))
            return _run(settings, make, folder, console, ranks)

    return ended(work, INTERRUPTION, ranks)


def _run(settings: RunSettings, make: MakeTask, folder: ResultsFolder, console: Console, ranks: Ranks) -> int:
    say(console, f"{settings.question} ({settings.folder})")
    jobs = plan(settings)
    outcomes, missing, damaged = ranks.first(lambda: _look(settings, jobs, folder, console))
    if missing:
        outcomes += launch(settings, missing, make, console, ranks)

    def tell() -> int:
        try:
            read(settings, jobs, outcomes, make, folder, console)
        finally:  # where the disk is too full for a table, say also what became of the jobs
            code = conclude(outcomes, damaged.values(), len(missing), console)
        return code

    return ranks.first(tell)


def _look(
    settings: RunSettings, jobs: Sequence[Job], folder: ResultsFolder, console: Console
) -> tuple[list[Outcome], list[Job], dict[Path, str]]:
    """What is known already, which jobs are missing, and which records are damaged."""
    outcomes: list[Outcome] = []
    missing = []
    for job in jobs:
        known = None if settings.overwrite == "always" else recorded(settings, job, folder)
        if known is not None:
            outcomes.append(known)
            say(console, str(known))
        elif settings.overwrite == "never":
            say(console, f"{job.label}: no record")
        else:
            missing.append(job)
    damaged = folder.read()[1]
    for path in list(damaged):
        if any(path.name.endswith(f"-{job.seed}-{job.hash}.json") for job in missing):
            path.replace(path.with_name(path.name + ".corrupt"))
            say(console, f"damaged record, trained again; kept as {path.name}.corrupt: {damaged.pop(path)}")
    if settings.overwrite == "always":
        for job in missing:
            for trained in filter(None, (job.training, job.first)):
                folder.trained(trained, job.seed).unlink(missing_ok=True)
            tuning_file(settings, job).unlink(missing_ok=True)
    return outcomes, missing, damaged


def recorded(settings: RunSettings, job: Job, folder: ResultsFolder) -> Outcome | None:
    """The outcome of a job that needs no training: recorded here, or by another ablation with the same settings."""
    here = folder.find(job.hash, job.seed)
    origin = "done (cached)"
    found = here
    if found is None:
        for sibling in folder.siblings(settings.results):
            found = sibling.find(job.hash, job.seed)
            if found is not None:
                origin = f"done (shared with {found.ablation})"
                break
    if found is None:
        return None
    row = {
        "ablation": settings.ablation,
        "question": settings.question,
        "recipe": job.recipe.name,
        "position": job.position,
    }
    own = found.model_copy(update=row)
    if own != here:
        write_record(own, folder.records)
        if here is not None and here.file_name != own.file_name:
            (folder.records / here.file_name).unlink()
    folder.checkpoint(job.hash, job.seed).unlink(missing_ok=True)  # of a run killed just after it wrote the record
    return Outcome(job, "cached" if here is not None else "shared", origin)


def read(
    settings: RunSettings,
    jobs: Sequence[Job],
    outcomes: Sequence[Outcome],
    make: MakeTask,
    folder: ResultsFolder,
    console: Console,
) -> None:
    """Write tables and figures from the records there are, and show the table."""
    records = select(folder.read()[0], settings)
    if not records:
        return
    results = write_tables(records, folder)
    shown = next((job for job in jobs if job.keep), None)
    trained = any(outcome.status == "trained" for outcome in outcomes)
    if shown is not None and (trained or not is_shown(shown, folder)):
        try:
            write_showcase(settings, shown, make, folder)
        except ValueError as error:
            say(console, f"showcase left as it was: {one_line(error)}")
    show(results, console)
    say(console, f"Tables and figures: {settings.folder}")


def show(results: Results, console: Console) -> None:
    """The tables of the primary metric, on the screen."""
    console.print(results.caption(), markup=False, highlight=False)
    for grid in grids(results):
        if not grid.title.startswith(shown_name(results.primary)):
            continue
        show_grid(grid, console)


def conclude(outcomes: Sequence[Outcome], damaged: Collection[str], expected: int, console: Console) -> int:
    """Say what went wrong, and return the exit code."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    complain([*map(str, failed), *(f"damaged record, left out: {reason}" for reason in damaged)])
    ran = [o for o in outcomes if o.status not in ("cached", "shared")]
    if any(outcome.status == "interrupted" for outcome in outcomes) or len(ran) < expected:
        print(f"interrupted; {INTERRUPTION}", file=sys.stderr)
        return INTERRUPTED
    return FAILED if failed or damaged else DONE
