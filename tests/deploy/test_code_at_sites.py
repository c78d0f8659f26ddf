"""An operator who submits another app, to a real federation: refused by name, and no line of it ran at any site."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedha.config import load
from fedha.deploy import accepted, agreements, bundle
from tests.deploy.deployed import CONFIG, ERM, Deployed, Simulated, assert_same_run
from tests.deploy.operators import built, disguised, for_agents, line_of, source, spy
from tests.deploy.running import SCRIPTS, Running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RUN = (*ERM, "training.rounds=1")


@pytest.fixture
def careful(federation: Running) -> Iterator[Running]:
    """West starts accepted apps alone."""
    federation.end("west-app")
    federation.app("west", FEDHA_APP="accepted")
    try:
        yield federation
    finally:
        federation.end("west-app")
        federation.app("west")


@pytest.fixture
def agreed(federation: Running) -> Iterator[Path]:
    """West holds a contract: one run, and nothing else."""
    folder = federation.init_folder.site("west") / agreements.FOLDER
    (folder / "real.yaml").write_text(agreements.to_text(agreements.Agreement("real", load(CONFIG, list(RUN)))))
    federation.end("west-app")
    federation.app("west", FEDHA_CONTRACTS=str(folder))
    try:
        yield folder
    finally:
        (folder / "real.yaml").unlink()
        federation.end("west-app")
        federation.app("west")


def submitted(federation: Running, files: dict[str, bytes], place: Path) -> str:
    """`flwr run` of an app, to its end; what it prints is what its server printed."""
    (place / "app").mkdir(parents=True)
    for name, content in files.items():
        (place / "app" / name).write_bytes(content)
    (place / "home").mkdir()
    trusted = federation.init_folder.authority[0]
    (place / "home/config.toml").write_text(
        f'[superlink]\ndefault = "fed"\n[superlink.fed]\naddress = "{federation.address}"\n'
        f'root-certificates = "{trusted}"\n'
    )
    environment = federation._environment("operator") | {"FLWR_HOME": str(place / "home")}
    done = subprocess.run(
        [SCRIPTS / "flwr", "run", place / "app", "fed", "--stream"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.stdout + done.stderr


def test_another_app_is_refused_by_name_and_no_line_of_it_runs(federation: Running, tmp_path: Path) -> None:
    files = source(tmp_path / "mark")
    said = submitted(federation, files, tmp_path)
    told = (
        "this site takes no code from the server: it runs its own fedha, for runs of `fedha deploy run`, and not "
        f"'operator/curious' '6.6.6' with SHA-256 {bundle.digest(built(files))}"
    )
    assert said.count(told) == 3, said
    assert [path.name for path in tmp_path.glob("mark*")] == ["mark-server"]  # the operator's own machine
    for name in federation.clients:
        assert f"fedha: refused, and no line of it ran: {told}" in federation.said(f"{name}-app")
        assert not list((federation.logs / f"{name}-app-home").glob("apps/*"))


def test_an_agents_app_is_refused_like_any_other(federation: Running, tmp_path: Path) -> None:
    """Flower starts those with another command, which takes the bundle likewise."""
    files = for_agents(source(tmp_path / "mark", version="7.7.7"), federation.init_folder.server / "state" / "state.db")
    said = submitted(federation, files, tmp_path)
    assert said.count("and not 'operator/curious' '7.7.7' with SHA-256") == 3, said
    assert [path.name for path in tmp_path.glob("mark*")] == ["mark-server"]
    for name in federation.clients:
        assert not list((federation.logs / f"{name}-app-home").glob("apps/*"))


def test_an_app_in_fedhas_name_changes_nothing_at_a_site(
    federation: Running, simulated: Simulated, tmp_path: Path
) -> None:
    """The operator's fedha sends another bundle under the same name: the sites answer, with their own code."""
    other = tmp_path / "operator.py"
    other.write_text(
        "from fedha.deploy import bundle\n"
        f"bundle.SOURCE['fedha_deployment.py'] += {spy(tmp_path / 'mark')!r}\n"
        "from fedha.cli.commands import main\nmain()\n"
    )
    run = Deployed(federation, "disguised", *RUN, program=str(other))
    code, said = run.end()
    assert code == 0, said
    assert_same_run(run.folder, simulated.run(*RUN), events=True)
    assert not (tmp_path / "mark").exists()
    digest = bundle.digest(built(disguised(tmp_path / "mark")))
    assert f"the run brings another app than this version's, SHA-256 {digest}" in federation.said("north-app")


def test_an_honest_run_passes_at_a_site_that_accepts_apps_one_by_one(careful: Running, simulated: Simulated) -> None:
    run = Deployed(careful, "careful", *RUN)
    code, said = run.end()
    assert code == 0, said
    assert_same_run(run.folder, simulated.run(*RUN), events=True)


def test_an_update_is_refused_until_a_person_accepts_it(careful: Running, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    other = tmp_path / "operator.py"
    other.write_text(
        "from fedha.deploy import bundle\n"
        f"bundle.SOURCE['fedha_deployment.py'] += {spy(mark)!r}\n"
        "from fedha.cli.commands import main\nmain()\n"
    )
    digest = bundle.digest(built(disguised(mark)))
    told = (
        "this site starts no app that its people have not accepted, and 'fedha/fedha-deployment' '1.0.0' with SHA-256 "
        f"{digest} is none of theirs"
    )
    code, said = Deployed(careful, "update", *RUN, program=str(other)).end()
    assert code == 2, said
    assert told in said.splitlines()[-1]
    assert told in careful.said("west-app")
    assert not mark.exists()
    content = built(disguised(mark))
    line = line_of(content)
    assert accepted.add(careful.init_folder.site("west") / accepted.FILE, line)
    code, said = Deployed(careful, "updated", *RUN, program=str(other)).end()
    assert code == 0, said
    assert mark.exists()  # west runs it now, which shows that the file would have been there before


def test_a_run_that_a_site_did_not_agree_to_is_refused_and_the_agreed_one_has_the_simulations_bits(
    federation: Running, agreed: Path, simulated: Simulated
) -> None:
    code, said = Deployed(federation, "other", *RUN, "training.learning_rate=0.5").end()
    assert code == 2, said
    told = "this site refuses to answer (contract): the server asks with training.learning_rate 0.5, and agreed was"
    assert told in said.splitlines()[-1]
    assert "fedha refuses a run, for the 1. time because of training.learning_rate" in federation.said("west-app")
    run = Deployed(federation, "agreed", *RUN)
    code, said = run.end()
    assert code == 0, said
    assert_same_run(run.folder, simulated.run(*RUN), events=True)
