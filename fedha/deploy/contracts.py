"""How a site's app holds a run to what the site agreed to, and counts refusals on the site's disk.

In the environment of the site's app ``FEDHA_CONTRACTS`` names the folder of agreements; where it is not set, the site
holds no contract and answers what the server's settings say.
"""

import functools
import json
import os
from collections.abc import Iterable
from logging import WARNING
from pathlib import Path

from filelock import FileLock
from flwr.supercore import log

from fedha.atomic import write_text
from fedha.config import Config, DataConfig, from_json
from fedha.deploy.agreements import FOLDER, Agreement, read_all
from fedha.errors import FedhaError, brief
from fedha.privacy.agreed import Deviation, compared
from fedha.privacy.contract import Contract, contract_of


def of_run(agreements: list[Agreement], asked: Config) -> tuple[Config, Contract] | Deviation:
    """The run that was agreed on and is asked for; or what the nearest one has otherwise.

    Args:
        agreements: A site's.
        asked: The settings that the server sends.
    """
    wanted = contract_of(asked)
    nearest: tuple[int, Deviation] | None = None
    for agreement in agreements:
        for run, held in agreement.runs():
            if held.digest == wanted.digest:
                return run, held
            apart = sum(held.terms.get(key) != wanted.terms.get(key) for key in held.terms.keys() | wanted.terms.keys())
            found = compared(wanted.terms, held.terms)
            if found is not None and (nearest is None or apart < nearest[0]):
                nearest = apart, found
    return (
        nearest[1] if nearest else Deviation("experiment", repr(asked.name), "none: its folder of contracts is empty")
    )


def data_here(asked: Config) -> tuple[DataConfig, bool]:
    """By which data section this process' site looks for its part in a run, before it is held to what was agreed on.

    Args:
        asked: The settings that the server sends.

    Returns:
        The agreed run's section, and that it is one. Where the site agreed to no such run, the server's, but with the
        list of images that the site's own files name: a server that names another would learn of it from what is wrong
        with it. Where the site holds no contracts, the server's, as it is.
    """
    if not (folder := os.environ.get("FEDHA_CONTRACTS")):
        return asked.data, True
    agreements = read_all(Path(folder))
    if not isinstance(found := of_run(agreements, asked), Deviation):
        return found[0].data, True
    lists = [one.config.data.manifest for one in agreements if one.config.data.name == asked.data.name]
    return asked.data.model_copy(update={"manifest": next(iter(lists), None)}), False


def lends(asked: Config, names: Iterable[str]) -> bool:
    """Whether this process' site lends one of these domains to diagnoses of a run."""
    folder = os.environ.get("FEDHA_CONTRACTS")
    found = of_run(read_all(Path(folder)), asked) if folder else None
    return isinstance(found, tuple) and found[1].volunteer in set(names)


def held_here(asked: Config, cache: Path) -> tuple[Config, Contract] | None:
    """The run that this process' site agreed to; None where it holds no contracts. A refusal is counted.

    Args:
        asked: The settings that the server sends.
        cache: The site's folder for what it needs again.

    Raises:
        FedhaError: It did not agree to this; names the key, what was asked and what was agreed.
    """
    if not (folder := os.environ.get("FEDHA_CONTRACTS")):
        return None
    found = _found(Path(folder), _seen(Path(folder)), asked.model_dump_json())
    if isinstance(found, Deviation):
        times = _count_refused(cache / FOLDER / "refused.json", found.key)
        log(WARNING, "fedha refuses a run, for the %d. time because of %s: %s", times, found.key, found.sentence)
        raise FedhaError(f"this site refuses to answer (contract): {found.sentence}")
    return found


def _seen(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """The files of a folder, so that a change shows: an agreement is written at once, as a new file."""
    states = [(path.name, path.stat()) for path in sorted(folder.glob("*.yaml"))]
    return tuple((name, one.st_ino, one.st_size, one.st_mtime_ns) for name, one in states)


@functools.lru_cache(maxsize=4)
def _found(folder: Path, _: tuple[tuple[str, int, int, int], ...], asked: str) -> tuple[Config, Contract] | Deviation:
    """As `of_run`, once for all requests of a run: to read a folder takes longer than most of them."""
    return of_run(read_all(folder), from_json(asked))


def _count_refused(path: Path, key: str) -> int:
    """Count a refusal, and say for how many times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock"), mode=0o600):
        try:
            known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            counts = {str(name): int(count) for name, count in known.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise FedhaError(f"this site's {path} cannot be read ({brief(error)}); move it away") from error
        counts[key] = counts.get(key, 0) + 1
        write_text(path, json.dumps(counts), mode=0o600)
    return counts[key]
