"""What a site allows, whatever a server asks: read from a file of its own, never from the config that travels."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedha.errors import FedhaError
from fedha.privacy.guards import HeadLimits
from fedha.schema import numbers_as_written, refusal
from fedha.yamlfile import read_yaml


class HeadSection(BaseModel):
    """What an honest head looks like; see `fedha.privacy.guards.HeadLimits`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    least_distance: float = Field(HeadLimits.least_distance, gt=0)
    largest_norm: float = Field(HeadLimits.largest_norm, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _numbers_as_written(cls, content: Any) -> Any:
        return numbers_as_written(cls, content)


class Limits(BaseModel):
    """A site's limits; what is left out limits nothing, but for the head, which is always looked at.

    Attributes:
        max_epsilon: Of this site's training examples, and of its held-out ones, over all runs ever; with it, runs
            without noise are refused.
        delta: At which; default: a tenth of one over the number of examples.
        min_examples: Statistics and updates of fewer are not sent.
        statistics: Those that may be asked for; null: all. Evaluation of held-out examples is called ``evaluation``,
            what diagnoses ask for ``heads`` and ``directions``.
        rounds_per_hour: Each statistic, the update and the evaluation are answered so many times in any hour.
        head: What an honest head looks like.
        cache_features: Whether the features of a frozen network may be kept on this site's disk, for its owner alone
            and as long as the examples are there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_epsilon: float | None = Field(None, gt=0)
    delta: float | None = Field(None, gt=0, lt=1)
    min_examples: int = Field(1, ge=1)
    statistics: tuple[str, ...] | None = None
    rounds_per_hour: int | None = Field(None, ge=1)
    head: HeadSection = HeadSection()
    cache_features: bool = False

    @model_validator(mode="before")
    @classmethod
    def _numbers_as_written(cls, content: Any) -> Any:
        return numbers_as_written(cls, content)


def read_limits(path: Path) -> Limits:
    """Read a site's limits.

    Raises:
        FedhaError: The file is missing or says something else: the site then answers nothing, which is what a site
            that wanted limits would want.
    """
    content = read_yaml(path, "this site's limits", "correct FEDHA_LIMITS")
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise FedhaError(f"this site's limits {path} are no mapping; write keys such as `max_epsilon: 8`")
    with refusal(Limits, f"this site's limits {path}"):
        return Limits.model_validate(content)
