"""Work through a list of runs by priority, within a time: `python -m benchmarks.campaign name=evidence hours=3`.

name=<campaign>      a file of benchmarks/conf/campaign, or the path of one of your own
hours=<number>       start no job that would end later, and stop what runs then; none: until all is done
jobs=1               how many at once, each in a process of its own
nice=0               19 leaves the machine to whatever else it has to do
data=<folder>        what `{data}` in the runs of the campaign stands for
results=results      the folder that all results lie in
device=auto          cpu or cuda, for every run
archive=<file>       packs what was recorded, and the trained networks that fit into 15 MB, into this .tar.gz
show=true            only say what is done, and what it still needs

A job is a recipe with a seed. What has its record is not run again; what was stopped goes on from its checkpoint.
Several jobs may share one GPU: start NVIDIA's MPS first (`nvidia-cuda-mps-control -d`), or they take turns.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import yaml
from pydantic import AfterValidator, InstanceOf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.records.environment import host_class
from benchmarks.records.folder import ResultsFolder
from benchmarks.running.command import DONE, FAILED, INTERRUPTED, command, read_words, say, stopping
from benchmarks.running.jobs import Job, plan
from benchmarks.running.launchers.in_processes import InProcesses
from benchmarks.running.launchers.supervising import outcomes, wanting
from benchmarks.running.launchers.work import Assigned, Work
from benchmarks.settings.choices import CONF
from benchmarks.settings.overrides import quoted
from benchmarks.settings.run import RunSettings, read_settings
from benchmarks.settings.task import make_task
from tasks.settings import Lax, Settings, setting, unknown

CAMPAIGNS = CONF / "campaign"
RETRIES = 2  # of a job whose worker died
ROOM = 15e6  # bytes of an archive


class Planned(Settings):
    """A run of a campaign."""

    group: ClassVar[str] = "runs"

    run: str = setting(..., "the arguments of benchmarks.run", min_length=1)
    minutes: float = setting(..., "of one core for a recipe and seed; records tell better when there are any", gt=0)
    priority: int = setting(1, "1 comes first")


def _module(words: str) -> str:
    if not shlex.split(words):
        raise ValueError("it names no module with its arguments, such as 'benchmarks.perf start'")
    return words


class Campaign(Settings):
    """The question that a campaign answers, and its runs."""

    question: str = setting(..., "that it answers", min_length=1)
    first: Annotated[tuple[Annotated[str, AfterValidator(_module)], ...], Lax] = setting(
        (), "modules with arguments that are run before, one after another"
    )
    runs: Annotated[tuple[InstanceOf[Planned], ...], Lax] = setting(..., "that answer it")


def _folder(path: str) -> str:
    """A path as it was meant, also in the quotes in which `benchmarks.run` wants one."""
    whole = path[1:-1] if len(path) > 1 and path[0] == path[-1] and path[0] in "\"'" else path
    return str(Path(whole).expanduser())


class Options(Settings):
    """What the command line says."""

    name: str = setting(..., "a file of benchmarks/conf/campaign, or the path of one of your own")
    hours: float | None = setting(None, "start no job that would end later; null: until all is done", ge=0)
    jobs: int = setting(1, "how many at once", ge=1)
    nice: int = setting(0, "19 leaves the machine to whatever else it has to do", ge=0, le=19)
    data: Annotated[str, AfterValidator(_folder)] = setting("data", "what `{data}` in the runs stands for")
    results: Annotated[str, AfterValidator(_folder)] = setting("results", "the folder that all results lie in")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "of every run")
    archive: str | None = setting(None, "a .tar.gz that what was recorded is packed into")
    show: bool = setting(False, "whether it only says what is done, and what it still needs")

    @cached_property
    def campaign(self) -> Campaign:
        """The one of this name; ValueError where there is none, or its file has something wrong in it."""
        return read_campaign(self.name)

    @property
    def given(self) -> list[str]:
        """What is passed on to every run."""
        given = {"results": quoted(self.results), "device": self.device}
        return [f"{key}={value}" for key, value in given.items() if key in self.model_fields_set]


@dataclass(frozen=True)
class Chain:
    """Jobs of one or several runs that share a trained network, and are done one after another."""

    jobs: tuple[Assigned, ...]
    minutes: float


@dataclass(frozen=True)
class Progress:
    """A run of the campaign: how many of its jobs have a record, and which are left, with the minutes of each."""

    planned: Planned
    arguments: tuple[str, ...]
    settings: RunSettings
    done: int
    left: tuple[tuple[Job, float], ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Work through a campaign; returns the exit code, as `benchmarks.running.command` has them."""
    return command(arguments, __doc__, _look_at_all, _work_through, interrupted="the same command goes on")


def _look_at_all(given: Sequence[str]) -> tuple[Options, list[Progress]]:
    options = read_options(given)
    return options, [look(planned, options) for planned in options.campaign.runs]


def _work_through(given: tuple[Options, list[Progress]]) -> int:
    options, progress = given
    console = Console()
    console.print(options.campaign.question, markup=False, highlight=False)
    if options.show:
        console.print(overview(progress))
        return DONE
    os.nice(options.nice)
    end = time.monotonic() + 3600 * (float("inf") if options.hours is None else options.hours)
    began = time.time()
    first = enumerate(options.campaign.first, start=1)
    failed = [words for number, words in first if not _begin(number, words, options, console)]
    code = work(progress, options, end, console)
    now = [look(one.planned, options) for one in progress]
    if options.archive is not None:
        pack(Path(options.archive).expanduser(), Path(options.results), progress, began)
    elif code != INTERRUPTED:
        for before, one in zip(progress, now, strict=True):
            if one.done > before.done or (one.done and not (one.settings.folder / "table.md").exists()):
                _write_tables(one)
    console.print(overview(now))
    return FAILED if failed and code == DONE else code


def _begin(number: int, words: str, options: Options, console: Console) -> bool:
    """Run a module; what it prints is kept beside the results, in a log that has its number."""
    filled = [_filled(word, options) for word in shlex.split(words)]
    say(console, f"python -m {shlex.join(filled)}")
    log = Path(options.results) / "campaign" / f"{number}-{filled[0]}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        done = subprocess.run([sys.executable, "-m", *filled], stdout=file, stderr=subprocess.STDOUT)
    last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
    say(console, f"exit code {done.returncode}: {last} ({log})")
    return done.returncode == 0


def _filled(word: str, options: Options) -> str:
    """A word of the campaign's file, with what its placeholders stand for."""
    for key in ("data", "results", "device"):
        word = word.replace(f"{{{key}}}", str(getattr(options, key)))
    return word


def _for_run(word: str, options: Options) -> str:
    """The same of `benchmarks.run`, which reads a path in quotes whatever it holds."""
    key, equals, value = word.partition("=")
    return f"{key}={quoted(_filled(value, options))}" if equals and "{data}" in value else word


def read_options(given: Sequence[str]) -> Options:
    """What `key=value` words ask for.

    Raises:
        ValueError: in one line: an unknown key or campaign, or a value that is impossible.
    """
    options = read_words(Options, given, example="name=evidence hours=3")
    assert options.campaign  # what is wrong with it is told now
    if options.archive is not None:
        archive = Path(options.archive).expanduser().absolute()
        if archive.is_dir():
            raise ValueError(f"archive={archive} is a folder; name a file in it, such as {archive / 'new.tar.gz'}")
        if not archive.parent.is_dir():
            raise ValueError(f"archive={options.archive} lies in no folder that there is; make the folder first")
    return options


def read_campaign(name: str) -> Campaign:
    """A campaign by its name, or from a file.

    Raises:
        ValueError: there is none of this name, or its file has something wrong in it.
    """
    path = Path(name) if name.endswith(".yaml") else CAMPAIGNS / f"{name}.yaml"
    if not path.is_file():
        raise unknown("campaign", name, sorted(p.stem for p in CAMPAIGNS.glob("*.yaml")))
    try:
        said = yaml.safe_load(path.read_text())
        runs = said.get("runs") if isinstance(said, dict) else None
        if not runs or not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
            raise ValueError("a campaign has a question, and runs: a list of {run: ..., minutes: ...}")
        return Campaign(**said | {"runs": [Planned(**run) for run in runs]})
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path.name}: {' '.join(str(error).split())}") from None


def look(planned: Planned, options: Options) -> Progress:
    """What of a run has its record, and what is left.

    Raises:
        ValueError: the run cannot be; the message names it.
    """
    try:
        arguments = (*(_for_run(word, options) for word in shlex.split(planned.run)), *options.given)
        settings = read_settings(arguments)
    except ValueError as error:
        raise ValueError(f"run '{' '.join(planned.run.split())}': {error}") from None
    folder = ResultsFolder(settings.folder)
    places = [folder, *folder.siblings(settings.results)]
    jobs = plan(settings)
    missing = [job for job in jobs if not any(place.find(job.hash, job.seed) for place in places)]
    left = tuple((job, _measured(settings, job) or planned.minutes) for job in missing)
    return Progress(planned, arguments, settings, len(jobs) - len(missing), left)


def _measured(settings: RunSettings, job: Job) -> float | None:
    """The most minutes that the recipe took on this machine with other seeds, some of whose networks were there."""
    records = [record for record in ResultsFolder(settings.folder).read()[0] if record.hash == job.hash]
    seconds = [record.seconds for record in records if record.host == host_class(settings.device)]
    return max(seconds) / 60 if seconds else None


def in_order(progress: Sequence[Progress]) -> list[Chain]:
    """What is left, by priority; within one every recipe gets a first seed before any gets a second.

    A job that several runs have in common is done once: the others then find its record.
    """
    found = []
    for number, one in enumerate(progress):
        for job, minutes in one.left:
            place = one.planned.priority, one.settings.seeds.index(job.seed), number, job.position
            found.append((place, Assigned.now(one.settings, job), minutes))
    groups: dict[tuple[str, int], dict[str, tuple[Assigned, float]]] = {}
    for _, assigned, minutes in sorted(found, key=lambda item: item[0]):
        job = assigned.job
        groups.setdefault((job.training, job.seed), {}).setdefault(job.hash, (assigned, minutes))
    return [
        Chain(tuple(assigned for assigned, _ in group.values()), max(minutes for _, minutes in group.values()))
        for group in groups.values()
    ]


def label(one: Assigned) -> str:
    """The job, and the folder of its run."""
    where = "/".join(one.settings.folder.relative_to(one.settings.results).parts)
    return f"{where}: {one.job.label}"


def work(progress: Sequence[Progress], options: Options, end: float, console: Console) -> int:
    """Run what is left until it is done or the time is up; each worker makes a task once, and reads its data once."""
    chains = in_order(progress)
    if not chains:
        return DONE
    folders = _folders(progress)
    about = {one.job.name: (label(one), chain.minutes) for chain in chains for one in chain.jobs}
    failed = False
    with ExitStack() as held:
        for folder in folders:
            held.enter_context(folder.locked())
        wanted, asked = held.enter_context(wanting(folders[0])), held.enter_context(stopping())

        def assign(chain: Chain) -> Work:
            settings = chain.jobs[0].settings
            return Work.here(chain.jobs, partial(make_task, settings.task, settings.task_settings), wanted)

        def fits(one: Work) -> bool:
            return time.monotonic() + 60 * about[one.jobs[0].job.name][1] <= end

        threads = max(one.settings.threads for one in progress)
        for outcome in outcomes(
            [assign(chain) for chain in chains],
            InProcesses(min(options.jobs, len(chains)), threads=threads),
            console,
            retries=RETRIES,
            asked=lambda: asked() or time.monotonic() >= end,
            folders=folders,
            fits=fits,
        ):
            say(console, f"{about[outcome.job.name][0]}: {outcome.note}")
            failed |= outcome.status == "failed"
        return INTERRUPTED if asked() else FAILED if failed else DONE


def pack(archive: Path, results: Path, progress: Sequence[Progress], began: float) -> None:
    """Write what is new in the results since `began` into an archive: all records and logs, and networks that fit.

    Networks share the `ROOM` that the others leave; no record is left out.
    """
    places = _folders(progress)
    files = [*results.glob("campaign/*"), *results.glob("perf/**/*.json")]
    files += [path for place in places for path in sorted(place.records.glob("*.json"))]
    networks = [path for place in places for path in sorted((place.cache / "trained").glob("*.pt"))]
    new = [path for path in files if path.stat().st_mtime >= began]
    room = ROOM - sum(path.stat().st_size for path in new)
    for path in sorted(networks, key=lambda path: path.stat().st_mtime):
        size = path.stat().st_size
        if path.stat().st_mtime >= began and size <= room:
            room -= size
            new.append(path)
    with tarfile.open(archive, "w:gz") as tar:
        for path in new:
            tar.add(path, path.relative_to(results))


def _folders(progress: Sequence[Progress]) -> list[ResultsFolder]:
    """Of the runs, each once."""
    return [ResultsFolder(path) for path in dict.fromkeys(one.settings.folder for one in progress)]


def _write_tables(progress: Progress) -> None:
    """The tables of a run, of the records that there are."""
    command = [sys.executable, "-m", "benchmarks.run", *progress.arguments, "overwrite=never"]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def overview(progress: Sequence[Progress]) -> Table:
    """A row a run: how many of its jobs are done, and the core-minutes that the others need."""
    table = Table(title=None)
    for head in ("priority", "run", "done", "of", "core-minutes left"):
        table.add_column(head, justify="left" if head == "run" else "right")
    for one in sorted(progress, key=lambda one: one.planned.priority):
        jobs, minutes = one.done + len(one.left), sum(minutes for _, minutes in one.left)
        run = escape(one.planned.run)  # [..] is no markup
        table.add_row(str(one.planned.priority), run, str(one.done), str(jobs), f"{minutes:.0f}")
    table.add_row("", "all, each once", "", "", f"{sum(chain.minutes for chain in in_order(progress)):.0f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
