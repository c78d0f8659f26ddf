"""Runs and rounds in a few words, for the terminal."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fedha.config import Config
from fedha.progress import duration
from fedha.runs.absences import absence_texts

MANY = 12  # domains that can be told one by one


def flat(record: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """A record as one level, names joined by slashes: ``target/sketch/accuracy``."""
    row: dict[str, Any] = {}
    for name, value in record.items():
        row |= flat(value, f"{before}{name}/") if isinstance(value, Mapping) else {f"{before}{name}": value}
    return row


def run_title(config: Config, place: int = 1, runs: int = 1) -> str:
    """Which run this is: ``run 3 of 10: hgp, seed 0``."""
    title = f"{config.recipe[0].name}, seed {config.seed[0]}"
    return f"run {place} of {runs}: {title}" if runs > 1 else title


@dataclass
class RoundText:
    """A round in a few words. What is not evaluated every round keeps its last value.

    Attributes:
        sources: Accuracies on the sources' held-out parts; where none was evaluated, on their training parts.
        target: Accuracy on the unseen target.
    """

    sources: str = ""
    target: str = ""

    def update(self, record: Mapping[str, Any]) -> str:
        """Take in a round's record and describe it: loss, penalty, accuracies."""
        if record.get("held_out"):
            self.sources = accuracies(part.get("accuracy") for part in record["held_out"].values())
        if record.get("target"):
            self.target = percents(part.get("accuracy") for part in list(record["target"].values())[:1])
        sources = self.sources or accuracies(record.get("accuracy", {}).values())
        parts = (
            [f"loss {short_number(record['loss'])}"] if "loss" in record else []
        )  # where it is protected it is not sent
        if record.get("penalty"):
            parts.append(f"penalty {short_number(sum(value or 0 for value in record['penalty'].values()))}")
        if record.get("epsilon"):
            parts.append(f"ε {max(value or 0 for value in record['epsilon'].values()):.2f}")
        parts += [f"sources {sources}"] if sources else []
        return "  ".join([*parts, *([f"target {self.target}"] if self.target else [])])


def result_text(results: Mapping[str, Any]) -> str:
    """A finished run in a line; accuracies of the final round."""
    sources = accuracies(part.get("accuracy") for part in results["sources"].values())
    judged = {name: part.get("accuracy") for name, part in results["target"].items()}
    targets = [f"{target_title(name)} {percents([value])}" for name, value in judged.items()]
    targets = targets if len(targets) <= MANY else [f"targets {accuracies(judged.values())}"]
    parts = [f"sources {sources} held out"] if sources else []
    text = f"final round: {', '.join([*parts, *targets])}; {duration(results['seconds'])}"
    if privacy := results.get("privacy"):
        whose, epsilon = max(privacy["epsilon"].items(), key=lambda one: float(one[1] or 0), default=("", 0.0))
        text += f"; ε {epsilon:.2f} at δ {privacy['delta'].get(whose, 0):.1g} for one {privacy['protect'].rstrip('s')}"
        told = [privacy[name] for name in ("relation", "composed", "adversary") if privacy.get(name)]
        text += f" ({'; '.join([*privacy.get('sampling', []), *told])})" if told else ""
        text += f"; ended after round {results['rounds']}, by privacy.max_epsilon" if privacy.get("stopped") else ""
    if why := results.get("stopped"):
        text += f"; ended after round {results['rounds']}: {why}"
    flags = [f"diverged: {results['diverged']}"] if results.get("diverged") else warmup_texts(results)
    return "; ".join([text, *flags, *absence_texts(results.get("left_out", {}), results["rounds"])])


def warmup_texts(results: Mapping[str, Any]) -> list[str]:
    """Which rules would take a round of the warm-up, whose model is not yet the recipe's, or had no other; phrases."""
    selection = results.get("selection") or {}
    within: dict[int, list[str]] = {}  # what is said, by the warm-up's length
    passed: dict[int, list[str]] = {}
    for rule, one in ((name.replace("_", "-"), one) for name, one in selection.items() if one):
        if one.get("within_warmup"):
            within.setdefault(one["within_warmup"], []).append(f"{rule} takes round {one['round']}")
        if one.get("instead_of"):
            told = f"{rule} takes round {one['round']} and not {one['instead_of']}"
            passed.setdefault(one["warmup"], []).append(told)
    return [
        *(f"within the warm-up of {length} rounds: {', '.join(told)}" for length, told in within.items()),
        *(f"the warm-up of {length} rounds is passed over: {', '.join(told)}" for length, told in passed.items()),
    ]


def target_title(name: str) -> str:
    """What an unseen domain is called where sources stand beside it; one that is called "target" says it already."""
    return name if name.startswith("target") else f"target {name}"


def accuracies(fractions: Iterable[float | None]) -> str:
    """Domains' accuracies: each, as `percents`; of more than a dozen the mean, the worst, and how many they are."""
    known = [fraction for fraction in fractions if fraction is not None]
    if len(known) <= MANY:
        return percents(known)
    return f"mean {percents([fmean(known)])} worst {percents([min(known)])} of {len(known):,}"


def percents(fractions: Iterable[float | None]) -> str:
    """Fractions in percent: ``71.2 % 68.0 %``; those that are missing are left out."""
    return " ".join(f"{100 * fraction:.1f} %" for fraction in fractions if fraction is not None)


def shortened(text: str, most: int = 300) -> str:
    """A text of a run's results, or its beginning where it is long."""
    if len(text) <= most:
        return text
    beginning = text[:most].rpartition(" ")[0].rstrip(",;")
    return f"{beginning}, … ({len(text):,} characters in all, in results.json)"


def short_number(value: float | None) -> str:
    """Three digits of a number, or that it is none."""
    return "not finite" if value is None else f"{value:.3g}"
