"""What a client says when it does not answer: its own user hears the sentence, the server only the kind.

An error's text can hold whatever the code had in its hands, and so can a traceback. Where answers are covered, neither
crosses the network.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, WARNING

from flwr.app import RecordDict
from flwr.supercore import log

from fedha.client import Client
from fedha.config import PrivacyConfig
from fedha.errors import FedhaError
from fedha.exchange import Request
from fedha.flower.wire import HELD_OUT, SEEDED, UNREACHED, unpack_task
from fedha.inputs import Form
from fedha.jsonfile import parse_json
from fedha.models.reach import unreached
from fedha.permitted import CodeError
from fedha.privacy import gate
from fedha.privacy.guards import Refusal
from fedha.privacy.requests import refuse_numbers
from fedha.privacy.site import Site, sensitive


def introduced(client: Client, content: RecordDict) -> dict[str, float]:
    """What a client says of its network, and of its noise to a run that asks for some, when it introduces itself.

    Raises:
        FedhaError: It has too few examples for the recipe, whose number is public; or a layer of its network mixes
            examples, which the run could not cover.
    """
    text = _task(content)
    if text is None:
        return {}
    task, form = unpack_task(text), client.domain.train.form
    if (refusal := gate.unfit(task, client.model, client.domain)) is not None:
        raise FedhaError(refusal.sentence)
    if task.privacy.protect != "examples":
        return _idle(client, form)  # nothing depends on it but a note, and the server's noise
    told = {SEEDED: float(client.site.randomness == "seeded"), HELD_OUT: float(len(client.domain.held_out))}
    return told | _idle(client, form)


def _idle(client: Client, form: Form) -> dict[str, float]:
    """The parameters that no loss can move, for the server to tell of and to leave without noise."""
    try:
        names = unreached(client.model, form)
    except Exception as error:  # a stranger's network may take nothing but its own data
        log(WARNING, "fedha: what of the network no loss can move is not known: inputs of ones give %r", error)
        names = ()
    return {f"{UNREACHED}{name}": 1.0 for name in names}


def admit(client: Client, kind: str, request: Request, *, tells_examples: bool = True) -> Refusal | None:
    """Refuse what an introduction refuses, and what the run's guards or the site's limits forbid; before any work.

    Args:
        client: Whose data it is.
        kind: The message type.
        request: What the server asks.
        tells_examples: Whether the number of its examples is public; else that they are too few is no error, which
            would tell of them, but returned.

    Raises:
        FedhaError: It is refused; names the kind, and where nothing is covered says why. The sentence is in the site's
            log.
    """
    if not client.site.protects(request.task.privacy):
        if (found := refuse_numbers(request)) is not None:
            raise FedhaError(f"it refuses to answer ({found.kind}): {found.sentence}")
        if (unfit := gate.unfit(request.task, client.model, client.domain)) is not None:
            raise FedhaError(unfit.sentence)
        return None
    with errors_by_kind(client.domain.client_name):
        refusal = gate.refuse(client.site, kind, request, client.model, client.domain)
    if refusal is None or (refusal.kind == "min_examples" and not tells_examples):
        return refusal
    log(WARNING, "fedha does not answer %s of round %d: %s", kind, request.round, refusal.sentence)
    raise FedhaError(f"it refuses to answer ({refusal.kind})")


@contextmanager
def errors_by_kind_if_protected(who: str, site: Site, content: RecordDict) -> Iterator[None]:
    """Raise what goes wrong inside by its kind alone, where the client's answers are covered.

    Args:
        who: What the site's log calls the client.
        site: The client's own rules.
        content: The message's, which says what the run covers.
    """
    with errors_by_kind(who, protected=_protected(site, content)):
        yield


@contextmanager
def errors_by_kind(who: str, *, protected: bool = True) -> Iterator[None]:
    """Raise what goes wrong inside by its kind alone; the site's log has all of it.

    Args:
        who: What the site's log calls the client.
        protected: Whether anything is kept from the server; else errors pass as they are.
    """
    try:
        yield
    except Exception as error:
        if not protected or isinstance(error, CodeError):  # which holds a setting, and nothing of the data
            raise
        log(ERROR, "fedha: %s could not answer", who, exc_info=error)
        kind = type(error).__name__
        raise FedhaError(f"it could not answer ({kind}); its own log says why") from None


def protects_examples(content: RecordDict) -> bool:
    """Whether a message's task covers single examples, so that nothing that leaves may depend on one."""
    text = _task(content)
    return text is not None and unpack_task(text).privacy.protect == "examples"


def is_protected(content: RecordDict) -> bool:
    """Whether a message's task keeps anything of the clients from the server; one that nobody can read does."""
    try:
        return sensitive(PrivacyConfig.model_validate(parse_json(_task(content) or "").get("privacy", {})))
    except (ValueError, AttributeError):
        return True


def _protected(site: Site, content: RecordDict) -> bool:
    """Whether a message's task, or the site, covers answers."""
    if _task(content) is None:
        return site.limits is not None or site.randomness == "cryptographic"
    return site.limits is not None or is_protected(content)


def _task(content: RecordDict) -> str | None:
    request = content.config_records.get("request")
    return str(request["task"]) if request is not None and "task" in request else None
