"""Which features a cache holds, of which networks, how old they are, and which of them a config's runs take."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import time
from typing import Any

import numpy

from fedha.errors import FedhaError, brief
from fedha.features.ahead import Part
from fedha.features.keys import Keys, row_keys
from fedha.features.store import ABOUT, KEYS, whole_keys
from fedha.jsonfile import parse_json
from fedha.progress import duration

STALE = "stale"
_DAY = 86_400
_WORDS = {  # what a network's features depend on, and what is said where it is another
    "input": "of inputs of another size or type",
    "precision": "kept in {}",
    "computed": "computed in {}",
}


@dataclass(frozen=True)
class Kept:
    """The features of one network in a cache.

    Attributes:
        place: Their folder.
        written: When the last of them was computed, in seconds since 1970.
        bytes: That they take.
        rows: Examples and views.
        other: Why no run of the config takes them; "" where its runs do.
        stale: Whether no run with the versions that are installed takes them.
        wanted: Of the config's data, where its runs take them: how many are there, and of how many.
    """

    place: Path
    written: float
    bytes: int
    rows: int
    other: str
    stale: bool
    wanted: tuple[int, int] = (0, 0)

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        there, of = self.wanted
        return {
            "name": self.place.name,
            "seconds_old": round(time() - self.written),
            "bytes": self.bytes,
            "rows": self.rows,
            **({"not_taken": self.other, "stale": self.stale} if self.other else {"found": there, "wanted": of}),
        }

    def __str__(self) -> str:
        there, of = self.wanted
        what = f"{self.rows:,} rows, {self.bytes / 1e6:,.1f} MB, {_age(time() - self.written)} old"
        if self.other:
            return f"{self.place.name}: {what}; {self.other}: no run of this config takes them"
        more = f", {self.rows - there:,} of other examples, or of files that have changed" if self.rows > there else ""
        lacks = f"; {of - there:,} are computed when a run needs them" if of > there else ""
        return f"{self.place.name}: {what}; of this network: {there:,} of this config's {of:,}{more}{lacks}"


def look(cache: Path, parts: Sequence[Part]) -> list[Kept]:
    """What a cache holds.

    Args:
        cache: The folder.
        parts: Of a config's data, with its network.

    Raises:
        FedhaError: It cannot be read.
    """
    own = {one.store.place.name: one for one in parts}
    keys = numpy.unique(numpy.concatenate([row_keys(one.source.examples, one.source.views) for one in parts]))
    try:
        return [_kept(place, own, keys, parts[0].store.about) for place in _places(cache)]
    except OSError as error:
        raise FedhaError(f"cannot read the cache of features {cache}: {error.strerror}") from error


def remove(cache: Path, name: str, found: Sequence[Kept]) -> list[Kept]:
    """Remove the features of one network, or all that are stale.

    Args:
        cache: The folder.
        name: Of a network's folder in it, its beginning where that is clear, or ``stale``.
        found: What it holds.

    Returns:
        What was removed.

    Raises:
        FedhaError: There is no such one, or it cannot be removed.
    """
    gone = [one for one in found if (one.stale if name == STALE else one.place.name.startswith(name))]
    if name != STALE and len(gone) != 1:
        there = ", ".join(one.place.name for one in found) or "nothing"
        raise FedhaError(f"{len(gone)} networks' features in {cache} are called {name!r}; it holds {there}")
    try:
        for one in gone:
            shutil.rmtree(one.place)
    except OSError as error:
        raise FedhaError(f"cannot remove {error.filename}: {error.strerror}") from error
    return gone


def _places(cache: Path) -> Iterator[Path]:
    """The folders of networks; others in it are somebody else's."""
    for place in sorted(cache.iterdir()) if cache.is_dir() else ():
        if place.is_dir() and ((place / ABOUT).is_file() or any(place.glob(f"*{KEYS}"))):
            yield place


def _kept(place: Path, own: Mapping[str, Part], keys: Keys, about: Mapping[str, Any]) -> Kept:
    files = [one for one in place.iterdir() if one.is_file()]
    known = whole_keys(place)
    written = max((one.stat().st_mtime for one in files if one.suffix != ".json"), default=place.stat().st_mtime)
    found = Kept(place, written, sum(one.stat().st_size for one in files), len(known), "", stale=False)
    if place.name in own:
        return replace(found, wanted=(int(numpy.isin(keys, known).sum()), len(keys)))
    try:
        told = parse_json((place / ABOUT).read_bytes())
    except (OSError, ValueError) as error:
        return replace(found, other=f"what they are of cannot be read ({brief(error)})", stale=True)
    reasons = list(_differences(told if isinstance(told, dict) else {}, about))
    old = [one for one, makes_old in reasons if makes_old]
    return replace(found, other=", ".join(one for one, _ in reasons), stale=bool(old))


def _differences(told: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """In what features differ from a config's, and whether no run with these versions takes such."""
    if told.get("layers") != about["layers"]:
        yield "of another network", False
    elif told.get("weights") != about["weights"]:
        yield "of other weights", False
    for key, words in _WORDS.items():
        if told.get(key) != about[key]:
            yield words.format(told.get(key)), False
    there, here = dict(told.get("versions") or {}), about["versions"]
    for name in sorted({*there, *here}):
        if there.get(name) != here.get(name):
            yield f"made with {name} {there.get(name, 'missing')}, here is {here.get(name, 'none')}", True
    if (told.get("format"), told.get("block")) != (about["format"], about["block"]):
        yield "made by another version of fedha", True


def _age(seconds: float) -> str:
    days = int(seconds // _DAY)
    return duration(max(0.0, seconds)) if not days else f"{days} {'day' if days == 1 else 'days'}"
