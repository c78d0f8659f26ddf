"""What a page says of privacy: epsilon with everything without which it means nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedha.report.comparison import Run
from fedha.report.formats import Cell, Column, Table
from fedha.runs.wording import MANY


@dataclass(frozen=True)
class Section:
    """The section of runs that protect something.

    Attributes:
        table: Epsilon by run and client.
        promises: What the numbers stand for, in sentences.
        uncovered: What they do not speak of.
        warnings: Where they mean little.
    """

    table: Table
    promises: tuple[str, ...]
    uncovered: tuple[str, ...]
    warnings: tuple[str, ...]


def privacy_section(rows: Mapping[str, Sequence[Run]]) -> Section | None:
    """The section, or None where no run protects anything.

    Args:
        rows: Runs by the label of their row.
    """
    told = [(title, run, run.results["privacy"]) for title, runs in rows.items() for run in runs if _protects(run)]
    if not told:
        return None
    heads = [Column("run"), Column("seed", number=True), Column("rounds", number=True), Column("protected")]
    heads += [Column(name, number=True) for name in ("ε", "δ", "noise multiplier", "ε held out")]
    body: list[tuple[Cell, ...]] = []
    for title, run, privacy in told:
        for whose, epsilon, delta in _spent(privacy):
            held_out = _held_out(privacy, whose)
            cells = (title, str(run.results["seed"]), str(run.results["rounds"]), whose)
            body.append((*cells, f"{epsilon:.3g}", f"{delta:.1g}", f"{privacy['noise_multiplier']:g}", held_out))
    caption = "ε at δ of each run over all its rounds; runs over the same examples add up"
    return Section(
        Table(caption, tuple(heads), tuple(body)),
        tuple(dict.fromkeys(sentence for _, _, privacy in told for sentence in _promises(privacy))),
        tuple(dict.fromkeys(one for _, _, privacy in told for one in privacy.get("not_covered", []))),
        tuple(dict.fromkeys(one for _, _, privacy in told for one in privacy.get("warnings", []))),
    )


def _protects(run: Run) -> bool:
    return bool(run.results.get("privacy", {}).get("epsilon"))


def _spent(privacy: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Whose examples, epsilon, delta: a line a client, or of very many the one that spent most."""
    known = [(name, epsilon, privacy["delta"][name]) for name, epsilon in privacy["epsilon"].items()]
    if len(known) <= MANY:
        return known
    name, epsilon, delta = max(known, key=lambda one: one[1])
    return [(f"{name}, most of {len(known)}", epsilon, delta)]


def _held_out(privacy: Mapping[str, Any], whose: str) -> str | None:
    found = privacy.get("epsilon_held_out", {}).get(whose.partition(",")[0])
    return None if found is None else f"{found:.3g}"


def _promises(privacy: Mapping[str, Any]) -> list[str]:
    unit = "client" if privacy["protect"] == "clients" else "training example of a client"
    sentences = [
        f"Neighbours: {privacy['relation']}. What is protected is one {unit}, against whoever sees the "
        f"{'models' if privacy['protect'] == 'clients' else 'client’s answers'} of all rounds, and did not choose the "
        "settings that clients compute with in order to learn more: the server is honest but curious.",
        *(f"Sampling: {text}." for text in privacy["sampling"]),
        f"Noise: {privacy['noise']}.",
        *([f"An ε composes over {privacy['composed']}."] if "composed" in privacy else []),
    ]
    return [*sentences, *([f"Ended early: {privacy['stopped']}."] if "stopped" in privacy else [])]
