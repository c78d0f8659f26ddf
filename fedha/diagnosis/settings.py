"""What a diagnosis is asked for."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar, get_args

from fedha.errors import FedhaError, brief, listed
from fedha.jsonfile import parse_json

Chosen = TypeVar("Chosen", bound=str)

Mode = Literal["pooled", "pairs", "worst", "leave-one-out"]
MODES: tuple[Mode, ...] = get_args(Mode)
Method = Literal["power", "published"]
METHODS: tuple[Method, ...] = get_args(Method)
Products = Literal["lanczos", "block"]
PRODUCTS: tuple[Products, ...] = get_args(Products)
ROWS = ("transfer", "curvature", "attributes", "shift")
LOGITS = (0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Settings:
    """What is measured, and how far around the learned head.

    Attributes:
        logits: Radii in logit units: how far a head of the ball moves a typical example's logits at most.
        radii: Radii in weights of the head, in their place; empty: none.
        mode: Who is compared; None: the sources' mean with every target, or without one each source with the others.
        to: Targets by name; empty: all.
        rows: Parts of the diagnosis.
        method: ``published``: the attack as it was published as well, beside power steps.
        products: How Hessians of larger heads are asked for: ``lanczos``, exchange after exchange until the ends are
            known well, or ``block``, all pairs in three exchanges, for where one takes seconds.
    """

    logits: tuple[float, ...] = LOGITS
    radii: tuple[float, ...] = ()
    mode: Mode | None = None
    to: tuple[str, ...] = ()
    rows: tuple[str, ...] = ROWS
    method: Method = "power"
    products: Products = "lanczos"


def read_numbers(option: str, text: str) -> tuple[float, ...]:
    """Positive numbers with commas between, in ascending order, each once.

    Raises:
        FedhaError: One is none.
    """
    try:
        found = {float(one) for one in text.split(",") if one.strip()}
    except ValueError as error:
        raise FedhaError(f"{option} is {text!r}; give positive numbers with commas between, such as 0.1,1") from error
    if not found or not all(0 < one < float("inf") for one in found):
        raise FedhaError(f"{option} is {text!r}; give positive numbers with commas between, such as 0.1,1")
    return tuple(sorted(found))


def read_names(option: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Some of the known names, in the order of those.

    Raises:
        FedhaError: One is not known.
    """
    wanted = [one.strip() for one in text.split(",") if one.strip()]
    for name in wanted:
        if name not in known:
            raise FedhaError(f"{option} names {name!r}; take some of {listed(known)}")
    return tuple(one for one in known if one in wanted) or tuple(known)


def read_choice(option: str, text: str, known: Sequence[Chosen]) -> Chosen:
    """One of some names.

    Raises:
        FedhaError: It is none of them.
    """
    for one in known:
        if one == text:
            return one
    raise FedhaError(f"{option} is {text!r}; take one of {listed(known)}")


@dataclass(frozen=True)
class Asked:
    """What is asked about one finished run.

    Attributes:
        settings: What is measured.
        round: Whose model.
        rule: That took this round, or "".
    """

    settings: Settings
    round: int
    rule: str = ""


def to_text(asked: Asked) -> str:
    """What is asked as one line of JSON."""
    return json.dumps(asdict(asked))


def from_text(text: str) -> Asked:
    """Read what `to_text` wrote.

    Raises:
        FedhaError: It is something else.
    """
    try:
        content = parse_json(text)
        given = content["settings"].items()
        values: Any = {name: tuple(one) if isinstance(one, list) else one for name, one in given}
        made = Settings(**values)
        asked = Asked(made, int(content["round"]), str(content["rule"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FedhaError(f"what a diagnosis is asked for cannot be read: {brief(error)}") from error
    read_choice("--mode", made.mode or MODES[0], MODES)
    read_choice("--method", made.method, METHODS)
    read_choice("--products", made.products, PRODUCTS)
    return asked
