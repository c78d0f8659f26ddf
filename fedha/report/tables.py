"""The tables: results of runs, and the recipes with what they cost."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fedha.config import POOLED
from fedha.errors import FedhaError, listed
from fedha.metrics.choice import Choice
from fedha.recipes import Recipe, Term, known_rows, row
from fedha.registry import statistic
from fedha.report.accuracies import (
    RULES,
    Results,
    Value,
    domain_count,
    first_target,
    gain,
    mean_over_domains,
    over_seeds,
    selected_accuracy,
    sound,
    target_accuracy,
    unbalanced,
    worst_domain,
)
from fedha.report.comparison import Variant
from fedha.report.formats import Cell, Column, Table
from fedha.runs.absences import absence_texts
from fedha.runs.wording import MANY, shortened, target_title, warmup_texts

BASELINE = "erm"
DIVERGED = "diverged"

Key = tuple[str, str, str]  # experiment, recipe, differences in the recipe's settings


def accuracy_table(results: Sequence[Results], told_apart: Sequence[Variant] | None = None) -> Table:
    """Accuracies by recipe: mean and standard deviation over seeds, the selection rule in every heading.

    A run's source accuracy is the plain mean over its sources. Where a recipe was run on several unseen domains, they
    are averaged before the seeds are compared.

    Args:
        results: Contents of results.json files, one or more.
        told_apart: What tells each run from others of its recipe (`comparison.variants`); default: nothing.

    Returns:
        One row a recipe and variant: ERM first, then in the order of the table of recipes.
    """
    rows = group(results, told_apart or [Variant()] * len(results))
    firsts = list(dict.fromkeys(first_target(one) for one in results))
    judged = target_title(firsts[0]) if len(firsts) == 1 else "targets, mean"
    columns = _columns(results, firsts, judged)
    baselines = {key[0]: runs for key, runs in rows.items() if key[1:] == (BASELINE, "")}
    body: list[tuple[Cell, ...]] = []
    for key, runs in rows.items():
        kept = sound(runs)
        cells: list[Cell] = [label(key), _counted(kept, runs)]
        cells += [over_seeds(kept, value) if kept else DIVERGED for _, value in columns]
        if baselines:
            compared = key[1] != BASELINE and key[0] in baselines
            cells.append(gain(kept, sound(baselines[key[0]])) if compared else None)
        body.append(tuple(cells))
    heads = [Column("recipe"), Column("seeds", number=True), *(column for column, _ in columns)]
    if baselines:
        heads.append(Column(f"{judged} minus {BASELINE}, points", RULES["final"], number=True))
    several = ", mean ± sample standard deviation over seeds" if any(row[1] != "1" for row in body) else ""
    caption = f"Accuracy in %{several}; with each heading, the rule that selects the round"
    return Table(caption, tuple(heads), tuple(body), tuple(_notes(results, rows)))


def group(results: Sequence[Results], told_apart: Sequence[Variant]) -> dict[Key, list[Results]]:
    """Runs by the row they belong to, in the rows' order."""
    rows: dict[Key, list[Results]] = {}
    for one, variant in zip(results, told_apart, strict=True):
        rows.setdefault((variant.experiment, one["recipe"], variant.recipe), []).append(one)
    return {key: rows[key] for key in sorted(rows, key=lambda key: (key[0], *_place(key[1]), key[2]))}


def _counted(kept: Sequence[Results], runs: Sequence[Results]) -> str:
    """Of how many seeds a row's numbers are, and of how many there were."""
    seeds, every = ({one["seed"] for one in some} for some in (kept, runs))
    return str(len(every)) if len(kept) == len(runs) or not kept else f"{len(seeds)} of {len(every)}"


def label(key: Key) -> str:
    """What a row is called."""
    experiment, recipe, settings = key
    apart = "; ".join(text for text in (experiment, settings) if text)
    return f"{recipe} ({apart})" if apart else recipe


class Traffic(NamedTuple):
    """Bytes that one client receives (down) and sends (up) in one round."""

    down: int
    up: int


def bytes_per_round(recipe: Recipe, classes: int, width: int, parameters: int, number: int = 4) -> Traffic:
    """Bytes of the tensors that one client receives and sends in one round of training.

    Every exchange carries the model down, and with it the references that earlier exchanges gave; the client answers
    with the statistics asked for and, in the last exchange, with the update. Message headers, a few scalars for the log
    and evaluation are not counted.

    Args:
        recipe: The row.
        classes: Rows of the head, C.
        width: Columns of the head with the bias, D.
        parameters: Numbers in the whole model, head included.
        number: Bytes a number: 4 for float32, 8 for float64.

    Returns:
        Down: ``number * sum over exchanges of (parameters + references known)``;
        up: ``number * (statistics + parameters)``.
    """
    down, up, known = 0, 0, 0
    for measured in recipe.measurements():
        rows = [statistic(name) for name in measured]
        size = sum(one.size(classes, width) * (recipe.probes if one.sampled else 1) for one in rows)
        down, up, known = down + parameters + known, up + size, known + size
    return Traffic(number * (down + parameters + known), number * (up + parameters))


def recipe_table(classes: int, features: int, parameters: int) -> Table:
    """The table of recipes: what each aligns, what it costs a client in a round, and where it comes from."""
    rows, broken = [], []
    for name in known_rows():
        try:
            recipe = row(name)
        except FedhaError as error:  # one broken package hides no other recipe
            broken.append(f"{name}: {error}.")
            continue
        if recipe is None:
            continue
        traffic = bytes_per_round(recipe, classes, features + 1, parameters)
        aligned = " + ".join(_term(term) for term in recipe.terms)
        targets = ", ".join(dict.fromkeys(_TARGETS[term.target] for term in recipe.terms))
        if recipe.weighting == "risk":
            aligned = "nothing; the server weighs domains by risk" + ", projected" * recipe.projected
        if changed := _changed(recipe):
            aligned = "; ".join(filter(None, [aligned, changed]))
        counts = (str(recipe.exchanges), f"{traffic.down:,}", f"{traffic.up:,}")
        rows.append((recipe.name, aligned or "nothing", targets or None, *counts, recipe.source))
    names = ("recipe", "what is aligned", "with", "exchanges", "bytes down", "bytes up", "source")
    return Table(
        f"Recipes. Exchanges and bytes are those of one client in one round of training, in float32, for a model of "
        f"{parameters:,} parameters whose linear head has {classes} classes × ({features} features + bias)",
        tuple(Column(name, number=name.startswith(("exchanges", "bytes"))) for name in names),
        tuple(rows),
        tuple(broken),
    )


_TARGETS = {"mean": "the clients' mean", "zero": "zero", "others": "the others' mean"}
_DISTANCES = {"squared": "", "mean_squared": " (mean over entries)", "inner": " (inner product)", "value": ""}


def _term(term: Term) -> str:
    return (statistic(term.statistic).summary or term.statistic) + _DISTANCES[term.distance]


def _changed(recipe: Recipe) -> str:
    """What else of a client's step is another one."""
    told = ["examples are mixed"] * bool(recipe.mixup_alpha) + ["gradients are taken uphill"] * bool(recipe.sam_radius)
    return ("" if recipe.terms else "nothing; ") * bool(told) + " and ".join(told)


def _columns(results: Sequence[Results], firsts: Sequence[str], judged: str) -> list[tuple[Column, Value]]:
    def column(title: str, rule: str = "final") -> Column:
        return Column(f"{title} %", RULES[rule], number=True)

    def several(part: str, title: str) -> list[tuple[Column, Value]]:
        """The mean over a part's domains, and of very many also the worst."""
        if (count := domain_count(part, results)) <= MANY:
            return [(column(title), mean_over_domains(part))]
        mean, worst = column(f"{title}, mean of {count:,}"), column("worst of them")
        return [(mean, mean_over_domains(part)), (worst, worst_domain(part))]

    targets = list(dict.fromkeys(name for one in results for name in one["target"]))
    found = [(column("train"), mean_over_domains("train")), *several("sources", "sources held out")]
    if domain_count("target", results) > MANY:
        found += [(column(target_title(firsts[0])), target_accuracy()), *several("target", "targets")]
    elif len(targets) <= MANY:  # else each run has another one, and their mean is below
        found += [(column(target_title(name)), target_accuracy(name)) for name in targets]
    if len(firsts) > 1:
        found.append((column(judged), target_accuracy()))
    for rule in RULES:
        if rule != "final" and any(selected_accuracy(rule)(one) is not None for one in results):
            found.append((column(judged, rule), selected_accuracy(rule)))
    return found


def _place(recipe: str) -> tuple[int, str]:
    """ERM first, then the table's order, then a user's own by name."""
    known = known_rows()
    return (known.index(recipe), "") if recipe in known else (len(known), recipe)


def _notes(results: Sequence[Results], rows: Mapping[Key, Sequence[Results]]) -> list[str]:
    notes = [f"{label(key)}: {why}." for key, runs in rows.items() if (why := unbalanced(sound(runs)))]
    for key, runs in rows.items():
        seeds: dict[str, list[int]] = {}  # what several runs say alike is said once
        for one in runs:
            for text in _flags(one):
                seeds.setdefault(text, []).append(one["seed"])
        notes += [
            f"{label(key)}, {'seed' if len(found) == 1 else 'seeds'} {listed(found)}: {text}."
            for text, found in seeds.items()
        ]
    for by in dict.fromkeys(tuple(one["select_by"].values()) for one in results if one.get("select_by")):
        notes.append(f"Rules compare rounds by the {Choice(*by).title}.")
    if any(selected_accuracy("oracle")(one) is not None for one in results):
        notes.append("The oracle selects the round by the unseen target itself: an upper bound, not a method.")
    if any(POOLED in one.get("sources", {}) for one in results):
        notes.append("Where the server learnt sums alone, the sources' accuracy is over all their examples together.")
    data = dict.fromkeys(shortened(str(one["data"])) for one in results if one.get("data"))
    return notes + [f"Data: {text}" + ("" if text.endswith(".") else ".") for text in data]


def _flags(results: Results) -> list[str]:
    """What a run's numbers must not be read without."""
    wrong = results.get("diverged")
    diverged = [f"diverged and is in no mean: {wrong}"] if wrong else warmup_texts(results)
    return [*diverged, *(text.rstrip(".") for text in results.get("remarks", [])), *_absent(results)]


def _absent(results: Results) -> list[str]:
    """Who was left out of a run's rounds, and why at first."""
    absences = results.get("left_out", {})
    texts = zip(absence_texts(absences, results["rounds"]), absences.values(), strict=True)
    return [f"{text} (at first: {one['reason'].rstrip('.')})" for text, one in texts]
