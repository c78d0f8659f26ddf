"""What a schema makes of what people wrote, and the sentences where it cannot."""

import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from fedha.errors import FedhaError

_WHOLE = re.compile(r"[-+]?[0-9]+(_[0-9]+)*\Z")
_HEXADECIMAL = re.compile(r"0[xX][0-9a-fA-F]+\Z")
_DECIMAL = re.compile(r"[-+]?([0-9]+(_[0-9]+)*\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\Z")
_LONGEST = 400  # digits: beyond a float's range, and no work for who writes them
_SHOWN = 10  # problems that are named
_WIDEST = 80  # characters of a value


def number(text: str) -> int | float | None:
    """A number as people write it, such as 7, 007, 1_000, 1e-1, .5 or 0x1F; None where it is none."""
    if len(text) > _LONGEST:
        return None
    if _WHOLE.match(text):
        return int(text)
    if _HEXADECIMAL.match(text):
        return int(text, 16)
    return float(text) if _DECIMAL.match(text) else None


def numbers_as_written(schema: type[BaseModel], content: Any) -> Any:
    """A section's content with numbers where its fields take nothing but numbers; what is none is left as it is."""
    if not isinstance(content, Mapping):
        return content
    numeric = _numeric_keys(schema)
    return {key: _as_numbers(one) if key in numeric else one for key, one in content.items()}


class Written(BaseModel):
    """What people write into a file: unknown keys are errors, numbers may be texts, values cannot change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _numbers_as_written(cls, content: Any) -> Any:
        return numbers_as_written(cls, content)


def explained(error: ValidationError, schema: type[BaseModel], origin: str) -> FedhaError:
    """Every problem in a sentence, with its value and, for an unknown key, the nearest known one.

    Args:
        error: Pydantic's.
        schema: What was to be made.
        origin: What the content is called; "" for nothing.
    """
    problems = list(dict.fromkeys(_explain(dict(one), schema) for one in error.errors(include_url=False)))
    more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    told = "; ".join([*problems[:_SHOWN], *more]).replace("?; ", "? ")  # a question ends its sentence
    return FedhaError(f"{origin and f'{origin}: '}{told}")


@contextmanager
def refusal(schema: type[BaseModel], origin: str = "") -> Iterator[None]:
    """Turn pydantic's error into one of ours.

    Raises:
        FedhaError: As `explained`.
    """
    try:
        yield
    except ValidationError as error:
        raise explained(error, schema, origin) from error


_FARTHER = 0.2  # how much less alike a second proposal may be


def nearest(name: str, known: Iterable[str], then: str = "") -> str:
    """A question after a name that is unknown: the nearest known ones, or all of them.

    Args:
        name: The unknown one.
        known: The others.
        then: What else can be done, such as "or name your own".
    """
    known = list(dict.fromkeys(known))
    close = [one for one in known if one.casefold() == name.casefold()][:2]
    if not close and len(name) <= _WIDEST:
        close = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    if close:
        ratios = [difflib.SequenceMatcher(None, name, one).ratio() for one in close]
        close = [one for one, ratio in zip(close, ratios, strict=True) if ratio >= ratios[0] - _FARTHER]
        told = f"; did you mean {' or '.join(repr(one) for one in close)}?"
        return f"{told} {then[0].upper()}{then[1:]}" if then else told
    return f"; known are {', '.join(known)}{then and f'; {then}'}"


def shown(value: Any) -> str:
    """A value as errors show it: never more than a line."""
    if isinstance(value, Mapping):
        keys = ", ".join(f"{_cut(str(key))}: …" for key in list(value)[:_SHOWN])
        return _cut(f"{{{keys}}}")
    if isinstance(value, list | tuple):
        return _cut(f"[{', '.join(shown(one) for one in value[:_SHOWN])}{', …' if len(value) > _SHOWN else ''}]")
    return _cut(repr(value[: 2 * _WIDEST]) if isinstance(value, str) else " ".join(repr(value).split()))


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


def _explain(problem: dict[str, Any], schema: type[BaseModel]) -> str:
    keys, annotation = _place(problem["loc"], schema)
    path = _cut(".".join(keys))
    if problem["type"] == "extra_forbidden":
        return f"unknown key {path!r}{nearest(str(problem['loc'][-1]), _known_keys(schema, problem['loc'][:-1]))}"
    if problem["type"] == "missing":
        return f"{path} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{path}: {message}" if path and not message.startswith((f"{path}.", f"{path} ")) else message
    return f"{path or 'it'} is {shown(problem['input'])}{_remedy(problem, annotation)}"


def _remedy(problem: dict[str, Any], annotation: Any) -> str:
    """What to give instead, with what stands before it."""
    if len(_choices(annotation)) > 1:  # each of them has failed, in words of its own
        *most, last = [word for choice in _choices(annotation) for word in _told(choice)]
        return f"; give {', '.join(most)} or {last}"
    kind, value = problem["type"], problem["input"]
    if kind == "string_type":
        written = "null" if value is None else str(value).lower() if isinstance(value, bool) else shown(value)
        quotes = f"; where that is meant as text, write it in quotes: '{written}'"
        return ": it should be text" if isinstance(value, Mapping | list | tuple) else quotes
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return ": it should be a mapping, such as {key: value}"
    if kind == "path_type":
        return ": it should be text, the path of a file or folder"
    return f": {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _place(location: Iterable[str | int], schema: type[BaseModel]) -> tuple[list[str], Any]:
    """The keys to a problem and the annotation there; a union's branches, which pydantic counts as keys, are none."""
    keys: list[str] = []
    annotation: Any = schema
    for part in location:
        choices = _choices(annotation)
        if len(choices) > 1:
            break
        annotation = choices[0] if choices else annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(str(part))
            keys, annotation = [*keys, str(part)], field.annotation if field else None
        else:  # a place in a list or a key of a mapping
            keys = keys if isinstance(part, int) else [*keys, str(part)]
            inner = [one for one in typing.get_args(annotation) if one is not Ellipsis]
            annotation = inner[-1] if inner else None
    return keys, annotation


def _choices(annotation: Any) -> list[Any]:
    """The kinds of value that a field takes, beside nothing at all."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _choices(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [one for one in typing.get_args(annotation) if one is not type(None)]
    return [annotation]


_NAMED: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}


def _told(choice: Any) -> list[str]:
    """A kind of value in words: each of the words that may be given, or what it is and from where on."""
    kind, arguments = typing.get_origin(choice), typing.get_args(choice)
    if kind is typing.Literal:
        return [str(one) for one in arguments]
    if kind is not typing.Annotated:
        return [_NAMED.get(choice, "a list" if kind in (list, tuple) else "a mapping")]
    limits = [limit for given in arguments[1:] for limit in getattr(given, "metadata", [given])]
    least = [f" from {limit.ge}" for limit in limits if hasattr(limit, "ge")]
    return ["".join([*_told(arguments[0]), *least])]


def _known_keys(schema: type[BaseModel], location: Iterable[str | int]) -> list[str]:
    for part in location:
        if not isinstance(part, int):
            kinds = types_in(schema.model_fields[part].annotation)
            schema = next(kind for kind in kinds if issubclass(kind, BaseModel))
    return list(schema.model_fields)


@lru_cache(maxsize=256)
def _numeric_keys(schema: type[BaseModel]) -> frozenset[str]:
    return frozenset(key for key, field in schema.model_fields.items() if _numeric(field.annotation))


def _numeric(annotation: Any) -> bool:
    """Whether a field takes numbers, also in lists and mappings, and beside them only words or nothing."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _numeric(arguments[0])
    if origin in (dict, Mapping):
        return _numeric(arguments[1])
    if arguments and origin is not typing.Literal:
        other = [one for one in arguments if one not in (type(None), Ellipsis)]
        kinds = [one for one in other if typing.get_origin(one) is not typing.Literal]
        return bool(kinds) and all(_numeric(one) for one in kinds)
    return annotation in (int, float)


def _as_numbers(value: Any) -> Any:
    if isinstance(value, str):
        found = number(value.strip())
        return value if found is None else found
    if isinstance(value, Mapping):
        return {key: _as_numbers(one) for key, one in value.items()}
    return [_as_numbers(one) for one in value] if isinstance(value, list) else value


def types_in(annotation: Any) -> list[type]:
    """The types that a field's annotation names, those within lists, unions and mappings included."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation]
    return [kind for argument in typing.get_args(annotation) for kind in types_in(argument)]
