"""What a client has answered under a contract, and refused: rounds go on, and what is asked again is counted."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fedha.errors import FedhaError, brief
from fedha.exchange import DIAGNOSING, Request
from fedha.jsonfile import parse_json
from fedha.privacy.agreed import Deviation
from fedha.privacy.contract import Contract


@dataclass(frozen=True)
class Book:
    """Counts; no number of the data is among them.

    Attributes:
        contract: Digest of the one that it is of.
        latest: The latest round that each exchange was answered in.
        again: How often each was answered in a round that it had been answered in, or before one.
        refused: How often a key deviated.
        asked: How many heads, and how many directions, diagnoses were answered.
        constants: What the first request called what of the network never moves; None before it.
    """

    contract: str
    latest: Mapping[str, int] = field(default_factory=dict)
    again: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    constants: str | None = None
    asked: Mapping[str, int] = field(default_factory=dict)

    def deviation(self, contract: Contract, request: Request) -> Deviation | None:
        """What a request asks otherwise than those before it, or once too often."""
        if self.constants not in (None, request.constants):
            return Deviation("constants", f"{request.constants!r}", f"{self.constants!r}, as in the first request")
        if request.kind in DIAGNOSING:
            return self._too_many(contract, request)
        name = exchange(request)
        spent, most = self.again.get(name, 0), contract.repeats
        if most is None or request.round > self.latest.get(name, 0) or spent < most:
            return None
        return Deviation(
            "round",
            f"{request.round} once more ({name})",
            f"{most} answers again in all, which were given; the latest round was {self.latest[name]}",
        )

    def answering(self, request: Request) -> "Book":
        """With a request that is about to be answered."""
        if request.kind in DIAGNOSING:
            return replace(
                self, asked={**self.asked, request.kind: self.asked.get(request.kind, 0) + asked_for(request)}
            )
        name = exchange(request)
        before = self.latest.get(name, 0)
        if request.round > before:
            return replace(self, latest={**self.latest, name: request.round}, constants=request.constants)
        return replace(self, again={**self.again, name: self.again.get(name, 0) + 1})

    def _too_many(self, contract: Contract, request: Request) -> Deviation | None:
        spent, most, wanted = sum(self.asked.values()), contract.diagnose, asked_for(request)
        if most is None or spent + wanted <= most:
            return None
        told = f"{most} heads and directions in all, of which {spent} were answered"
        return Deviation("diagnose", f"{wanted} more", told)

    def refusing(self, found: Deviation) -> "Book":
        """With one that was not."""
        return replace(self, refused={**self.refused, found.key: self.refused.get(found.key, 0) + 1})


def exchange(request: Request) -> str:
    """What is asked for once a round."""
    return " ".join(("measure", *request.measure)) if request.kind == "measure" else request.kind


def asked_for(request: Request) -> int:
    """How many heads or directions a request of a diagnosis holds; what else it asks for counts as one."""
    return sum(max(1, len(one)) for one in request.sent.values())


def to_text(book: Book) -> str:
    """A book as one line of JSON."""
    return json.dumps(book.__dict__)


@functools.lru_cache(maxsize=64)
def from_text(text: str) -> Book:
    """Read what `to_text` wrote.

    Raises:
        FedhaError: It is something else.
    """
    try:
        content = parse_json(text)
        counts = {
            name: {str(key): int(value) for key, value in content[name].items()}
            for name in ("latest", "again", "refused", "asked")
            if name != "asked" or name in content  # an earlier version knew no diagnosis
        }
        constants = content["constants"]
        return Book(str(content["contract"]), **counts, constants=None if constants is None else str(constants))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FedhaError(
            f"what this client answered before cannot be read ({brief(error)}); restore it: without it nobody knows "
            "how often it may answer again"
        ) from error
