"""The global model is sent to a client once, where clients keep it: what they hold they are only told the name of.

With `federation.schedule` exact a round's exchanges, and the evaluation before them, are about one model. A client that
has kept it finds it by its digest; one that has not says so, and is sent the whole.

What of a model never moves (frozen parameters, buffers) is named in every request and not sent: clients make it
themselves, from the same function. One whose own is another, or that has lost it, says so, and is sent it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor

from fedha.devices import to_host
from fedha.flower.wire import CONSTANTS

_KEY = "model"  # in a request's scalars: the digest of the model that it is about
_LACKING, _WHAT = "lacking", "what"  # the record of a reply that asks for the whole, and what it asks for
_MODEL = "model"


def digest(parameters: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bytes, in order."""
    found = hashlib.sha256()
    for name, value in to_host(dict(parameters)).items():
        found.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        found.update(value.contiguous().view(-1).numpy().tobytes())
    return found.hexdigest()


@dataclass
class HeldModels:
    """What the server knows of it.

    Attributes:
        model: Digest of the model that is sent now; empty: clients keep nothing.
        constants: What of the model never moves; sent to those alone who ask for it.
    """

    model: str = ""
    constants: ArrayRecord = field(default_factory=ArrayRecord)
    _by_node: dict[int, str] = field(default_factory=dict)
    _asking: set[int] = field(default_factory=set)  # nodes that are sent the constants with their next request

    def shorten(self, contents: Mapping[int, RecordDict]) -> dict[int, RecordDict]:
        """Requests with the model's name, and the model itself for those only who do not have it.

        Args:
            contents: By node; the same object where they are alike, which then holds for the result too.
        """
        made: dict[tuple[int, bool, bool], RecordDict] = {}
        shortened: dict[int, RecordDict] = {}
        for node, content in contents.items():
            key = (id(content), self._by_node.get(node) == self.model, node in self._asking)
            if key not in made:
                named = self._named(content, held=key[1]) if self.model else content
                made[key] = RecordDict({**named, CONSTANTS: self.constants}) if key[2] else named
            shortened[node] = made[key]
        return shortened

    def answered(self, node: int, message: Message | None) -> None:
        """A node has answered this, so it holds the model that it is about."""
        self._asking.discard(node)
        if message is not None and (named := model_of(message.content)):
            self._by_node[node] = named

    def believed(self, node: int, message: Message) -> bool:
        """Whether what a reply asks for had not been sent to its node."""
        if _asks_for(message, CONSTANTS):
            return bool(self.constants) and node not in self._asking
        return bool(self.model) and self._by_node.get(node) == self.model

    def forget(self, node: int, message: Message) -> bool:
        """A node does not hold what it was thought to: what its reply asks for. Returns whether that never moves."""
        constants = _asks_for(message, CONSTANTS)
        if constants:
            self._asking.add(node)
        else:
            self._by_node.pop(node, None)
        return constants

    def _named(self, content: RecordDict, *, held: bool) -> RecordDict:
        records = dict(content.items())
        request = records.get("request")
        if "parameters" not in records or not isinstance(request, ConfigRecord):
            return content
        records["request"] = ConfigRecord({**request, _KEY: self.model})
        if held:
            records["parameters"] = ArrayRecord()
        return RecordDict(records)


def model_of(content: RecordDict) -> str:
    """The digest of the model that a request is about; empty where none is named."""
    request = content.get("request")
    return str(request.get(_KEY, "")) if isinstance(request, ConfigRecord) else ""


def with_model(content: RecordDict, parameters: ArrayRecord) -> RecordDict:
    """A request with the model itself."""
    return RecordDict({**content, "parameters": parameters})


def lacking(what: str = _MODEL) -> RecordDict:
    """A reply: the model that the request names, or what of it never moves (`CONSTANTS`), is not here."""
    return RecordDict({_LACKING: ConfigRecord({_WHAT: what})})


def lacks(message: Message) -> bool:
    """Whether a reply asks for the whole model."""
    return not message.has_error() and _LACKING in message.content


def _asks_for(message: Message, what: str) -> bool:
    record = message.content[_LACKING]
    return isinstance(record, ConfigRecord) and record.get(_WHAT) == what
