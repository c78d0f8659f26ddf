"""Tables of another metric than accuracy: what is told of the chosen runs, and which of two values is better."""

from pathlib import Path

from fedha.report.formats import Summary, render
from fedha.sweep.selection import choose
from fedha.sweep.store import Entry
from fedha.sweep.tables import accuracies, comparison
from tests.commands import Command
from tests.sweep.made import sweep

TARGETS = ("a", "b")


def made() -> tuple[list[Entry], dict[str, dict[str, object]]]:
    """Two recipes on two targets; hgp has the smaller log loss, and none on target b."""
    jobs, found = [], {}
    for label, loss in (("erm", 0.9), ("hgp", 0.4)):
        for target in TARGETS:
            value = None if (label, target) == ("hgp", "b") else loss
            picked = {"round": 3, "score": 0.5, "targets": {target: 0.7}, "metrics": {target: {"log_loss": value}}}
            jobs.append(Entry(f"{label}-{target}", label, target, 0))
            found[jobs[-1].name] = {"diverged": "", "rules": {"oracle": picked}}
    return jobs, found


def test_less_is_better_where_it_is_and_what_has_no_value_is_left_out() -> None:
    jobs, found = made()
    chosen = choose("oracle", jobs, found, "log_loss")
    table = accuracies("oracle", chosen, (), "log_loss")
    erm, hgp = table.rows
    assert isinstance(erm[2], Summary)
    assert isinstance(hgp[2], Summary)
    assert (erm[2].rank, hgp[2].rank) == (2, 1)
    assert hgp[3] is None
    assert render(table, "text").startswith("Log loss on the unseen domain; oracle")
    assert "0.400 *" in render(table, "text")
    compared = comparison("oracle", chosen, "log_loss")
    assert compared is not None
    assert compared.rows[0][:3] == ("hgp", "1", "-0.500")
    assert len(choose("oracle", jobs, found)) == 4


def test_a_sweep_is_tabled_by_its_metrics(fedha: Command) -> None:
    asked = ("recipe=erm", "seed=0", "evaluation.metrics=[macro_f1, log_loss]", "evaluation.select_by=log_loss")
    assert sweep(fedha, "-q", *asked)[0] == 0
    code, out, _ = fedha("table", "s", "--metric", "macro_f1", "--rule", "training_domain_validation")
    assert code == 0
    assert out.startswith("Macro f1 on the unseen domain in %")
    assert fedha("table", "s", "--metric", "log_loss", "--page", "-o", "page.html")[0] == 0
    page = Path("page.html").read_text(encoding="utf-8")
    assert "Log loss against what it costs" in page
    assert "Log loss on unseen domains over round, ends: erm 0." in page
    assert "Accuracy" not in page.partition("Cost")[0].replace("Accuracy on", "")
    code, _, err = fedha("table", "s", "--metric", "auroc")
    assert code == 2
    assert "has the metric 'auroc'; they have log_loss, macro_f1" in err
