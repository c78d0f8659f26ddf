"""What a server rule has deployed clients remember lies on their disks by round: each message meets a new process."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message, RecordDict

from fedha.config import Config, parse, to_json
from fedha.deploy import apps
from fedha.engine.inline import InlineGrid
from fedha.flower.serve import Job, serve
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from tests.jobs import run_job
from tests.killed_runs import Killed, without_time

SITES = 3


def config(optimizer: Any = "scaffold") -> Config:
    local = {"epochs": 1, "batch_size": 200, "learning_rate": 0.2}
    return parse(
        {
            "data": {"color_flips": [0.1, 0.2, 0.3]},
            "model": {"hidden": [6], "one_logit": True},
            "recipe": "erm",
            "training": {"mode": "local", "rounds": 5, "optimizer": optimizer, "clients_per_round": 2, "local": local},
            "evaluation": {"every": 2},
            "checkpoint": {"every": 2},
            "federation": {"clients": SITES},
            "engine": {"name": "inline"},
        }
    )


class Forgetful(InlineGrid):
    """Sites whose processes, and what Flower keeps for them, are new with each message."""

    def __init__(self, run_config: dict[str, Any]) -> None:
        super().__init__(apps.deployed_client_app(), SITES, run_config)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names: list[str] = []
        for message in messages:
            apps._clients.cache_clear()
            for context in self._contexts.values():
                context.state = RecordDict()
            names += super().push_messages([message])
        return names


@pytest.mark.parametrize("optimizer", ["scaffold", {"name": "tests.rules_of_others:drags", "strength": 0.5}])
def test_a_deployed_run_that_was_killed_has_the_bits_of_the_simulation(
    optimizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDHA_CACHE", str(tmp_path / "cache"))
    for name in ("FEDHA_LIMITS", "FEDHA_DATA"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "accepted.txt").write_text("code tests.rules_of_others:drags\n")
    monkeypatch.setenv("FEDHA_ACCEPTED", str(tmp_path / "accepted.txt"))
    run, folder = config(optimizer), tmp_path / "deployed"

    def deployed(listener: Silent, *, resume: bool) -> None:
        grid = Forgetful({"settings": to_json(run), "out": folder.name})
        serve(Job(run, folder), grid, listener, domains=None, resume=resume)

    with pytest.raises(KeyboardInterrupt):
        deployed(Killed(3), resume=False)
    deployed(Silent(), resume=True)
    run_job(Job(run, tmp_path / "whole"), Silent())
    assert (folder / runfolder.MODEL).read_bytes() == (tmp_path / "whole" / runfolder.MODEL).read_bytes()
    numbers = [
        [{key: one[key] for key in ("round", "loss", "risk")} for one in without_time(place / "metrics.jsonl")]
        for place in (folder, tmp_path / "whole")
    ]
    assert numbers[0] == numbers[1]
