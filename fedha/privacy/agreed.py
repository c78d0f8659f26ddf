"""A request compared with the contract that a client holds: each of its fields is bound, or harmless for a reason."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fedha.exchange import DIAGNOSING, Request, Task, is_question
from fedha.metrics.asked import NOTHING, asked
from fedha.privacy.contract import Contract, task_terms
from fedha.rules import applied
from fedha.schema import shown

_NOTHING = object()
_TASKS = 8  # that are remembered
_CLASSES = 2**15  # more than any table of confusions has


@dataclass(frozen=True)
class Deviation:
    """What a server asks otherwise than was agreed.

    Attributes:
        key: As in a config, or a field of the request.
        asked: By the server.
        agreed: In the contract.
    """

    key: str
    asked: str
    agreed: str

    @property
    def sentence(self) -> str:
        """For both sides: settings are no data."""
        return (
            f"the server asks with {self.key} {self.asked}, and agreed was {self.agreed}; run what was agreed on, or "
            "have this client's people agree to the other"
        )


def deviation(contract: Contract, request: Request) -> Deviation | None:
    """The first thing that a server asks otherwise than was agreed; None where it asks what it may.

    Args:
        contract: The client's.
        request: The server's.
    """
    for field, check in BOUND.items():
        if (agreed := check(contract, request)) is not None:
            return agreed if isinstance(agreed, Deviation) else Deviation(field, shown(getattr(request, field)), agreed)
    return None


def task_deviation(contract: Contract, task: Task, digest: str) -> Deviation | None:
    """The same of what an introduction carries.

    Args:
        contract: The client's.
        task: What the server says that the run's is.
        digest: Of the contract that it says it has.
    """
    if (found := _task(contract, task)) is not None:
        return found
    if digest == contract.digest:
        return None
    other = "what does not travel with it (data, network, metrics, schedule) or the version of fedha is another"
    return Deviation("contract", shown(digest), f"{shown(contract.digest)}; {other}")


def compared(asked: Mapping[str, Any], agreed: Mapping[str, Any]) -> Deviation | None:
    """The first key of two settings that is not alike; keys as `contract.flat` gives them."""
    for key in [*agreed, *(one for one in asked if one not in agreed)]:
        one, other = asked.get(key, _NOTHING), agreed.get(key, _NOTHING)
        if one != other or isinstance(one, bool) is not isinstance(other, bool):  # NaN is no number's equal
            told = ["nothing" if value is _NOTHING else shown(value) for value in (one, other)]
            return Deviation(key, *told)
    return None


def _task(contract: Contract, task: Task) -> Deviation | None:
    """Compared once for each task: those of one text are one object, and never change."""
    known = contract.compared
    if (found := known.get(id(task))) is not None and found[0] is task:
        return found[1]  # type: ignore[no-any-return]
    result = compared(task_terms(task), task_terms(contract.task))
    if len(known) >= _TASKS:
        known.clear()
    known[id(task)] = task, result
    return result


def _round(contract: Contract, request: Request) -> str | None:
    return None if 1 <= request.round <= contract.rounds else f"1 to {contract.rounds}"


def _kind(contract: Contract, request: Request) -> str | None:
    """A diagnosis where the site allows it, and of one that volunteers for it nothing else."""
    if request.kind not in DIAGNOSING:
        return f"heads or directions: this site volunteers {contract.volunteer!r}" if contract.volunteer else None
    return "no diagnosis: the site's file has diagnose: 0" if contract.diagnose == 0 else None


def _measure(contract: Contract, request: Request) -> str | None:
    """Statistics as the recipe's exchanges have them; with an update those that ride along, where they do."""
    allowed: tuple[tuple[str, ...], ...] = ((),)
    if request.kind == "measure":
        allowed = contract.exchanges
    elif request.kind == "train" and contract.schedule == "piggyback":
        allowed = ((), contract.measured)
    return None if request.measure in allowed else _any_of(allowed)


def _evaluate(contract: Contract, request: Request) -> str | None:
    """Parts of the domain that are agreed on, one at least to evaluate; with an update what rides along with it."""
    agreed = contract.evaluate or ()
    if request.kind != "evaluate":
        rides = request.kind == "train" and contract.schedule == "piggyback"
        agreed = tuple(part for part in agreed if rides and part == "held_out")
    known = set(request.evaluate) <= set(agreed) and len(set(request.evaluate)) == len(request.evaluate)
    return None if known and (request.kind != "evaluate" or request.evaluate) else _any_of([agreed])


def _asked(contract: Contract, request: Request) -> str | None:
    """What is counted of the parts that are evaluated; how many classes there are, the client's data say."""
    if not request.asked:
        return None
    agreed = asked(contract.metrics, contract.groups, request.asked.classes) if request.evaluate else NOTHING
    known = request.asked == agreed and 0 <= request.asked.classes <= _CLASSES
    return None if known else f"{' '.join(contract.metrics) or 'none'}, groups {contract.groups or 'none'}"


def _references(contract: Contract, request: Request) -> Deviation | None:
    other = [name for name in request.references if name not in contract.measured]
    return Deviation("references", shown(other[0]), _any_of([contract.measured])) if other else None


def _sent(contract: Contract, request: Request) -> Deviation | None:
    """What the rules of the run send along, with an update alone; heads or directions where they are asked for."""
    if request.kind in DIAGNOSING:
        other = [name for name, one in request.sent.items() if not is_question(name, one)]
        return Deviation("sent", f"{shown(other[0])} of this shape", "some heads or directions") if other else None
    if not request.sent:
        return None
    known = _along(contract, request) if request.kind == "train" else {}
    other = [name for name, value in request.sent.items() if known.get(name) != value.shape]
    told = _any_of([tuple(sorted(known))])
    return Deviation("sent", f"{shown(other[0])} of this shape", told) if other else None


def _along(contract: Contract, request: Request) -> Mapping[str, torch.Size]:
    """Shapes of what the rules send along; found once for a network, for some make tensors as large as it is."""
    network = tuple((name, value.shape) for name, value in request.parameters.items())
    if network not in contract.along:
        rules = contract.task.rules
        made = applied.sent_along(rules, applied.begin(rules, request.parameters))
        contract.along.clear()
        contract.along[network] = {name: value.shape for name, value in made.items()}
    return contract.along[network]


def _weight(contract: Contract, request: Request) -> str | None:
    return None if 0 < request.averaging_weight <= 1 else "a weight over 0, up to 1"


def _constants(contract: Contract, request: Request) -> str | None:
    return None if contract.constants in ("", request.constants) else contract.constants


def _any_of(allowed: tuple[tuple[str, ...], ...] | list[tuple[str, ...]]) -> str:
    return " or ".join(" ".join(group) or "none" for group in allowed) or "none"


BOUND: Mapping[str, Callable[[Contract, Request], Deviation | str | None]] = {
    "task": lambda contract, request: task_deviation(contract, request.task, request.contract),
    "kind": _kind,
    "round": _round,
    "measure": _measure,
    "evaluate": _evaluate,
    "asked": _asked,
    "references": _references,
    "sent": _sent,
    "averaging_weight": _weight,
    "constants": _constants,
}

HARMLESS: Mapping[str, str] = {
    "contract": "it is compared with the task",
    "parameters": "names and shapes are held to the client's own network (fedha.models.check), sizes to what is proven "
    "(fedha.privacy.requests); their values are what a round is about",
    "running": "as parameters",
    "additive": "a client that answers for itself does not look at it",
}
