"""A whole secure sum in one process: every step of every client and of the server, in order."""

from collections.abc import Callable, Mapping
from typing import Any

from fedha.privacy.secure import client
from fedha.privacy.secure.identity import Identity, Roster
from fedha.privacy.secure.layout import Words
from fedha.privacy.secure.server import Aggregation
from fedha.privacy.secure.session import Session

STEPS = ("advertise", "share", "mask", "confirm", "reveal")

Call = Callable[
    ..., Any
]  # call(who, step, *arguments) takes a step of a client (its client id) or of the server (None)


def _plainly(who: int | None, step: Callable[..., Any], *arguments: Any) -> Any:
    return step(*arguments)


def run(
    session: Session,
    identities: Mapping[int, Identity],
    words: Mapping[int, Words],
    question: bytes = b"",
    silent: Mapping[int, str] | None = None,
    call: Call = _plainly,
) -> tuple[Words, tuple[int, ...]]:
    """Sum vectors securely.

    Args:
        session: What was agreed on.
        identities: By client id, of the whole cohort.
        words: By client id, encoded.
        question: What all were asked, as `question.question`; of no importance where one process asks and answers.
        silent: From which of `STEPS` on a client is not heard any more, by client id.
        call: Takes each step; to time it, or to look at what is said.

    Returns:
        The sum, for `encoding.decode`, and whose it is.

    Raises:
        FedhaError: A step was refused; here that ends the sum.
    """
    roster = Roster({client_id: one.public for client_id, one in identities.items()})
    server = Aggregation(session, roster)
    asks: Mapping[str, Callable[[int, Any, Any], tuple[Any, ...]]] = {
        "advertise": lambda client_id, *_: (
            client.advertise,
            session,
            client_id,
            identities[client_id],
            roster,
            session.minimum,
        ),
        "share": lambda _, state, keys: (client.share_keys, state, keys, roster),
        "mask": lambda client_id, state, inboxes: (
            client.mask_input,
            state,
            inboxes[client_id],
            words[client_id],
            question,
        ),
        "confirm": lambda client_id, state, survivors: (client.confirm, state, survivors, identities[client_id]),
        "reveal": lambda _, state, confirmations: (client.reveal, state, confirmations, roster),
    }
    ends = {
        "advertise": (server.add_advert, server.close_adverts),
        "share": (server.add_dealing, lambda: server.close_dealings(question)),
        "mask": (server.add_masked, server.close_masked),
        "confirm": (server.add_confirmation, server.close_confirmations),
        "reveal": (server.add_revealed, server.close_revealed),
    }
    states = dict[int, Any].fromkeys(session.cohort)
    heard: Any = None
    for name in STEPS:
        states = {client_id: state for client_id, state in states.items() if (silent or {}).get(client_id) != name}
        for client_id in states:
            answer = call(client_id, *asks[name](client_id, states[client_id], heard))
            states[client_id], said = answer if isinstance(answer, tuple) else (None, answer)
            call(None, ends[name][0], said)
        heard = call(None, ends[name][1])
    total, client_ids = heard
    return total, client_ids
