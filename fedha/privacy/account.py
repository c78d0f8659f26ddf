"""A site's own account, over all runs: what it has released and when it answered. No server has a say in it.

Several processes may answer for a site. What one reads, decides and enters it does while it holds the account's lock,
so that no release is lost from it and none passes a budget that another has just spent.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fedha.atomic import write_text
from fedha.errors import FedhaError, brief
from fedha.jsonfile import parse_json
from fedha.privacy.ledger import Ledger, Release, restore

HOUR = 3600.0
_WAIT = 60.0  # seconds for another process to decide and write; it then answers without the lock


@dataclass
class Account:
    """Kept in memory, or in a file where one is named.

    Attributes:
        path: The file; read before each entry and replaced whole after it, so that it outlives the process.
        ledgers: By part of the domain: train, held_out.
        answered: When what was answered in the last hour: seconds since 1970, and a statistic's name, the update or the
            evaluation.
        split: Digest of the examples and of who is held out, as they are now; "" where nobody has said.
        kept_split: That of the first entry, which all others must have.
        source: Where the examples are from, for its file.
        earlier: Files of accounts that may be of the same examples: those of as many are carried on in this one.
    """

    path: Path | None = None
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    answered: list[tuple[float, str]] = field(default_factory=list)
    split: str = ""
    kept_split: str = ""
    source: str = ""
    earlier: tuple[Path, ...] = ()
    _lock: FileLock | None = field(default=None, repr=False, compare=False)

    @contextmanager
    def locked(self) -> Iterator["Account"]:
        """The account as it is now, and nobody else's until the end; may be nested.

        Raises:
            FedhaError: Another process does not let it go, the lock cannot be made, or the account is damaged.
        """
        if self.path is None:
            yield self
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._lock is None:
                self._lock = FileLock(self.path.with_suffix(".lock"), timeout=_WAIT, mode=0o600)
            self._lock.acquire()
        except Timeout:
            raise FedhaError(
                f"this site's account {self.path} has been held by another process for {_WAIT:g} seconds; see what "
                "that does, and end it if it hangs"
            ) from None
        except OSError as error:
            raise FedhaError(
                f"this site's account {self.path} cannot be locked: {error.strerror}; make its folder writable"
            ) from error
        try:
            yield self.read()
        finally:
            self._lock.release()

    def ledger(self, part: str, examples: int) -> Ledger:
        """The ledger of one part of the domain.

        Raises:
            FedhaError: It was kept for other examples, or others were held out: nobody knows then what was spent of
                whom.
        """
        self.read()
        known = self.ledgers.get(part, Ledger("example", examples))
        if known.population != examples:
            raise FedhaError(
                f"this site's account {self.path or ''} is of {known.population} examples and its data now hold "
                f"{examples}; if they are other examples, move the account away, else restore the data"
            )
        if self.kept_split and self.split and self.split != self.kept_split:
            raise FedhaError(
                f"the run reads this site's examples in another way than its account {self.path or ''} was begun with, "
                "or holds out others, so that some would be counted in neither budget; give it the data section of the "
                "runs before (data.held_out, scale, size and the like), or move the account away if all are others"
            )
        return known

    def enter(self, part: str, examples: int, made: Iterable[tuple[Release, int]]) -> None:
        """Enter releases, before they are made: what fails afterwards may have left all the same."""
        with self.locked():
            self.ledgers[part] = self.ledger(part, examples).add(made)
            self.kept_split = self.kept_split or self.split
            self.write()

    def carry_on(self, examples: Mapping[str, int]) -> list[Path]:
        """Take over what accounts of earlier names hold, where this one is new: all of it, as if of the same examples.

        Args:
            examples: How many there are, by part.

        Returns:
            Their files, which are renamed.

        Raises:
            FedhaError: One is damaged; or there are some, and all of other numbers of examples: how many are held out
                the first run's server may have said.
        """
        if self.path is None or self.path.exists():
            return []
        with self.locked():
            return [] if self.path.exists() else self._carried(examples)

    def _carried(self, examples: Mapping[str, int]) -> list[Path]:
        taken = []
        for path in self.earlier:
            old = Account(path).read()
            if old.ledgers and all(one.population == examples.get(part) for part, one in old.ledgers.items()):
                for part, ledger in old.ledgers.items():
                    self.ledgers[part] = self.ledgers.get(part, Ledger("example", ledger.population)).add(
                        ledger.entries
                    )
                self.answered += old.answered
                taken.append(path)
        if self.earlier and not taken:
            raise FedhaError(
                f"this site has accounts of an earlier version ({', '.join(path.name for path in self.earlier)}), of "
                "other numbers of examples than the run reads; give it the data section of the runs before, or move "
                "them away if all their examples are others"
            )
        if taken:
            self.kept_split = self.split
            self.write()
        for path in taken:  # not before they are here
            path.rename(path.with_name(f"{path.name}.carried"))
        return taken

    def note_answered(self, asked: Collection[str], now: float) -> None:
        """Note what is answered."""
        with self.locked():
            kept = [(moment, name) for moment, name in self.answered if now - moment < HOUR]
            self.answered = [*kept, *((now, name) for name in sorted(asked))]
            self.write()

    def read(self) -> "Account":
        """Take in the file, if there is one.

        Raises:
            FedhaError: It is damaged.
        """
        if self.path is None or not self.path.exists():
            return self
        try:
            content: dict[str, Any] = parse_json(self.path.read_bytes())
            self.ledgers = {part: restore(state) for part, state in content["ledgers"].items()}
            self.answered = [(float(moment), str(name)) for moment, name in content["answered"]]
            self.kept_split, self.source = str(content.get("split", "")), str(content.get("source", self.source))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FedhaError(
                f"this site's account {self.path} cannot be read ({brief(error)}); restore it: without it nothing is "
                "known of what was spent"
            ) from error
        return self

    def write(self) -> None:
        """Replace the file."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "ledgers": {part: ledger.state() for part, ledger in self.ledgers.items()},
            "answered": self.answered,
            "split": self.kept_split,
            "source": self.source,
        }
        write_text(self.path, json.dumps(content, indent=1) + "\n", mode=0o600)
