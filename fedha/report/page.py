"""The report: runs as one HTML page that needs no network."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from fedha.atomic import write_text
from fedha.progress import byte_count, duration
from fedha.report import figures
from fedha.report.accuracies import RULES, sound
from fedha.report.comparison import Run, Variant, variants
from fedha.report.domains import domain_tables
from fedha.report.formats import Cell, Column, Table, cell_text, with_legend
from fedha.report.privacy import privacy_section
from fedha.report.section import Section
from fedha.report.tables import DIVERGED, Key, accuracy_table, label
from fedha.report.tables import group as group_results
from fedha.runs.wording import shortened

Rows = Mapping[str, Sequence[Run]]  # runs by the label of their row


def write_report(
    runs: Sequence[Run], output: Path, *, unfinished: Sequence[Path] = (), sections: Sequence[Section] = ()
) -> None:
    """Write runs as one self-contained HTML page, at once.

    Args:
        runs: Finished runs, one or more.
        output: The page.
        unfinished: Folders of runs that are left out; the page says so.
        sections: Parts that others add.

    Raises:
        FedhaError: The page cannot be written.
    """
    write_text(output, render_report(runs, unfinished=unfinished, sections=sections))


def render_report(runs: Sequence[Run], *, unfinished: Sequence[Path] = (), sections: Sequence[Section] = ()) -> str:
    """The page as text; the same runs give the same bytes."""
    told_apart = variants([run.config for run in runs])
    rows = group_runs(runs, told_apart)
    names = dict.fromkeys(str(run.results.get("name", "experiment")) for run in runs)
    return _template().render(
        title=", ".join(names),
        data=list(dict.fromkeys(shortened(str(run.results["data"])) for run in runs if run.results.get("data"))),
        summary=_summary(runs),
        accuracies=accuracy_table([run.results for run in runs], told_apart),
        domains=domain_tables([run.results for run in runs], told_apart, every=True),
        runs=run_table(rows),
        figures=_figures(rows),
        privacy=privacy_section(rows),
        several_seeds=any(len(members) > 1 for members in rows.values()),
        configs={title: _yaml(members) for title, members in rows.items()},
        versions=_versions(runs),
        unfinished=[str(folder) for folder in unfinished],
        sections=sections,
    )


def render_sections(title: str, summary: str, sections: Sequence[Section]) -> str:
    """A page of sections alone.

    Args:
        title: Of the page.
        summary: A sentence below it.
        sections: Its parts, which stand before everything else.
    """
    nothing: dict[str, Any] = {
        "data": [],
        "accuracies": None,
        "domains": [],
        "runs": None,
        "figures": [],
        "privacy": None,
        "configs": {},
    }
    return _template().render(
        **nothing, title=title, summary=summary, sections=sections, several_seeds=False, versions={}, unfinished=[]
    )


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("fedha.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = cell_text
    environment.filters["notes"] = lambda table: with_legend(table, "text").notes
    return environment.get_template("report.html.j2")


def group_runs(runs: Sequence[Run], told_apart: Sequence[Variant]) -> dict[str, list[Run]]:
    """Runs by the label of the row they belong to, in the order of the table of accuracies."""
    order: list[Key] = list(group_results([run.results for run in runs], told_apart))
    rows: dict[str, list[Run]] = {label(key): [] for key in order}
    for run, variant in zip(runs, told_apart, strict=True):
        rows[label((variant.experiment, run.results["recipe"], variant.recipe))].append(run)
    return rows


def run_table(rows: Rows) -> Table:
    """Every run in a line: what it cost, and the round that each selection rule takes."""
    members = [run for runs in rows.values() for run in runs]
    rules = [rule for rule in RULES if any(_chosen(run, rule) for run in members)]
    picks = [Column("target % @ round", RULES[rule], number=True) for rule in rules]
    costs = [Column(name, number=True) for name in ("seconds", "down a round", "up a round")]
    heads = (Column("run"), Column("seed", number=True), Column("rounds", number=True), *picks, *costs)
    body: list[tuple[Cell, ...]] = []
    for title, runs in rows.items():
        for run in runs:
            named = f"{title}, {DIVERGED}" if run.results.get("diverged") else title
            numbers = (named, str(run.results["seed"]), str(run.results["rounds"]))
            traffic = (_traffic(run, "bytes_down"), _traffic(run, "bytes_up"))
            chosen = (_chosen(run, rule) for rule in rules)
            body.append((*numbers, *chosen, f"{run.results['seconds']:.1f}", *traffic))
    caption = (
        "Each run: the target's accuracy and the round that a rule selects, training time, and the bytes of a round"
    )
    return Table(caption, heads, tuple(body), ("Bytes are those of all clients together, evaluation not counted.",))


def _figures(rows: Rows) -> list[dict[str, Any]]:
    low = _lowest(rows)
    parts: dict[str, list[tuple[str, str]]] = {"accuracy": [], "loss": [], "penalty": [], "between sources": []}
    for place, (title, runs) in enumerate(rows.items()):
        records = [run.records for run in runs]
        warmup = int(_recipe(runs[0]).get("warmup_rounds") or 0)
        parts["accuracy"].append((title, figures.accuracy_figure(f"a{place}", title, records, warmup, low)))
        parts["loss"].append((title, figures.loss_figure(f"l{place}", title, records, warmup)))
        parts["penalty"].append((title, figures.penalty_figure(f"p{place}", title, records, warmup)))
        parts["between sources"].append((title, figures.sources_figure(f"b{place}", title, records, warmup)))
    scatter = ""
    if sum(len(runs) for runs in rows.values()) > 1:
        whole = {title: sound(run.results for run in runs) for title, runs in rows.items()}
        scatter = figures.scatter_figure("s0", whole)
    if len(rows) == 1:
        together = [(part.capitalize(), panels[0][1]) for part, panels in parts.items() if panels[0][1]]
        drawn = [{"part": "rounds", "panels": together}]
    else:
        drawn = [{"part": part, "panels": [one for one in panels if one[1]]} for part, panels in parts.items()]
    return [{"part": "scatter", "panels": [("", scatter)] if scatter else []}, *drawn]


def _lowest(rows: Rows) -> float:
    """Where the accuracy axes begin: a little below the lowest accuracy of all runs, down to the next ten."""
    found = [
        one["accuracy"]
        for runs in rows.values()
        for run in runs
        for record in run.records
        for part in ("held_out", "target")
        for one in (record.get(part) or {}).values()
        if one.get("accuracy") is not None
    ]
    return 10.0 * int(10 * max(0.0, min(found, default=0.0) - 0.02))


def _summary(runs: Sequence[Run]) -> str:
    seconds = duration(sum(run.results["seconds"] for run in runs))
    if len(runs) == 1:
        only = runs[0].results
        return f"One run of {only['recipe']}, seed {only['seed']}: {only['rounds']} rounds in {seconds}."
    return f"{len(runs)} runs, {seconds} of training."


def _chosen(run: Run, rule: str) -> str | None:
    chosen = run.results.get("selection", {}).get(rule)
    if not chosen or chosen.get("target_accuracy") is None:
        return None
    passed = f" (not {chosen['instead_of']}, of the warm-up)" if chosen.get("instead_of") else ""
    weak = " (warm-up)" if chosen.get("within_warmup") else passed
    return f"{100 * chosen['target_accuracy']:.1f} @ {chosen['round']}{weak}"


def _traffic(run: Run, key: str) -> str | None:
    counts = [record[key] for record in run.records if record.get(key) is not None]
    return byte_count(statistics.fmean(counts)) if counts else None


def _recipe(run: Run) -> Mapping[str, Any]:
    recipe = run.config.get("recipe") or [{}]
    only = recipe[0] if isinstance(recipe, list) else recipe
    return only if isinstance(only, Mapping) else {"name": only}


def _yaml(runs: Sequence[Run]) -> str:
    """The config of a row: that of its first run, with every seed."""
    content = {**runs[0].config, "seed": sorted({run.results["seed"] for run in runs})}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _versions(runs: Sequence[Run]) -> dict[str, str]:
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, version in run.results.get("versions", {}).items():
            found.setdefault(name, {})[str(version)] = None
    return {name: ", ".join(several) for name, several in found.items()}
