"""The words that clients and server share for secure sums: kinds of messages, names of sums, digests of questions."""

import hashlib
import json
from collections.abc import Mapping

from flwr.app import ConfigRecord, RecordDict

from fedha.config import Config, to_json
from fedha.errors import FedhaError
from fedha.exchange import Request
from fedha.metrics.asked import packed
from fedha.privacy.secure.numbers import evaluated_numbers, measured_numbers, trained_numbers
from fedha.privacy.secure.question import question

ADVERTISE, SHARE, CONFIRM, REVEAL = "query.advertise", "query.share", "query.confirm", "query.reveal"
STEPS = (ADVERTISE, SHARE, CONFIRM, REVEAL)  # the third, masking, is the answer to a question as it always was
RECORD = "secure"  # of a message: what belongs to the protocol
MASKED = "masked"  # the one tensor of a masked answer

Parts = Mapping[str, bytes | list[bytes]]


def settings_mark(config: Config) -> str:
    """Digest of a run's whole config, which ends the name of the run in its sums."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()


def exchange_name(kind: str, measure: tuple[str, ...]) -> str:
    """What a round's sum is called: its statistics, the update, or the evaluation.

    Args:
        kind: The message type.
        measure: The statistics that are asked for.
    """
    if kind == "query.measure":
        return " ".join(("mean of", *measure))
    return {"train": "update", "evaluate": "evaluation"}[kind]


def number_names(kind: str, request: Request) -> tuple[str, ...]:
    """The numbers that are summed with the answers to a request."""
    if kind == "train":
        return trained_numbers(request.task.recipe, request.evaluate, request.asked)
    return evaluated_numbers(request.evaluate, request.asked) if kind == "evaluate" else measured_numbers()


def asked(kind: str, content: RecordDict, request: Request) -> bytes:
    """Digest of all that decides a client's answer; its own share is made of the session's weights and what is here.

    Args:
        kind: The message type.
        content: The message's.
        request: What it says.
    """
    tensors = {f"parameters/{name}": value for name, value in request.parameters.items()}
    tensors |= {f"references/{name}": value for name, value in request.references.items()}
    tensors |= {f"running/{name}": value for name, value in request.running.items()}
    tensors |= {f"rule/{name}": value for name, value in request.sent.items()}
    scalars = content["request"]
    task = str(scalars["task"]) if isinstance(scalars, ConfigRecord) else ""
    about = json.dumps(
        [kind, request.round, request.measure, request.averaging_weight, request.evaluate, request.constants]
        + ([packed(request.asked)] if request.asked else [])
    )
    return question(tensors, task, about)


def parts_of(content: RecordDict) -> Parts:
    """What a message carries for the protocol; nothing where it is none of a secure sum."""
    record = content.get(RECORD)
    return record if isinstance(record, ConfigRecord) else {}  # type: ignore[return-value]


def listed(parts: Parts, name: str) -> list[bytes]:
    """The parts of this name, one for each sum.

    Raises:
        FedhaError: There are none, or they are something else.
    """
    found = parts.get(name)
    if not isinstance(found, list) or not all(isinstance(one, bytes) for one in found):
        raise FedhaError(f"a message of a secure sum lacks its {name}; do server and clients run the same version?")
    return found


def single(parts: Parts, name: str) -> bytes:
    """The part of this name.

    Raises:
        FedhaError: There is none, or it is something else.
    """
    found = parts.get(name)
    if not isinstance(found, bytes):
        raise FedhaError(f"a message of a secure sum lacks its {name}; do server and clients run the same version?")
    return found
