"""A tracker of runs (`fedha sweep --log sides.spent:Spent`): what training takes of each, where it is trained."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedha.config import Config
from fedha.runs.listener import Silent

PLACE = "FEDHA_BENCHMARK_SPENT"  # names the file in the environment


class Spent(Silent):
    """Notes the processor time of a run from its first round to its end, evaluations included."""

    def started(self, config: Config, folder: Path, first_round: int) -> None:
        self._recipe, self._began = config.recipe[0].name, time.process_time()

    def finished(self, results: Mapping[str, Any]) -> None:
        told = {"recipe": self._recipe, "seconds": time.process_time() - self._began}
        with Path(os.environ[PLACE]).open("a") as file:  # a line at once: workers write side by side
            file.write(json.dumps(told) + "\n")


def seconds(place: Path) -> dict[str, list[float]]:
    """Those of each run, by recipe."""
    found: dict[str, list[float]] = {}
    for line in place.read_text().splitlines():
        told = json.loads(line)
        found.setdefault(told["recipe"], []).append(told["seconds"])
    return found
