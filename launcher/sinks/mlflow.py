"""MLflow: one MLflow run over all starts, with the resolved recipe as its parameters.

A thread sends the records, so that a server that is slow or down never slows training. What is not sent yet when a
rank is killed is sent by the next start, from metrics.jsonl. Records that MLflow has are not sent again.
"""

import math
import os
import re
import threading
import time
from collections import deque
from typing import Any, ClassVar, Literal

from launcher import sinks
from launcher.config import paths, secret_values
from launcher.config.atomic_files import write
from launcher.config.format import plural
from launcher.config.recipe import flatten
from launcher.config.types import Plugin
from launcher.sinks import Record, RunInfo, earlier, numbers, stored_id, warn


class Config(Plugin):
    """MLflow."""

    kind: Literal["mlflow"] = "mlflow"
    optional_modules: ClassVar[tuple[str, ...]] = ("mlflow",)
    tracking_uri: str | None = None
    """URI of the server, `file:FOLDER` or `sqlite:///FILE`. Default: the variable MLFLOW_TRACKING_URI, else the folder
    mlruns of the run."""
    experiment: str = "launcher"
    """Name of the experiment."""
    tags: dict[str, str] = {}
    """Tags of the run."""


_ADVICE = "remove it, and another MLflow run begins"
_PATIENCE = 20.0
"""Maximum seconds to wait at the end of a start for records that are not sent."""
_PAUSE = 5.0
"""Seconds before another attempt."""
_AT_ONCE, _MOST_WAITING = 100, 200_000
"""Maximum number of records of one request, and of those that wait."""
_KEY, _VALUE = 250, 6000
"""Maximum number of characters of a parameter's key and value, which MLflow refuses or cuts with a warning."""
_SAME = 1e-3
"""Relative difference below which a repeated step has the same value: on other ranks it is repeated to rounding."""


class Sink(sinks.Sink[Config]):
    def __init__(self, config: Config, about: RunInfo):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the thread itself tries again
        self._config, self._about, self._file = config, about, about.folder / paths.MLFLOW_ID
        self._id = stored_id(self._file, _ADVICE)
        self._waiting, self._lost = deque[Record](earlier(about) if about.start else ()), 0
        self._known = dict[tuple[str, int], float]()
        self._client: Any = None
        self._wake, self._closed, self._end = threading.Event(), False, ""
        self._thread = threading.Thread(target=self._send_all, name="mlflow", daemon=True)
        self._thread.start()

    def write(self, record: Record) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._lost += 1
            return
        self._waiting.append(record)
        self._wake.set()

    def close(self, finished: bool) -> None:
        """Wait a while until all records are sent. Those that are not are reported."""
        self._closed, self._end = True, "FINISHED" if finished else "KILLED"
        self._wake.set()
        self._thread.join(_PATIENCE)
        if lost := self._lost + len(self._waiting):
            kept = "a resume sends them from metrics.jsonl" if not finished else "metrics.jsonl has them"
            warn(f"mlflow: {plural(lost, 'record')} could not be sent ({kept})")

    def _send_all(self) -> None:
        """Send records until the sink is closed and none is left. After an error, wait and try again."""
        warned, give_up = False, math.inf
        while True:
            try:
                self._connect()
                while self._waiting:
                    self._send([self._waiting[n] for n in range(min(_AT_ONCE, len(self._waiting)))])
                if self._closed:
                    self._client.set_terminated(self._id, status=self._end)
                    return
                self._wake.wait()
                self._wake.clear()
            except Exception as error:  # of the network, the server, the disk or a database
                if not warned:
                    line = secret_values.without_password(str(error)).partition("\n")[0][:200]
                    warn(f"mlflow: {type(error).__name__}: {line}; records wait, training goes on")
                warned = True
                give_up = min(give_up, time.monotonic() + _PATIENCE) if self._closed else math.inf
                if time.monotonic() >= give_up:
                    return
                time.sleep(_PAUSE if not self._closed else _PAUSE / 5)

    def _connect(self) -> None:
        """Create the MLflow run, or continue it. Does nothing if that is done."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        if self._client is not None:
            return
        uri = self._config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        client: Any = MlflowClient(tracking_uri=uri or (self._about.folder / "mlruns").absolute().as_uri())
        run = self._continued(client)
        if run is None:
            found = client.get_experiment_by_name(self._config.experiment)
            experiment = found.experiment_id if found else client.create_experiment(self._config.experiment)
            run = client.create_run(experiment, run_name=self._about.name, tags=self._config.tags)
            write(self._file, run.info.run_id)
        self._id = run.info.run_id
        recipe = {_name(key)[:_KEY]: str(value)[:_VALUE] for key, value in flatten(self._about.recipe).items()}
        params = [Param(key, value) for key, value in recipe.items() if key not in run.data.params]
        for first in range(0, len(params), _AT_ONCE):
            client.log_batch(self._id, params=params[first : first + _AT_ONCE])
        self._client = client

    def _continued(self, client: Any) -> Any | None:
        """Return the MLflow run of earlier starts, and note what it has; None: there is none."""
        from mlflow.exceptions import MlflowException

        if self._id is None:
            return None
        try:
            run = client.get_run(self._id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        client.update_run(self._id, status="RUNNING")
        for key in run.data.metrics:
            self._known |= {(key, one.step): one.value for one in client.get_metric_history(self._id, key)}
        return run

    def _send(self, records: list[Record]) -> None:
        """Send the oldest records, and remove them from those that wait."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(_name(key), float(value), now, record["step"])
            for record in records
            for key, value in numbers(record).items()
        ]
        fresh = [one for one in metrics if not self._has(one.key, one.step, one.value)]
        for first in range(0, len(fresh), _AT_ONCE * 5):
            self._client.log_batch(self._id, metrics=fresh[first : first + _AT_ONCE * 5])
            self._known |= {(one.key, one.step): one.value for one in fresh[first : first + _AT_ONCE * 5]}
        for _ in records:
            self._waiting.popleft()

    def _has(self, key: str, step: int, value: float) -> bool:
        known = self._known.get((key, step))
        return known is not None and (known == value or math.isclose(known, value, rel_tol=_SAME))


def _name(key: str) -> str:
    """Return a key as a name of MLflow. The label of a metric by class follows a dot, since in files MLflow makes
    eval/f1/LABEL a file below eval/f1, which is one already."""
    *groups, last = key.split("/", 2)
    name = f"{'/'.join(groups)}.{last.replace('/', '_')}" if len(groups) > 1 else key
    return re.sub(r"[^\w. :/-]", "_", name)
