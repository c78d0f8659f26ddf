"""A site's own account, over all runs: what it has released and when it answered. No server has a say in it."""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedha.atomic import write_text
from fedha.errors import FedhaError, brief
from fedha.jsonfile import parse_json
from fedha.privacy.ledger import Ledger, Release, restore

HOUR = 3600.0


@dataclass
class Account:
    """Kept in memory, or in a file where one is named.

    Attributes:
        path: The file; read before each entry and replaced whole after it, so that it outlives the process.
        ledgers: By part of the domain: train, held_out.
        answered: When what was answered in the last hour: seconds since 1970, and a statistic's name, the update or the
            evaluation.
    """

    path: Path | None = None
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    answered: list[tuple[float, str]] = field(default_factory=list)

    def ledger(self, part: str, examples: int) -> Ledger:
        """The ledger of one part of the domain.

        Raises:
            FedhaError: It was kept for another number of examples: nobody knows then what was spent of whom.
        """
        self.read()
        known = self.ledgers.get(part, Ledger("example", examples))
        if known.population != examples:
            raise FedhaError(
                f"this site's account {self.path or ''} is of {known.population} examples and its data now hold "
                f"{examples}; if they are other examples, move the account away, else restore the data"
            )
        return known

    def enter(self, part: str, examples: int, made: Iterable[tuple[Release, int]]) -> None:
        """Enter releases, before they are made: what fails afterwards may have left all the same."""
        self.ledgers[part] = self.ledger(part, examples).add(made)
        self.write()

    def note_answered(self, asked: Collection[str], now: float) -> None:
        """Note what is answered."""
        kept = [(moment, name) for moment, name in self.answered if now - moment < HOUR]
        self.answered = [*kept, *((now, name) for name in sorted(asked))]
        self.write()

    def read(self) -> None:
        """Take in the file, if there is one.

        Raises:
            FedhaError: It is damaged.
        """
        if self.path is None or not self.path.exists():
            return
        try:
            content: dict[str, Any] = parse_json(self.path.read_bytes())
            self.ledgers = {part: restore(state) for part, state in content["ledgers"].items()}
            self.answered = [(float(moment), str(name)) for moment, name in content["answered"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FedhaError(
                f"this site's account {self.path} cannot be read ({brief(error)}); restore it: without it nothing is "
                "known of what was spent"
            ) from error

    def write(self) -> None:
        """Replace the file."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "ledgers": {part: ledger.state() for part, ledger in self.ledgers.items()},
            "answered": self.answered,
        }
        write_text(self.path, json.dumps(content, indent=1) + "\n", mode=0o600)
