"""The launchers that a run can choose, and their settings, checked when composed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, ClassVar

from tasks.choices import check_choice, check_keys, check_number, check_whole

RETRIES = 3


@dataclass(frozen=True)
class Serial:
    """One job after another, in this process, or among the processes that torchrun has started."""

    name: ClassVar[str] = "serial"
    jobs: int = 1

    def __post_init__(self) -> None:
        if self.jobs != 1:
            raise ValueError(
                f"launcher.jobs must be 1 for launcher=serial, not {self.jobs!r}; launcher=joblib runs several at once"
            )

    def check_here(self) -> None:
        """Nothing is needed."""


@dataclass(frozen=True)
class Joblib:
    """Processes of this machine.

    Attributes:
        jobs: how many processes.
        retries: how often a job is started again, from its checkpoint, because its worker died.
    """

    name: ClassVar[str] = "joblib"
    jobs: int = 2
    retries: int = RETRIES

    def __post_init__(self) -> None:
        _check_counts(self)

    def check_here(self) -> None:
        """Raise ValueError where a package is missing."""
        _check_package("joblib", "joblib", extra="bench")


@dataclass(frozen=True)
class Ray:
    """The processes of a Ray cluster, or of one that is started on this machine for the run.

    Attributes:
        jobs, retries: as for `Joblib`.
        address: of a cluster: auto for the one that this machine belongs to; None: one of its own.
        cpus_per_job, gpus_per_job: what Ray keeps free for a job; a part of a GPU is allowed.
    """

    name: ClassVar[str] = "ray"
    jobs: int = 2
    retries: int = RETRIES
    address: str | None = None
    cpus_per_job: int = 1
    gpus_per_job: float = 0

    def __post_init__(self) -> None:
        _check_counts(self)
        _check_cpus_and_gpus(self)
        if self.address is not None and (not isinstance(self.address, str) or not self.address):
            raise ValueError(f"launcher.address={self.address!r} must be auto, a host:port, or null for this machine")

    def check_here(self) -> None:
        """Raise ValueError where a package is missing."""
        _check_package("ray", "ray", extra="ray")


@dataclass(frozen=True)
class Slurm:
    """Jobs of a Slurm cluster, or processes of this machine that stand for them.

    Attributes:
        jobs, retries: as for `Joblib`; a job that Slurm pre-empts or that runs out of time is queued again.
        cluster: slurm, or local for processes of this machine.
        partition: where to queue; None: the cluster's default.
        timeout_min: minutes that a chain of jobs may take at a time.
        cpus_per_job, gpus_per_job, mem_gb: what a job is given; mem_gb None: the cluster's default.
        options: more for sbatch, for example {account: vision, qos: long}.
    """

    name: ClassVar[str] = "slurm"
    jobs: int = 16
    retries: int = RETRIES
    cluster: str = "slurm"
    partition: str | None = None
    timeout_min: int = 240
    cpus_per_job: int = 1
    gpus_per_job: int = 0
    mem_gb: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_counts(self)
        _check_cpus_and_gpus(self)
        check_choice("launcher.cluster", self.cluster, ("slurm", "local"))
        check_whole("launcher.timeout_min", self.timeout_min, at_least=1)
        check_whole("launcher.gpus_per_job", self.gpus_per_job, at_least=0)
        if self.mem_gb is not None:
            check_number("launcher.mem_gb", self.mem_gb, lambda gb: gb > 0, "a number of GB above 0, or null")
        if self.partition is not None and not isinstance(self.partition, str):
            raise ValueError(f"launcher.partition={self.partition!r} must be the name of one, or null")
        if not isinstance(self.options, Mapping):
            raise ValueError(f"launcher.options={self.options!r} must be options, for example {{account: vision}}")
        for key in ("partition", "mem_gb", "options"):
            if self.cluster == "local" and getattr(self, key):
                raise ValueError(f"launcher.{key} has no meaning for launcher.cluster=local")

    def check_here(self) -> None:
        """Raise ValueError where a package is missing, or Slurm."""
        _check_package("slurm", "submitit", extra="slurm")
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise ValueError(
                "launcher=slurm: there is no sbatch on this machine; start the command on a login node of the cluster, "
                "or try it here with launcher.cluster=local"
            )


Launcher = Serial | Joblib | Ray | Slurm
SERIAL = Serial()
LAUNCHERS: Mapping[str, type[Launcher]] = {kind.name: kind for kind in (Serial, Joblib, Ray, Slurm)}


def read_launcher(given: Mapping[str, Any]) -> Launcher:
    """The launcher that plain settings describe.

    Raises:
        ValueError: a key or value is wrong, or what it needs is not on this machine.
    """
    plain = dict(given)
    name = plain.pop("name", None)
    check_choice("launcher", name, LAUNCHERS)
    kind = LAUNCHERS[name]
    check_keys(f"launcher={name}", plain, kind)
    launcher = kind(**plain)
    launcher.check_here()
    return launcher


def _check_counts(launcher: Joblib | Ray | Slurm) -> None:
    check_whole("launcher.jobs", launcher.jobs, at_least=1)
    check_whole("launcher.retries", launcher.retries, at_least=0)


def _check_cpus_and_gpus(launcher: Ray | Slurm) -> None:
    check_whole("launcher.cpus_per_job", launcher.cpus_per_job, at_least=1)
    check_number(
        "launcher.gpus_per_job",
        launcher.gpus_per_job,
        lambda gpus: 0 <= gpus <= 1,
        "between 0 and 1: a job trains on one GPU; several train one recipe by torchrun",
    )


def _check_package(launcher: str, package: str, *, extra: str) -> None:
    if find_spec(package) is None:
        raise ValueError(f"launcher={launcher} needs the package {package}: pip install -e '.[{extra}]'")
