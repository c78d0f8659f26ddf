"""The learning rate's schedule, where it says more than a name."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedha.config.section import Section
from fedha.errors import FedhaError

# Which names read which keys; all read the rest.
_READERS: Mapping[str, tuple[str, ...]] = {
    "every": ("step",),
    "at": ("milestones",),
    "factor": ("step", "milestones", "exponential"),
    "floor": ("cosine", "linear", "step", "milestones", "exponential"),
}


class ScheduleConfig(Section):
    """How the learning rate goes over a run; computed from the number of the step, so that nothing has to be kept."""

    name: Literal["constant", "cosine", "linear", "step", "milestones", "exponential"] = Field(
        "constant", description="cosine and linear fall to the run's end; step, milestones and exponential by a factor"
    )
    by: Literal["round", "step"] = Field(
        "round", description="what is counted: rounds, or local steps (synchronous: a round is one)"
    )
    warmup: int = Field(0, ge=0, description="rounds or steps of warm-up: the n-th has n / warmup of the rate")
    every: int | None = Field(None, ge=1, description="step: so many rounds or steps between two falls")
    at: list[Annotated[int, Field(ge=1)]] | None = Field(
        None, min_length=1, description="milestones: after how many rounds or steps it falls"
    )
    factor: float | None = Field(
        None, gt=0, le=1, description="what a fall multiplies the rate by; default: 0.1; exponential: of every one"
    )
    floor: float = Field(0.0, ge=0, le=1, description="the part of the rate that it never falls below")

    @model_validator(mode="after")
    def _read(self) -> "ScheduleConfig":
        for key, names in _READERS.items():
            if self.name not in names and getattr(self, key) != type(self).model_fields[key].get_default():
                raise ValueError(f"{key} is {getattr(self, key)}, which a schedule {self.name!r} does not read")
        wanted = {"step": "every", "milestones": "at", "exponential": "factor"}.get(self.name)
        if wanted is not None and getattr(self, wanted) is None:
            raise ValueError(f"a schedule {self.name!r} needs {wanted}")
        if self.at is not None and sorted(set(self.at)) != self.at:
            raise ValueError(f"at is {self.at}; give each once, in ascending order")
        return self

    @property
    def ends(self) -> bool:
        """Whether it depends on how many rounds there are."""
        return self.name in ("cosine", "linear")


def given_schedule(value: Any) -> Any:
    """A schedule as a config holds it: its name where that is all.

    Raises:
        ValueError: It is none.
    """
    if isinstance(value, str) and value in ("step", "milestones", "exponential"):
        value = {"name": value}
    if not isinstance(value, Mapping):
        return value
    try:
        found = ScheduleConfig(**value)
    except FedhaError as error:
        raise ValueError(str(error)) from error
    alone = found.model_copy(update={"name": "constant"}) == ScheduleConfig()
    return found.name if alone else found
