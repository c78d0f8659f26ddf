"""JSON that was written earlier, or elsewhere: what is wrong with it is always a ValueError, and never a long one."""

import json
from typing import Any

_DIGITS = 40  # of a whole number: more than any that fedha writes, and few enough for every later conversion


def parse_json(content: bytes | str) -> Any:
    """The value of a JSON text.

    Args:
        content: The text, or its bytes in UTF-8, UTF-16 or UTF-32.

    Raises:
        ValueError: It is no JSON, is nested too deeply, or has a whole number of very many digits.
    """
    try:
        return json.loads(content, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError as error:  # whose own text would hold all of the content
        raise ValueError(f"it is no text in {error.encoding.upper()}: {error.reason}") from None


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits")
    return int(digits)
