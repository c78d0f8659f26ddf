"""A client's secrets between the messages of its secure sums: in the state of the node's Flower context, by session.

Each step of a sum takes the secrets that the step before left, once; whose turn it is among a client's tasks is looked
at whenever they are changed (`fedha.flower.secure_turns`).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from flwr.app import ConfigRecord, Context

from fedha.errors import FedhaError
from fedha.flower.secure_turns import Turns
from fedha.privacy.secure.packing import pack, unpack
from fedha.privacy.secure.session import Session
from fedha.privacy.secure.states import Advertised, Confirmed, Masked, Shared

_SECRETS, _DONE, _TURN = "fedha-secrets", "done", "turn"

State = TypeVar("State", Advertised, Shared, Masked, Confirmed)


def kept(context: Context) -> ConfigRecord:
    """All that there is, by `name_of`."""
    record = context.state.get(_SECRETS)
    return record if isinstance(record, ConfigRecord) else ConfigRecord()


def done(context: Context) -> list[str]:
    """The latest round that keys were given for, and those of its exchanges that shares were given for."""
    known = kept(context).get(_DONE)
    return [str(one) for one in known] if isinstance(known, list) else ["0"]


def name_of(session: Session) -> str:
    """What a session's secrets are kept by."""
    return f"{session.round}/{session.exchange}/{session.digest.hex()}"


def begin(turns: Path | None, client_id: int, context: Context, round: int, exchanges: Sequence[str]) -> None:
    """Begin with a round's sums: of earlier rounds nothing is kept.

    Args:
        turns: The folder in which the client's tasks see whose turn it is; None: one process has all its state.
        client_id: The client's.
        context: The node's.
        round: The round.
        exchanges: Those whose keys are given.
    """
    here = {name: value for name, value in kept(context).items() if name.startswith(f"{round}/")}
    latest, *given = done(context)
    turn = Turns(turns, context.run_id, client_id).begin(round, list(exchanges))
    record = {**here, _DONE: [str(round), *(given if round == int(latest) else [])], _TURN: turn}
    context.state[_SECRETS] = ConfigRecord(record)


def recall(context: Context, kind: type[State], session: bytes) -> State:
    """The client's secrets of a session, if it is at the step that they are of.

    Raises:
        FedhaError: It is not.
    """
    for name, value in kept(context).items():
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


def keep(
    turns: Path | None,
    client_id: int,
    context: Context,
    states: Iterable[Advertised | Shared | Masked | Confirmed],
    answered: str = "",
) -> None:
    """Put secrets in the place of those that the step before left; the arguments are those of `begin`.

    Args:
        states: The new ones.
        answered: The exchange that is answered with them, if one is.
    """
    secrets = _taken(turns, client_id, context, answered)
    for state in states:
        secrets[name_of(state.session)] = pack(state)
    context.state[_SECRETS] = ConfigRecord(secrets)


def forget(turns: Path | None, client_id: int, context: Context, session: Session) -> None:
    """Forget those of a sum that shares were given for."""
    secrets = _taken(turns, client_id, context)
    del secrets[name_of(session)]
    secrets[_DONE] = [*done(context), session.exchange]
    context.state[_SECRETS] = ConfigRecord(secrets)


def _taken(turns: Path | None, client_id: int, context: Context, answered: str = "") -> dict[str, Any]:
    """A client's secrets, to be changed by this task, whose turn it is."""
    secrets = dict(kept(context))
    secrets[_TURN] = Turns(turns, context.run_id, client_id).take(str(secrets.get(_TURN, "")), answered)
    return secrets
