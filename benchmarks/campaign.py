"""Work through a list of runs by priority, within a time: `python -m benchmarks.campaign name=evidence hours=3`.

name=<campaign>      a file of benchmarks/conf/campaign, or the path of one of your own
hours=<number>       start no job that would end later, and stop what runs then; none: until all is done
jobs=1               how many at once, each in a process of its own
nice=0               19 leaves the machine to whatever else it has to do
data=<folder>        what `{data}` in the runs of the campaign stands for
results=results      the folder that all results lie in
device=auto          cpu or cuda, for every run
show=true            only say what is done, and what it still needs

A job is a recipe with a seed. What has its record is not run again; what was stopped goes on from its checkpoint.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.table import Table

from benchmarks.records.folder import ResultsFolder
from benchmarks.running.command import DONE, FAILED, INTERRUPTED, command, key_values
from benchmarks.running.jobs import Job, chains, plan
from benchmarks.running.launchers.stopping import stopping
from benchmarks.settings.choices import CONF
from benchmarks.settings.run import RunSettings, read_settings
from tasks.settings import unknown

CAMPAIGNS = CONF / "campaign"
KEYS = ("name", "hours", "jobs", "nice", "data", "results", "device", "show")
ASKED_EVERY = 0.5  # seconds
PATIENCE = 120  # seconds that a process has to write its checkpoint before it is killed


class Planned(BaseModel):
    """A run of a campaign: the arguments of benchmarks.run, and what a job of it takes on one core."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    run: str
    minutes: float = Field(gt=0, description="of one core, for one recipe and seed; records tell better when there are")
    priority: int = 1


class Campaign(BaseModel):
    """The question that a campaign answers, and its runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    question: str
    runs: tuple[Planned, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Chain:
    """Jobs that share a trained network, and run in one process."""

    settings: RunSettings
    arguments: tuple[str, ...]
    jobs: tuple[Job, ...]
    minutes: float

    @property
    def command(self) -> list[str]:
        """What trains and records them."""
        names = ",".join(f'"{job.recipe.name}"' for job in self.jobs)
        own = [f"only=[{names}]", f"seeds=[{self.jobs[0].seed}]"]
        return [sys.executable, "-m", "benchmarks.run", *self.arguments, *own]

    @property
    def label(self) -> str:
        """As the user reads it."""
        where = "/".join(self.settings.folder.relative_to(self.settings.results).parts)
        return f"{where}: {self.jobs[0].label}"


@dataclass
class Progress:
    """A run of the campaign: what of it has its record, and what is left to do."""

    planned: Planned
    settings: RunSettings
    arguments: tuple[str, ...]
    done: int
    left: list[Chain] = field(default_factory=list)

    @property
    def minutes(self) -> float:
        """Of one core, that it still needs."""
        return sum(chain.minutes for chain in self.left)


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    campaign: Campaign
    seconds: float
    jobs: int
    nice: int
    given: tuple[str, ...]
    data: str
    show: bool


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
    before = {one.planned: one.done for one in progress}
    code = work(progress, options, console)
    progress = [look(planned, options) for planned in options.campaign.runs]
    for one in progress:
        if one.done > before[one.planned]:
            _write_tables(one)
    console.print(overview(progress))
    return code


def read_options(given: Sequence[str]) -> Options:
    """What `key=value` words ask for.

    Raises:
        ValueError: an unknown key or campaign, a number that is none, or a file with something wrong in it.
    """
    words = key_values(given, KEYS, example="name=evidence hours=3")
    passed = [f"{key}={words[key]}" for key in ("results", "device") if key in words]
    return Options(
        campaign=read_campaign(words.get("name", "")),
        seconds=3600 * _number(words, "hours", float("inf")),
        jobs=int(_number(words, "jobs", 1)),
        nice=int(_number(words, "nice", 0)),
        given=tuple(passed),
        data=words.get("data", "data"),
        show=words.get("show", "false") == "true",
    )


def _number(words: dict[str, str], key: str, default: float) -> float:
    try:
        value = float(words.get(key, default))
    except ValueError:
        raise ValueError(f"{key}={words[key]} must be a number") from None
    if not value >= 0 or (key == "jobs" and (value < 1 or value % 1)):
        raise ValueError(f"{key}={words[key]} must be a {'whole number, at least 1' if key == 'jobs' else 'number'}")
    return value


def read_campaign(name: str) -> Campaign:
    """A campaign by its name, or from a file.

    Raises:
        ValueError: there is none of this name, or its file has something wrong in it.
    """
    path = Path(name) if name.endswith(".yaml") else CAMPAIGNS / f"{name}.yaml"
    if not path.is_file():
        raise unknown("campaign", name, sorted(p.stem for p in CAMPAIGNS.glob("*.yaml")))
    try:
        return Campaign.model_validate(yaml.safe_load(path.read_text()))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path.name}: {place}: {first['msg']}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name}: {error}") from None


def look(planned: Planned, options: Options) -> Progress:
    """What of a run has its record, and what is left."""
    arguments = (*shlex.split(planned.run.replace("{data}", options.data)), *options.given)
    settings = read_settings(arguments)
    folder = ResultsFolder(settings.folder)
    places = [folder, *folder.siblings(settings.results)]
    jobs = plan(settings)
    missing = [job for job in jobs if not any(place.find(job.hash, job.seed) for place in places)]
    progress = Progress(planned, settings, arguments, len(jobs) - len(missing))
    for group in chains(missing):
        minutes = fmean(_measured(folder, job) or planned.minutes for job in group)
        progress.left.append(Chain(settings, arguments, tuple(group), minutes))
    return progress


def _measured(folder: ResultsFolder, job: Job) -> float | None:
    """Minutes that the same recipe took with other seeds."""
    seconds = [record.seconds for record in folder.read()[0] if record.hash == job.hash]
    return fmean(seconds) / 60 if seconds else None


def in_order(progress: Sequence[Progress]) -> list[Chain]:
    """What is left, by priority; within one every recipe gets a first seed before any gets a second."""
    found = []
    for number, one in enumerate(progress):
        for chain in one.left:
            seed = one.settings.seeds.index(chain.jobs[0].seed)
            found.append(((one.planned.priority, seed, number, chain.jobs[0].position), chain))
    return [chain for _, chain in sorted(found, key=lambda item: item[0])]


def work(progress: Sequence[Progress], options: Options, console: Console) -> int:
    """Run what is left until it is done or the time is up."""
    end = time.monotonic() + options.seconds
    waiting, running, failed = in_order(progress), dict[subprocess.Popen[str], Chain](), False
    with stopping() as asked:
        while (waiting or running) and not asked():
            if time.monotonic() >= end:
                break
            for chain in _fitting(waiting, running, options, end):
                waiting.remove(chain)
                console.print(f"start {chain.label}, about {chain.minutes:.0f} min", markup=False, highlight=False)
                running[_start(chain)] = chain
            if not running:
                break
            for process in [p for p in running if p.poll() is not None]:
                chain = running.pop(process)
                failed |= process.returncode != 0
                told = "done" if process.returncode == 0 else f"exit code {process.returncode}: {_last_line(process)}"
                console.print(f"{chain.label}: {told}", markup=False, highlight=False)
            time.sleep(ASKED_EVERY)
        interrupted = asked()
    _stop(running)
    return INTERRUPTED if interrupted else FAILED if failed else DONE


def _fitting(
    waiting: Sequence[Chain], running: dict[subprocess.Popen[str], Chain], options: Options, end: float
) -> Iterator[Chain]:
    """The next that may start now: it ends in time, and no other works in its folder."""
    taken = {chain.settings.folder for chain in running.values()}
    free = options.jobs - len(running)
    for chain in waiting:
        if free <= 0:
            return
        if chain.settings.folder not in taken and time.monotonic() + 60 * chain.minutes <= end:
            taken.add(chain.settings.folder)
            free -= 1
            yield chain


def _start(chain: Chain) -> subprocess.Popen[str]:
    log = ResultsFolder(chain.settings.folder).cache / "campaign.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        # A session of its own: Ctrl-C reaches this process alone, which then asks the others to stop.
        return subprocess.Popen(chain.command, stdout=file, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def _last_line(process: subprocess.Popen[str]) -> str:
    assert isinstance(process.args, list)
    settings = read_settings(process.args[3:])
    log = ResultsFolder(settings.folder).cache / "campaign.log"
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _stop(running: dict[subprocess.Popen[str], Chain]) -> None:
    """Ask for a last checkpoint, and wait for it."""
    for process in running:
        process.send_signal(signal.SIGINT)
    for process in running:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()


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
        jobs = one.done + sum(len(chain.jobs) for chain in one.left)
        table.add_row(str(one.planned.priority), one.planned.run, str(one.done), str(jobs), f"{one.minutes:.0f}")
    table.add_row("", "all", "", "", f"{sum(one.minutes for one in progress):.0f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
