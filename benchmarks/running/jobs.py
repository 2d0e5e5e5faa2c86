"""One job: a recipe with a seed, trained, scored and recorded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.utils._pytree import tree_leaves

from benchmarks.records.environment import commit, host_class, versions
from benchmarks.records.folder import ResultsFolder
from benchmarks.records.record import MetricInfo, Record, Row, write_record
from benchmarks.running.command import one_line, settings_want_traces
from benchmarks.running.following import following
from benchmarks.running.job_lock import held
from benchmarks.running.progress import Reporter
from benchmarks.settings.identity import record_name, slug
from benchmarks.settings.run import RunSettings
from tasks.points import PointResult, Scores
from tasks.task import Task
from tasks.training.checkpoint import Checkpoint, Spent
from tasks.training.ranks import ALONE, Ranks
from tasks.training.recipe import Recipe
from tasks.training.run import Interrupted, TrainingRun, Watch

MakeTask = Callable[[], Task]


@dataclass(frozen=True)
class Job:
    """What a record is made by.

    Attributes:
        hash: of everything that decides the result but the seed.
        training: of what decides the trained network; jobs that agree in it and in the seed share one.
        first: of what decides the network that channels are chosen in; empty where none are.
        keep: whether the scored network is kept for the showcase.
    """

    recipe: Recipe
    position: int
    seed: int
    hash: str
    training: str
    first: str = ""
    keep: bool = False

    @property
    def name(self) -> str:
        """`<recipe>-<seed>-<hash>`, as its record is called."""
        return record_name(self.recipe.name, self.seed, self.hash)

    @property
    def label(self) -> str:
        """As the user reads it."""
        return f"{self.recipe.name}, seed {self.seed}"


@dataclass(frozen=True)
class Outcome:
    """How a job ended: trained, cached, shared, missing, failed or interrupted, and why."""

    job: Job
    status: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.job.label}: {self.note}"


def plan(settings: RunSettings) -> list[Job]:
    """All jobs of a run, seed by seed: every recipe has a first result before any has a second."""
    shown = next((recipe for recipe in reversed(settings.recipes) if recipe.kind == "slimmable"), None)
    listed = settings.of_ablation or [recipe.name for recipe in settings.recipes]
    return [
        Job(
            recipe,
            listed.index(recipe.name),
            seed,
            settings.hash_of(recipe),
            settings.training_hash_of(recipe),
            settings.first_hash_of(recipe),
            keep=recipe is shown and seed == settings.seeds[0],
        )
        for seed in settings.seeds
        for recipe in settings.recipes
    ]


def chains(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs in groups that share a trained network: each group runs in one process, one after another."""
    found: dict[tuple[str, int], list[Job]] = {}
    for job in jobs:
        found.setdefault((job.training, job.seed), []).append(job)
    return list(found.values())


def run_job(
    settings: RunSettings,
    job: Job,
    task: Task,
    reporter: Reporter,
    stop: Callable[[], bool],
    ranks: Ranks = ALONE,
    *,
    recorded: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train a job from its last checkpoint and write its record.

    Whatever goes wrong is its outcome, and only raised where a single one of several ranks failed: the others
    cannot go on then.

    Args:
        recorded: whether another process, which may have been waited for, has done the job.
    """
    folder = ResultsFolder(settings.folder)
    lock = folder.cache / "locks" / f"{job.training}-{job.seed}"
    try:
        reporter.start(job.label, job.recipe.steps(task, settings.steps), task.follows)
        with held(lock, stop, reporter.note) if ranks.count == 1 else nullcontext():
            if recorded():
                return Outcome(job, "trained", "done by another process")
            seconds = _train_and_record(settings, job, task, reporter, stop, ranks)
        return Outcome(job, "trained", f"done in {seconds:.0f} s")
    except Interrupted:
        return Outcome(job, "interrupted", "stopped; the same command goes on from here")
    except Exception as error:
        if settings_want_traces() or not ranks.can_go_on(error):
            raise
        return Outcome(job, "failed", f"failed: {one_line(error)}")


def _train_and_record(
    settings: RunSettings,
    job: Job,
    task: Task,
    reporter: Reporter,
    stop: Callable[[], bool],
    ranks: Ranks,
) -> float:
    spent = Spent()
    torch.set_num_threads(settings.threads)
    folder = ResultsFolder(settings.folder)
    identity = f"{job.hash}-{job.seed}"
    path = folder.checkpoint(job.hash, job.seed)
    checkpoint = Checkpoint(path, identity, every=settings.checkpoint_seconds, spent=spent, warn=reporter.note)
    shared = trained_network(settings, job, warn=reporter.note)
    ranks.first(lambda: take_committed(settings, job, job.training, shared))
    baselines = ranks.first(task.baselines)  # what cannot be scored is told before the training

    def trained(width: float | None, net: Any) -> None:
        if job.keep and width is None:
            ranks.first(lambda: task.keep(net, job.recipe, folder.network(job.hash, job.seed)))

    def record(results: list[PointResult]) -> float:
        seconds = spent.seconds
        write_record(make_record(settings, job, task, results, baselines, seconds, ranks), folder.records)
        checkpoint.remove()
        return seconds

    with following(settings, task, job.recipe, job.name, reporter, tracked=ranks.leads) as followed:
        run = TrainingRun(
            settings.steps,
            job.seed,
            device=ranks.device(settings.device),
            precision=settings.precision,
            graphs=settings.graphs,
            checkpoint=checkpoint,
            trained=shared,
            watch=Watch(followed.step, stop, trained),
            ranks=ranks,
        )
        if job.recipe.tune is not None:
            run = replace(run, tuning=tuning_file(settings, job), alone=alone_on(folder, job.hash, run, reporter))
        if job.first:
            run = replace(run, first=first_run(settings, job, run, spent, reporter))
        results = task.train(job.recipe, run)
        seconds = ranks.first(lambda: record(results))
        followed.finish(results)
    return seconds


def first_run(settings: RunSettings, job: Job, run: TrainingRun, spent: Spent, reporter: Reporter) -> TrainingRun:
    """How the network is trained, and kept, that the channels of several recipes are chosen in."""
    folder, identity = ResultsFolder(settings.folder), f"{job.first}-{job.seed}"
    path = folder.checkpoint(job.first, job.seed)
    trained = kept_network(settings, job.first, job.seed, warn=reporter.note)
    take_committed(settings, job, job.first, trained)
    return replace(
        run,
        checkpoint=Checkpoint(path, identity, every=settings.checkpoint_seconds, spent=spent, warn=reporter.note),
        trained=trained,
        alone=alone_on(folder, identity, run, reporter),
    )


def alone_on(
    folder: ResultsFolder, identity: str, run: TrainingRun, reporter: Reporter
) -> Callable[[str], AbstractContextManager[None]]:
    """What holds something that jobs share while one of them makes it."""
    return lambda what: held(folder.cache / "locks" / f"{identity}-{what}", run.watch.stop, reporter.note)


def tuning_file(settings: RunSettings, job: Job) -> Path:
    """Where the scores of the trials are kept that choose the recipe's hyperparameters, for all of its seeds."""
    return settings.folder / "tuned" / f"{slug(job.recipe.name)}-{job.hash}.json"


def trained_network(settings: RunSettings, job: Job, warn: Callable[[str], None] = warnings.warn) -> Checkpoint:
    """Where the network that this job trains is kept, here or in another ablation that has trained it already."""
    return kept_network(settings, job.training, job.seed, warn)


def kept_network(
    settings: RunSettings, training: str, seed: int, warn: Callable[[str], None] = warnings.warn
) -> Checkpoint:
    """Where the network of a training is kept, here or in another ablation that has trained it already."""
    folder = ResultsFolder(settings.folder)
    folders = [folder] if settings.overwrite == "always" else [folder, *folder.siblings(settings.results)]
    places = [place.trained(training, seed) for place in folders]
    place = next((path for path in places if path.exists()), places[0])
    return Checkpoint(place, f"{training}-{seed}", warn=warn)


def committed_network(settings: RunSettings, job: Job, training: str | None = None) -> Path:
    """Where `python -m benchmarks.networks` keeps a network that a job needs, whichever recipe names it.

    training: whose it is; None: the one that this job trains.
    """
    place, training = settings.results / "networks", training or job.training
    found = sorted(place.glob(f"*-{job.seed}-{training}.safetensors"))
    return found[0] if found else place / f"{record_name(job.recipe.name, job.seed, training)}.safetensors"


def take_committed(settings: RunSettings, job: Job, training: str, kept: Checkpoint) -> None:
    """Put a committed network where it would be kept after its training, unless there is one or all is run again."""
    committed = committed_network(settings, job, training)
    if settings.overwrite != "always" and committed.exists() and not kept.path.exists():
        kept.write({"net": load_file(committed)})


def make_record(
    settings: RunSettings,
    job: Job,
    task: Task,
    results: list[PointResult],
    baselines: dict[str, Scores],
    seconds: float,
    ranks: Ranks = ALONE,
) -> Record:
    """The record of a finished job."""
    host = host_class(settings.device)
    return Record(
        task=settings.task,
        ablation=settings.ablation,
        question=settings.question,
        recipe=job.recipe.name,
        position=job.position,
        seed=job.seed,
        hash=job.hash,
        scale=settings.scale,
        data=settings.data,
        dataset=task.dataset,
        protocol=task.protocol,
        steps=settings.steps,
        step_unit=task.step_unit,
        input=_shape(task.example()),
        metrics=[MetricInfo(**asdict(metric)) for metric in task.metrics],
        eval_sets=list(task.eval_sets),
        rows=[Row(**asdict(result)) for result in results],
        baselines=baselines,
        training=job.recipe.settings(),
        settings=settings.deciding,
        versions=versions(),
        commit=commit(),
        host=host if ranks.count == 1 else f"{ranks.count} processes, {host}",
        threads=settings.threads,
        seconds=round(seconds, 1),
    )


def _shape(example: Any) -> list[int]:
    """Of the largest tensor of an input."""
    tensors = (leaf for leaf in tree_leaves(example) if isinstance(leaf, torch.Tensor))
    return list(max(tensors, key=torch.numel).shape)
