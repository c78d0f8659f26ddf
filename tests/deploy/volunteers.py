"""Three sites that train and one that volunteers, each with a folder of its own: data, contracts, cache."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import yaml

from fedha import config as configs
from fedha.config import Config, parse
from fedha.deploy.agreements import Agreement, to_text

SITES = {"north": "a", "south": "b", "west": "c", "lender": "t"}  # the domains that they hold
ANY: dict[str, Any] = {"diagnose": None}
WORDS: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("north", "south", "west"), ANY),
    "lender": {**ANY, "volunteer": "t"},
}


def write_data(folder: Path, names: str = "abct") -> None:
    """Domains of three classes and six features, each with a mean of its own; the last one's classes lie elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        place = "abct".index(name)
        drawn = numpy.random.default_rng(place)
        labels = drawn.integers(0, 3, 40 + 10 * place)
        centres = numpy.random.default_rng(7).normal(size=(3, 6)) + 0.4 * place * drawn.normal(size=(3, 6))
        inputs = centres[labels] + drawn.normal(size=(len(labels), 6))
        numpy.savez(folder / f"{name}.npz", inputs=inputs.astype("float32"), labels=labels)


def experiment(**sections: Any) -> Config:
    """The run that all agreed to."""
    return parse(
        {
            "name": "lent",
            "data": {"name": "arrays", "classes": 3, "sources": ["a", "b", "c"], "target": "t"},
            "model": {"name": "mlp", "hidden": [5]},
            "recipe": "exact_diagonal",
            "training": {"mode": "synchronous", "rounds": 1, "optimizer": "adam", "learning_rate": 0.05},
            "evaluation": {"every": 1},
            "engine": {"name": "inline"},
            **sections,
        },
        "a test",
    )


def simulated(config: Config, root: Path) -> Config:
    """The same where all data are in one folder."""
    write_data(root)
    return config.model_copy(update={"data": config.data.model_copy(update={"root": root})})


def agree(site: Path, config: Config, words: Mapping[str, Any]) -> None:
    """Let a site hold the contract of an experiment."""
    (site / "contracts").mkdir(parents=True, exist_ok=True)
    (site / "contracts" / "lent.yaml").write_text(to_text(Agreement("lent", config, words)))


def write_config(path: Path, config: Config) -> Path:
    """An experiment's file."""
    path.write_text(configs.to_yaml(config))
    assert yaml.safe_load(path.read_text())
    return path
