"""What a site has agreed to: a folder of files, an experiment each. What is proposed lies in a folder beside it until a
person of the site moves it.

In the environment of the site's app ``FEDHA_CONTRACTS`` names the folder; where it is not set, the site holds no
contract and answers what the server's settings say.
"""

import functools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from logging import WARNING
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock
from flwr.supercore import log
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedha.atomic import write_text
from fedha.config import Config, DataConfig, from_json, parse
from fedha.deploy import tree
from fedha.deploy.tree import Owner
from fedha.errors import FedhaError, brief
from fedha.privacy.agreed import Deviation, compared
from fedha.privacy.contract import NUMBERS, Contract, contract_of
from fedha.schema import numbers_as_written, refusal
from fedha.yamlfile import read_yaml

FOLDER, PROPOSED = "contracts", "proposed"
_HEAD = """\
# What this site may be asked: its people agreed to it, and the site refuses everything else (fedha deploy show).
# config: the experiment. split: this site's own key, which decides who is held out; it is nobody else's.
"""


class _File(BaseModel):
    """The file of an agreement: its version, the site's own words, and the experiment."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    contract: int = Field(ge=1, le=1)
    split: str = ""
    repeats: int | None = -1
    diagnose: int | None = 0
    volunteer: str = ""
    evaluate: tuple[str, ...] | None = None
    numbers: tuple[str, ...] = NUMBERS
    config: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _numbers_as_written(cls, content: Any) -> Any:
        return numbers_as_written(cls, content)


@dataclass(frozen=True)
class Agreement:
    """One experiment that a site agreed to: the runs of its recipes and seeds.

    Attributes:
        name: The file's, without its ending.
        config: The experiment.
        own: The site's words, as `Contract` has them.
    """

    name: str
    config: Config
    own: Mapping[str, Any] = field(default_factory=dict)

    def runs(self) -> Iterator[tuple[Config, Contract]]:
        """Each run, and the contract of it."""
        for run in self.config.runs():
            yield run, contract_of(run, **self.own)


def check_whole(config: Config) -> None:
    """Refuse to divide what one place does not hold.

    Raises:
        FedhaError: Names the key.
    """
    own = "but each site of a deployment holds a domain of its own"
    if config.data.clients_per_domain > 1:
        raise FedhaError(f"data.clients_per_domain is {config.data.clients_per_domain}, {own}; set it to 1")
    if config.data.partition is not None:
        raise FedhaError(f"data.partition divides what is in one place, {own}; leave it out")


def proposed(path: Path, config: Config, own: Mapping[str, Any]) -> Agreement:
    """An agreement as a config's file would have it; what no site could answer is refused before anybody agrees to it.

    Raises:
        FedhaError: As `check_whole`.
    """
    check_whole(config)
    return Agreement(path.stem, config, own)


def read(path: Path) -> Agreement:
    """What a file agrees to.

    Raises:
        FedhaError: It cannot be read, or says something else.
    """
    content = read_yaml(path, "the contract", "restore it, or have it proposed anew")
    with refusal(_File, f"the contract {path}"):
        found = _File.model_validate({} if content is None else content)
    config = parse(found.config, f"the contract {path}")
    words = {name: getattr(found, name) for name in found.model_fields_set - {"contract", "config"}}
    agreement = Agreement(path.stem, config, words)
    next(agreement.runs())  # what is wrong with a word is said now
    return agreement


def read_all(folder: Path) -> list[Agreement]:
    """All that a folder holds, by name; nothing where it is not there.

    Raises:
        FedhaError: As `read`.
    """
    return [read(path) for path in sorted(folder.glob("*.yaml"))]


def files_of(agreements: Iterable[Agreement], folder: str = FOLDER, *, split: str = "") -> dict[str, bytes]:
    """The files of agreements, by path; with a site's key, where one is given."""
    keyed = {"split": split} if split else {}
    return {f"{folder}/{one.name}.yaml": to_text(replace(one, own={**one.own, **keyed})).encode() for one in agreements}


def put(folder: Path, agreement: Agreement, user: Owner) -> None:
    """Write an agreement's file into a folder, at once; what was proposed there under its name gives way."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{agreement.name}.yaml"
    write_text(path, to_text(agreement), mode=0o600)
    tree.give(folder, user)


def keyed(agreement: Agreement, agreed: Path) -> Agreement:
    """An agreement with the key that a site's others have; without one where they have none, or are not here."""
    keys = {str(one.own["split"]) for one in read_all(agreed) if one.own.get("split")}
    return replace(agreement, own={**agreement.own, "split": keys.pop()}) if len(keys) == 1 else agreement


def to_text(agreement: Agreement) -> str:
    """The file of an agreement."""
    content = {"contract": 1, **json.loads(json.dumps(dict(agreement.own)))}
    content["config"] = agreement.config.model_dump(mode="json")
    return _HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


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
