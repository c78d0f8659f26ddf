"""What a site keeps of its answers is one task's at a time, and nobody's when that was killed."""

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from flwr.app import ConfigRecord, RecordDict

from fedha.flower.contracted import RECORD, kept_book
from fedha.flower.secure_turns import Turns
from fedha.privacy.account import Account
from fedha.privacy.book import Book, from_text, to_text
from fedha.privacy.contract import Contract, contract_of
from tests.privacy.rounds import settings


def agreed() -> Contract:
    return contract_of(settings("iga"))


def latest(state: RecordDict) -> int:
    record = state.get(RECORD)
    return from_text(str(record["book"])).latest["train"] if isinstance(record, ConfigRecord) else 0


def answered(folder: Path) -> int:
    """A task that answers one round more than the book has; the round."""
    state = RecordDict()
    with kept_book(folder, agreed(), 0, state):
        after = latest(state) + 1
        state[RECORD] = ConfigRecord({"book": to_text(Book(agreed().digest, {"train": after}))})
    return after


def test_a_task_reads_what_another_of_its_site_has_answered_whatever_its_context_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have a copy of one context, and so has one that was kept from long ago."""
    waits, found, acquire = threading.Event(), list[int](), FileLock.acquire

    def telling(lock: FileLock, *given: Any, **options: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            waits.set()
        return acquire(lock, *given, **options)

    monkeypatch.setattr(FileLock, "acquire", telling)
    state = RecordDict({RECORD: ConfigRecord({"book": to_text(Book(agreed().digest, {"train": 7}))})})
    other = threading.Thread(target=lambda: found.append(answered(tmp_path)), daemon=True)
    with kept_book(tmp_path, agreed(), 0, state):
        assert latest(state) == 0  # of the disk, where nothing was answered
        other.start()
        assert waits.wait(30)
        assert not found
        state[RECORD] = ConfigRecord({"book": to_text(Book(agreed().digest, {"train": 4}))})
    other.join(30)
    assert found == [5]


HELD: dict[str, tuple[str, Callable[[Path], AbstractContextManager[Any]]]] = {
    "account": (
        "from fedha.privacy.account import Account; held = Account(folder / 'account.json').locked()",
        lambda folder: Account(folder / "account.json").locked(),
    ),
    "book": (
        "from flwr.app import RecordDict; from fedha.flower.contracted import kept_book; "
        "from tests.deploy.test_locks import agreed; held = kept_book(folder, agreed(), 0, RecordDict())",
        lambda folder: kept_book(folder, agreed(), 0, RecordDict()),
    ),
    "turns": (
        "from fedha.flower.secure_turns import Turns; held = Turns(folder, 1, 0)._locked()",
        lambda folder: Turns(folder, 1, 0)._locked(),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HELD)
def test_what_a_killed_task_held_is_free_at_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock's file is left behind, and is no lock."""
    code, hold = HELD[name]
    whole = (
        f"import pathlib, sys\nfolder = pathlib.Path(sys.argv[1])\n{code}\nheld.__enter__()\nprint(flush=True)\ninput()"
    )
    command = [sys.executable, "-c", whole, str(tmp_path)]
    monkeypatch.setattr("fedha.privacy.account._WAIT", 0.0)
    monkeypatch.setattr("fedha.flower.secure_turns._WAIT", 0.0)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        (lock,) = tmp_path.rglob("*.lock")
        other = FileLock(lock)
        with pytest.raises(TimeoutError):
            other.acquire(timeout=0)
        process.kill()
        process.wait(60)
        with hold(tmp_path):
            assert lock.exists()
