"""Train, score and compare the recipes of an ablation: `python -m benchmarks.run task=sr ablation=sandwich`.

On several GPUs each network is trained by all of them: `torchrun --nproc-per-node 2 -m benchmarks.run task=sr`.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from rich.console import Console

from benchmarks.analysis.ablation import grids, shown_name
from benchmarks.analysis.grid import on_screen
from benchmarks.analysis.results import Results
from benchmarks.records.folder import FolderInUse, ResultsFolder
from benchmarks.records.record import write_record
from benchmarks.running.jobs import Job, MakeTask, Outcome, one_line, plan, settings_want_traces
from benchmarks.running.launchers.launch import among_ranks, launch
from benchmarks.settings.help import usage
from benchmarks.settings.run import RunSettings, read_settings
from benchmarks.settings.task import make_task
from benchmarks.tables.writing import select, write_showcase, write_tables
from tasks.training.ranks import ALONE, Ranks

DONE, FAILED, WRONG_SETTINGS, IN_USE, INTERRUPTED = 0, 1, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says; returns the exit code.

    0: every recipe has its record. 1: one failed, or a file is damaged. 2: the settings are wrong.
    3: another run works in the folder. 130: interrupted; the same command goes on.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    warnings.formatwarning = lambda message, *_, **__: f"note: {message}\n"
    return among_ranks(partial(_main, given))


def _main(given: Sequence[str], ranks: Ranks) -> int:
    console = Console(quiet=not ranks.leads)
    if {"-h", "--help", "help"} & set(given):
        console.print(usage(__doc__ or ""), markup=False, highlight=False, soft_wrap=True)
        return DONE
    if any(argument.replace(" ", "").lower() in ("debug=true", "++debug=true") for argument in given):
        os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        settings = ranks.together(lambda: read_settings(given))
    except ValueError as error:
        return _refuse(error, WRONG_SETTINGS, ranks)
    make = partial(make_task, settings.task, settings.task_settings)
    return run(settings, make, console, ranks)


def run(settings: RunSettings, make: MakeTask, console: Console, ranks: Ranks = ALONE) -> int:
    """Bring the ablation's records up to date, then write and show what they say.

    All ranks train; the first alone reads and writes the folder.
    """
    folder = ResultsFolder(settings.folder)
    if ranks.count > 1 and settings.launcher.name != "serial":
        own = f"launcher={settings.launcher.name} starts processes of its own"
        taken = f"{own}; torchrun has started {ranks.count} already"
        return _refuse(ValueError(f"{taken}. Use launcher=serial, or start without torchrun"), WRONG_SETTINGS, ranks)
    try:
        ranks.together(lambda: ranks.device(settings.device))
        with ExitStack() as held:
            ranks.first(lambda: held.enter_context(folder.locked()))
            return _run(settings, make, folder, console, ranks)
    except (FolderInUse, OSError, ValueError) as error:
        if not ranks.can_go_on(error):
            raise
        return _refuse(error, IN_USE if isinstance(error, FolderInUse) else FAILED, ranks)
    except KeyboardInterrupt:
        if ranks.count > 1:
            raise
        return _refuse(ValueError("interrupted; the same command goes on from the last checkpoint"), INTERRUPTED, ranks)


def _run(settings: RunSettings, make: MakeTask, folder: ResultsFolder, console: Console, ranks: Ranks) -> int:
    console.print(f"{settings.question} ({settings.folder})", markup=False, highlight=False, soft_wrap=True)
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
            console.print(str(known), markup=False, highlight=False, soft_wrap=True)
        elif settings.overwrite == "never":
            console.print(f"{job.label}: no record", markup=False, highlight=False, soft_wrap=True)
        else:
            missing.append(job)
    damaged = folder.read()[1]
    for path in damaged:
        if any(path.name.endswith(f"-{job.seed}-{job.hash}.json") for job in missing):
            path.replace(path.with_name(path.name + ".corrupt"))
    if settings.overwrite == "always":
        for job in missing:
            folder.trained(job.training, job.seed).unlink(missing_ok=True)
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
    if shown is not None and (trained or not (folder.path / "showcase.png").exists()):
        try:
            write_showcase(settings, shown, make, folder)
        except ValueError as error:
            console.print(f"showcase left as it was: {one_line(error)}", markup=False, highlight=False, soft_wrap=True)
    show(results, console)
    console.print(f"Tables and figures: {settings.folder}", markup=False, highlight=False, soft_wrap=True)


def show(results: Results, console: Console) -> None:
    """The tables of the primary metric, on the screen."""
    console.print(results.caption(), markup=False, highlight=False)
    for grid in grids(results):
        if not grid.title.startswith(shown_name(results.primary)):
            continue
        console.print(on_screen(grid))


def conclude(outcomes: Sequence[Outcome], damaged: Collection[str], expected: int, console: Console) -> int:
    """Say what went wrong, and return the exit code."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        print(f"error: {outcome}", file=sys.stderr)
    for reason in damaged:
        print(f"error: damaged record, left out: {reason}", file=sys.stderr)
    ran = [o for o in outcomes if o.status not in ("cached", "shared")]
    if any(outcome.status == "interrupted" for outcome in outcomes) or len(ran) < expected:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED
    return FAILED if failed or damaged else DONE


def _refuse(error: Exception, code: int, ranks: Ranks) -> int:
    if settings_want_traces():
        raise error
    if ranks.leads:
        print(f"error: {one_line(error)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
