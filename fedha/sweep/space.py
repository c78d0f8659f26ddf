"""All runs of a sweep: recipes, values, draws, targets and seeds, as one config a run."""

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedha.errors import FedhaError
from fedha.schema import number, shown
from fedha.sweep.distributions import CHOICE
from fedha.sweep.settings import SECTION
from fedha.sweep.varied import Varied, varied_config, varied_recipe

RESERVED = ("recipe", "seed")
TARGET = "data.target"


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
    common = varied_config(rest, draws)
    given = content.get("recipe", "hgp")
    entries = [_as_mapping(one) for one in (given if isinstance(given, list) else [given])]
    recipes = tuple(varied_recipe(one, draws) for one in entries)
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
    varied = varied_config(rest, 1)
    values = {key: given[0] for key, given in varied.grid.items()}
    values |= {key: one.draw(0, 0, key) for key, one in varied.drawn.items()}
    return _filled(varied.fixed, {"name": "erm"}, values, None, 0)


def many(content: Mapping[str, Any]) -> list[str]:
    """What of a config makes it many runs that no schema takes as one: keys with dots; none for a single run's."""
    rest = {key: value for key, value in content.items() if key not in (*RESERVED, SECTION)}
    given = content.get("recipe", [])
    entries = [one for one in (given if isinstance(given, list) else [given]) if isinstance(one, dict)]
    found = [varied_config(rest, 1), *(varied_recipe(one, 1) for one in entries)]
    data = content.get("data")
    every = [TARGET] if isinstance(data, Mapping) and data.get("target") == "all" else []
    return list(dict.fromkeys([*every, *(key for one in found for key in (*one.grid, *one.drawn))]))
