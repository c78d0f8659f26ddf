"""`fedha privacy plan` says what a budget asks for, and a run says what it spent."""

import re
from pathlib import Path

import pytest

from fedha.cli import exits
from fedha.cli.commands import app
from fedha.runs import runfolder

pytest.importorskip("dp_accounting", reason='install "fedha[privacy]"')

CONFIG = """\
name: small
recipe: exact_diagonal
model: {hidden: [4], one_logit: true}
training: {rounds: 20}
evaluation: {every: 5}
engine: {name: inline}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(CONFIG)
    return path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = exits.exit_code(lambda **options: app(list(arguments), **options))
    out = capsys.readouterr()
    return code, out.out, out.err


def test_a_config_without_privacy_is_told_what_it_would_need(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = told(capsys, "privacy", "plan", str(small), "--epsilon", "3")
    assert code == 0
    assert "Noise multiplier that keeps 20 rounds within ε 3" in text
    assert "flip-0.2 " in text
    assert "flip-0.1 " in text
    assert all(re.search(rf"^ε {one} ", text, re.M) for one in (1, 3, 8))


def test_the_noise_of_a_plan_keeps_a_run_within_its_budget(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, text, _ = told(capsys, "privacy", "plan", str(small), "--epsilon", "3")
    wanted = max(re.findall(r"^exact_diagonal .* ([\d.]+)$", text, re.M), key=float)  # of the smaller client
    private = ["privacy.protect=examples", f"privacy.noise_multiplier={wanted}"]
    _, text, _ = told(capsys, "privacy", "plan", str(small), *private, "--epsilon", "3")
    found = re.findall(r"^exact_diagonal .* ([\d.]+) +([\d,]+)$", text, re.M)
    spent, rounds = max(found, key=lambda one: float(one[0]))
    assert 2.9 < float(spent) <= 3.0
    assert int(rounds) == 20
    code, text, _ = told(capsys, "run", str(small), *private, "privacy.max_epsilon=2.0", "--out", str(tmp_path / "run"))
    results = runfolder.read_results(tmp_path / "run")
    assert code == 0
    assert 1.8 < max(results["privacy"]["epsilon"].values()) <= 2.0
    assert results["rounds"] < 20
    assert "training ends after round" in text
    assert re.search(r"round \d+/20 .*ε \d\.\d\d", text)
    assert "for one example (" in text
    assert (
        "; add or remove one example; all rounds of this run; other runs over the same examples add up; an honest"
        in text
    )
    assert "); ended after round" in text
    page = (tmp_path / "run" / "report.html").read_text()
    for part in (
        "<h2>Privacy</h2>",
        "add or remove one example",
        "no amplification",
        "seeded",
        "Ended early",
        "Not covered",
    ):
        assert part in page


def test_other_sizes_and_deltas_are_planned_without_data(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = told(
        capsys, "privacy", "plan", str(small), "data.name=heart", "--examples", "300", "--delta", "1e-5"
    )
    assert code == 0
    assert "any client" in text
    assert "1e-05" in text


def test_what_cannot_be_covered_is_said_instead_of_planned(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, text = told(capsys, "privacy", "plan", str(small), "recipe=hgp")
    assert code == 2
    assert "align pooled_gradient_hessian_product" in text


def test_a_run_without_privacy_has_no_such_section(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told(capsys, "run", str(small), "training.rounds=2", "--out", str(tmp_path / "run"))
    assert "<h2>Privacy</h2>" not in (tmp_path / "run" / "report.html").read_text()
    assert "privacy" not in runfolder.read_results(tmp_path / "run")


@pytest.mark.slow  # 15 s of dp-accounting: nine budgets, each by bisection
def test_clients_as_a_whole_are_planned_for_the_federation(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["privacy.protect=clients", "training.averaging=clients", "data.clients_per_domain=20"]
    code, text, _ = told(capsys, "privacy", "plan", str(small), *changes, "training.clients_per_round=10")
    assert code == 0
    assert re.search(r"^exact_diagonal +the federation +40 ", text, re.M)
