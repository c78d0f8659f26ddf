"""A function's arguments as its annotations have them: a config's texts become the kinds that are asked for."""

import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from fedha.errors import FedhaError
from fedha.schema import explained, number, numbers_as_written, shown

_PLAIN = (int, float, bool, str, Path, type(None))
_HOLDERS = (list, tuple, set, frozenset, dict, Mapping, Sequence)
_WORDS = {"true": True, "false": False, "null": None}
_OPEN = ConfigDict(extra="forbid", protected_namespaces=())


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """A function's parameters, with annotations that were written as texts made what they stand for.

    Raises:
        TypeError, ValueError: It is written in another language, and does not say.
    """
    try:
        return inspect.signature(function, eval_str=True).parameters
    except (NameError, AttributeError, SyntaxError):  # an annotation that only a type checker can resolve
        return inspect.signature(function).parameters


def checked(section: str, wanted: Mapping[str, inspect.Parameter], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options whose parameters are annotated with plain kinds, as such: numbers, texts, lists of them, limits.

    Args:
        section: Of the config, for errors.
        wanted: The function's parameters.
        options: As the config gives them.

    Returns:
        Those alone; the others are for whoever knows what they mean.

    Raises:
        FedhaError: One is something else, or beyond its limits: each by name, with its value.
    """
    fields: dict[str, Any] = {
        name: _field(wanted[name]) for name in options if name in wanted and is_checked(wanted[name])
    }
    if not fields:
        return {}
    inner = create_model("Options", __config__=_OPEN, **fields)
    whole: dict[str, Any] = {section: (inner, ...)}
    outer = create_model("Section", __config__=_OPEN, **whole)
    given = {name: _as_meant(wanted[name].annotation, options[name]) for name in fields}
    try:
        made = outer.model_validate({section: numbers_as_written(inner, given)})
    except ValidationError as error:
        raise FedhaError(f"{explained(error, outer, '')}{grid_hint(section, wanted, options)}") from error
    found = getattr(made, section)
    return {name: getattr(found, name) for name in fields}


def grid_hint(section: str, wanted: Mapping[str, inspect.Parameter], options: Mapping[str, Any]) -> str:
    """What to write where a list is given and none is taken, which is how a grid is written elsewhere; "" without one.

    Args:
        section, wanted, options: As in `checked`.
    """
    for name, value in options.items():
        if isinstance(value, list) and name in wanted and not _takes_list(wanted[name]):
            return f"; for a sweep over the values of {section}.{name} write {{choice: {shown(meant(value))}}}"
    return ""


def _takes_list(parameter: inspect.Parameter) -> bool:
    if parameter.annotation is parameter.empty:
        return parameter.default is parameter.empty or isinstance(parameter.default, list | tuple | None)
    return _holds(parameter.annotation)


def _holds(kind: Any) -> bool:
    return kind is Any or kind in _HOLDERS or typing.get_origin(kind) in _HOLDERS or any(map(_holds, _parts(kind)))


def _parts(kind: Any) -> tuple[Any, ...]:
    return () if typing.get_origin(kind) is typing.Literal else typing.get_args(kind)


def parameter_text(parameter: inspect.Parameter) -> str:
    """A parameter as errors show it: without the limits, which are told where they are passed."""
    return str(parameter.replace(annotation=_bare(parameter.annotation)))


def _bare(kind: Any) -> Any:
    arguments = typing.get_args(kind)
    if not arguments or typing.get_origin(kind) is typing.Literal:
        return kind
    if typing.get_origin(kind) is typing.Annotated:
        return _bare(arguments[0])
    bare = tuple(map(_bare, arguments))
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, bare)
    return kind if bare == arguments else typing.get_origin(kind)[bare]


def is_checked(parameter: inspect.Parameter) -> bool:
    """Whether an annotation says all of what it takes."""
    return not (parameter.name.startswith("_") or hasattr(BaseModel, parameter.name)) and _is_plain(
        parameter.annotation
    )


def _field(parameter: inspect.Parameter) -> tuple[Any, Any]:
    kind = parameter.annotation
    return (kind | None, None) if parameter.default is None else (kind, ...)


def _is_plain(kind: Any) -> bool:
    origin, arguments = typing.get_origin(kind), [one for one in typing.get_args(kind) if one is not Ellipsis]
    if origin is typing.Literal:
        return True
    if origin is typing.Annotated:
        return _is_plain(arguments[0])
    if origin in (typing.Union, types.UnionType) or origin in _HOLDERS:
        return all(map(_is_plain, arguments))
    if isinstance(kind, type) and not arguments:
        return kind in _PLAIN or issubclass(kind, BaseModel)
    return False


def _as_meant(kind: Any, value: Any) -> Any:
    """Texts that are numbers or truth values as such, where a number and a text would both do."""
    return meant(value) if _is_mixed(kind) else value


def _is_mixed(kind: Any) -> bool:
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return not all(isinstance(one, str) for one in arguments)
    choices = {typing.get_args(one)[0] if typing.get_origin(one) is typing.Annotated else one for one in arguments}
    either = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return (either and str in choices and bool(choices & {int, float, bool})) or any(map(_is_mixed, arguments))


def meant(value: Any) -> Any:
    """What a config's text stands for: YAML is read as texts, and a function of somebody's has no schema."""
    if isinstance(value, str):
        found = number(value)
        return _WORDS.get(value, value) if found is None else found
    if isinstance(value, Mapping):
        return {key: meant(one) for key, one in value.items()}
    return [meant(one) for one in value] if isinstance(value, list) else value
