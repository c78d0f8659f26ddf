"""Server and client say which fedha they run when they meet; what does not fit is refused by both, by name."""

import tomllib
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

import fedha
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.flower import HessianAlignment, handshake
from fedha.flower.client import check_server
from fedha.runs.versions import versions
from tests.driving import SYNCHRONOUS, app_of, train_over
from tests.problems import SEED, Problem, make_problem

ROOT = Path(__file__).resolve().parents[1]


def said(version: str | None, protocol: int) -> RecordDict:
    """A first message; None: of a fedha that does not greet."""
    if version is None:
        return RecordDict({"request": ConfigRecord({"task": "{}"})})
    return RecordDict({"fedha": ConfigRecord({"version": version, "protocol": protocol})})


class OtherSite:
    """The app of clients of which the second runs another fedha."""

    def __init__(self, problem: Problem, version: str | None, protocol: int) -> None:
        self.app, self.version, self.protocol = app_of(problem), version, protocol

    def __call__(self, message: Message, context: Context) -> Message:
        reply = self.app(message, context)
        if message.metadata.message_type == "query.introduce" and context.node_config["partition-id"] == 1:
            del reply.content["fedha"]
            reply.content.update(said(self.version, self.protocol) if self.version else {})
        return reply


def train(version: str | None, protocol: int, rule: str = "stop") -> tuple[HessianAlignment, list[str]]:
    """A run over such clients, and what the server told."""
    told: list[str] = []
    problem = make_problem()
    strategy = HessianAlignment("erm", SYNCHRONOUS, seed=SEED, clients=3, on_client_error=rule)  # type: ignore[arg-type]
    strategy.talk.tell = told.append
    train_over(InlineGrid(OtherSite(problem, version, protocol), 3), strategy, problem, 1)  # type: ignore[arg-type]
    return strategy, told


@pytest.mark.parametrize(
    ("version", "protocol", "named"),
    [
        ("9.9.9", handshake.PROTOCOL + 1, rf"9\.9\.9 \(protocol {handshake.PROTOCOL + 1}\)"),
        (None, 0, r"before 0\.2\.0, which does not say so"),
    ],
)
def test_a_client_that_speaks_another_protocol_is_refused_by_name(
    version: str | None, protocol: int, named: str
) -> None:
    own = rf"this server fedha {fedha.__version__} \(protocol {handshake.PROTOCOL}\)"
    with pytest.raises(FedhaError, match=rf"^client 1 runs fedha {named}, and {own}, .*install the same version"):
        train(version, protocol)


def test_where_failed_clients_are_skipped_so_is_one_of_another_protocol() -> None:
    strategy, told = train("9.9.9", handshake.PROTOCOL + 1, "skip")
    assert strategy.last_round["clients"] == 2
    assert sum("runs fedha 9.9.9" in one for one in told) == 1


def test_another_version_of_the_same_protocol_trains_and_is_told() -> None:
    strategy, told = train("9.9.9", handshake.PROTOCOL)
    assert strategy.last_round["clients"] == 3
    both = f"both speak protocol {handshake.PROTOCOL}"
    assert told == [f"client 1 runs fedha 9.9.9, and this server {fedha.__version__}: {both}"]


@pytest.mark.parametrize(("version", "protocol"), [("0.0.9", 1), (None, 0)])
def test_a_client_refuses_a_server_of_another_protocol_and_its_log_says_so(
    version: str | None, protocol: int, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(FedhaError, match=r"^the server runs fedha"):
        check_server(said(version, protocol))
    assert "the server runs fedha" in caplog.text
    check_server(said("0.0.9", handshake.PROTOCOL))


def test_the_version_has_one_source() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert fedha.__version__ == versions()["fedha"] == project["version"]
    assert project["version"] not in (ROOT / "fedha" / "__init__.py").read_text(encoding="utf-8")
