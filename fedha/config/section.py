"""What every section of a config has in common."""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, JsonValue, model_validator

from fedha.schema import numbers_as_written, refusal

# What may be changed in a run that has begun says so; everything else was what its past rounds were made with.
MAY_CHANGE: dict[str, JsonValue] = {"may_change": True}
ELSEWHERE: dict[str, JsonValue] = {
    "may_change": True,
    "elsewhere": True,
}  # where it runs: results agree, at most up to rounding


class Section(BaseModel):
    """A part of the config: unknown keys are errors, values cannot change after reading.

    Raises:
        FedhaError: As `parse`, where one is made by its name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    if not TYPE_CHECKING:  # where types are checked, the fields make the signature

        def __init__(self, **content):
            with refusal(type(self)):
                super().__init__(**content)

        # So a section within a section is validated by the outer one, which names all problems at once.
        __init__.__pydantic_base_init__ = True

    @model_validator(mode="before")
    @classmethod
    def _numbers_as_written(cls, content: Any) -> Any:
        return numbers_as_written(cls, content)
