"""What a tracker draws of a run: numbers by name, from the records that the run writes anyhow."""

from collections.abc import Mapping
from typing import Any

from fedha.config import Config
from fedha.runs.wording import flat


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a round's record by name, levels joined by slashes: ``target/sketch/accuracy``.

    What has no value, such as a metric that is undefined there, is left out.
    """
    row = {name: value for name, value in flat(record).items() if name != "round"}
    return {name: float(value) for name, value in row.items() if type(value) in (int, float)}


def chosen(results: Mapping[str, Any]) -> dict[str, float]:
    """What each selection rule chose: ``selection/oracle/round``, ``selection/oracle/target_accuracy``; and seconds."""
    return scalars({"selection": results.get("selection") or {}, "seconds": results.get("seconds")})


def settings(config: Config) -> dict[str, str]:
    """The settings of a single run as texts, by key with dots: what trackers call hyperparameters."""
    dumped = config.model_dump(mode="json")
    row = flat({**dumped, "recipe": dumped["recipe"][0], "seed": dumped["seed"][0]})
    return {name.replace("/", "."): str(value) for name, value in row.items()}
