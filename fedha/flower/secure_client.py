"""A client's part in the rounds' secure sums: it keeps its secrets, answers the steps, and masks what it answers.

Between messages the secrets lie in the state of the node's Flower context, by session, and nowhere else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from logging import WARNING
from typing import TypeVar

import torch
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.supercore import log

from fedha.client import Client
from fedha.config import Config, PrivacyConfig
from fedha.errors import FedhaError
from fedha.exchange import Reply, Request
from fedha.flower.secure_wire import (
    ADVERTISE,
    CONFIRM,
    MASKED,
    SHARE,
    asked,
    exchange_name,
    listed,
    number_names,
    parts_of,
    single,
)
from fedha.privacy.secure import client as protocol
from fedha.privacy.secure.encoding import encode, nothing
from fedha.privacy.secure.identity import Identity, Roster, simulated_identity
from fedha.privacy.secure.layout import Words, make_layout
from fedha.privacy.secure.messages import Confirmations, Inbox, KeyList, Survivors
from fedha.privacy.secure.numbers import BOUND, NUMBERS, to_vector
from fedha.privacy.secure.packing import pack, unpack
from fedha.privacy.secure.session import Session
from fedha.privacy.secure.states import Advertised, Confirmed, Masked, Shared

_SECRETS, _DONE = "fedha-secrets", "done"
_ROUNDING = 1e-9  # of sums of weights

_State = TypeVar("_State", Advertised, Shared, Masked, Confirmed)


@dataclass(frozen=True)
class Party:
    """Who a client is in secure sums, and whom it believes.

    Attributes:
        identity: Its own identity, by its client id.
        roster: The identities of a cohort.
        minimum: The fewest clients that it lets itself be summed with, itself included.
        tells_examples: Whether the number of its examples is public, as accounts of example-level privacy need it.
        settings: `secure_wire.settings_mark` of the config that it was started with, which a sum's run must be named
            after: data and model decide an answer too, and no question speaks of them. Empty: any run will do.
    """

    identity: Callable[[int], Identity]
    roster: Callable[[Sequence[int]], Roster]
    minimum: int
    tells_examples: bool = False
    settings: str = ""

    def introduction(self, reply: Reply) -> Reply:
        """What it says of itself: a number of examples only where that is public."""
        return reply if self.tells_examples else replace(reply, examples=0)

    def hide(self, reply: Reply) -> Reply:
        """A reply without the numbers that are told in sums alone."""
        return replace(self.introduction(reply), metrics={}, sums={})


@dataclass(frozen=True)
class Opened:
    """A question that a client may answer.

    Attributes:
        state: Its secrets for this sum.
        inbox: The others' shares.
        request: What it is asked, with a share that is its own weight in the sum over that of those who are left.
        question: Digest of what all are asked.
        names: Of the numbers that are summed along.
    """

    state: Shared
    inbox: Inbox
    request: Request
    question: bytes
    names: tuple[str, ...]


def simulated_party(config: Config) -> Party | None:
    """A simulation's, which makes all identities itself; None where the config wants no secure sums."""
    if not config.privacy.secure_aggregation:
        return None
    seed = config.seed[0]

    def roster(cohort: Sequence[int]) -> Roster:
        return Roster({client_id: simulated_identity(seed, client_id).public for client_id in cohort})

    public = config.privacy.protect == "examples"
    return Party(lambda client_id: simulated_identity(seed, client_id), roster, config.privacy.minimum, public)


def answer_step(party: Party, kind: str, client: Client, content: RecordDict, context: Context) -> Reply:
    """Answer a step of the round's secure sums.

    Args:
        party: Who the client is.
        kind: The message type, one of `secure_wire.STEPS`.
        client: The client.
        content: The message's.
        context: Holds its secrets, which move on.

    Raises:
        FedhaError: The step is refused; the sentence says why and holds no secret.
    """
    parts, client_id = parts_of(content), client.client_id
    if kind == ADVERTISE:
        sessions = [unpack(Session, one) for one in listed(parts, "sessions")]
        return replace(party.hide(client.reply({})), secure=_advertise(party, client_id, sessions, context))
    if kind == SHARE:
        keys = [unpack(KeyList, one) for one in listed(parts, "keys")]
        old = [_recall(context, Advertised, one.session) for one in keys]
        both = [
            protocol.share_keys(state, one, party.roster(state.session.cohort))
            for state, one in zip(old, keys, strict=True)
        ]
        _store(context, [state for state, _ in both])
        return _step_reply(party, client, "dealings", [pack(dealing) for _, dealing in both])
    if kind == CONFIRM:
        survivors = unpack(Survivors, single(parts, "survivors"))
        masked = _recall(context, Masked, survivors.session)
        confirmed, confirmation = protocol.confirm(masked, survivors, party.identity(client_id))
        _store(context, [confirmed])
        return _step_reply(party, client, "confirmation", pack(confirmation))
    confirmations = unpack(Confirmations, single(parts, "confirmations"))
    last = _recall(context, Confirmed, confirmations.session)
    revealed = protocol.reveal(last, confirmations, party.roster(last.session.cohort))
    _forget(context, last.session)
    return _step_reply(party, client, "revealed", pack(revealed))


def open_question(kind: str, client: Client, content: RecordDict, request: Request, context: Context) -> Opened:
    """What a client needs to answer a question in a secure sum; nothing is computed or changed yet.

    Raises:
        FedhaError: It is asked in the clear, for another sum than was agreed on, or again.
    """
    parts = parts_of(content)
    if not parts:
        raise FedhaError(
            f"client {client.client_id} answers in secure sums alone and was asked in the clear; "
            "see that the server has privacy.secure_aggregation on"
        )
    inbox = unpack(Inbox, single(parts, "inbox"))
    state = _recall(context, Shared, inbox.session)
    session, wanted = state.session, exchange_name(kind, request.measure)
    if (session.round, session.exchange) != (request.round, wanted):
        raise FedhaError(
            f"client {client.client_id} is asked for round {request.round}'s {wanted} with the keys of {session.name}; "
            "the server mixes them, so the client answers nothing"
        )
    _check_range(session, request.task.privacy)
    weight = _own_weight(session, client.client_id, request.averaging_weight)
    mine = replace(request, averaging_weight=weight, additive=False)
    return Opened(state, inbox, mine, asked(kind, content, request), number_names(kind, request))


def answer(party: Party, opened: Opened, client: Client, work: Callable[[], Reply]) -> tuple[Masked, Reply]:
    """A client's answer, encoded and with all masks on; the state is still to be stored, before the answer leaves.

    From here on it has one form, whatever the client's data are: what cannot be computed or does not fit is told to the
    client's own log, and sent as `encoding.nothing`.

    Args:
        party: Who the client is.
        opened: The question.
        client: The client; it remembers nothing of what was not answered.
        work: Computes the answer.

    Raises:
        FedhaError: A share does not verify.
    """
    layout, before = opened.state.session.layout, client.state
    try:
        reply = work()
        words = _encoded(opened, client, reply)
    except Exception as error:
        client.state, reply, words = before, client.reply({}), nothing(layout)
        what, trace = opened.state.session.name, not isinstance(error, FedhaError)
        log(WARNING, "client %d has nothing to send in %s: %s", client.client_id, what, error, exc_info=trace)
    masked, sent = protocol.mask_input(opened.state, opened.inbox, words, opened.question)
    vector = torch.from_numpy(sent.words.view("<i8"))
    return masked, replace(party.hide(reply), tensors={MASKED: vector}, secure={"session": sent.session})


def _encoded(opened: Opened, client: Client, reply: Reply) -> Words:
    session = opened.state.session
    weight = session.weight(client.client_id)
    if opened.request.task.training.averaging == "examples":
        weight = float(reply.examples)  # secret: it travels in the sum
    tensors = {**reply.tensors, NUMBERS: to_vector(reply, opened.names)}
    return encode(session.layout, tensors, {**dict.fromkeys(reply.tensors, weight), NUMBERS: 1.0})


def store(context: Context, state: Masked) -> None:
    """Put a client's new secrets in the place of the old ones."""
    _store(context, [state])


def _advertise(
    party: Party, client_id: int, sessions: Sequence[Session], context: Context
) -> dict[str, bytes | list[bytes]]:
    secrets = _secrets(context)
    (latest, *done), names = _done(secrets), {*secrets, *(_name(session) for session in sessions)}
    if len(rounds := {session.round for session in sessions}) != 1:
        raise FedhaError(
            f"client {client_id} is asked for keys of the rounds {sorted(rounds)} at once; the server is broken or "
            "cheats"
        )
    for session in sessions:
        if not session.run.endswith(party.settings):
            raise FedhaError(
                f"client {client_id} was started with other settings than the run that {session.name} is of; the "
                "server must give one to all, for who has other data or another model is not hidden by the others"
            )
        if sum(name.startswith(f"{session.round}/{session.exchange}/") for name in names) > 1:
            raise FedhaError(
                f"client {client_id} is asked to take part in {session.name} twice, with different others or weights; "
                "the difference of two such sums would tell its part, so it refuses"
            )
        if session.round < int(latest) or (session.round == int(latest) and session.exchange in done):
            raise FedhaError(
                f"client {client_id} has gone on to round {latest}, or given its shares there, and is asked to take "
                f"part in {session.name}; two sums of one exchange would tell its part, so it refuses"
            )
    identity, (round,) = party.identity(client_id), rounds
    both = [
        protocol.advertise(session, client_id, identity, party.roster(session.cohort), party.minimum)
        for session in sessions
    ]
    kept = {name: value for name, value in secrets.items() if name.startswith(f"{round}/")}
    given = done if round == int(latest) else []
    context.state[_SECRETS] = ConfigRecord({**kept, _DONE: [str(round), *given]})
    _store(context, [state for state, _ in both])
    return {"identity": identity.public, "adverts": [pack(advert) for _, advert in both]}


def _check_range(session: Session, privacy: PrivacyConfig) -> None:
    """Refuse another fixed point than that of the run's settings: a coarse or narrow one makes sums of single bits.

    Raises:
        FedhaError: It is not that which a server that follows the protocol proposes.
    """
    shapes = {slot.name: slot.shape for slot in session.layout.slots}
    bounds = {**dict.fromkeys(shapes, privacy.bound), NUMBERS: BOUND}
    if session.layout != make_layout(shapes, len(session.cohort), bounds):
        raise FedhaError(
            f"the numbers of {session.name} are to be summed in another range than privacy.bound {privacy.bound:g} "
            "gives; the server is broken or cheats"
        )


def _own_weight(session: Session, client_id: int, left: float) -> float:
    """A client's share of the round, from what all are told alike: with shares of its own making the server could give
    one client's answer a weight in the sum that the others' do not have.

    Args:
        session: Has the weights.
        client_id: The client's.
        left: The weight of the clients who are left of the round.

    Raises:
        FedhaError: It is not the weight of so many that they may be summed.
    """
    least = session.least_weight(client_id)
    if not least * (1 - _ROUNDING) <= left <= 1:
        raise FedhaError(
            f"client {client_id} is asked in {session.name} as if the clients left weighed {left:g}, and they weigh "
            f"{least:g} to 1; the server is broken or cheats"
        )
    return session.weight(client_id) / left


def _step_reply(party: Party, client: Client, name: str, value: bytes | list[bytes]) -> Reply:
    return replace(party.hide(client.reply({})), secure={name: value})


def _secrets(context: Context) -> ConfigRecord:
    record = context.state.get(_SECRETS)
    return record if isinstance(record, ConfigRecord) else ConfigRecord()


def _done(secrets: ConfigRecord) -> list[str]:
    """The latest round that keys were given for, and those of its exchanges that shares were given for."""
    known = secrets.get(_DONE)
    return [str(one) for one in known] if isinstance(known, list) else ["0"]


def _name(session: Session) -> str:
    return f"{session.round}/{session.exchange}/{session.digest.hex()}"


def _recall(context: Context, kind: type[_State], session: bytes) -> _State:
    """The client's secrets of a session, if it is at the step that they are of.

    Raises:
        FedhaError: It is not.
    """
    for name, value in _secrets(context).items():
        if name.endswith(f"/{session.hex()}") and isinstance(value, bytes):
            if not value.startswith(f'["{kind.__name__}"'.encode()):
                raise FedhaError(
                    "a step of a secure sum comes again or out of turn; it was taken once and is not taken twice"
                )
            return unpack(kind, value)
    raise FedhaError(
        "this client has no keys of the secure sum that it is asked for: the message is old or of another run, "
        "or the client was started anew since the round began"
    )


def _store(context: Context, states: Sequence[Advertised | Shared | Masked | Confirmed]) -> None:
    secrets = dict(_secrets(context))
    for state in states:
        secrets[_name(state.session)] = pack(state)
    context.state[_SECRETS] = ConfigRecord(secrets)


def _forget(context: Context, session: Session) -> None:
    secrets = dict(_secrets(context))
    del secrets[_name(session)]
    secrets[_DONE] = [*_done(_secrets(context)), session.exchange]
    context.state[_SECRETS] = ConfigRecord(secrets)
