"""A site's own file of accepted code: read strictly, added to by a command that shows what it is."""

import stat
from pathlib import Path

import pytest

from fedha.config import parse
from fedha.deploy import accepted, bundle
from fedha.deploy.agreements import Agreement
from fedha.errors import FedhaError
from fedha.rules.table import AVERAGINGS, RULES
from tests.commands import Command
from tests.deploy.federations import make
from tests.deploy.operators import built, source
from tests.deploy.test_command import deploy

__all__ = ["deploy"]  # a fixture


def test_a_new_site_accepts_this_versions_bundle_and_no_code(tmp_path: Path) -> None:
    make(tmp_path / "fed")
    for name in ("north", "south", "west"):
        path = tmp_path / "fed/clients" / name / accepted.FILE
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert accepted.read(path) == accepted.Accepted({bundle.DIGEST: "fedha/fedha-deployment 1.0.0"}, frozenset())


@pytest.mark.parametrize(
    "line",
    [
        "bundle abc fedha/fedha-deployment 1.0.0",
        f"bundle {'A' * 64}",
        f"{'a' * 64}",
        "code os",
        "code os:system rm",
        "code os:system;code",
        "everything",
    ],
)
def test_a_line_that_says_nothing_known_accepts_nothing(line: str, tmp_path: Path) -> None:
    path = tmp_path / accepted.FILE
    path.write_text(f"# ours\n\n{line}\n")
    with pytest.raises(FedhaError, match=r"line 3 of this site's accepted\.txt is"):
        accepted.read(path)
    path.unlink()
    assert accepted.read(path) == accepted.Accepted({}, frozenset())
    path.mkdir()  # as an engine makes where a file to be mounted is missing
    with pytest.raises(FedhaError, match="cannot read"):
        accepted.read(path)


def test_accept_shows_a_bundle_and_adds_a_line(deploy: Command, tmp_path: Path) -> None:
    make(tmp_path / "fed")
    content = built(source(tmp_path / "mark", name="ward", version="2.1"))
    (tmp_path / "ward.fab").write_bytes(content)
    site = tmp_path / "fed/clients/north"
    before = (site / accepted.FILE).read_text()
    code, said, _ = deploy("accept", "ward.fab", "--at", "fed/clients/north", "--look")
    assert code == 0
    assert "operator/ward 2.1, whose clients start curious:client" in said
    assert "bytes  curious.py" in said
    assert f"SHA-256 {bundle.digest(content)}" in said
    assert (site / accepted.FILE).read_text() == before
    code, said, _ = deploy("accept", "ward.fab", "--at", "fed/clients/north")
    line = f"bundle {bundle.digest(content)} operator/ward 2.1\n"
    assert (code, (site / accepted.FILE).read_text()) == (0, before + line)
    assert "Start the site's app again" in said
    assert "has it already" in deploy("accept", "ward.fab", "--at", "fed/clients/north")[1]
    code, said, _ = deploy("accept", "ward.data:load", "--at", "fed/clients/north")
    assert (site / accepted.FILE).read_text() == f"{before}{line}code ward.data:load\n"
    assert stat.S_IMODE((site / accepted.FILE).stat().st_mode) == 0o600
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("none.fab",), "cannot read none.fab"),
        (("ward data:load",), "'ward data:load' names no code"),
        (("ward.data:load",), "is no site's folder, it has no compose.yml"),
    ],
)
def test_accept_refuses_in_a_sentence(deploy: Command, words: tuple[str, ...], reason: str) -> None:
    code, _, said = deploy("accept", *words)
    assert code == 2
    assert reason in said


def test_the_bundle_that_runs_bring_can_be_written_and_its_digest_is_shown(deploy: Command, tmp_path: Path) -> None:
    make(tmp_path / "fed")
    code, said, _ = deploy("bundle", "ours.fab")
    assert code == 0
    assert (tmp_path / "ours.fab").read_bytes() == bundle.own()
    assert f"SHA-256 {bundle.DIGEST}" in said
    assert f"Runs bring fedha/fedha-deployment 1.0.0, SHA-256 {bundle.DIGEST}" in deploy("show", "--to", "fed")[1]
    assert deploy("bundle", "ours.fab")[0] == 2


def test_names_in_a_bundle_cannot_write_to_a_terminal(deploy: Command, tmp_path: Path) -> None:
    files = source(tmp_path / "mark") | {"a\x1b[2J.py": b""}
    (tmp_path / "odd.fab").write_bytes(built(files))
    code, said, _ = deploy("accept", "odd.fab", "--look")
    assert code == 0
    assert "\x1b" not in said
    assert "'a\\x1b[2J.py'" in said


def test_a_proposal_that_names_code_is_not_even_looked_at_before_the_code_is_accepted(
    deploy: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a config imports what it names; the proposal came from the server's people."""
    deploy("init", "fed", "--no-demo")
    module = tmp_path / "proposed_code.py"
    module.write_text("open(__file__ + '.ran', 'w').close()\nfrom fedha.statistics import *\n")
    monkeypatch.syspath_prepend(tmp_path)
    site = tmp_path / "fed/clients/north"
    agreed = (site / "contracts/deployment.yaml").read_text()
    proposal = site / "proposed/other.yaml"
    proposal.write_text(
        agreed.replace("align: null", "align: {'proposed_code:made': 1.0}").replace("name: hgp", "name: x")
    )
    assert "proposed_code:made" in proposal.read_text()
    for words in (("accept", str(proposal), "--look"), ("accept", str(proposal)), ("show", "--to", str(site))):
        code, _, said = deploy(*words, *(("--at", str(site)) if words[0] == "accept" else ()))
        assert code == 2
        assert "'proposed_code:made', which names code that was not accepted here" in said
    assert not Path(f"{module}.ran").exists()
    deploy("accept", "proposed_code:made", "--at", str(site))
    code, _, said = deploy("accept", str(proposal), "--look", "--at", str(site))
    assert Path(f"{module}.ran").exists(), said


@pytest.mark.parametrize("key", ["optimizer", "weight_averaging"])
def test_a_site_answers_runs_of_every_rule_that_fedha_brings(key: str, tmp_path: Path) -> None:
    rows = RULES if key == "optimizer" else AVERAGINGS
    for name, row in rows.items():
        mode = "local" if row.mode == "both" else row.mode
        config = parse({"training": {"mode": mode, key: name}, "recipe": "erm"})
        with accepted.only_what_a_site_accepted(tmp_path):
            accepted.check_named(config)
            assert next(Agreement("mine", config).runs())[0] == config


@pytest.mark.parametrize("folder", [".", "server"])
def test_a_federations_folder_is_no_sites(folder: str, deploy: Command, tmp_path: Path) -> None:
    """It has compose files too; with an accepted.txt it would be shown as a site."""
    make(tmp_path / "fed")
    place = tmp_path / "fed" / folder
    code, _, said = deploy("accept", "ward.data:load", "--at", str(place))
    assert code == 2
    assert "is the folder of a federation or of its server, not a site's" in said
    assert not (place / accepted.FILE).exists()
