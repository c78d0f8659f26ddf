"""What went wrong at a client, as fields of its reply; and what the error replies of Flower itself mean."""

import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from logging import ERROR

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore import log

from fedha.errors import ClientError, FedhaError
from fedha.exhausted import out_of_memory

_RECORD = "failure"
_MENDABLE = "FedhaError"  # the kind of what a user can mend
_MEANINGS = {
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION: "its ClientApp could not be loaded; look at the client's log",
    ErrorCode.MESSAGE_UNAVAILABLE: "it did not take the message in time",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "its reply was lost",
    ErrorCode.NODE_UNAVAILABLE: "it is not connected",
    ErrorCode.CLIENT_APP_CRASHED: "its process ended before it answered; if that was for memory, give it more",
}


@dataclass(frozen=True)
class Failure:
    """Why a client does not answer.

    Attributes:
        kind: The name of the error's class; FedhaError for what a user can mend.
        sentence: What the error says, in one line.
        trace: The client's own traceback, or "".
        client_id: The client's in client order, where it says so.
    """

    kind: str
    sentence: str
    trace: str = ""
    client_id: int | None = None

    def error(self, what: str) -> FedhaError | ClientError:
        """The error that it stands for.

        Args:
            what: Whose it is, and when, such as ``client 1 (domain 'b') failed to train in round 2``.

        Returns:
            A FedhaError where the user can mend it; else a ClientError with the traceback.
        """
        if self.kind == _MENDABLE:
            return FedhaError(f"{what}: {self.sentence}")
        kind = f"{self.kind}: " if self.kind else ""
        return ClientError(f"{what}: {kind}{self.sentence}".rstrip(), self.trace)


def failure_of(error: BaseException, client_id: int | None = None) -> Failure:
    """What an error at a client says; its traceback only where nobody expected it."""
    if isinstance(error, FedhaError):
        return Failure(_MENDABLE, str(error), "", client_id)
    if exhausted := out_of_memory(error):
        return Failure(_MENDABLE, exhausted, "", client_id)
    trace = "".join(traceback.format_exception(error)).strip()
    return Failure(type(error).__name__, " ".join(str(error).split()), trace, client_id)


def pack_failure(failure: Failure) -> RecordDict:
    """A failure as the content of a reply."""
    record = ConfigRecord({"kind": failure.kind, "sentence": failure.sentence, "trace": failure.trace})
    if failure.client_id is not None:
        record["place"] = failure.client_id
    return RecordDict({_RECORD: record})


def find_failure(reply: Message) -> Failure | None:
    """What a reply says went wrong, if it does not answer."""
    if reply.has_error():
        return _flowers_own(reply.error)
    record = reply.content.get(_RECORD)
    if not isinstance(record, ConfigRecord):
        return None
    client_id = record.get("place")
    limits = {"kind": 200, "sentence": 2000, "trace": 50_000}  # characters: they go into logs and files
    kind, sentence, trace = (str(record.get(name, ""))[:most] for name, most in limits.items())
    return Failure(kind, sentence, trace, client_id if isinstance(client_id, int) else None)


def telling(
    answer: Callable[[Message, Context], Message],
    protected: Callable[[Message], bool],
    *,
    logs: bool = True,
    traces: bool = True,
) -> Callable[[Message, Context], Message]:
    """A ClientApp's handler that answers what goes wrong in it, with kind and sentence as fields of the reply.

    Args:
        answer: The handler.
        protected: Whether an error that nobody expected is told by its kind alone, for it can hold what its code held.
        logs: Whether the client's own log is told too.
        traces: Whether a traceback may leave: it names the client's files.
    """

    def told(message: Message, context: Context) -> Message:
        try:
            return answer(message, context)
        except Exception as error:
            found, kind = failure_of(error, _client_id(context)), message.metadata.message_type
            if logs:
                log(
                    ERROR, "fedha does not answer %s: %s", kind, found.sentence, exc_info=error if found.trace else None
                )
            if found.trace and protected(message):
                found = Failure(found.kind, "it could not answer; its own log says why", "", found.client_id)
            return Message(pack_failure(found if traces else replace(found, trace="")), reply_to=message)

    return told


def _client_id(context: Context) -> int | None:
    given = str(context.node_config.get("partition-id", ""))
    return int(given) if given.isdecimal() else None


def _flowers_own(error: Error) -> Failure:
    """What Flower says in a client's stead: a sentence, or ``<class 'KIND'>:<'MESSAGE'>`` around what its code raised.

    In a simulation the message may be Ray's trace, whose first cause ends with the client's own error. A client of
    fedha raises nothing, so this is a process that died, somebody else's ClientApp, or fedha 0.1.
    """
    text = re.sub(r"\x1b\[[\d;]*m", "", error.reason or "").strip()
    wrapped = re.fullmatch(r"<class '([^']*)'>:<'(.*)'>", text, re.DOTALL)
    kind, said = (wrapped[1], wrapped[2].strip()) if wrapped else ("", text)
    cause, chained, _ = said.partition("\n\nThe above exception was the direct cause")
    lines, traced = cause.splitlines() or [""], bool(chained) or not wrapped
    line = lines[-1 if traced else 0].strip()
    if traced and (named := re.fullmatch(r"((?:\w+\.)*\w+): (.*)", line)):
        kind, line = named.groups()
    meaning = "" if text else _MEANINGS.get(error.code, "no reason given")
    return Failure(kind.rpartition(".")[2], line or meaning, text if "\n" in text else "")
