"""Runs of MLflow, on a server or in the folder's cache."""

from __future__ import annotations

import os
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from benchmarks.running.trackers.tracking import Tracked
from benchmarks.settings.tracker import Mlflow


class MlflowRun:
    """A run of an experiment."""

    def __init__(self, client: MlflowClient, run: Tracked, id_: str) -> None:
        self.id = id_
        self._client, self._steps = client, run.steps

    def tell(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self._client.log_metric(self.id, key, value, step=step)

    def close(self, finals: Mapping[str, float] | None) -> None:
        if finals is not None:
            self.tell(finals, self._steps)
        self._client.set_terminated(self.id, "KILLED" if finals is None else "FINISHED")


def open_run(tracker: Mlflow, run: Tracked, before: str | None) -> MlflowRun:
    """The run that was interrupted, or a new one."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the default waits for minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    (run.cache / "mlflow").mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracker.place(run.cache))
    if before is not None:
        client.update_run(before, "RUNNING")
        return MlflowRun(client, run, before)
    id_ = client.create_run(
        _experiment(client, tracker.project), run_name=run.name, tags={"group": run.group}
    ).info.run_id
    for key, value in run.settings.items():
        client.log_param(id_, key, value)
    return MlflowRun(client, run, id_)


def _experiment(client: MlflowClient, name: str) -> str:
    try:
        return str(client.create_experiment(name))
    except MlflowException:  # another worker has made it
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)
