"""A server that cheats in secure sums: with what it proposes, with whom it shows which model, with whose keys."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from flwr.app import ConfigRecord, RecordDict

from fedha.audit.adversary_bench import Bench, Family, NotPlayedError, Outcome, TamperingGrid, refused_by
from fedha.errors import FedhaError
from fedha.flower.secure_wire import RECORD, REVEAL, SHARE
from fedha.flower.wire import pack_tensors, unpack_tensors
from fedha.models.state import kinds_of, named_state
from fedha.privacy.secure.delegation import delegate, read_roster, write_roster
from fedha.privacy.secure.identity import simulated_identity
from fedha.privacy.secure.layout import make_layout
from fedha.privacy.secure.messages import KeyList
from fedha.privacy.secure.numbers import BOUND, NUMBERS
from fedha.privacy.secure.packing import pack, unpack
from fedha.privacy.secure.session import Session

_HERE = "docs/secure-aggregation.md"
_PASQUINI = "Pasquini et al. (CCS 2022)"
_TINY = 1e-9

Change = Callable[[str, int, RecordDict], RecordDict]


@dataclass(frozen=True)
class Tampered:
    """A round of secure sums in which some of the server's messages are others.

    Attributes:
        asked: In words.
        counted: The message type whose answers are the gain: those that a server needs to open the sum.
        change: Of a message.
        proposed: Of the sessions, for the server too.
    """

    asked: str
    counted: str
    change: Change = lambda kind, client_id, content: content
    proposed: Callable[[Session], Session] = lambda session: session

    def play(self, bench: Bench) -> Outcome:
        """Play it; an honest round beside it has an answer of each client.

        Raises:
            NotPlayedError: The config has no secure sums.
        """
        if not bench.config.privacy.secure_aggregation:
            raise NotPlayedError("the config has no secure sums: every answer is read as it is")
        grid, strategy = TamperingGrid(bench.grid(), self.change), bench.strategy()
        state = named_state(bench.model)
        strategy.begin(state, kinds_of(bench.model))
        assert strategy.secure is not None
        sums = strategy.secure._sums
        usual = sums._session
        setattr(sums, "_session", lambda round, wanted: self.proposed(usual(round, wanted)))  # noqa: B010  # a method
        told = ""
        try:
            messages = list(strategy.configure_train(1, pack_tensors(state), ConfigRecord(), grid))
            if self.counted == REVEAL:
                grid.answered.clear()  # what came before the sum that is tampered with
            strategy.aggregate_train(1, grid.send_and_receive(messages))
        except FedhaError as error:
            told = next((one for several in grid.sentences.values() for one in several), str(error))
        given = grid.answered.get(self.counted, 0)
        by = refused_by(told)
        return Outcome(
            self.asked, "secure sums" if by == "message" else by, told, float(given), float(len(bench.clients))
        )


def small_threshold(session: Session) -> Session:
    """The least threshold that two sets of survivors cannot both reach, or another one than the settings give."""
    least = len(session.cohort) // 2 + 1
    return replace(session, threshold=least if session.threshold != least else least + 1)


def small_minimum(session: Session) -> Session:
    """Sums of two."""
    return replace(session, minimum=2)


def tiny_weights(session: Session) -> Session:
    """One client has all the weight."""
    others = len(session.weights) - 1
    return replace(session, weights=(1 - _TINY * others, *[_TINY] * others))


def small_range(session: Session) -> Session:
    """Numbers up to 1e-3 alone: who has larger ones would say that they do not fit."""
    shapes = {slot.name: slot.shape for slot in session.layout.slots}
    bounds = {**dict.fromkeys(shapes, 1e-3), NUMBERS: BOUND}
    return replace(session, layout=make_layout(shapes, len(session.cohort), bounds))


def dead_model(kind: str, client_id: int, content: RecordDict) -> RecordDict:
    """A model at which features are zero, for all clients but the first."""
    if kind != "train" or client_id == 0:
        return content
    model = {name: torch.zeros_like(value) for name, value in unpack_tensors(content["parameters"]).items()}  # type: ignore[arg-type]
    return RecordDict({**content, "parameters": pack_tensors(model)})


def foreign_key(kind: str, client_id: int, content: RecordDict) -> RecordDict:
    """The second client's keys in the last one's place: a server that would agree on masks itself."""
    if kind != SHARE:
        return content
    lists = [unpack(KeyList, one) for one in _parts(content, "keys")]
    swapped = []
    for one in lists:
        last = replace(one.adverts[-1], mask_key=one.adverts[0].mask_key)
        swapped.append(pack(replace(one, adverts=(*one.adverts[:-1], last))))
    return _with_parts(content, "keys", swapped)


def foreign_roster(bench: Bench) -> Outcome:
    """A roster with a friend of the server's in it, signed by somebody else than the federation's authority.

    Raises:
        NotPlayedError: The config has no secure sums.
    """
    if not bench.config.privacy.secure_aggregation:
        raise NotPlayedError("the config has no secure sums, and so no roster")
    authority, stranger = (
        simulated_identity(bench.config.seed[0], 10**6),
        simulated_identity(bench.config.seed[0], 10**6 + 1),
    )
    sites = [simulated_identity(bench.config.seed[0], client_id) for client_id in range(len(bench.clients) + 1)]
    entries = [delegate(one, client_id, f"site {client_id}", one.public) for client_id, one in enumerate(sites)]
    asked = "a site to be summed with one more, by a roster of another authority's"
    try:
        taken = len(read_roster(write_roster(entries, stranger), authority.public))
    except FedhaError as error:
        return Outcome(asked, "roster", str(error), most=float(len(entries)))
    return Outcome(asked, gain=float(taken), most=float(len(entries)))


_DEALT, _MASKED, _SHARES = "clients that dealt shares", "clients that sent masked answers", "clients that gave shares"


def _row(name: str, title: str, source: str, measure: str, tampered: Tampered) -> Family:
    return Family(name, title, source, measure, tampered.play)


FAMILIES: tuple[Family, ...] = (
    _row(
        "threshold",
        "another threshold",
        _HERE,
        _MASKED,
        Tampered("a session with another threshold than the settings give", "train", proposed=small_threshold),
    ),
    _row(
        "pairs",
        "sums of two",
        _HERE,
        _MASKED,
        Tampered("a session with a minimum of 2", "train", proposed=small_minimum),
    ),
    _row(
        "weights",
        "tiny weights",
        _HERE,
        _MASKED,
        Tampered(f"a session in which all but one client weigh {_TINY:g}", "train", proposed=tiny_weights),
    ),
    _row(
        "range",
        "a range as an oracle",
        _HERE,
        _MASKED,
        Tampered("a session whose numbers are to be under 0.001", "train", proposed=small_range),
    ),
    _row(
        "inconsistent",
        "other models for others",
        _PASQUINI,
        _SHARES,
        Tampered("one sum, of one client at the model and of the others at a dead one", REVEAL, dead_model),
    ),
    _row(
        "keys",
        "foreign keys",
        "Bonawitz et al. (CCS 2017)",
        _DEALT,
        Tampered("shares for another's key in a client's place", SHARE, foreign_key),
    ),
    Family("roster", "friends in the roster", _HERE, "sites that a client would be summed with", foreign_roster),
)


def _parts(content: RecordDict, name: str) -> list[bytes]:
    record = content[RECORD]
    assert isinstance(record, ConfigRecord)
    found: Any = record[name]
    return list(found)


def _with_parts(content: RecordDict, name: str, parts: list[bytes]) -> RecordDict:
    record = content[RECORD]
    assert isinstance(record, ConfigRecord)
    return RecordDict({**content, RECORD: ConfigRecord({**record, name: parts})})
