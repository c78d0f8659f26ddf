"""Damage to what is read: bytes lost, doubled, turned or put in, and values of JSON exchanged; seeded."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

_PIECES = (b"\0", b"\xff\xfe", b"{", b"]", b'"', b"null", b"-1", b"1e999", b"NaN", b"\n", b"\xed\xa0\x80", b"[" * 3000)
_VALUES = (None, "text", [], {}, -1, 1.5, True, 10**30, float("nan"), "\ud800", [[[]]], {"a": {"b": 1}}, "x" * 5000)


def damaged_bytes(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """So many damaged copies of some bytes, of which a sixth is cut short."""
    chance = random.Random(seed)
    for _ in range(count):
        found = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            place, lost = chance.randrange(len(found) + 1), chance.choice([0, 1, 9])
            found[place : place + lost] = chance.choice([*_PIECES, chance.randbytes(2), content[:60]])
        yield bytes(found[: chance.randrange(len(found))] if chance.random() < 1 / 6 else found)


def damaged_json(content: Any, count: int, seed: int = 0) -> Iterator[bytes]:
    """So many texts of a JSON value, in each of which one value is another, or is gone."""
    chance = random.Random(seed)
    for _ in range(count):
        found = copy.deepcopy(content)
        holder, key = chance.choice(list(_places(found)))
        if isinstance(holder, dict) and chance.random() < 1 / 4:
            del holder[key]
        else:
            holder[key] = chance.choice(_VALUES)
        yield json.dumps(found).encode()


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        yield content, key
        yield from _places(value)
