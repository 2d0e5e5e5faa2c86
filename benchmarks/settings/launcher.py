"""The launchers that a run can choose, and their keys."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Annotated, ClassVar, Literal

from tasks.settings import OneOfWhole, Plain, Settings, setting


class Launcher(Settings):
    """What all launchers share.

    Attributes:
        name: as a user chooses it.
        package, extra: what it needs, and the extra that brings it.
    """

    group: ClassVar[str] = "launcher"
    name: ClassVar[str]
    package: ClassVar[str] = ""
    extra: ClassVar[str] = ""

    def check_here(self) -> None:
        """Raise ValueError where what it needs is not on this machine."""
        if self.package and find_spec(self.package) is None:
            raise ValueError(f"launcher={self.name} needs the package {self.package}: pip install -e '.[{self.extra}]'")


class Serial(Launcher):
    """One after another, in this process, or among the processes that torchrun has started."""

    name = "serial"

    jobs: Annotated[Literal[1], OneOfWhole] = setting(1, "jobs at once; launcher=joblib runs several")


class Many(Launcher):
    """What launchers share that run several jobs at once."""

    jobs: int = setting(2, "jobs at once", ge=1)
    retries: int = setting(3, "how often a job is started again, from its checkpoint, because its worker died", ge=0)


class Joblib(Many):
    """In parallel processes of this machine, one recipe and seed each."""

    name = "joblib"
    package, extra = "joblib", "bench"


class Ray(Many):
    """On Ray: processes of this machine, or of a cluster with launcher.address=auto."""

    name = "ray"
    package, extra = "ray", "ray"

    address: str | None = setting(
        None, "auto: the cluster that this machine belongs to; host:port: another; null: one for this run, here",
        min_length=1,
    )  # fmt: skip
    cpus_per_job: int = setting(1, "CPUs kept free for a job", ge=1, follows="threads")
    gpus_per_job: float = setting(
        0.0, "GPUs kept free for a job; 0.5: two jobs share one; several GPUs train one recipe by torchrun", ge=0, le=1
    )


class Slurm(Many):
    """In an array of Slurm jobs; the command waits for them, and queues again what dies."""

    name = "slurm"
    package, extra = "submitit", "slurm"

    jobs: int = setting(16, "jobs at once", ge=1)
    cluster: Literal["slurm", "local"] = setting("slurm", "local: processes of this machine, to try the settings")
    partition: str | None = setting(
        None, "where to queue; null: the cluster's default", min_length=1, only_for={"cluster": ["slurm"]}
    )
    timeout_min: int = setting(240, "minutes that Slurm gives one recipe and seed; it goes on in the next job", ge=1)
    cpus_per_job: int = setting(1, "CPUs given to a job", ge=1, follows="threads")
    gpus_per_job: int = setting(0, "GPUs given to a job; several GPUs train one recipe by torchrun", ge=0, le=1)
    mem_gb: float | None = setting(
        None, "memory of a job in GB; null: the cluster's default", gt=0, only_for={"cluster": ["slurm"]}
    )
    options: Plain = setting(
        {},
        "further options for sbatch",
        examples=[{"account": "vision", "qos": "long"}],
        only_for={"cluster": ["slurm"]},
    )

    def check_here(self) -> None:
        """Raise ValueError where a package is missing, or Slurm."""
        super().check_here()
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise ValueError(
                "launcher=slurm: there is no sbatch on this machine; start the command on a login node of the cluster, "
                "or try it here with launcher.cluster=local"
            )


LAUNCHERS: Mapping[str, type[Launcher]] = {kind.name: kind for kind in (Serial, Joblib, Ray, Slurm)}
