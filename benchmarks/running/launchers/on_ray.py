"""Workers that are processes of a Ray cluster, driven by Ray's own tasks."""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Sequence
from typing import Any

import ray

from benchmarks.running.command import one_line
from benchmarks.running.jobs import Outcome
from benchmarks.running.launchers.supervising import Ended, WorkerDied
from benchmarks.running.launchers.work import Work
from benchmarks.settings.launcher import Ray

STORE = 100 * 2**20  # bytes; only outcomes are passed


class OnRay:
    """Tasks of the cluster at `launcher.address`, or of one on this machine that ends with the run.

    Raises:
        ValueError: no cluster answers at the address.
    """

    def __init__(self, launcher: Ray) -> None:
        self._launcher = launcher
        self._running: dict[Any, Work] = {}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        own: dict[str, Any] = {}
        if launcher.address is None:
            cpus = launcher.jobs * launcher.cpus_per_job
            own = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": STORE}
        handler = signal.getsignal(signal.SIGTERM)
        try:
            _knock(launcher.address)
            ray.init(launcher.address or "local", logging_level=logging.ERROR, log_to_driver=True, **own)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"launcher.address={launcher.address}: {one_line(error)}; start a cluster with ray start --head, "
                "or leave the address out to run on this machine"
            ) from error
        signal.signal(signal.SIGTERM, handler)  # that of Ray ends the run at once
        there = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
        if launcher.address is None and there < launcher.gpus_per_job:
            ray.shutdown()
            raise ValueError(
                f"launcher.gpus_per_job={launcher.gpus_per_job:g}: Ray sees {there:g} GPUs on this machine"
            )
        # Ray's own retries would not know which jobs are recorded.
        options = {"num_cpus": launcher.cpus_per_job, "num_gpus": launcher.gpus_per_job, "max_retries": 0}
        self._worker = ray.remote(**options)(worker)  # type: ignore[call-overload]

    @property
    def room(self) -> int:
        return self._launcher.jobs - len(self._running)

    def about(self) -> str:
        where = "on this machine" if self._launcher.address is None else f"at {self._launcher.address}"
        return f"on Ray {where}, {self._launcher.jobs} at once"

    def start(self, work: Sequence[Work]) -> None:
        for one in work:
            self._running[self._worker.remote(one)] = one

    def ended(self, seconds: float) -> list[Ended]:
        done, _ = ray.wait(list(self._running), num_returns=len(self._running), timeout=seconds)
        return [(self._running.pop(reference), _result(reference)) for reference in done]

    def dismiss(self) -> int:
        for reference in self._running:
            ray.cancel(reference, force=False)  # what waits for room never begins; to what runs it is Ctrl-C
        return 0

    def close(self) -> None:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise OSError if nothing listens at a host:port; Ray by itself would try for many minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and "/" not in host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def worker(work: Work) -> list[Outcome]:
    """What Ray runs; its name stands before each line that it prints."""
    return work()


def _result(reference: Any) -> list[Outcome] | WorkerDied:
    try:
        outcomes: list[Outcome] = ray.get(reference)
    except ray.exceptions.RayError as error:
        return WorkerDied(type(error).__name__)
    return outcomes
