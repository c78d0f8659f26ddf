"""Runs with privacy, small and real."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Message

from fedha.config import Config, parse
from fedha.data.partition import client_domains
from fedha.engine.inline import InlineGrid
from fedha.flower.client import client_app, seeded_site
from fedha.flower.serve import Job, load_domains, serve
from fedha.models import build
from fedha.runs import runfolder
from fedha.runs.listener import Listener, Silent

EXAMPLES: Mapping[str, Any] = {"protect": "examples", "noise_multiplier": 3.0}
LOCAL: Mapping[str, Any] = {"mode": "local", "local": {"steps": 3, "batch_size": 50, "momentum": 0.5}}


def settings(recipe: Any = "exact_diagonal", **sections: Mapping[str, Any]) -> Config:
    """Three rounds of a small network on two domains, every example protected."""
    content: dict[str, dict[str, Any]] = {
        "model": {"hidden": [6], "one_logit": True},
        "training": {"rounds": 3},
        "evaluation": {"every": 2},
        "checkpoint": {"every": 2},
        "privacy": dict(EXAMPLES),
        "engine": {"name": "inline"},
    }
    for name, section in sections.items():
        content[name] = {**content.get(name, {}), **section}
    return parse({"recipe": recipe, **content})


class Overhearing(InlineGrid):
    """The inline grid, which keeps what clients sent."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        self.sent = [*getattr(self, "sent", []), *replies]
        return replies


def grid_of(config: Config, site: Any = seeded_site) -> Overhearing:
    """The clients of a config, each with a site of its own."""
    domains = load_domains(config)
    parts = client_domains(domains, config.data, config.seed[0])
    app = client_app(
        lambda _: build(config.model, domains.input_shape, domains.classes, config.seed[0]),
        lambda context: parts[int(context.node_config["partition-id"])],
        site=site,
    )
    return Overhearing(app, len(parts))


def run_on(grid: InlineGrid, config: Config, folder: Path, listener: Listener | None = None, **options: Any) -> Any:
    """Train over a grid."""
    return serve(Job(config, folder), grid, listener or Silent(), domains=load_domains(config), **options)


def records_of(folder: Path) -> list[dict[str, Any]]:
    return runfolder.read_metrics(folder)
