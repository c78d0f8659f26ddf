"""What a site has agreed to: a folder of files, an experiment each. What is proposed lies in a folder beside it until a
person of the site moves it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field

from fedha.atomic import write_text
from fedha.config import Config, parse
from fedha.deploy import tree
from fedha.deploy.tree import Owner
from fedha.errors import FedhaError
from fedha.schema import Written, refusal
from fedha.yamlfile import read_yaml

if TYPE_CHECKING:
    from fedha.privacy.contract import Contract

FOLDER, PROPOSED = "contracts", "proposed"
_HEAD = """\
# What this site may be asked: its people agreed to it, and the site refuses everything else (fedha deploy show).
# config: the experiment. split: this site's own key, which decides who is held out; it is nobody else's.
"""


class _File(Written):
    """The file of an agreement: its version, the site's own words (those alone that it says), and the experiment."""

    contract: int = Field(ge=1, le=1)
    split: str = ""
    repeats: int | None = -1
    diagnose: int | None = 0
    volunteer: str = ""
    evaluate: tuple[str, ...] | None = None
    numbers: tuple[str, ...] = ()
    config: dict[str, Any]


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

    def runs(self) -> Iterator[tuple[Config, "Contract"]]:
        """Each run, and the contract of it."""
        from fedha.privacy.contract import contract_of  # which imports torch; who only copies files needs none

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
