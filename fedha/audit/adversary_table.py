"""What a server that cheats gained, as a table and as a part of the report."""

from collections.abc import Sequence

from fedha.audit.adversary import FAMILIES, Cheated, Played
from fedha.audit.adversary_layers import Passed
from fedha.report.formats import Cell, Column, Table
from fedha.report.section import Section

_COLUMNS = ("The server", "with a contract", "gained", "without one", "gained", "counted")
_EXPLANATION = (
    "Hostile requests to this config's own clients, each once under the contract of the run and once without one. "
    "What a contract refuses was asked otherwise than agreed; what is answered under it is a model that was crafted in "
    "an agreed round: noise covers that, and nothing else does. A family that is refused shows that this family is."
)


def table(cheated: Cheated, caption: str = "") -> Table:
    """Every family in a row: what became of it with a contract and without one, and what it gained.

    Args:
        cheated: What was played.
        caption: Of the table; default: names the recipe.
    """
    made = cheated.made
    caption = caption or f"A server that cheats: {made.get('name')}, {made.get('recipe')}, {_said(cheated)}"
    rows = [row for one in FAMILIES if (row := _row(one.name, cheated.played)) is not None]
    titles = {one.name: one.title for one in FAMILIES}
    left = {one.family: one.reason for one in cheated.played if one.outcome is None}
    reasons = dict.fromkeys(left.values())
    notes = [
        f"Not played: {', '.join(titles[name] for name, why in left.items() if why == reason)}: {reason}."
        for reason in reasons
    ]
    columns = tuple(Column(title) for title in _COLUMNS)
    return Table(caption, columns, tuple(rows), (*notes, *_refusals(cheated)))


def layer_table(cheated: Cheated) -> Table:
    """What first layers pass: an honest one's figures beside those of crafted ones, over the clients."""
    columns = (
        "First layer",
        "rank of its weights",
        "rank of what it passes",
        "a unit is on for",
        "units on for one alone",
    )
    rows: list[tuple[Cell, ...]] = []
    for name in dict.fromkeys(one.model for one in cheated.layers):
        mine = [one for one in cheated.layers if one.model == name]
        ranks = [_range([one.weights for one in mine], 1), _range([one.features for one in mine], 1)]
        shares = [_range([100 * value for value in values], 1) + " %" for values in _shares(mine)]
        rows.append((name, *ranks, *shares))
    note = "Effective ranks. No guard is made of these figures: an imprint in disguise has those of an honest layer."
    caption = f"What first layers pass, over the clients: {cheated.made.get('name')}, {cheated.made.get('recipe')}"
    return Table(caption, tuple(Column(title) for title in columns), tuple(rows), (note,))


def sections(several: Sequence[Cheated]) -> list[Section]:
    """Records as a part of a page, for all runs together."""
    if not several:
        return []
    tables = [made for one in several for made in (table(one), *([layer_table(one)] if one.layers else []))]
    return [Section("A server that cheats", _EXPLANATION, tuple(tables))]


def _row(name: str, played: Sequence[Played]) -> tuple[Cell, ...] | None:
    kind = next(one for one in FAMILIES if one.name == name)
    cells: list[Cell] = []
    mine = {one.contract: one.outcome for one in played if one.family == name}
    if not any(mine.values()):
        return None
    for contract in (True, False):
        outcome = mine.get(contract)
        if outcome is None:
            cells += [None, None]
            continue
        most = "" if outcome.most is None else f" of {outcome.most:.4g}"
        most = f" beside {outcome.most:.4g}" if most and "beside" in kind.measure else most
        cells += [f"refused: {outcome.refused}" if outcome.refused else "answered", f"{outcome.gain:.4g}{most}"]
    return (kind.title, *cells, kind.measure)


def _refusals(cheated: Cheated) -> list[str]:
    """What clients said, a sentence for each way to refuse."""
    told: dict[str, str] = {}
    for one in cheated.played:
        if one.outcome is not None and one.outcome.refused:
            told.setdefault(one.outcome.refused, one.outcome.sentence)
    return [f"Refused by {kind}, such as: {sentence}" for kind, sentence in told.items()]


def _shares(several: Sequence[Passed]) -> tuple[list[float], list[float]]:
    return [one.shared for one in several], [one.lone for one in several]


def _range(values: Sequence[float], digits: int) -> str:
    low, high = (f"{end:.{digits}f}" for end in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _said(cheated: Cheated) -> str:
    made = cheated.made
    covered = "examples covered by noise" if made.get("protect") == "examples" else f"protect {made.get('protect')}"
    return f"{made.get('clients')} clients, {covered}{', secure sums' if made.get('secure_aggregation') else ''}"
