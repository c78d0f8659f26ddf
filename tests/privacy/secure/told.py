"""Secure sums of a few small clients, and everything that is said in them, step by step."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedha.errors import FedhaError
from fedha.privacy.secure import rounds
from fedha.privacy.secure.encoding import encode
from fedha.privacy.secure.identity import Identity, Roster, new_identity
from fedha.privacy.secure.layout import Layout, Words, make_layout
from fedha.privacy.secure.messages import Advert
from fedha.privacy.secure.server import Aggregation
from fedha.privacy.secure.session import Session, make_session

QUESTION = b"q" * 32
SHAPES = {"head.weight": (3, 4), "examples": ()}
ADDS = {
    "add_advert": "close_adverts",
    "add_dealing": "close_dealings",
    "add_masked": "close_masked",
    "add_confirmation": "close_confirmations",
    "add_revealed": "close_revealed",
}


@functools.cache
def identity(place: int) -> Identity:
    return new_identity()


def identities(session: Session) -> dict[int, Identity]:
    return {place: identity(place) for place in session.cohort}


def roster(session: Session) -> Roster:
    return Roster({place: one.public for place, one in identities(session).items()})


def tensors(place: int, layout: Layout, seed: int = 0) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(1000 * seed + place)
    return {slot.name: torch.randn(slot.shape, generator=draws) for slot in layout.slots}


def session_of(clients: int, *, layout: Layout | None = None, **options: Any) -> Session:
    about = {"run": "r", "round": 4, "exchange": "update", **options}
    cohort = about.pop("cohort", range(clients))
    return make_session(cohort=cohort, layout=layout or make_layout(SHAPES, clients), **about)


def encoded(session: Session, seed: int = 0) -> dict[int, Words]:
    return {
        place: encode(session.layout, tensors(place, session.layout, seed), session.weight(place))
        for place in session.cohort
    }


@dataclass
class Told:
    """What was said: arguments and results of every step by its name and who took it (None: the server)."""

    session: Session
    words: Mapping[int, Words]
    arguments: dict[tuple[str, int | None], tuple[Any, ...]] = field(default_factory=dict)
    results: dict[tuple[str, int | None], Any] = field(default_factory=dict)
    received: list[Any] = field(default_factory=list)  # by the server, in order

    def call(self, who: int | None, step: Callable[..., Any], *arguments: Any) -> Any:
        result = step(*arguments)
        name = step.__name__
        if who is None and arguments:
            self.received.append(arguments[0])
            who = arguments[0].client_id
        self.arguments[name, who], self.results[name, who] = arguments, result
        return result

    def message(self, add: str, place: int) -> Any:
        """What a client sent to this method of the server."""
        return self.arguments[add, place][0]

    def server_at(self, add: str, without: tuple[int, ...] = ()) -> Aggregation:
        """A server that has heard all that came before a step, and of this step everybody but some."""
        server = Aggregation(self.session, roster(self.session))
        for name in ADDS:
            for (said, place), (message, *_) in [(key, value) for key, value in self.arguments.items() if value]:
                if said == name and not (name == add and place in without):
                    getattr(server, name)(message)
            if name == add:
                return server
            close(server, name)
        raise KeyError(add)


def close(server: Aggregation, add: str) -> Any:
    """End the step of this method."""
    arguments = [QUESTION] if add == "add_dealing" else []
    return getattr(server, ADDS[add])(*arguments)


def tell(session: Session, words: Mapping[int, Words] | None = None, silent: Mapping[int, str] | None = None) -> Told:
    """Run a secure sum and note what is said."""
    told = Told(session, words or encoded(session))
    rounds.run(session, identities(session), told.words, QUESTION, silent, told.call)
    return told


def leaves(value: Any) -> list[Any]:
    """Every number, text, byte string and array in a value."""
    if is_dataclass(value) and not isinstance(value, type):
        return [leaf for one in fields(value) for leaf in leaves(getattr(value, one.name))]
    if isinstance(value, tuple | list):
        return [leaf for one in value for leaf in leaves(one)]
    return [value]


def raw(value: Any) -> bytes:
    """Every byte of a value's texts, byte strings and arrays."""
    found = [leaf.tobytes() if isinstance(leaf, np.ndarray) else leaf for leaf in leaves(value)]
    return b"|".join(leaf if isinstance(leaf, bytes) else str(leaf).encode() for leaf in found)


ADD_NAMES = list(ADDS)
OTHER_SESSIONS = [
    {"round": 5},
    {"run": "another"},
    {"exchange": "gradient"},
    {"threshold": 4},
    {"layout": make_layout(SHAPES, 6)},
]


@functools.cache
def usual() -> Told:
    """Five clients; the last one is lost before it sends its vector."""
    return tell(session_of(5, threshold=3), silent={4: "mask"})


@functools.cache
def elsewhere(which: int) -> Told:
    """The same clients in another session."""
    options = {"threshold": 3, **OTHER_SESSIONS[which]}
    return tell(session_of(5, **options), silent={4: "mask"})


@functools.cache
def once_more() -> Told:
    """The very same session, which a malicious server proposes twice."""
    return tell(session_of(5, threshold=3), silent={4: "mask"})


def secrets_of(story: Told) -> list[bytes]:
    states = [story.results["advertise", place][0] for place in story.session.cohort]
    return [secret for state in states for secret in (state.mask_private, state.channel_private, state.seed)]


def refuse(step: Callable[..., Any], *arguments: Any, match: str) -> None:
    """The step raises one sentence for people, with no secret and no number of a client in it."""
    with pytest.raises(FedhaError, match=match) as caught:
        step(*arguments)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 400
    for secret in secrets_of(usual()):
        assert secret.hex() not in sentence
        assert repr(secret) not in sentence


def step(name: str, place: int = 0) -> tuple[Any, ...]:
    """The arguments that a client took a step with."""
    return usual().arguments[name, place]


def swap(adverts: tuple[Advert, ...], place: int, **changes: Any) -> tuple[Advert, ...]:
    return tuple(replace(one, **changes) if one.client_id == place else one for one in adverts)
