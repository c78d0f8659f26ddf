"""A site of a deployment with privacy: a new process each message; noise, limits and account are the site's own."""

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from fedha.config import Config, to_json
from fedha.deploy import apps
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.flower.failure import find_failure
from fedha.flower.serve import Job, serve
from fedha.privacy.accounting import spent
from fedha.privacy.ledger import restore
from fedha.runs import runfolder
from fedha.runs.files import COHORT
from fedha.runs.listener import Silent
from tests.privacy.rounds import settings

pytest.importorskip("dp_accounting", reason='install "fedha[privacy]"')


class Forgetful(InlineGrid):
    """Two sites whose process is new with each message: what they know is in their context and on their disk."""

    def __init__(self, app: ClientApp, run_config: dict[str, Any]) -> None:
        super().__init__(app, 2, run_config)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names = []
        for message in messages:
            apps._clients.cache_clear()
            names += super().push_messages([message])
            for context in self._contexts.values():
                context.state = copy.deepcopy(context.state)
        return names


class Losing(Forgetful):
    """The first answers of these kinds get lost on their way."""

    kinds = ("query.measure", "train", "evaluate")

    def __init__(self, app: ClientApp, run_config: dict[str, Any]) -> None:
        super().__init__(app, run_config)
        self.lost = set(self.kinds)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"{message.metadata.dst_node_id}"
            (reply,) = super().send_and_receive([message])
            if (kind := message.metadata.message_type) in self.lost:
                self.lost.remove(kind)
                reply = Message(Error(ErrorCode.CLIENT_APP_CRASHED, "it fell"), reply_to=message)
            replies.append(reply)
        return replies


def deployed(
    config: Config, folder: Path, *, resume: bool = False, kind: type[Forgetful] = Forgetful
) -> dict[str, Any]:
    grid = kind(apps.deployed_client_app(), {"settings": to_json(config), "out": folder.name})
    return serve(Job(config, folder), grid, Silent(), domains=None, resume=resume)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FEDHA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDHA_LIMITS", raising=False)
    monkeypatch.delenv("FEDHA_DATA", raising=False)
    return tmp_path


@pytest.mark.parametrize("recipe", ["exact_diagonal", "fishr"])
def test_a_private_run_ends_well_with_noise_that_nobody_can_repeat(recipe: str, site: Path) -> None:
    config = settings(recipe, privacy={"evaluation_noise": 5.0}, federation={"clients": 2})
    models = []
    for name in ("a", "b"):
        results = deployed(config, site / name)
        assert results["rounds"] == 3
        assert results["privacy"]["noise"].startswith("cryptographic")
        assert results["privacy"]["epsilon_held_out"]
        models.append((site / name / runfolder.MODEL).read_bytes())
    assert models[0] != models[1]


def test_a_server_without_noise_of_its_own_takes_no_seeded_one_for_clients_as_a_whole(site: Path) -> None:
    config = settings("iga", training={"averaging": "clients"}, privacy={"protect": "clients"})
    results = deployed(config, site / "a")
    assert results["privacy"]["noise"].startswith("cryptographic")


def test_a_server_draws_clients_by_a_secret_that_a_run_that_goes_on_still_has(site: Path) -> None:
    sections: dict[str, Any] = {"training": {"averaging": "clients", "clients_per_round": 1, "rounds": 1}}
    config = settings("iga", **sections, privacy={"protect": "clients"})
    deployed(config, site / "a")
    secret = (site / "a" / COHORT).read_bytes()
    assert len(secret) == 32
    longer = config.model_copy(update={"training": config.training.model_copy(update={"rounds": 2})})
    deployed(longer, site / "a", resume=True)
    assert (site / "a" / COHORT).read_bytes() == secret
    assert secret.hex() not in (site / "a" / "config.yaml").read_text()


def account_of(site: Path) -> Any:
    """What client 0 keeps an account of."""
    (path,) = (site / "cache" / "account").glob("examples-*-0.json")
    return json.loads(path.read_text())


def test_a_sites_account_covers_all_runs_and_agrees_with_the_servers(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = site / "limits.yaml"
    limits.write_text("max_epsilon: 8.0\nstatistics: [gradient, hessian_diagonal]\n")
    monkeypatch.setenv("FEDHA_LIMITS", str(limits))
    config = settings("exact_diagonal", federation={"clients": 2})
    told = deployed(config, site / "a")["privacy"]
    account = account_of(site)
    ledger = restore(account["ledgers"]["train"])
    (delta, _) = told["delta"].values()
    assert spent(ledger, delta).epsilon == pytest.approx(told["epsilon"]["flip-0.2"])
    limits.write_text(f"max_epsilon: {told['epsilon']['flip-0.2'] + 0.1}\n")
    with pytest.raises(FedhaError, match=r"it refuses to answer \(budget\)"):
        deployed(config, site / "b")  # another run, the same examples


def test_a_client_that_is_asked_twice_has_released_twice(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers got lost, or so they say: with noise that is new each time there are two of them."""
    limits = site / "limits.yaml"
    limits.write_text("max_epsilon: 50.0\n")
    monkeypatch.setenv("FEDHA_LIMITS", str(limits))
    config = settings("exact_diagonal", federation={"clients": 2}, privacy={"evaluation_noise": 5.0})
    told = deployed(config, site / "a", kind=Losing)["privacy"]
    account = account_of(site)
    names, parts = {"epsilon": "train", "epsilon_held_out": "held_out"}, dict[str, float]()
    for name, part in names.items():
        ledger = restore(account["ledgers"][part])
        parts[part] = spent(ledger, 0.1 / ledger.population).epsilon
        assert parts[part] == pytest.approx(told[name]["flip-0.2"])
    assert told["epsilon"]["flip-0.2"] > told["epsilon"]["flip-0.1"]
    kept = json.loads((site / "a" / runfolder.SPENDING).read_text())
    assert restore(kept["train"]["flip-0.2"]) == restore(account["ledgers"]["train"])


def test_limits_that_cannot_be_read_answer_nothing(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDHA_LIMITS", str(site / "none.yaml"))
    with pytest.raises(FedhaError, match=r"it could not answer \(FedhaError\)") as told:
        deployed(settings("iga", privacy={"protect": "nothing"}, federation={"clients": 2}), site / "a")
    assert "none.yaml" not in str(told.value)


def test_data_that_changed_behind_an_account_are_not_answered_for(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = site / "limits.yaml"
    limits.write_text("max_epsilon: 50.0\n")
    monkeypatch.setenv("FEDHA_LIMITS", str(limits))
    deployed(settings("iga", federation={"clients": 2}), site / "a")
    with pytest.raises(FedhaError, match="its own log says why"):
        deployed(settings("iga", federation={"clients": 2}, data={"held_out": 0.5}), site / "b")


def test_a_site_refuses_a_server_of_another_protocol_before_it_reads_its_settings(site: Path) -> None:
    """A config of another version may have what this one cannot read."""
    grid = Forgetful(apps.deployed_client_app(), {"settings": '{"of": "another version"}', "out": "a"})
    content = RecordDict({"request": ConfigRecord({"task": "{}"})})
    (reply,) = grid.send_and_receive([Message(content, 2, "query.introduce")])
    failed = find_failure(reply)
    assert failed is not None
    assert "the server runs fedha before 0.2.0" in failed.sentence
