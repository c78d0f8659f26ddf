"""Any damage to a file that is kept or sent between processes is one short sentence, and leaves the file as it was."""

import io
import json
import random
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy
import torch
from rich.console import Console

from fedha.cli.display import LineDisplay
from fedha.config import Config
from fedha.data import Domain, Examples
from fedha.data.export import read_domain, write_domain
from fedha.engine.event_file import EventFile, new_events
from fedha.errors import FedhaError
from fedha.privacy.account import Account
from fedha.privacy.ledger import Ledger, Release
from fedha.privacy.spending import Spending, read_spending
from tests.made_runs import record
from tests.mutations import damaged_bytes, damaged_json

RELEASE = Release(1.0, "whole", 50)


def refusals(path: Path, contents: Iterable[bytes], read: Callable[[Path], Any]) -> int:
    """How many damaged contents of a file were refused; anything but a sentence fails."""
    count = 0
    for content in contents:
        path.write_bytes(content)
        sentence = ""
        try:
            read(path)
        except FedhaError as error:
            sentence = str(error)
        assert len(sentence) < 2000
        assert not sentence or path.read_bytes() == content
        count += bool(sentence)
    return count


def both(content: bytes) -> Iterator[bytes]:
    return chain(damaged_bytes(content, 150), damaged_json(json.loads(content), 150))


def test_a_sites_account(tmp_path: Path) -> None:
    """What is refused is neither written over nor forgotten."""
    path = tmp_path / "account.json"
    book = Account(path)
    book.enter("train", 50, [(RELEASE, 3)])
    book.note_answered(["update", "risk"], 1e9)

    def go_on(path: Path) -> None:
        book = Account(path)
        book.enter("train", 50, [(RELEASE, 1)])
        book.note_answered(["risk"], 1e9 + 5)

    assert refusals(path, both(path.read_bytes()), go_on) > 200


def test_a_servers_account(tmp_path: Path) -> None:
    state = Spending({"a": Ledger("example", 50).add([(RELEASE, 3)])}).state()
    assert refusals(tmp_path / "privacy.json", both(json.dumps(state).encode()), read_spending) > 200


def test_an_exported_domain(tmp_path: Path) -> None:
    path = tmp_path / "domain.npz"
    part = Examples(torch.eye(3), torch.tensor([0, 1, 0]))
    write_domain(path, Domain("a", part, part), 2)
    whole = path.read_bytes()
    assert refusals(path, damaged_bytes(whole, 300), read_domain) > 250
    assert refusals(path, _other_arrays(whole, 200), read_domain) > 100


def _other_arrays(whole: bytes, count: int) -> Iterator[bytes]:
    """Archives in which one array is gone, or of another type or shape."""
    chance = random.Random(0)
    others = [
        *(None, 3, -1, "x", 10**18, b"abc", numpy.nan, numpy.float16(1), [[1]], ["a"], [1 + 2j]),
        *(numpy.zeros(0), numpy.zeros((3, 3), bool), numpy.zeros((3, 3), "M8[s]"), numpy.full((3, 3), 1e300)),
        *(numpy.zeros((3, 3), ">f4"), numpy.zeros(3, ">i8"), numpy.zeros((3, 3), numpy.uint16)),
    ]
    for _ in range(count):
        with numpy.load(io.BytesIO(whole)) as archive:
            arrays = dict(archive)
        name, other = chance.choice(list(arrays)), chance.choice(others)
        del arrays[name]
        file = io.BytesIO()
        numpy.savez(file, **arrays, **({} if other is None else {name: other}))
        yield file.getvalue()


def test_a_runs_events(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = EventFile(path)
    events.started(Config(), tmp_path, 1)
    events.round_done(record(1))
    events.note("a note")
    events.crashed("a sentence", "a trace")
    events.finished({})
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    others = (
        b"".join([*lines[:place], one, b"\n", *lines[place + 1 :]])
        for place, line in enumerate(lines)
        for one in damaged_json(json.loads(line), 50, place)
    )

    def listen(path: Path) -> None:
        display = LineDisplay(Console(file=io.StringIO()))
        with path.open("rb") as file:
            for event, value in new_events(file):
                if event == "started":
                    display.started(Config(), tmp_path, value)
                if event == "round_done":
                    display.round_done(value)
                if event == "note":
                    display.note(value)

    assert refusals(path, chain(damaged_bytes(whole, 150), others), listen) > 150
