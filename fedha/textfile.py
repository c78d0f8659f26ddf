"""Text that people wrote: UTF-8, or what a byte-order mark says."""

import codecs
from pathlib import Path

from fedha.errors import FedhaError

MARKS = (  # UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path, what: str = "", remedy: str = "") -> str:
    """A file's text.

    Args:
        path: The file.
        what: What errors call it, such as ``the config``; "" for nothing.
        remedy: What to do where it cannot be read; "" for nothing.

    Raises:
        FedhaError: It cannot be read, or is no text.
    """
    name = f"{what} {path}".strip()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FedhaError(f"cannot read {name}: {error.strerror}{remedy and '; '}{remedy}") from error
    except ValueError as error:  # a path with a zero byte
        raise FedhaError(f"cannot read {name!r}: {error}; name a file") from error
    return decode(content, name)


def decode(content: bytes, name: str) -> str:
    """Bytes as text.

    Args:
        content: In UTF-8, or in the encoding that its byte-order mark says.
        name: What errors call it.

    Raises:
        FedhaError: It is neither; says which byte, and where.
    """
    encoding = encoding_of(content)
    if encoding == "utf-8" and (probable := _without_mark(content)):
        raise FedhaError(
            f"{name} is not text in UTF-8: its zero bytes lie as in {probable} without a byte-order mark; save it as "
            "UTF-8"
        )
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        place, line = error.start, content.count(b"\n", 0, error.start) + 1
        marked = "" if encoding == "utf-8" else f", as its byte-order mark says {encoding.removesuffix('-sig').upper()}"
        raise FedhaError(
            f"{name} is not text in UTF-8{marked}: byte {place}, in line {line}, is 0x{content[place]:02x} "
            f"({error.reason}); save it as UTF-8"
        ) from error


def encoding_of(content: bytes) -> str:
    """What a byte-order mark at the beginning says, or UTF-8."""
    return next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")


def _without_mark(content: bytes) -> str | None:
    """UTF-16 or UTF-32, where the zero bytes of the first characters, most of them Latin, lie as they do there."""
    start = content[:256]
    for name, size, letter in (("UTF-32", 4, 0), ("UTF-32", 4, 3), ("UTF-16", 2, 0), ("UTF-16", 2, 1)):
        units = [start[place : place + size] for place in range(0, len(start) - size + 1, size)]
        latin = [one for one in units if one[letter] and not any(one[:letter] + one[letter + 1 :])]
        if units and 2 * len(latin) > len(units):
            return name
    return None
