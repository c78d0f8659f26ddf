"""The page of a sweep: its tables, and pictures of what was found."""

from collections.abc import Mapping, Sequence

from fedha.progress import duration
from fedha.report.formats import Table, in_a_line
from fedha.report.page import render_sections
from fedha.report.section import Section
from fedha.sweep.curves import AXES, curve_figure, read_curves
from fedha.sweep.found import Found
from fedha.sweep.heat import heat_figure
from fedha.sweep.hyperparameters import hyperparameter_figure
from fedha.sweep.metric_format import MetricFormat
from fedha.sweep.parallel import parallel_figure
from fedha.sweep.ranks import rank, rank_table
from fedha.sweep.ranks_figure import ranks_figure
from fedha.sweep.selection import ACCURACY, RULES, Chosen, Place, choose
from fedha.sweep.tables import accuracies, comparison, cost, row_title, rows_apart
from fedha.sweep.varied_values import numeric_keys, tried

_LEAD = ("training_domain_validation", "final")  # whose runs are drawn, the first that has some

Panels = tuple[tuple[str, str], ...]


def render_page(found: Found, names: Sequence[str], rules: Sequence[str] = (), metric: str = ACCURACY) -> str:
    """The page as text; the same runs give the same bytes.

    Args:
        found: Jobs and what became of them, one finished at least.
        names: What the sweeps are called.
        rules: Keys of `RULES`; default: all that have numbers.
        metric: What is told of the targets.
    """
    kept = {rule: choose(rule, found.jobs, found.summaries, metric) for rule in rules or RULES}
    chosen = {rule: one for rule, one in kept.items() if one}
    parts = [_rule_section(rule, one, found, place, metric) for place, (rule, one) in enumerate(chosen.items())]
    if chosen:
        lead = next((rule for rule in _LEAD if rule in chosen), next(iter(chosen)))
        parts += [*_curves(chosen[lead], found, lead, metric), *_values(found, lead, metric)]
    parts.append(Section("Cost", "", (cost(found),), first=True))
    seconds = sum(float(one["seconds"]) for one in found.summaries.values())
    summary = f"{len(found.jobs)} runs, {len(found.summaries)} of them finished: {duration(seconds)} of training."
    return render_sections(", ".join(map(in_a_line, names)), summary, parts)


def _rule_section(rule: str, chosen: Mapping[Place, Chosen], found: Found, place: int, metric: str) -> Section:
    title, _, said = RULES[rule].partition(": ")
    title, _, more = title.partition("; ")
    tables: list[Table] = [accuracies(rule, chosen, rows_apart(found), metric)]
    if (compared := comparison(rule, chosen, metric)) is not None:
        tables.append(compared)
    panels: Panels = ()
    if (ranks := rank(chosen, smaller=MetricFormat.of(metric).smaller)) is not None:
        tables.append(rank_table(ranks))
        panels = (("Mean ranks; a bar joins recipes that cannot be told apart", ranks_figure(f"r{place}", ranks)),)
    return Section(_begun(title), f"{_begun(said or more)}.", tuple(tables), panels, first=True)


def _curves(chosen: Mapping[Place, Chosen], found: Found, rule: str, metric: str) -> list[Section]:
    form = MetricFormat.of(metric)
    curves = {row_title(row): one for row, one in read_curves(chosen, found.places, metric).items()}
    drawn = ((f"Over {axis}", curve_figure(f"c{place}", curves, axis, form)) for place, axis in enumerate(AXES))
    panels = tuple(one for one in drawn if one[1])
    text = (
        f"The runs that {_named(rule)} keeps, at the rounds that all of a recipe have: {form.title} on the unseen "
        "domains, their mean, and its standard deviation over trials. Bytes are those of all clients together, seconds "
        "those of training, both as means over the runs."
    )
    return [Section(f"{_begun(form.title)} against what it costs", text, (), panels, first=True)] if panels else []


def _values(found: Found, rule: str, metric: str) -> list[Section]:
    form, parts = MetricFormat.of(metric), list[Section]()
    runs = tried(rule, found.jobs, found.summaries, metric)
    keys = numeric_keys(runs)
    if keys:
        panels = tuple((key, hyperparameter_figure(f"h{place}", key, runs, form)) for place, key in enumerate(keys))
        text = (
            f"A dot a run that finished, at the round that {_named(rule)} takes; a line through the means where a few "
            "values were tried."
        )
        parts.append(Section(f"{_begun(form.title)} against each hyperparameter", text, (), panels, first=True))
    labels = list(dict.fromkeys(one.label for one in runs))
    lines = [
        (in_a_line(label), parallel_figure(f"p{place}", label, [one for one in runs if one.label == label], form))
        for place, label in enumerate(labels)
    ]
    if panels := tuple(one for one in lines if one[1]):
        text = "Each run is a line; the tenth with the best validation is orange. Spread-out axes are logarithmic."
        parts.append(Section("All that was varied together", text, (), panels, first=True))
    heat = [
        (in_a_line(label), heat_figure(f"m{place}", label, [one for one in runs if one.label == label], form))
        for place, label in enumerate(labels)
    ]
    if panels := tuple(one for one in heat if one[1]):
        text = "The two hyperparameters of which most values were tried; the stronger the colour, the better the mean."
        parts.append(Section(f"{_begun(form.title)} over two hyperparameters", text, (), panels, first=True))
    return parts


def _begun(text: str) -> str:
    """A phrase as a sentence begins."""
    return f"{text[:1].upper()}{text[1:]}"


def _named(rule: str) -> str:
    return RULES[rule].partition(":")[0].partition(";")[0]
