"""MLflow: a run on a tracking server, in a database or in a folder (extra ``mlflow``)."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twotower.core.errors import InputError, cut
from twotower.training.trackers.base import FAILED, FINISHED, TrackedRun, Tracker, note_id, noted_id, told

STATUS = {FINISHED: "FINISHED", FAILED: "FAILED"}
LONGEST = 6000
"""Characters of a parameter that MLflow takes."""
AT_ONCE = 100
"""Parameters of one request."""


class MLflow(Tracker):
    """Write a run to MLflow: settings as parameters, figures as metrics, run file and model card as artefacts.

    A resumed run goes on with the run of MLflow that it began, where the address is still the same. MLflow allows no
    ``@`` in names: ``ndcg@10`` is ``ndcg_at_10`` there.

    Args:
        address: of the server, a database (``sqlite:///mlflow.db``) or a folder; empty: ``MLFLOW_TRACKING_URI``, else
            MLflow's own default.
        experiment: its name; empty: ``MLFLOW_EXPERIMENT_NAME``, else "twotower".

    Raises:
        InputError: if MLflow is not installed, or the address holds a password.
    """

    service = "MLflow"

    def __init__(self, address: str = "", experiment: str = "") -> None:
        super().__init__()
        try:
            from mlflow.entities import Metric, Param
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise InputError("tracking by MLflow needs its package: pip install 'twotower[mlflow]'") from None
        if "@" in urlsplit(address).netloc and address.startswith("http"):
            raise InputError(
                "MLflow: no name and password in the address: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        self.address = address if "://" in address or not address else Path(address).absolute().as_uri()
        self.experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME", "") or "twotower"
        self._client_of, self._metric, self._param = MlflowClient, Metric, Param
        self._client: Any = None
        self._id = ""

    def open(self, run: TrackedRun, step: int) -> None:
        """Start a run with its parameters, or go on with the one that was begun.

        Raises:
            InputError: if MLflow refuses the address, or does not answer.
        """
        try:
            self._client = self._client_of(tracking_uri=self.address or None)
            self._id = noted_id(run, "mlflow", address=self.address, experiment=self.experiment) or ""
            if self._id:
                self._client.update_run(self._id, status="RUNNING")
            else:
                self._begin_run(run)
            self._client.log_text(self._id, run.toml, "run.toml")
        except Exception as error:
            raise InputError(f"MLflow: {told(error)}") from None

    def _begin_run(self, run: TrackedRun) -> None:
        found = self._client.get_experiment_by_name(self.experiment)
        number = found.experiment_id if found else self._client.create_experiment(self.experiment)
        self._id = self._client.create_run(number, run_name=run.title).info.run_id
        settings = [self._param(name, cut(str(value), LONGEST)) for name, value in run.settings.items()]
        for begin in range(0, len(settings), AT_ONCE):
            self._client.log_batch(self._id, params=settings[begin : begin + AT_ONCE])
        note_id(run, "mlflow", id=self._id, address=self.address, experiment=self.experiment)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Add a point to each metric."""
        now = int(time.time() * 1000)
        self._client.log_batch(
            self._id,
            metrics=[self._metric(name.replace("@", "_at_"), value, now, step) for name, value in figures.items()],
        )

    def summarise(self, figures: Mapping[str, float]) -> None:
        """Add the metrics of the test."""
        self.log(figures, 0)

    def keep(self, file: Path) -> None:
        """Keep the file as an artefact."""
        self._client.log_artifact(self._id, str(file))

    def close(self, status: str) -> None:
        """End the run as finished, killed or failed."""
        self._client.set_terminated(self._id, STATUS.get(status, "KILLED"))
