"""MLflow: a run of its store for each run, with settings as parameters. Nothing is sent unless you name a server."""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from fedha.config import Config
from fedha.loggers.numbers import chosen, scalars, settings
from fedha.runs.wording import run_title

STORE = "mlruns"
WHERE = "fedha.folder"  # a tag: which run of fedha's it is
LONGEST = 6000  # of a parameter's text
REFUSED = re.compile(r"[^/\w.\- :]")  # what MLflow takes in no name; a domain may be called so


class MLflow:
    """Writes to the store that ``MLFLOW_TRACKING_URI`` names; else to a folder ``mlruns`` where the command started."""

    def __init__(self) -> None:
        if "MLFLOW_TRACKING_URI" not in os.environ:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer releases ask for a word
        uri = os.environ.get("MLFLOW_TRACKING_URI") or Path(STORE).absolute().as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        self._run: str | None = None
        self._round = 0

    def started(self, config: Config, folder: Path, first_round: int) -> None:
        """Begin a run of the experiment that the config names, or go on with this folder's."""
        self.close()
        experiment = self._experiment(config.name)
        place = str(folder.absolute())
        self._run = self._found(experiment, place) if first_round > 1 else None
        if self._run is None:
            made = self._client.create_run(experiment, run_name=run_title(config), tags={WHERE: place})
            self._run = str(made.info.run_id)
            told = [Param(_taken(key), value[:LONGEST]) for key, value in settings(config).items()]
            for first in range(0, len(told), 100):
                self._client.log_batch(self._run, params=told[first : first + 100])
        else:
            self._client.update_run(self._run, "RUNNING")

    def round_done(self, record: Mapping[str, Any]) -> None:
        """Log a round's numbers."""
        self._round = int(record["round"])
        self._log(scalars(record))

    def finished(self, results: Mapping[str, Any]) -> None:
        """Log what the rules chose, and end the run."""
        self._log(chosen(results))
        self._end("FINISHED")

    def note(self, text: str) -> None:
        """Keep it as the run's note."""
        if self._run is not None:
            self._client.set_tag(self._run, "mlflow.note.content", text)

    def close(self) -> None:
        """End a run that was stopped."""
        self._end("KILLED")

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found is not None else self._client.create_experiment(name))

    def _found(self, experiment: str, place: str) -> str | None:
        runs = self._client.search_runs([experiment], f"tags.`{WHERE}` = '{place}'", max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _log(self, numbers: Mapping[str, float]) -> None:
        if self._run is not None:
            now = time.time_ns() // 1_000_000
            told = [Metric(_taken(name), value, now, self._round) for name, value in numbers.items()]
            for first in range(0, len(told), 1000):
                self._client.log_batch(self._run, metrics=told[first : first + 1000])

    def _end(self, status: str) -> None:
        if self._run is not None:
            self._client.set_terminated(self._run, status)
        self._run = None


def _taken(name: str) -> str:
    """A name that MLflow takes; two that differ stay two."""
    return REFUSED.sub(lambda found: f"_{ord(found[0]):x}_", name)
