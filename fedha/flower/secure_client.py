"""A client's part in the rounds' secure sums: it keeps its secrets, answers the steps, and masks what it answers.

Between messages its secrets lie in the state of the node's Flower context and nowhere else (`secure_secrets`). So does
what the client will remember of an answer, until it has given its shares for the sum that the answer is in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from logging import WARNING
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
from flwr.supercore import log

from fedha.client import Client
from fedha.client_state import ClientState, from_tensors, to_tensors
from fedha.config import Config
from fedha.errors import FedhaError
from fedha.exchange import Reply, Request
from fedha.flower import secure_secrets
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
from fedha.flower.wire import pack_tensors, unpack_tensors
from fedha.privacy.secure import client as protocol
from fedha.privacy.secure.encoding import encode, nothing
from fedha.privacy.secure.identity import Identity, Roster, simulated_identity
from fedha.privacy.secure.layout import Words
from fedha.privacy.secure.messages import Confirmations, Inbox, KeyList, Survivors
from fedha.privacy.secure.numbers import NUMBERS, to_vector
from fedha.privacy.secure.packing import pack, unpack
from fedha.privacy.secure.past import Past, anew, companions
from fedha.privacy.secure.session import Session
from fedha.privacy.secure.states import Advertised, Confirmed, Masked, Shared
from fedha.privacy.secure.terms import Terms

_STAGED, _STAGED_FOR = "fedha-staged", "fedha-staged-for"
_ROUNDING = 1e-9  # of sums of weights


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
        turns: The folder in which the client's tasks see whose turn it is; None where one process has all its state.
    """

    identity: Callable[[int], Identity]
    roster: Callable[[Sequence[int]], Roster]
    minimum: int
    tells_examples: bool = False
    settings: str = ""
    turns: Path | None = field(default_factory=lambda: Path.home() / ".cache" / "fedha" / "secure")

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
        known: What the client remembers as it answers.
        companions: Who remembers the same; nobody where it remembers nothing.
    """

    state: Shared
    inbox: Inbox
    request: Request
    question: bytes
    names: tuple[str, ...]
    known: ClientState
    companions: tuple[int, ...]


def simulated_party(config: Config) -> Party | None:
    """A simulation's, which makes all identities itself; None where the config wants no secure sums."""
    if not config.privacy.secure_aggregation:
        return None
    seed = config.seed[0]

    def roster(cohort: Sequence[int]) -> Roster:
        return Roster({client_id: simulated_identity(seed, client_id).public for client_id in cohort})

    public = config.privacy.protect == "examples"
    least = config.privacy.minimum
    return Party(lambda client_id: simulated_identity(seed, client_id), roster, least, public, turns=None)


def answer_step(party: Party, kind: str, client: Client, content: RecordDict, context: Context) -> Reply:
    """Answer a step of the round's secure sums.

    Args:
        party: Who the client is.
        kind: The message type, one of `secure_wire.STEPS`.
        client: The client. When it gives its shares, it remembers what it answered.
        content: The message's.
        context: Holds its secrets, which move on.

    Raises:
        FedhaError: The step is refused; the sentence says why and holds no secret.
    """
    parts, client_id = parts_of(content), client.client_id
    if kind == ADVERTISE:
        sessions = [unpack(Session, one) for one in listed(parts, "sessions")]
        return replace(party.hide(client.reply({})), secure=_advertise(party, client, sessions, context))
    if kind == SHARE:
        keys = [unpack(KeyList, one) for one in listed(parts, "keys")]
        old = [secure_secrets.recall(context, Advertised, one.session) for one in keys]
        both = [
            protocol.share_keys(state, one, party.roster(state.session.cohort))
            for state, one in zip(old, keys, strict=True)
        ]
        secure_secrets.keep(party.turns, client_id, context, [state for state, _ in both])
        return _step_reply(party, client, "dealings", [pack(dealing) for _, dealing in both])
    if kind == CONFIRM:
        survivors = unpack(Survivors, single(parts, "survivors"))
        masked = secure_secrets.recall(context, Masked, survivors.session)
        confirmed, confirmation = protocol.confirm(masked, survivors, party.identity(client_id))
        secure_secrets.keep(party.turns, client_id, context, [confirmed])
        return _step_reply(party, client, "confirmation", pack(confirmation))
    confirmations = unpack(Confirmations, single(parts, "confirmations"))
    last = secure_secrets.recall(context, Confirmed, confirmations.session)
    revealed = protocol.reveal(last, confirmations, party.roster(last.session.cohort))
    secure_secrets.forget(party.turns, client_id, context, last.session)
    client.state = _remembered(context, last, client.state)
    return _step_reply(party, client, "revealed", pack(revealed))


def open_question(kind: str, client: Client, content: RecordDict, request: Request, context: Context) -> Opened:
    """What a client needs to answer a question in a secure sum; nothing is computed or kept yet.

    A client whose memory too few others share answers without it; but not where each round draws its clients, who then
    remember different rounds, and whose sums of ever other clients tell of each as much.

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
    state = secure_secrets.recall(context, Shared, inbox.session)
    session, wanted = state.session, exchange_name(kind, request.measure)
    if (session.round, session.exchange) != (request.round, wanted):
        raise FedhaError(
            f"client {client.client_id} is asked for round {request.round}'s {wanted} with the keys of {session.name}; "
            "the server mixes them, so the client answers nothing"
        )
    averaging = "clients" if kind == "evaluate" else request.task.training.averaging
    Terms.of(request.task.privacy, averaging).check(session)
    weight = _own_weight(session, client.client_id, request.averaging_weight)
    mine = replace(request, averaging_weight=weight, additive=False)
    drawn = request.task.training.clients_per_round is not None and len(session.cohort) > session.minimum
    same = () if drawn and client.state.remembers else _recollect(client, state, inbox)
    question, names = asked(kind, content, request), number_names(kind, request)
    return Opened(state, inbox, mine, question, names, client.state, same)


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
    layout = opened.state.session.layout
    try:
        reply = work()
        words = _encoded(opened, client, reply)
    except Exception as error:
        client.state, reply, words = opened.known, client.reply({}), nothing(layout)
        what, trace = opened.state.session.name, not isinstance(error, FedhaError)
        log(WARNING, "client %d has nothing to send in %s: %s", client.client_id, what, error, exc_info=trace)
    masked, sent = protocol.mask_input(opened.state, opened.inbox, words, opened.question, opened.companions)
    vector = torch.from_numpy(sent.words.view("<i8"))
    return masked, replace(party.hide(reply), tensors={MASKED: vector}, secure={"session": sent.session})


def _encoded(opened: Opened, client: Client, reply: Reply) -> Words:
    session = opened.state.session
    weight = session.weight(client.client_id)
    if opened.request.task.training.averaging == "examples":
        weight = float(reply.examples)  # secret: it travels in the sum
    tensors = {**reply.tensors, NUMBERS: to_vector(reply, opened.names)}
    return encode(session.layout, tensors, {**dict.fromkeys(reply.tensors, weight), NUMBERS: 1.0})


def proposes_evaluation(content: RecordDict) -> bool:
    """Whether a message asks for keys of an evaluation, which is of the model after its round."""
    parts = parts_of(content)
    return "sessions" in parts and any(
        unpack(Session, one).exchange == exchange_name("evaluate", ()) for one in listed(parts, "sessions")
    )


def store(party: Party, context: Context, opened: Opened, state: Masked, client: Client) -> None:
    """Put a client's new secrets in the place of the old ones, and lay by what it will remember of its answer."""
    secure_secrets.keep(party.turns, client.client_id, context, [state], answered=state.session.exchange)
    for name in (_STAGED, _STAGED_FOR):
        context.state.pop(name, None)
    after, before = client.state, opened.known
    moved = after.moved(before)
    if moved or after.released is not before.released:
        context.state[_STAGED] = pack_tensors(to_tensors(after))
        context.state[_STAGED_FOR] = ConfigRecord(
            {"session": state.session.digest, "question": opened.question, "moved": moved}
        )


def _remembered(context: Context, last: Confirmed, before: ClientState) -> ClientState:
    """What a client remembers when it has given its shares for a sum: what it laid by when it answered."""
    about, arrays = context.state.pop(_STAGED_FOR, None), context.state.pop(_STAGED, None)
    if not isinstance(about, ConfigRecord) or not isinstance(arrays, ArrayRecord):
        return before
    if about["session"] != last.session.digest:
        return before
    after = from_tensors(unpack_tensors(arrays))
    if not about["moved"]:
        return after
    past = Past(after.chain, after.since).after(bytes(about["question"]), last.survivors)  # type: ignore[arg-type]
    return replace(after, chain=past.chain, since=past.since)


def _recollect(client: Client, state: Shared, inbox: Inbox) -> tuple[int, ...]:
    """Who remembers what a client does; where they are too few to hide it, it forgets, and nobody does."""
    adverts = state.keys.by_client_id
    pasts = {other: adverts[other].past for other in inbox.dealers if other in adverts}
    own = Past(client.state.chain, client.state.since)
    same = companions(own, pasts) if pasts.get(client.client_id) == own else ()
    if client.state.remembers and state.session.hides(same):
        return same
    if client.state.remembers:
        log(
            WARNING,
            "client %d answers in %s without what it remembers of earlier rounds, which fewer than %d others remember",
            client.client_id,
            state.session.name,
            state.session.minimum - 1,
        )
    past = anew(state.session.round, pasts)
    client.state = replace(client.state.forgotten(), chain=past.chain, since=past.since)
    return ()


def _advertise(
    party: Party, client: Client, sessions: Sequence[Session], context: Context
) -> dict[str, bytes | list[bytes]]:
    client_id, (latest, *done) = client.client_id, secure_secrets.done(context)
    names = {*secure_secrets.kept(context), *(secure_secrets.name_of(session) for session in sessions)}
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
    past = Past(client.state.chain, client.state.since)
    both = [
        protocol.advertise(session, client_id, identity, party.roster(session.cohort), party.minimum, past)
        for session in sessions
    ]
    secure_secrets.begin(party.turns, client_id, context, round, [session.exchange for session in sessions])
    secure_secrets.keep(party.turns, client_id, context, [state for state, _ in both])
    return {"identity": identity.public, "adverts": [pack(advert) for _, advert in both]}


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
