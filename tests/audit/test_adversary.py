"""A server that cheats, as an instrument: what it asks is really asked, what it gains is really counted."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from fedha.audit import adversary_record
from fedha.audit.adversary import FAMILIES, Cheated, play
from fedha.audit.adversary_bench import Outcome
from fedha.audit.adversary_imprint import between, found_rows
from fedha.audit.adversary_layers import effective_rank, passed
from fedha.audit.adversary_table import layer_table, sections, table
from fedha.cli.commands import app
from fedha.config import Config
from fedha.errors import FedhaError
from fedha.report.formats import FORMATS, render
from tests.privacy.rounds import settings

SECURE = {"protect": "nothing", "secure_aggregation": True}
CONFIGS: dict[str, Config] = {
    "plain": settings("erm", privacy={"protect": "nothing"}, model={"hidden": [200], "one_logit": False}),
    "private": settings("exact_diagonal"),
    "secure": settings("fishr", privacy=SECURE, data={"clients_per_domain": 2}),
}


@pytest.fixture(scope="module")
def played() -> dict[str, Cheated]:
    return {name: play(config) for name, config in CONFIGS.items()}


def outcome(cheated: Cheated, family: str, *, contract: bool) -> Outcome:
    (found,) = [one.outcome for one in cheated.played if (one.family, one.contract) == (family, contract)]
    assert found is not None, family
    return found


def test_every_family_is_there_twice_and_says_why_it_was_not_played(played: dict[str, Cheated]) -> None:
    assert len({one.name for one in FAMILIES}) == len(FAMILIES)
    for cheated in played.values():
        assert len(cheated.played) == 2 * len(FAMILIES)
        assert all((one.outcome is None) == bool(one.reason) for one in cheated.played)
    everywhere = set.intersection(*({p.family for p in one.played if p.outcome is None} for one in played.values()))
    assert not everywhere  # each family is played against one of these configs


DRIFTS = ("recipe", "rounds", "rate", "seed", "beyond", "evaluation", "statistic", "split")


@pytest.mark.parametrize("family", ["weight", "direction", "parameters"])
def test_numbers_that_no_training_gives_are_refused_by_all(family: str, played: dict[str, Cheated]) -> None:
    for name in ("plain", "private"):
        held, free = (outcome(played[name], family, contract=one) for one in (True, False))
        assert held.refused in ("contract", "request")
        assert (free.refused, held.gain, free.gain) == ("request", 0, 0)


@pytest.mark.parametrize("family", DRIFTS)
def test_what_drifts_is_answered_without_a_contract_and_refused_with_one(
    family: str, played: dict[str, Cheated]
) -> None:
    held, free = (outcome(played["plain"], family, contract=one) for one in (True, False))
    assert (held.refused, held.gain) == ("contract", 0)
    assert held.sentence.startswith("it refuses to answer (contract): the server asks with")
    assert free.refused == ""
    assert free.gain > 0


def test_less_noise_is_measured(played: dict[str, Cheated]) -> None:
    assert outcome(played["private"], "noise", contract=True).refused == "contract"
    assert 50 < outcome(played["private"], "noise", contract=False).gain < 200  # a hundredth was asked for


@pytest.mark.parametrize(
    ("family", "kind"), [("head", "head"), ("mixing", "network"), ("parameters", "request"), ("clip", "message")]
)
def test_what_a_contract_cannot_hold_guards_refuse(family: str, kind: str, played: dict[str, Cheated]) -> None:
    for contract in (True, False):
        found = outcome(played["private"], family, contract=contract)
        assert (found.refused, found.gain) == (kind, 0)


def test_repetitions_end_under_a_contract(played: dict[str, Cheated]) -> None:
    assert outcome(played["private"], "again", contract=True).gain == 0
    assert outcome(played["private"], "again", contract=False).gain == 16


def test_an_imprinting_featurizer_gives_rows_that_an_honest_one_does_not(played: dict[str, Cheated]) -> None:
    honest, crafted, ever = (outcome(played["plain"], one, contract=True) for one in ("honest", "imprint", "imprints"))
    assert crafted.gain > honest.gain + 20
    assert ever.gain > crafted.gain
    assert outcome(played["plain"], "disguised", contract=True).gain > honest.gain
    for one in ("imprint", "imprints", "traps"):
        assert outcome(played["private"], one, contract=True).gain == 0  # noise covers what a contract cannot hold


def test_a_secure_sum_gives_rows_too_and_nothing_else(played: dict[str, Cheated]) -> None:
    for family in ("threshold", "pairs", "weights", "range", "inconsistent", "keys", "roster"):
        for contract in (True, False):
            found = outcome(played["secure"], family, contract=contract)
            assert found.refused in ("secure sums", "roster"), family
            assert found.gain == 0


def test_rows_between_thresholds_are_read_and_counted_once() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]])
    weights = torch.tensor([0.3, -0.2, 0.7])
    inside = torch.stack([(rows[place:] * weights[place:, None]).sum(0) for place in range(3)])
    bias = torch.stack([weights[place:].sum() for place in range(3)])
    assert found_rows(between(inside, bias), rows) == {0, 1, 2}
    assert found_rows(torch.full((2, 2), float("nan")), rows) == set()
    assert found_rows(rows[:1] * 1.02, rows) == set()


def test_ranks_and_shares_of_a_layer() -> None:
    assert effective_rank(torch.eye(5)) == pytest.approx(5)
    assert effective_rank(torch.ones(5, 3)) == pytest.approx(1)
    assert effective_rank(torch.zeros(2, 2)) == 0
    told = passed("m", 0, torch.eye(4), torch.eye(4), torch.tensor([0.0, 0.0, 1.0, -1.0]))
    assert (told.shared, told.lone) == (0.25, 0.5)


def test_an_imprints_weights_have_rank_one_and_those_in_disguise_do_not(played: dict[str, Cheated]) -> None:
    ranks: dict[str, float] = {one.model: one.weights for one in played["plain"].layers}
    assert ranks["imprinting"] == pytest.approx(1, abs=0.01)
    assert ranks["in disguise"] > 0.5 * ranks["fresh"]


def test_a_record_comes_back_as_it_was(played: dict[str, Cheated], tmp_path: Path) -> None:
    adversary_record.write(tmp_path, played["private"])
    again = adversary_record.read(tmp_path)
    assert again.played == played["private"].played
    assert table(again) == table(played["private"])
    path = tmp_path / "adversary.json"
    content: Any = json.loads(path.read_text())
    for spoilt in ("{", json.dumps({**content, "form": 2}), json.dumps({**content, "played": [{"family": "noise"}]})):
        path.write_text(spoilt)
        with pytest.raises(FedhaError, match=r"adversary\.json"):
            adversary_record.read(tmp_path)


@pytest.mark.parametrize("form", FORMATS)
def test_tables_are_written_in_every_format(form: Any, played: dict[str, Cheated]) -> None:
    for cheated in played.values():
        text = render(table(cheated), form)
        assert "an imprinting featurizer" in text
        assert "imprint" in render(layer_table(cheated), form)
    assert sections([]) == []
    (part,) = sections(list(played.values()))
    assert part.heading == "A server that cheats"


def test_the_command_writes_record_table_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["quickstart", "recipe=erm", "seed=0", "model.hidden=[4]", "training.rounds=2", "evaluation.every=1"]
    small += ["evaluation.leave_one_domain_out=false", "engine.name=inline"]
    runner = CliRunner()
    assert runner.invoke(app, ["run", *small, "--out", "run"]).exit_code == 0
    told = runner.invoke(app, ["audit", "run", "--adversary", "--table", "cheats.md"])
    assert told.exit_code == 0, told.output
    assert "refused: contract" in told.output
    assert (tmp_path / "cheats.md").read_text().startswith("A server that cheats: quickstart, erm")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "A server that cheats" in page
    assert "trained" in page  # its own first layer beside crafted ones
    assert json.loads((tmp_path / "run" / "adversary.json").read_text())["made"]["recipe"] == "erm"


def test_a_table_of_no_format_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    for options, why in (
        (["--adversary", "--table", "x.doc"], ".txt, .md, .tex or .csv"),
        (["--table", "x.md"], "alone"),
    ):
        told = CliRunner().invoke(app, ["audit", "quickstart", *options])
        assert told.exit_code != 0
        assert why in str(told.exception or told.output)
