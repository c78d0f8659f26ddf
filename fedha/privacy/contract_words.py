"""A contract in words, for the people of a site; and what another one would change."""

from collections.abc import Iterator
from typing import Any

from fedha.config import LocalConfig, PrivacyConfig, TrainingConfig
from fedha.privacy.contract import NUMBERS, Contract
from fedha.schema import shown
from fedha.training import PARTS

_OWN = ("evaluate", "numbers", "repeats", "diagnose", "volunteer")  # the site's words that change what it answers
_PRIVACY_SAID = ("protect", "secure_aggregation", "threshold", "minimum", "bound", "noise_multiplier")


def in_words(held: Contract) -> list[str]:
    """What a client that holds it may be asked, a line each."""
    task, training = held.task, held.task.training
    measured = "; then ".join(", ".join(group) for group in held.exchanges) or "nothing"
    weights = ", ".join(f"{term.statistic} × {term.weight:g}" for term in task.recipe.terms) or "no penalty"
    return [
        f"Recipe {task.recipe.name} (weight {task.recipe.weight:g}): {weights}.",
        f"Rounds: {held.rounds}, seed {task.seed}. {_repeats(held)}",
        f"Each round it measures {measured}{_riding(held)}, and trains ({training.mode}).",
        f"Training: {_changed(training, TrainingConfig(), ('mode', 'rounds', 'local'))}.",
        *([f"Local steps: {_changed(training.local, LocalConfig(), ())}."] if training.mode == "local" else []),
        f"Evaluated: {', '.join(held.evaluate or ()) or 'nothing'}{_counted(held)}. {_numbers(held)}",
        _diagnosed(held),
        f"It tells the server its domain's name, the shape of an input{_count(held)}.",
        *_protection(held),
        _cohort(held),
        f"Who is held out is decided by {_split(held)}.",
        *_sections(held),
        f"Digest {held.digest}.",
    ]


def changes(before: Contract, after: Contract) -> list[str]:
    """What of a contract another one has otherwise, a line each: key, before, after."""
    own = [{name: getattr(one, name) for name in _OWN} for one in (before, after)]
    old, new = ({**one.terms, **words} for one, words in zip((before, after), own, strict=True))
    told = [
        f"{key}: {_value(old, key)} → {_value(new, key)}"
        for key in [*old, *(key for key in new if key not in old)]
        if old.get(key) != new.get(key) or (key in old) != (key in new)
    ]
    if before.split != after.split:
        told.append("split: another key, so that other examples would be held out")
    return told


def _count(held: Contract) -> str:
    secret = held.sums is not None and held.task.privacy.protect != "examples"
    return "; how many examples it has in sums alone" if secret else " and how many examples it has"


def _counted(held: Contract) -> str:
    told = f", with {', '.join(held.metrics)}" if held.metrics else ""
    return f"{told}, apart by {held.groups}" if held.groups else told


def _cohort(held: Contract) -> str:
    drawn = held.task.training.clients_per_round
    return {
        "all": "All clients take part in each round.",
        "public": f"Of the clients {drawn} are drawn each round, from the seed, which all know.",
        "secret": f"Of the clients {drawn} are drawn each round, by a secret of the server's.",
    }[held.cohort]


def _repeats(held: Contract) -> str:
    if held.repeats is None:
        return "What is asked again is answered again."
    return f"Of each kind {held.repeats} answers may be asked for again in all."


def _diagnosed(held: Contract) -> str:
    if held.diagnose == 0:
        return "Diagnoses: none is answered."
    many = "any number of" if held.diagnose is None else f"{held.diagnose}"
    told = f"Diagnoses: {many} heads and directions are answered in all, each with a gradient or a product of its size"
    return f"{told}; it lends {held.volunteer!r} to them and to nothing else." if held.volunteer else f"{told}."


def _riding(held: Contract) -> str:
    return ", along with the update" if held.schedule == "piggyback" else ""


def _numbers(held: Contract) -> str:
    left = [name for name in held.numbers if name not in PARTS or name in (held.evaluate or ())]
    withheld = [name for name in NUMBERS if name not in held.numbers]
    rest = f", not {', '.join(withheld)}" if withheld else ""
    if held.task.privacy.protect == "examples":
        return f"Numbers along with answers: what releases cover{rest}."
    return f"Numbers along with answers: {', '.join(left)}{rest}."


def _protection(held: Contract) -> Iterator[str]:
    privacy, sums = held.task.privacy, held.sums
    noise = f"noise {privacy.noise_multiplier:g} × the clip" if privacy.noise_multiplier is not None else ""
    rest = _changed(privacy, PrivacyConfig(), _PRIVACY_SAID)
    yield {
        "examples": f"Every example is covered: {noise}; {rest}.",
        "clients": f"The server clips each client's answer and adds noise: {noise}; {rest}.",
        "nothing": f"No noise covers what is sent; {rest}.",
    }[privacy.protect]
    if sums is None:
        yield "The server sees each client's answers."
        return
    most = "the usual part" if sums.threshold is None else str(sums.threshold)
    yield (
        f"The server learns sums of at least {sums.minimum} clients, all with all, of which {most} stay to the end; "
        f"numbers up to {sums.bound:g}."
    )


def _split(held: Contract) -> str:
    if held.split:
        return f"this site's key {held.split[:8]}…"
    return "a key of the site's own" if held.task.privacy.protect == "examples" else "the seed"


def _sections(held: Contract) -> Iterator[str]:
    for name, section in held.sections.items():
        told = ", ".join(f"{key} {shown(value)}" for key, value in section.items() if value not in (None, [], {}))
        yield f"{name.capitalize()}: {told}."


def _changed(given: Any, usual: Any, but: tuple[str, ...]) -> str:
    """What of a section is not as usual, in words."""
    names = [name for name in type(given).model_fields if name not in but]
    other = [f"{name} {shown(value)}" for name in names if (value := getattr(given, name)) != getattr(usual, name)]
    return ", ".join(other) or "as usual"


def _value(terms: dict[str, Any], key: str) -> str:
    return shown(terms[key]) if key in terms else "nothing"
