"""What varies in a config: values that are lists where one belongs, and distributions."""

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from fedha.config import Config
from fedha.errors import FedhaError
from fedha.schema import shown, types_in
from fedha.sweep.distributions import CHOICE, Distribution, read_distribution


@dataclass(frozen=True)
class Varied:
    """A config, or one of its recipes, with what varies taken out.

    Attributes:
        fixed: The rest.
        grid: Values by key, with dots: every combination is run.
        drawn: Distributions by key.
    """

    fixed: Mapping[str, Any]
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    drawn: Mapping[str, Distribution] = field(default_factory=dict)


def varied_config(content: Mapping[str, Any], draws: int | None) -> Varied:
    """Find what varies in a config without its recipes.

    A list where the schema takes a single value is a grid; so is a choice, unless there are draws.

    Args:
        content: As YAML gives it.
        draws: How many; None: choices are a grid.

    Raises:
        FedhaError: A grid that is empty or has a value twice, or a distribution that is none.
    """
    return _varied(content, Config, "", draws)


def varied_recipe(content: Mapping[str, Any], draws: int | None) -> Varied:
    """As `varied_config`, of a recipe; its keys begin with ``recipe.``."""
    kinds = types_in(Config.model_fields["recipe"].annotation)
    return _varied(content, next(kind for kind in kinds if issubclass(kind, BaseModel)), "recipe.", draws)


def _varied(content: Mapping[str, Any], schema: type[BaseModel], prefix: str, draws: int | None) -> Varied:
    grid: dict[str, tuple[Any, ...]] = {}
    drawn: dict[str, Distribution] = {}

    def walk(part: Mapping[str, Any], section: type[BaseModel] | None, path: str, inner: Any = None) -> dict[str, Any]:
        kept = {}
        for key, value in part.items():
            name, annotation = f"{path}{key}", inner
            if section is not None and key in section.model_fields:
                annotation = section.model_fields[key].annotation
            elif section is not None:
                annotation = None  # an own function's argument: a list is its value
            if found := read_distribution(name, value):
                if found.kind == CHOICE and draws is None:
                    grid[name] = found.given
                else:
                    drawn[name] = found
            elif isinstance(value, Mapping):
                kept[str(key)] = walk(value, _section(annotation), f"{name}.", _values_of(annotation))
            elif isinstance(value, list) and annotation is not None and not _takes_list(annotation):
                grid[name] = tuple(value)
            else:
                kept[str(key)] = value
        return kept

    fixed = walk(content, schema, prefix)
    for key, values in grid.items():
        if not values:
            raise FedhaError(f"{key} is an empty list; give the values to try, or leave it out")
        if any(one in values[:place] for place, one in enumerate(values)):
            raise FedhaError(f"{key} has a value twice: {shown(list(values))}; give each once")
    return Varied(fixed, grid, drawn)


def _section(annotation: Any) -> type[BaseModel] | None:
    return next((one for one in types_in(annotation) if issubclass(one, BaseModel)), None) if annotation else None


def _values_of(annotation: Any) -> Any:
    """What the values of a mapping are, where a key takes one."""
    for one in _alternatives(annotation):
        if typing.get_origin(one) in (dict, Mapping):
            inner = typing.get_args(one)[1]
            return None if inner is Any else inner
    return None


def _takes_list(annotation: Any) -> bool:
    return any(typing.get_origin(one) in (list, tuple) or one is Any for one in _alternatives(annotation))


def _alternatives(annotation: Any) -> list[Any]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _alternatives(arguments[0])
    if arguments and origin not in (dict, Mapping, list, tuple, typing.Literal):
        return [one for part in arguments for one in _alternatives(part)]
    return [annotation]
