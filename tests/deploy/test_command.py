"""`fedha deploy`: what it says, what it leaves behind, and how it ends."""

import io
import subprocess
import sys
import tarfile
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from fedha.cli.commands import app
from fedha.cli.deployed import saved_each_round
from fedha.cli.exits import exit_code
from fedha.cli.launch import find_config
from fedha.deploy import inventory
from fedha.deploy.names import DEFAULT_CLIENTS
from tests.commands import Command
from tests.deploy.federations import make


@pytest.fixture
def deploy(fedha: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a subcommand in an empty folder: exit code, stdout, stderr."""
    monkeypatch.delenv("FEDHA_FEDERATION", raising=False)
    return lambda *arguments: fedha("deploy", *arguments)


def test_init_makes_a_federation_to_try_and_says_when_it_ends(deploy: Command) -> None:
    code, said, _ = deploy("init", "fed")
    assert code == 0
    ends = inventory.now() + timedelta(days=825)
    for what in ("server", *(f"client {name}" for name in DEFAULT_CLIENTS)):
        assert f"{what:<24} until {ends:%Y-%m-%d}\n" in said
    assert "Each client has a domain of deployment.yaml" in said
    assert "No --host was given" in said
    assert all((Path("fed/clients") / name / "data/domain.npz").is_file() for name in DEFAULT_CLIENTS)
    assert Path("fed/server/configs/deployment.yaml").is_file()


@pytest.mark.parametrize("command", ["deploy init fed --clients a b", "deploy pack --to made --client west"])
def test_what_only_copies_files_imports_nothing_heavy(tmp_path: Path, command: str) -> None:
    make(tmp_path / "made")
    program = (
        "import sys, fedha.cli.commands, fedha.cli.exits\n"
        f"code = fedha.cli.exits.exit_code(lambda **s: fedha.cli.commands.app({command.split()}, **s))\n"
        "print(code, {'torch', 'flwr', 'ray', 'sklearn'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=False)
    assert done.stderr.decode().splitlines()[-1] == "0 set()"


def test_init_takes_names_hosts_port_and_days(deploy: Command) -> None:
    words = ("--clients", "a", "b-2", "--host", "fed.example.org", "10.0.0.3", "--port", "443", "--days", "30")
    code, said, _ = deploy("init", "fed", *words)
    assert code == 0
    record = yaml.safe_load(Path("fed/federation.yaml").read_text())
    assert [client["name"] for client in record["clients"]] == ["a", "b-2"]
    assert (record["hosts"], record["port"], record["days"]) == (["fed.example.org", "10.0.0.3"], 443, 30)
    assert "FEDHA_SERVER=fed.example.org:443\n" in Path("fed/clients/b-2/.env").read_text()
    assert "FEDHA_PORT=443\n" in Path("fed/server/.env").read_text()
    assert "Put each client's data into fed/clients/NAME/data" in said
    assert not list(Path("fed/clients/a/data").iterdir())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--clients", "A"), "a client cannot be called 'A'"),
        (("--clients", "a", "a"), "two clients would be called 'a'"),
        (("--host", "https://x"), "'https://x' is no host"),
        (("--clients", "a", "b", "--demo"), "data are for 3 clients and 2 are named"),
    ],
)
def test_init_refuses_in_a_sentence_and_leaves_nothing(deploy: Command, words: tuple[str, ...], reason: str) -> None:
    code, _, said = deploy("init", "fed", *words)
    assert code == 2
    assert said.startswith("fedha: ")
    assert reason in said
    assert not list(Path().iterdir())


def test_a_second_init_refuses(deploy: Command) -> None:
    deploy("init", "fed", "--no-demo")
    code, _, said = deploy("init", "fed", "--no-demo")
    assert code == 2
    assert "fed is there already and nothing is ever overwritten" in said


def test_clients_are_added_and_keys_rotated(deploy: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    make(Path("fed"), now=inventory.now())
    code, said, _ = deploy("add-client", "east", "--to", "fed")
    assert code == 0
    assert "east is client 3." in said
    assert "fedha deploy pack --to fed --client east | ssh east" in said
    code, again, _ = deploy("add-client", "east", "--to", "fed")
    assert code == 0
    assert again.startswith("east is in this federation already, and nothing was changed")
    assert "every other site needs the new roster, which says who east is: copy fed/roster.json over" in said
    code, said, _ = deploy("rotate", "--to", "fed", "--client", "east")
    assert code == 0
    assert "Client east has new keys in fed/clients/east/secrets" in said
    assert "every other site needs the new roster, which says who east is: copy fed/roster.json over" in said
    monkeypatch.setenv("FEDHA_FEDERATION", "fed")  # as in the operator's container
    code, said, _ = deploy("rotate", "--host", "a.example.org", "b.example.org")
    assert code == 0
    assert "the old ones are in fed/server/secrets.until-" in said
    code, said, _ = deploy("show")
    assert code == 0
    assert "also known as fed.example.org, a.example.org, b.example.org" in said
    assert "Client east: partition 3" in said
    assert deploy("rotate", "--client", "east", "--host", "a.b")[0] == 2
    assert deploy("rotate", "--client", "nobody")[0] == 2


@pytest.mark.parametrize(("age", "warning"), [(794, ""), (796, "days left"), (826, "ended")])
def test_show_warns_a_month_before_something_ends(deploy: Command, age: int, warning: str) -> None:
    made = inventory.now() - timedelta(days=age, minutes=5)  # no day ends while this runs
    make(Path("fed"), now=made)
    code, said, _ = deploy("show", "--to", "fed")
    assert code == (1 if warning else 0)
    assert ("see `fedha deploy rotate`" in said) == bool(warning)
    assert warning in said
    assert deploy("show", "--to", "fed/server") == (code, said, "")


def test_a_folder_without_a_federation_is_a_sentence(deploy: Command) -> None:
    code, _, said = deploy("show", "--to", "nothing")
    assert code == 2
    assert "nothing holds no federation; make one with `fedha deploy init nothing`" in said


@pytest.mark.parametrize(("given", "every"), [((), 1), (("checkpoint.every=7",), 7), (("checkpoint.every=50",), 50)])
def test_a_deployed_run_is_saved_each_round_unless_its_config_says_otherwise(
    given: tuple[str, ...], every: int
) -> None:
    config = find_config("quickstart", given)
    assert config.checkpoint.every == (every if given else 50)
    assert saved_each_round(config).checkpoint.every == every


def test_a_client_is_removed_once_and_a_second_time_is_no_error(deploy: Command) -> None:
    make(Path("fed"), now=inventory.now())
    code, said, _ = deploy("remove-client", "south", "--to", "fed")
    assert code == 0
    assert "south is no client of this federation. Bring the server up to date" in said
    code, said, _ = deploy("remove-client", "south", "--to", "fed")
    assert (code, said.splitlines()[0]) == (0, "south was removed before, and nothing was changed")
    code, _, said = deploy("remove-client", "nobody", "--to", "fed")
    assert code == 2
    assert "there is no client 'nobody'" in said


def test_a_part_is_written_to_stdout(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    make(tmp_path / "fed")
    words = ["deploy", "pack", "--to", str(tmp_path / "fed"), "--client", "north"]
    assert exit_code(lambda **settings: app(words, **settings)) == 0
    with tarfile.open(fileobj=io.BytesIO(capfdbinary.readouterr().out)) as archive:
        assert "settle.sh" in archive.getnames()
