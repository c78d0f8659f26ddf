"""What every section of a config has in common."""

from typing import TYPE_CHECKING

from pydantic import ConfigDict, JsonValue

from fedha.schema import Written, refusal

# What may be changed in a run that has begun says so; everything else was what its past rounds were made with.
MAY_CHANGE: dict[str, JsonValue] = {"may_change": True}
ELSEWHERE: dict[str, JsonValue] = {
    "may_change": True,
    "elsewhere": True,
}  # where it runs: results agree, at most up to rounding


class Section(Written):
    """A part of the config: unknown keys are errors, values cannot change after reading.

    Raises:
        FedhaError: As `parse`, where one is made by its name.
    """

    model_config = ConfigDict(validate_default=True)

    if not TYPE_CHECKING:  # where types are checked, the fields make the signature

        def __init__(self, **content):
            with refusal(type(self)):
                super().__init__(**content)

        # So a section within a section is validated by the outer one, which names all problems at once.
        __init__.__pydantic_base_init__ = True
