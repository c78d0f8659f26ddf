"""What a client answers at all: a request is held to the run's guards and to the site's own limits before any work."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from torch import nn

from fedha.data.domain import Domain
from fedha.errors import FedhaError
from fedha.exchange import DIAGNOSING, Request, Task
from fedha.inputs import Form
from fedha.minibatches import rows_used, too_small
from fedha.models.check import check_batch_norm
from fedha.models.split import SplitModel, whole_head
from fedha.privacy import guards
from fedha.privacy.account import HOUR
from fedha.privacy.accounting import spent
from fedha.privacy.beyond import refuse_beyond_examples
from fedha.privacy.guards import HeadLimits, Rate, Refusal
from fedha.privacy.limits import Limits
from fedha.privacy.own_terms import refuse_mixed_terms
from fedha.privacy.releasable import private_exchanges
from fedha.privacy.requests import refuse_request
from fedha.privacy.shape import DELTA_SHARE, Releases, answer_releases, round_shape
from fedha.privacy.site import Site
from fedha.privacy.surrogate import check_head

_Tried = dict[tuple[Form, tuple[str, ...] | None, int], Refusal | None]
_tried: WeakKeyDictionary[SplitModel, _Tried] = WeakKeyDictionary()

EVALUATION, _UPDATE = "evaluation", "update"  # what the limits call held-out accuracy, and the book training


def refuse(site: Site, kind: str, request: Request, model: SplitModel, domain: Domain) -> Refusal | None:
    """The first thing that is wrong with a request, or None; then the site's book says what is about to be released.

    Args:
        site: The client's own rules.
        kind: The message type.
        request: What the server asks.
        model: This client's network.
        domain: Its data; only their number is looked at.

    Raises:
        FedhaError: The site's book cannot be read, or is of other data.
    """
    privacy = request.task.privacy
    limits = site.limits or Limits(min_examples=privacy.min_examples)
    form = domain.train.form
    found = refuse_request(request, model, form) or unfit(request.task, model, domain)
    found = found or _refuse_few(request, domain, site.limits)
    if found is None and (site.limits is not None or (privacy.protect == "examples" and privacy.guard_heads)):
        found = _refuse_head(request, model, limits)
    found = found or _refuse_foreign(kind, request) or _refuse_unsent(kind, request, limits)
    if found is None and site.limits is not None:
        with site.account.locked():  # what is decided here is entered before anybody else decides
            found = _refuse_more(site, limits, kind, request, domain)
    return found


def check_model(task: Task, model: SplitModel, form: Form | Sequence[int]) -> None:
    """Raise unless examples are treated alone and the head has what is released, where examples are protected.

    Args:
        task: The run's.
        model: This client's network.
        form: Of its inputs, or the shape of one.

    Raises:
        FedhaError: Names the layer, or the statistic.
    """
    if task.privacy.protect == "examples":
        refuse_beyond_examples(model, form)
        if (aligned := _of_the_head(task)) is not None:
            check_head(model)
            measured = (name for group in private_exchanges(task.recipe) for name in group)
            refuse_mixed_terms((*aligned, *measured), *whole_head(model, dict(model.named_parameters())).shape)


def _of_the_head(task: Task) -> tuple[str, ...] | None:
    """The statistics that are aligned, by name; None where a run asks nothing of the head."""
    recipe = task.recipe
    aligned = tuple(term.statistic for term in recipe.terms if term.weight > 0)
    return aligned if recipe.terms or recipe.weighting == "risk" else None


def unfit(task: Task, model: SplitModel, domain: Domain) -> Refusal | None:
    """Why a client takes no part in a run, whatever it is asked: held to when it introduces itself, and ever after.

    Args:
        task: The run's.
        model: This client's network.
        domain: Its data; only their number and form are looked at.
    """
    if problem := too_small(task, len(domain.train)):
        return Refusal("min_examples", f"domain {domain.client_name!r} cannot be trained on: {problem}")
    try:
        check_batch_norm(model, task.training, task.privacy)
    except FedhaError as error:
        return Refusal("network", str(error))
    return _refuse_network(task, model, domain.train.form)


def _refuse_network(task: Task, model: SplitModel, form: Form) -> Refusal | None:
    """Refuse a network that noise does not cover; it is tried once as it is."""
    if task.privacy.protect != "examples":
        return None
    known, state = _tried.setdefault(model, {}), (form, _of_the_head(task), structure(model))
    if state not in known:
        try:
            check_model(task, model, form)
            known[state] = None
        except FedhaError as error:
            known[state] = Refusal("network", str(error))
    return known[state]


def forget(model: SplitModel) -> None:
    """Have a network be tried anew, whose constants have changed."""
    _tried.pop(model, None)


def structure(model: nn.Module) -> int:
    """A digest of what a network does with examples, for this process: its layers, in which mode, with which hooks."""
    found, left = [], [model]
    while left:  # modules() takes three times as long
        one = left.pop()
        found.append((type(one), id(one), one.training, len(one._forward_hooks), len(one._forward_pre_hooks)))
        left.extend(child for child in one._modules.values() if child is not None)
    return hash(tuple(found))


def _refuse_few(request: Request, domain: Domain, limits: Limits | None) -> Refusal | None:
    """Refuse where a client has too few examples for the run, or an answer would be made of fewer than a site allows.

    What noise covers counts as made of all: a private batch may be empty.
    """
    examples, privacy = len(domain.train), request.task.privacy
    found = guards.refuse_batch(examples, privacy.min_examples)
    if found is not None or limits is None:
        return found
    some = request.kind in ("measure", "train") and privacy.protect != "examples"  # others are of all there are
    return guards.refuse_batch(rows_used(request, examples) if some else examples, limits.min_examples)


def _refuse_head(request: Request, model: SplitModel, limits: Limits) -> Refusal | None:
    if not isinstance(model.head, nn.Linear) or model.head.bias is None:
        return None
    head = whole_head(model, request.parameters)
    return guards.refuse_head(head, HeadLimits(limits.head.least_distance, limits.head.largest_norm))


def _refuse_foreign(kind: str, request: Request) -> Refusal | None:
    """Refuse what the run's own recipe does not need, where every release is counted."""
    privacy = request.task.privacy
    if privacy.protect != "examples":
        return None
    asked = ", ".join(sorted({*request.measure, *request.evaluate})) or "nothing"
    if kind == "query.measure" and request.measure not in private_exchanges(request.task.recipe):
        return Refusal("statistic", f"the server asked for {asked}, which is no exchange of the run's recipe")
    if kind == "train" and (request.measure or request.evaluate):
        return Refusal("statistic", f"the server asked for {asked} to ride along with the update, uncovered by noise")
    covered = privacy.evaluation_noise is not None and (request.measure, request.evaluate) == ((), ("held_out",))
    if kind == "evaluate" and not covered:
        return Refusal("statistic", f"the server asked to evaluate {asked}, which the run's privacy does not cover")
    return None


def _refuse_unsent(kind: str, request: Request, limits: Limits) -> Refusal | None:
    if limits.statistics is None:
        return None
    return guards.refuse_statistics(_asked(kind, request), limits.statistics)


def _asked(kind: str, request: Request) -> set[str]:
    """The statistics that are asked for, and whether an evaluation is: what an honest round asks for once."""
    if request.kind in DIAGNOSING:
        return {request.kind}
    if kind == "evaluate":
        return {EVALUATION}
    return {*request.measure, *([EVALUATION] if request.evaluate else [])}


def _refuse_more(site: Site, limits: Limits, kind: str, request: Request, domain: Domain) -> Refusal | None:
    """Rate and budget; what passes is entered in the book.

    The round's number is the server's word, so nothing is made of it: how often each thing was answered is counted.
    """
    now, book, asked = site.clock(), site.account, _asked(kind, request) | ({_UPDATE} if kind == "train" else set())
    if limits.rounds_per_hour is not None:
        rate = Rate(limits.rounds_per_hour, HOUR)
        for name in sorted(asked):
            answered = [moment for moment, what in book.answered if what == name]
            if found := guards.refuse_rate(answered, now, rate):
                return found
    part = "held_out" if kind == "evaluate" else "train"
    examples, protect = len(getattr(domain, part)), request.task.privacy.protect
    if limits.max_epsilon is not None and protect != "examples":
        return Refusal(
            "budget",
            f"this site has a budget of epsilon {limits.max_epsilon:g} and the run protects {protect}: without noise "
            "at the client there is no epsilon; set privacy.protect to examples",
        )
    if protect == "examples" and examples:
        if limits.max_epsilon is not None:
            after = book.ledger(part, examples).add(_ahead(kind, request, examples))
            delta = limits.delta or DELTA_SHARE / examples
            if found := guards.refuse_spending(spent(after, delta).epsilon, limits.max_epsilon):
                return found
        book.enter(part, examples, answer_releases(kind, request.task.training, request.task.privacy, examples))
    book.note_answered(asked, now)
    return None


def _ahead(kind: str, request: Request, examples: int) -> Releases:
    """What this request and the rest of its round would release: a round is not begun that cannot be ended."""
    task = request.task
    if kind == "query.measure" and not request.references:
        return round_shape(task.recipe, task.training, task.privacy, examples)
    return answer_releases(kind, task.training, task.privacy, examples)
