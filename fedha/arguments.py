"""What a program hands over where Python lets anything pass: refused where it is given, with what belongs there."""

from numbers import Integral
from typing import Any

from fedha.errors import FedhaError
from fedha.schema import shown


def check_argument(whose: str, name: str, value: Any, kinds: type | tuple[type, ...], wanted: str) -> None:
    """Refuse a value of another kind.

    Args:
        whose: What it is given to, such as ``HessianAlignment``.
        name: The argument's.
        value: The value.
        kinds: What it may be; None among them as ``type(None)``.
        wanted: That in words.

    Raises:
        FedhaError: It is something else.
    """
    if not isinstance(value, kinds):
        raise FedhaError(f"{whose} was given {name}={shown(value)}; give {wanted}")


def check_number(whose: str, name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number, or too small a one; arguments and errors as in `check_argument`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise FedhaError(f"{whose} was given {name}={shown(value)}; give a whole number from {least}")
