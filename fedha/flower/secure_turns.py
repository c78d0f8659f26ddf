"""Whose turn it is where several processes answer for one client: none takes a step from a state that another has left.

A client's secrets lie in its Flower context, and each task is handed a copy. Two tasks that ran at once, each from the
same copy, could sign two sets of survivors, and give shares of both secrets of a client. So the latest turn stands in a
file on the client's disk, and only who holds the turn that stands there may go on. It holds no secret.
"""

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fedha.atomic import write_text
from fedha.errors import FedhaError, brief
from fedha.jsonfile import parse_json

_WAIT = 60.0  # seconds for another task to write a file of a hundred bytes
_OLD, _KEPT = 90 * 86400.0, 1000  # seconds after which a run is over, where so many are later


@dataclass(frozen=True)
class Turns:
    """One client's turns in one run.

    Attributes:
        folder: Where the file is; None where one process alone holds the client's state, as in a simulation.
        run: Flower's number of the run.
        client_id: The client's.
    """

    folder: Path | None
    run: int
    client_id: int

    def begin(self, round: int, exchanges: Sequence[str]) -> str:
        """The first turn with new keys; whoever holds an older one goes no further.

        Args:
            round: That the keys are for.
            exchanges: That they are for.

        Raises:
            FedhaError: The client has answered there, or gone on to a later round.
        """
        turn = f"{secrets.token_hex(8)}/0"
        with self._locked() as path:
            known = _read(path)
            latest, answered = known.get("round", 0), known.get("answered", [])
            if round < latest or (round == latest and set(exchanges) & set(answered)):
                raise FedhaError(
                    f"client {self.client_id} has gone on to round {latest}, or answered there, and is asked for keys "
                    f"of round {round}; two sums of one exchange would tell its part, so it refuses"
                )
            _write(path, {"turn": turn, "round": round, "answered": answered if round == latest else []})
        return turn

    def take(self, turn: str, answered: str = "") -> str:
        """The next turn, for who holds the latest.

        Args:
            turn: That its state is of.
            answered: The exchange that is answered with it, if one is.

        Raises:
            FedhaError: Another task has taken it.
        """
        lineage, _, number = turn.partition("/")
        after = f"{lineage}/{int(number or 0) + 1}"
        with self._locked() as path:
            known = _read(path)
            if path is not None and known.get("turn") != turn:
                raise FedhaError(
                    f"another task of client {self.client_id} has gone on from the same state of a secure sum; two "
                    "steps from one state could give both secrets of a client, so this one is refused"
                )
            done = [*known.get("answered", []), *([answered] if answered else [])]
            _write(path, {**known, "turn": after, "answered": done})
        return after

    @contextmanager
    def _locked(self) -> Iterator[Path | None]:
        if self.folder is None:
            yield None
            return
        path = self.folder / f"{self.run}-{self.client_id}.json"
        try:
            if not path.exists():
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                _forget_old(self.folder)
            with FileLock(path.with_suffix(".lock"), timeout=_WAIT, mode=0o600):
                yield path
        except Timeout:
            raise FedhaError(f"{path} is held by another task of this client; look at what that does") from None
        except OSError as error:
            raise FedhaError(
                f"cannot keep {path}, by which its tasks take turns: {error.strerror}; make its folder writable"
            ) from error


def _read(path: Path | None) -> dict[str, Any]:
    if path is None or not path.exists():
        return {}
    try:
        known = parse_json(path.read_bytes())
        return {"turn": str(known["turn"]), "round": int(known["round"]), "answered": list(known["answered"])}
    except (ValueError, KeyError, TypeError) as error:
        raise FedhaError(
            f"{path}, by which the client's tasks take turns, is damaged ({brief(error)}); start the run anew"
        ) from error


def _write(path: Path | None, known: dict[str, Any]) -> None:
    if path is not None:
        write_text(path, json.dumps(known), mode=0o600)


def _forget_old(folder: Path) -> None:
    """Remove what runs left that ended long ago, but for the latest: a clock may be wrong.

    Who holds a lock is not over; one that is removed under its own lock lets nobody in beside who waits for it.
    """
    known = sorted((path.stat().st_mtime, path) for path in folder.glob("*-*.json"))
    for moment, path in known[:-_KEPT]:
        if moment < time.time() - _OLD:
            with suppress(Timeout), FileLock(lock := path.with_suffix(".lock"), timeout=0, mode=0o600):
                path.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)
