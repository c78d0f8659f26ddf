"""The domains that a sweep leaves out in turn."""

from collections.abc import Mapping
from typing import Any

from fedha.config import located, parse
from fedha.data import domain_names
from fedha.errors import FedhaError
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
    untargeted = {key: value for key, value in data.items() if key != "target"}
    config = located(parse({"data": example({"data": untargeted})["data"]}, TARGET))
    return {**content, "data": {**data, "target": list(domain_names(config.data))}}
