"""The domains that a sweep leaves out in turn."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedha.config import DataConfig, located, parse
from fedha.data import domain_names
from fedha.data.domain import choose_sources
from fedha.data.splits import with_validation
from fedha.errors import FedhaError
from fedha.schema import nearest
from fedha.sweep.jobs import Job
from fedha.sweep.space import TARGET, example

ALL = "all"


def with_targets(content: Mapping[str, Any]) -> dict[str, Any]:
    """A sweep's content with every domain's name in the place of ``data.target: all``.

    Raises:
        FedhaError: The data set has targets of its own, or cannot be read, or the sources are named as well.
    """
    data = content.get("data")
    if not isinstance(data, Mapping) or data.get("target") != ALL:
        return dict(content)
    sources = data.get("sources")
    if isinstance(sources, list):
        raise FedhaError(
            f"{TARGET} is all, and data.sources names {', '.join(map(str, sources))}; leave data.sources out: all "
            "other domains are trained on"
        )
    untargeted = {key: value for key, value in data.items() if key not in ("target", "validation_domain")}
    config = located(parse({"data": example({"data": untargeted})["data"]}, TARGET))
    names = [name for name in domain_names(config.data) if name != data.get("validation_domain")]
    return {**content, "data": {**data, "target": names}}


def check_targets(jobs: Sequence[Job]) -> None:
    """Refuse unseen domains that the data do not have, or train on, before the first run is begun.

    Where the data cannot be looked at nothing is said: the runs say why.

    Raises:
        FedhaError: A name is no domain's, or is a source's as well.
    """
    known: dict[str, tuple[str, ...] | None] = {}
    seen = {one.config.data.model_dump_json(): one.config.data for one in jobs if one.config is not None}
    for data in seen.values():
        names = _names(data, known)
        if names is None:
            continue
        for target in data.targets:
            choose_sources(names, data.sources, target)
        if data.validation_domain is not None and data.validation_domain not in names:
            raise FedhaError(
                f"data.validation_domain names {data.validation_domain!r}, which is no domain"
                f"{nearest(data.validation_domain, names)}"
            )
        with_validation(data)


def _names(data: DataConfig, known: dict[str, tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """Every domain of a data set; None where they cannot be told. What was looked up is kept in `known`."""
    whole = data.model_copy(update={"target": None, "more_targets": [], "sources": None, "validation_domain": None})
    key = whole.model_dump_json()
    if key not in known:
        try:
            known[key] = domain_names(whole)
        except FedhaError:
            known[key] = None
    return known[key]
