"""What a sweep varies: a config in which values are lists or distributions, as one config a run."""

import copy
import itertools
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from fedha.config import Config
from fedha.errors import FedhaError
from fedha.schema import nearest, number, shown, types_in
from fedha.sweep.distributions import CHOICE, Distribution, read_distribution

SECTION = "sweep"
RESERVED = ("recipe", "seed")
TARGET = "data.target"


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


@dataclass(frozen=True)
class Space:
    """Everything that a sweep runs.

    Attributes:
        common: All sections but the recipes.
        recipes: What varies within each.
        labels: What each recipe is called in tables.
        seeds: Trials: each decides split, initialisation and draws.
        targets: The unseen domain of each run; None: as the config says.
    """

    common: Varied
    recipes: tuple[Varied, ...]
    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    targets: tuple[Any, ...]


@dataclass(frozen=True)
class Wanted:
    """One run that a sweep asks for.

    Attributes:
        label: Its recipe's.
        target: Its unseen domain's name; "" where the data set has its own.
        seed: Its trial's.
        draw: The number of the draw, from 0; None where nothing is drawn.
        values: What was varied, by key with dots; those of the recipe begin with ``recipe.``.
        content: Its config.
    """

    label: str
    target: str
    seed: int
    draw: int | None
    values: Mapping[str, Any]
    content: Mapping[str, Any]


def read_space(content: Mapping[str, Any], *, draws: int | None) -> Space:
    """Find what varies in a config.

    A list where the schema takes a single value is a grid; a key whose value is a list itself varies as
    ``{choice: [[16], [32]]}``. Distributions are drawn from, `draws` times a recipe, target and seed.

    Args:
        content: A config's, as YAML gives it.
        draws: How many; None: there is no distribution, and choices are a grid.

    Raises:
        FedhaError: A distribution without draws, or draws without one; a grid that is empty or has a value twice.
    """
    rest = {key: copy.deepcopy(value) for key, value in content.items() if key not in RESERVED}
    targets = _taken(rest, "target")
    common = _varied(rest, Config, "", draws)
    given = content.get("recipe", "hgp")
    entries = [_as_mapping(one) for one in (given if isinstance(given, list) else [given])]
    section = next(kind for kind in types_in(Config.model_fields["recipe"].annotation) if issubclass(kind, BaseModel))
    recipes = tuple(_varied(one, section, "recipe.", draws) for one in entries)
    if not recipes:
        raise FedhaError("recipe is empty; name one or several")
    seeds = content.get("seed", 0)
    space = Space(common, recipes, _labels(recipes), _seeds(seeds), targets)
    _check_draws(space, draws)
    return space


def expand(space: Space, draws: int | None) -> Iterator[Wanted]:
    """All runs of a space: recipes first, then the grid, draws, targets and seeds."""
    numbers: Sequence[int | None] = [None] if draws is None else range(draws)
    for varied, label in zip(space.recipes, space.labels, strict=True):
        drawn = {**space.common.drawn, **varied.drawn}
        own: Sequence[int | None] = numbers if drawn else [None]
        for values in _combinations({**space.common.grid, **varied.grid}):
            for draw, target, seed in itertools.product(own, space.targets, space.seeds):
                found = {
                    **values,
                    **{key: one.draw(seed, draw or 0, key) for key, one in drawn.items()},
                }
                content = _filled(space.common.fixed, varied.fixed, found, target, seed)
                yield Wanted(label, _name(content), seed, draw, found, content)


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


def _taken(content: dict[str, Any], key: str) -> tuple[Any, ...]:
    """The targets, taken out of the data section."""
    data = content.get("data")
    if not isinstance(data, dict) or key not in data:
        return (None,)
    value = data.pop(key)
    found = value.get(CHOICE) if isinstance(value, dict) and len(value) == 1 else value
    targets = tuple(found) if isinstance(found, list) else (found,)
    if not targets:
        raise FedhaError(f"{TARGET} is an empty list; name the unseen domains, or all")
    if any(one in targets[:place] for place, one in enumerate(targets)):
        raise FedhaError(f"{TARGET} names a domain twice: {shown(list(targets))}; name each once")
    return targets


def _seeds(value: Any) -> tuple[int, ...]:
    given = value if isinstance(value, list) else [value]
    seeds = tuple(number(one) if isinstance(one, str) else one for one in given)
    whole = tuple(one for one in seeds if isinstance(one, int) and not isinstance(one, bool) and one >= 0)
    if not whole or len(whole) < len(seeds):
        raise FedhaError(f"seed is {shown(value)}; give whole numbers from 0, one a trial")
    if len(set(whole)) < len(whole):
        raise FedhaError(f"seed is {shown(value)}; give each once")
    return whole


def _as_mapping(entry: Any) -> dict[str, Any]:
    if isinstance(entry, str):
        return {"name": entry}
    if not isinstance(entry, dict):
        raise FedhaError(f"recipe is {shown(entry)}; give a name, or a mapping such as {{name: hgp, weight: [0.1, 1]}}")
    return entry


def _labels(recipes: Sequence[Varied]) -> tuple[str, ...]:
    """The recipes' names, with what tells two of one name apart."""
    names = [str(one.fixed.get("name", "custom")) for one in recipes]
    labels = []
    for place, one in enumerate(recipes):
        same = [other.fixed for other, name in zip(recipes, names, strict=True) if name == names[place]]
        keys = dict.fromkeys(key for other in same for key in other if key != "name")
        apart = [key for key in keys if len({repr(other.get(key)) for other in same}) > 1]
        told = ", ".join(f"{key}={one.fixed[key]}" for key in apart if key in one.fixed)
        labels.append(f"{names[place]} ({told})" if told else names[place])
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise FedhaError(f"recipe {twice!r} is there twice; give each once, with what varies as a list within it")
    return tuple(labels)


def _check_draws(space: Space, draws: int | None) -> None:
    drawn = {**space.common.drawn, **{key: one for recipe in space.recipes for key, one in recipe.drawn.items()}}
    if drawn and draws is None:
        key, first = next(iter(drawn.items()))
        raise FedhaError(f"{key} is drawn from {first}; say how many draws with --draws N, or sweep: {{draws: N}}")
    if draws is not None and not drawn:
        raise FedhaError(
            f"there are {draws} draws but no distribution to draw from; write one, such as "
            "training: {learning_rate: {log_uniform: [-5, -3.5]}}, or name ranges, or leave draws out"
        )


def _combinations(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _filled(
    common: Mapping[str, Any], recipe: Mapping[str, Any], values: Mapping[str, Any], target: Any, seed: int
) -> dict[str, Any]:
    content: dict[str, Any] = {**copy.deepcopy(dict(common)), "recipe": copy.deepcopy(dict(recipe)), "seed": seed}
    if target is not None:
        content.setdefault("data", {})["target"] = target
    for key, value in values.items():
        *parents, last = key.split(".")
        place = content
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return {**content, "recipe": [content["recipe"]]}


def _name(content: Mapping[str, Any]) -> str:
    target = content.get("data", {}).get("target")
    return "" if target is None else ", ".join(map(str, target)) if isinstance(target, list) else str(target)


def example(content: Mapping[str, Any]) -> dict[str, Any]:
    """A config of one run: the first of each grid and the first draw of each distribution; for its data section."""
    rest = {key: copy.deepcopy(value) for key, value in content.items() if key not in (*RESERVED, SECTION)}
    varied = _varied(rest, Config, "", 1)
    values = {key: given[0] for key, given in varied.grid.items()}
    values |= {key: one.draw(0, 0, key) for key, one in varied.drawn.items()}
    return _filled(varied.fixed, {"name": "erm"}, values, None, 0)


def settings_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says of the sweep itself: ``sweep: {draws: 20, ranges: domainbed}``.

    Raises:
        FedhaError: Another key, or a value of another kind.
    """
    given = content.get(SECTION, {})
    if not isinstance(given, Mapping):
        raise FedhaError(f"{SECTION} is {shown(given)}; give a mapping, such as {{draws: 20, ranges: domainbed}}")
    if unknown := next((key for key in given if key not in ("draws", "ranges")), None):
        raise FedhaError(f"unknown key '{SECTION}.{unknown}'{nearest(str(unknown), ('draws', 'ranges'))}")
    draws, ranges = given.get("draws"), given.get("ranges")
    found = number(draws) if isinstance(draws, str) else draws
    if found is not None and (isinstance(found, bool) or not isinstance(found, int) or found < 1):
        raise FedhaError(f"{SECTION}.draws is {shown(draws)}; give a whole number from 1")
    if ranges is not None and not isinstance(ranges, str):
        raise FedhaError(f"{SECTION}.ranges is {shown(ranges)}; give a name")
    return {key: value for key, value in (("draws", found), ("ranges", ranges)) if value is not None}
