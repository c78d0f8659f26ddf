"""What sweeps have found so far, from their folders."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedha.errors import FedhaError
from fedha.report.tables import BASELINE
from fedha.schema import nearest
from fedha.sweep import rungs
from fedha.sweep.jobs import written
from fedha.sweep.store import Entry, Store, entries, settings, summaries


@dataclass(frozen=True)
class Found:
    """What sweeps have found so far.

    Attributes:
        jobs: All that were asked for.
        summaries: Of the finished ones, by name.
        failures: Why others failed, by name.
        apart: What sweeps that are tabled together do not share, by key.
        halted: The round and the seconds of those that halving stopped early, by name.
        places: The folder of each finished run, by name.
        unsaid: Keys whose values have rows of their own, and the value of rows that do not say it.
    """

    jobs: Sequence[Entry]
    summaries: Mapping[str, Mapping[str, Any]]
    failures: Mapping[str, str]
    apart: Sequence[str] = ()
    halted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    places: Mapping[str, Path] = field(default_factory=dict)
    unsaid: Mapping[str, str] = field(default_factory=dict)


def read_found(paths: Sequence[Path], rows: Sequence[str] = ()) -> Found:
    """What some sweeps have found so far.

    Args:
        paths: Their folders.
        rows: Keys whose values have rows of their own, over which nothing is selected.

    Raises:
        FedhaError: A path holds no sweep, a file is damaged, or no sweep says anything of a key.
    """
    jobs: dict[str, Entry] = {}
    done: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    halted: dict[str, dict[str, Any]] = {}
    places: dict[str, Path] = {}
    given, listed = [settings(path) for path in paths], [entries(path) for path in paths]
    every = [(one, fixed) for here, fixed in zip(listed, given, strict=True) for one in here]
    _check_known(rows, every)
    around = [key for key in rows if key.startswith("data.")]  # each with a baseline of its own
    others = [key for key in rows if key not in around]
    unsaid = _values(*min(every, key=lambda one: one[0].label != BASELINE), others) if every else {}
    for path, fixed, asked in zip(paths, given, listed, strict=True):
        store, here = Store(path), [_apart(one, fixed, around, unsaid) for one in asked]
        found = summaries(store, here)
        jobs |= {one.name: one for one in here}
        places |= {name: store.run_folder(name) for name in found}
        rest = [one.name for one in here if one.name not in found]
        failures |= {name: why for name in rest if (why := store.failure(name))}
        halted |= {name: one for name in rest if (one := rungs.begun(store.run_folder(name))) is not None}
        done |= found
    keys = dict.fromkeys(key for one in given for key in one)
    apart = [key for key in keys if key not in rows and any(one.get(key) != given[0].get(key) for one in given)]
    return Found(list(jobs.values()), done, failures, apart, halted, places, unsaid)


def _check_known(rows: Sequence[str], every: Sequence[tuple[Entry, Mapping[str, Any]]]) -> None:
    known = {key for entry, fixed in every for key in (*entry.values, *fixed) if " " not in key}
    if unknown := next((key for key in rows if every and key not in known), None):
        raise FedhaError(f"no sweep here says anything of {unknown!r}{nearest(unknown, sorted(known))}")


def _values(entry: Entry, fixed: Mapping[str, Any], keys: Iterable[str]) -> dict[str, str]:
    """A job's values of some keys, as they are written."""
    return {key: written(entry.values.get(key, fixed.get(key, "default"))) for key in keys}


def _apart(entry: Entry, fixed: Mapping[str, Any], around: Sequence[str], unsaid: Mapping[str, str]) -> Entry:
    """A job in a row that says its values of some keys: those of the data, and others that the baseline has not."""
    told = _values(entry, fixed, unsaid)
    said = ", ".join(f"{key}={value}" for key, value in told.items() if value != unsaid[key])
    values = {**_values(entry, fixed, around), **entry.values}
    return replace(entry, label=f"{entry.label}, {said}" if said else entry.label, values=values)
