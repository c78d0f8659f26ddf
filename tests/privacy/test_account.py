"""A site's account is written by one process at a time: no entry is lost, and no budget is spent twice."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from fedha.errors import FedhaError
from fedha.privacy import account
from fedha.privacy.account import Account
from fedha.privacy.ledger import Release
from fedha.privacy.limits import Limits
from fedha.privacy.site import Site
from tests.privacy.rounds import grid_of, settings
from tests.privacy.test_refusals import ask, parameters_of

pytest.importorskip("dp_accounting", reason='install "fedha[privacy]"')

RELEASE = Release(3.0, "whole", 50)


def test_no_entry_of_two_writers_is_lost(tmp_path: Path) -> None:
    """Each has an account of its own of the same file, as two processes have."""
    path, start = tmp_path / "account.json", threading.Barrier(2)

    def enter() -> None:
        own = Account(path)
        start.wait()
        for _ in range(10):
            own.enter("train", 50, [(RELEASE, 1)])
            own.note_answered(["update"], 1e9)

    writers = [threading.Thread(target=enter) for _ in range(2)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    found = Account(path).read()
    assert found.ledgers["train"].entries == ((RELEASE, 20),)
    assert len(found.answered) == 20


def test_what_another_process_is_about_to_spend_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both look at the budget before either has entered: the second must wait for the first."""
    config, path, waits = settings("erm"), tmp_path / "account.json", threading.Event()
    acquire: Callable[..., Any] = FileLock.acquire

    def telling(lock: FileLock, *given: Any, **options: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            waits.set()
        return acquire(lock, *given, **options)

    monkeypatch.setattr(FileLock, "acquire", telling)
    grid = grid_of(config, lambda: Site("seeded", Limits(max_epsilon=2.0), Account(path)))
    parameters, said = parameters_of(config), list[Any]()
    assert "tensors" in ask(grid, config, "train", parameters, measure=())
    (examples,) = {one.population for one in Account(path).read().ledgers.values()}
    other = threading.Thread(
        target=lambda: said.append(ask(grid, config, "train", parameters, measure=(), round=2)), daemon=True
    )
    with Account(path).locked() as book:
        other.start()
        assert waits.wait(30)
        assert not said
        book.enter("train", examples, [(Release(0.5, "whole", examples), 1)])
    other.join(30)
    assert said[0].endswith("it refuses to answer (budget)")


def test_an_account_that_another_process_holds_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "_WAIT", 0.01)
    path = tmp_path / "account.json"
    held = r"account\.json has been held by another process for 0\.01 seconds"
    with Account(path).locked(), pytest.raises(FedhaError, match=held):
        Account(path).enter("train", 50, [(RELEASE, 1)])
    Account(path).enter("train", 50, [(RELEASE, 1)])


@pytest.mark.slow
def test_no_entry_of_two_processes_is_lost(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys\n"
        "from fedha.privacy.account import Account\n"
        "from fedha.privacy.ledger import Release\n"
        "sys.stdin.readline()\n"
        "for _ in range(20):\n"
        "    Account(pathlib.Path(sys.argv[1])).enter('train', 50, [(Release(3.0, 'whole', 50), 1)])\n"
    )
    path = tmp_path / "account.json"
    command = [sys.executable, "-c", code, str(path)]
    writers = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(2)]
    for one in writers:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.close()
    assert [one.wait(120) for one in writers] == [0, 0]
    assert Account(path).read().ledgers["train"].entries == ((RELEASE, 40),)
