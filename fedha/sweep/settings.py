"""What a config says of the sweep itself."""

from collections.abc import Mapping
from typing import Any

from fedha.errors import FedhaError
from fedha.schema import nearest, number, shown

SECTION = "sweep"
_KEYS = ("draws", "ranges", "halving")


def settings_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says of the sweep itself: ``sweep: {draws: 20, ranges: domainbed}``.

    Raises:
        FedhaError: Another key, or a value of another kind.
    """
    given = content.get(SECTION, {})
    if not isinstance(given, Mapping):
        raise FedhaError(f"{SECTION} is {shown(given)}; give a mapping, such as {{draws: 20, ranges: domainbed}}")
    if unknown := next((key for key in given if key not in _KEYS), None):
        raise FedhaError(f"unknown key '{SECTION}.{unknown}'{nearest(str(unknown), _KEYS)}")
    numbers = {key: _whole(key, given.get(key), least) for key, least in (("draws", 1), ("halving", 2))}
    ranges = given.get("ranges")
    if ranges is not None and not isinstance(ranges, str):
        raise FedhaError(f"{SECTION}.ranges is {shown(ranges)}; give a name")
    return {key: value for key, value in {**numbers, "ranges": ranges}.items() if value is not None}


def _whole(key: str, value: Any, least: int) -> int | None:
    found = number(value) if isinstance(value, str) else value
    if found is None and value is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or found < least:
        raise FedhaError(f"{SECTION}.{key} is {shown(value)}; give a whole number from {least}")
    return found
