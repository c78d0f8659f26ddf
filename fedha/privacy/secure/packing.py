"""Values as bytes and back: one text of JSON for one value, so that it can be signed, kept and sent. No pickle.

A value is an int, a finite float, a str, bytes, a tuple of values or a frozen dataclass of values.
"""

import base64
import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from fedha.errors import FedhaError

_PROTOCOL = "fedha secure aggregation 1"  # in everything that is hashed or signed: nothing else signs the same bytes

_WRITTEN = {"client_id": "place", "client_ids": "places"}  # fields as the protocol's first version calls them

_T = TypeVar("_T")


def pack(value: object) -> bytes:
    """A dataclass as bytes, the same for equal values."""
    return _text([type(value).__name__, _plain(value)])


def unpack(kind: type[_T], data: bytes) -> _T:
    """Read what `pack` wrote.

    Args:
        kind: The dataclass that is expected.
        data: From anybody: nothing in it is trusted.

    Raises:
        FedhaError: The bytes are of something else, or the dataclass refuses its values.
    """
    value = _try_to_read(kind, data)
    if value is None:  # raised here, not where it failed: what failed could quote a secret
        raise FedhaError(
            f"{len(data)} bytes that should be a {kind.__name__} of secure aggregation are not one; "
            "see that server and clients run the same version of fedha and that the message belongs here"
        )
    return value


def statement(purpose: str, *parts: int | str | bytes) -> bytes:
    """The bytes that are signed or hashed for a purpose; no two purposes or lists of parts have the same."""
    return _text([_PROTOCOL, purpose, *(_plain(part) for part in parts)])


def digest(purpose: str, *parts: int | str | bytes) -> bytes:
    """SHA-256 of a statement, 32 bytes."""
    return hashlib.sha256(statement(purpose, *parts)).digest()


def _text(plain: object) -> bytes:
    return json.dumps(plain, separators=(",", ":"), allow_nan=False).encode()


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {_WRITTEN.get(one.name, one.name): _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}  # never taken for a str of the same letters
    return value


def _try_to_read(kind: type[_T], data: bytes) -> _T | None:
    try:
        name, plain = json.loads(data)
        value: _T | None = _read(kind, plain) if name == kind.__name__ else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return value


def _read(kind: Any, plain: Any) -> Any:
    """The value of this kind.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: It is not of this kind.
    """
    if is_dataclass(kind):
        make: Callable[..., Any] = kind  # type: ignore[assignment]
        wanted = _field_types(make)
        written = {name: _WRITTEN.get(name, name) for name in wanted}
        if plain.keys() != set(written.values()):
            raise ValueError
        return make(**{name: _read(wanted[name], plain[written[name]]) for name in wanted})
    if get_origin(kind) is tuple:
        if type(plain) is not list:
            raise ValueError
        return tuple(_read(get_args(kind)[0], one) for one in plain)
    if kind is bytes:
        return base64.b64decode(plain["bytes"], validate=True)
    if type(plain) is not kind:
        raise ValueError
    return plain


@functools.cache
def _field_types(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {one.name: hints[one.name] for one in fields(kind)}
