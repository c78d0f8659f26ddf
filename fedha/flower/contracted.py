"""A client's contract at work: messages are held to it before the client's data are read, and all are counted.

What was answered and refused lies in the state of the node's Flower context; it stays there whatever becomes of the
answer, so that what was asked for counts as asked. Flower forgets a context with its run, and hands each task a copy:
where a client has a folder for it, what it has answered is read from there, and written there before an answer leaves.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from logging import WARNING
from pathlib import Path

from filelock import FileLock
from flwr.app import ConfigRecord, Context, RecordDict
from flwr.supercore import log

from fedha.atomic import write_text
from fedha.errors import FedhaError
from fedha.exchange import Request
from fedha.flower.guarded import errors_by_kind, is_protected
from fedha.flower.wire import CONTRACT, unpack_request, unpack_task
from fedha.privacy import agreed
from fedha.privacy.agreed import Deviation
from fedha.privacy.book import Book, from_text, to_text
from fedha.privacy.contract import Contract
from fedha.privacy.site import sensitive

RECORD, _TEXT = "fedha-contract", "book"


def hold_introduction(contract: Contract, content: RecordDict, context: Context) -> None:
    """Refuse to be introduced to a run that was not agreed on.

    Raises:
        FedhaError: Names the key, what was asked and what was agreed.
    """
    scalars = content.config_records.get("request", ConfigRecord())
    with _reading(contract, content, context):
        task = unpack_task(str(scalars["task"]))
    _refuse_if(
        contract, "query.introduce", agreed.task_deviation(contract, task, str(scalars.get(CONTRACT, ""))), context
    )


def held(contract: Contract, kind: str, content: RecordDict, context: Context, device: str) -> Request:
    """A message's request, if it is one that was agreed on.

    Args:
        contract: The client's.
        kind: The message type.
        content: The message's.
        context: Has the book.
        device: Where its tensors are wanted.

    Raises:
        FedhaError: As `hold_introduction`; or it cannot be read.
    """
    with _reading(contract, content, context):
        request = unpack_request(content, kind, device)
    found = agreed.deviation(contract, request)
    if found is None and contract.counts:
        found = book_of(contract, context).deviation(contract, request)
    _refuse_if(contract, kind, found, context)
    return request


def note(contract: Contract, request: Request, context: Context) -> None:
    """Enter a request that is about to be answered."""
    if contract.counts:
        _write(book_of(contract, context).answering(request), context)


def book_of(contract: Contract, context: Context) -> Book:
    """What a node has answered under this contract.

    Raises:
        FedhaError: The record is damaged.
    """
    record = context.state.get(RECORD)
    if not isinstance(record, ConfigRecord):
        return Book(contract.digest)
    known = from_text(str(record[_TEXT]))
    return known if known.contract == contract.digest else Book(contract.digest)


@contextmanager
def kept_book(folder: Path, contract: Contract | None, client_id: int, state: RecordDict) -> Iterator[None]:
    """Within it, what a client has answered under a contract is in a node's context; afterwards on its disk again.

    One task at a time: the others wait.

    Args:
        folder: Where such books are.
        contract: The one; None: nothing is kept.
        client_id: The client's.
        state: Of the node's context.

    Raises:
        FedhaError: The folder cannot be written.
    """
    if contract is None:
        yield
        return
    path = folder / f"{contract.digest}-{client_id}.json"  # whole: two proposals can be made to begin alike
    lock = FileLock(path.with_suffix(".lock"), mode=0o600)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise FedhaError(
            f"cannot keep {path}, in which this client counts what it answered: {error.strerror}; make its folder "
            "writable"
        ) from error
    try:
        _carry_on(path, contract)
        state.pop(RECORD, None)
        if path.exists():
            state[RECORD] = ConfigRecord({"book": path.read_text(encoding="utf-8")})
        before = state.get(RECORD)
        try:
            yield
        finally:
            if isinstance(after := state.get(RECORD), ConfigRecord) and after is not before:
                write_text(path, str(after["book"]), mode=0o600)
    finally:
        lock.release()


def _refuse_if(contract: Contract, kind: str, found: Deviation | None, context: Context) -> None:
    if found is None:
        return
    book = book_of(contract, context).refusing(found)
    _write(book, context)
    log(
        WARNING,
        "fedha does not answer %s, for the %s. time that it asks so: %s",
        kind,
        book.refused[found.key],
        found.sentence,
    )
    raise FedhaError(f"it refuses to answer (contract): {found.sentence}")


def _reading(contract: Contract, content: RecordDict, context: Context) -> AbstractContextManager[None]:
    protected = sensitive(contract.task.privacy) or is_protected(content)
    return errors_by_kind(f"the node {context.node_id}", protected=protected)


def _write(book: Book, context: Context) -> None:
    context.state[RECORD] = ConfigRecord({_TEXT: to_text(book)})


def _carry_on(path: Path, contract: Contract) -> None:
    """Give a book of before, which was named by a part of the digest, its name."""
    before = path.with_name(path.name.replace(contract.digest, contract.digest[:16]))
    if (
        not path.exists()
        and before.exists()
        and from_text(before.read_text(encoding="utf-8")).contract == contract.digest
    ):
        before.rename(path)
