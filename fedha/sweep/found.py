"""What sweeps have found so far, from their folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedha.sweep import rungs
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
    """

    jobs: Sequence[Entry]
    summaries: Mapping[str, Mapping[str, Any]]
    failures: Mapping[str, str]
    apart: Sequence[str] = ()
    halted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    places: Mapping[str, Path] = field(default_factory=dict)


def read_found(paths: Sequence[Path]) -> Found:
    """What some sweeps have found so far.

    Raises:
        FedhaError: A path holds no sweep, or a file is damaged.
    """
    jobs: dict[str, Entry] = {}
    done: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    halted: dict[str, dict[str, Any]] = {}
    places: dict[str, Path] = {}
    for path in paths:
        store, here = Store(path), entries(path)
        found = summaries(store, here)
        jobs |= {one.name: one for one in here}
        places |= {name: store.run_folder(name) for name in found}
        rest = [one.name for one in here if one.name not in found]
        failures |= {name: why for name in rest if (why := store.failure(name))}
        halted |= {name: one for name in rest if (one := rungs.begun(store.run_folder(name))) is not None}
        done |= found
    given = [settings(path) for path in paths]
    keys = dict.fromkeys(key for one in given for key in one)
    apart = [key for key in keys if any(one.get(key) != given[0].get(key) for one in given)]
    return Found(list(jobs.values()), done, failures, apart, halted, places)
