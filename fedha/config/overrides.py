"""Changes of a config as the command line has them: ``key.key=value``."""

from collections.abc import Sequence
from typing import Any

from fedha.errors import FedhaError
from fedha.yamlfile import parse_yaml


def check_overrides(overrides: Sequence[str]) -> None:
    """Whether no change of some undoes another.

    Raises:
        FedhaError: A key is given twice, or within what a later one replaces as a whole.
    """
    keys = [one.partition("=")[0].split(".") for one in overrides]
    for place, (key, override) in enumerate(zip(keys, overrides, strict=True)):
        for earlier, before in zip(keys[:place], overrides[:place], strict=True):
            within = key[len(earlier) :]  # of a section that was given as a whole, another key may be set
            if earlier[: len(key)] == key or (earlier == key[: len(earlier)] and _holds(before, within)):
                raise FedhaError(f"{before!r} and {override!r} set the same; keep one")


def _holds(override: str, keys: Sequence[str]) -> bool:
    """Whether an override gives a value for a key within its own, or for what that would be within."""
    held = parse_yaml(override.partition("=")[2], f"the value of {override!r}")
    for key in keys:
        if not isinstance(held, dict) or key not in held:
            return False  # what is no section cannot be gone into: applying it says so
        held = held[key]
    return True


def apply_override(content: dict[str, Any], override: str) -> None:
    """Set ``a.b=value`` in a nested mapping, in place.

    Raises:
        FedhaError: No ``=``, a value that is not YAML, or a path through something that is not a mapping.
    """
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise FedhaError(f"{override!r} is no override; write key.key=value, such as training.rounds=20")
    parsed = parse_yaml(value, f"the value of {override!r}")
    *parents, last = key.split(".")
    place = content
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise FedhaError(f"{override!r} goes through {parent!r}, which is not a mapping but {place!r}")
    place[last] = parsed
