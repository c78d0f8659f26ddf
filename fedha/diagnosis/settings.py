"""What a diagnosis is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from fedha.errors import FedhaError, listed

Mode = Literal["pooled", "pairs", "worst", "leave-one-out"]
MODES: tuple[Mode, ...] = get_args(Mode)
Method = Literal["power", "published"]
METHODS: tuple[Method, ...] = get_args(Method)
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
    """

    logits: tuple[float, ...] = LOGITS
    radii: tuple[float, ...] = ()
    mode: Mode | None = None
    to: tuple[str, ...] = ()
    rows: tuple[str, ...] = ROWS
    method: Method = "power"


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


def read_method(text: str) -> Method:
    """A method by name.

    Raises:
        FedhaError: There is no such method.
    """
    for one in METHODS:
        if one == text:
            return one
    raise FedhaError(f"--method is {text!r}; take one of {listed(METHODS)}")


def read_mode(text: str) -> Mode | None:
    """A mode by name; None for the empty one.

    Raises:
        FedhaError: There is no such mode.
    """
    for one in MODES:
        if one == text:
            return one
    if text:
        raise FedhaError(f"--mode is {text!r}; take one of {listed(MODES)}")
    return None
