"""What results.json and the lines of metrics.jsonl must look like for those who read them; other keys are not read."""

from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)] | None  # None: it was not finite
_Known = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Whole = Annotated[int, Field(strict=True, ge=0)]
_Seed = Annotated[int, Field(strict=True)]
_Text = Annotated[str, Field(strict=True)]


class _Part(TypedDict, total=False):
    accuracy: _Number
    risk: _Number
    examples: _Whole


_Parts = dict[_Text, _Part]


class _Event(TypedDict):
    event: _Text
    client: _Text
    exchange: _Text
    reason: _Text


class _Measured(TypedDict, total=False):
    loss: _Number
    seconds: _Known
    weight: _Number
    risk: dict[_Text, _Number]
    accuracy: dict[_Text, _Number]
    penalty: dict[_Text, _Number]
    diagnosis: dict[_Text, _Number]
    epsilon: dict[_Text, _Number]
    held_out: _Parts | None
    target: _Parts | None
    oracle: _Parts | None
    lodo_val: _Parts | None
    id_test: _Parts | None
    train: _Parts | None
    events: list[_Event]
    bytes_down: _Whole | None
    bytes_up: _Whole | None


class _Round(_Measured):
    round: _Whole


class _Changes(TypedDict):
    from_round: _Whole
    changes: dict[_Text, Any]


class _Chosen(TypedDict):
    round: _Whole
    target_accuracy: _Number


class _Selected(_Chosen, total=False):
    within_warmup: _Whole
    instead_of: _Whole
    warmup: _Whole
    target: dict[_Text, _Number]


class _Absence(TypedDict):
    rounds: _Whole
    evaluations: _Whole
    reason: _Text


class _Spent(TypedDict):
    protect: _Text
    noise_multiplier: _Known
    epsilon: dict[_Text, _Number]
    delta: dict[_Text, _Known]
    relation: _Text
    sampling: list[_Text]
    noise: _Text


class _Privacy(_Spent, total=False):
    not_covered: list[_Text]
    warnings: list[_Text]
    epsilon_held_out: dict[_Text, _Number]
    stopped: _Text


class _Optional(TypedDict, total=False):
    name: _Text
    data: _Text
    train: _Parts
    selection: dict[_Text, _Selected | None]
    left_out: dict[_Text, _Absence]
    versions: dict[_Text, _Text]
    privacy: _Privacy
    changes: list[_Changes]
    diverged: _Text
    stopped: _Text
    select_by: dict[_Text, _Text]
    id_test: _Parts
    remarks: list[_Text]


class _Results(_Optional):
    recipe: _Text
    seed: _Seed
    rounds: _Whole
    seconds: _Known
    target: _Parts
    sources: _Parts


_RESULTS, _ROUND, _CHANGES = TypeAdapter(_Results), TypeAdapter(_Round), TypeAdapter(_Changes)


def wrong_results(content: Any) -> str | None:
    """What is wrong with the content of a results.json, in a phrase; None if nothing is."""
    return _wrong(_RESULTS, content)


def wrong_line(content: Any) -> str | None:
    """What is wrong with the content of a line of a metrics.jsonl, in a phrase; None if nothing is."""
    return _wrong(_CHANGES if isinstance(content, dict) and "changes" in content else _ROUND, content)


def _wrong(shape: TypeAdapter[Any], content: Any) -> str | None:
    try:
        shape.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(one)[:40] for one in first["loc"][:4])
        return f"{where}: {first['msg'][:200]}" if where else first["msg"][:200]
    return None
