"""The global model is sent to a client once, where clients keep it: what they hold they are only told the name of.

With `federation.schedule` exact a round's exchanges, and the evaluation before them, are about one model. A client that
has kept it finds it by its digest; one that has not says so, and is sent the whole.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor

from fedha.devices import to_host

_KEY = "model"  # in a request's scalars: the digest of the model that it is about
_LACKING = "lacking"  # the record of a reply that asks for the whole


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
    """

    model: str = ""
    _by_node: dict[int, str] = field(default_factory=dict)

    def shorten(self, contents: Mapping[int, RecordDict]) -> dict[int, RecordDict]:
        """Requests with the model's name, and the model itself for those only who do not have it.

        Args:
            contents: By node; the same object where they are alike, which then holds for the result too.
        """
        if not self.model:
            return dict(contents)
        made: dict[tuple[int, bool], RecordDict] = {}
        for node, content in contents.items():
            key = (id(content), self._by_node.get(node) == self.model)
            if key not in made:
                made[key] = self._named(content, held=key[1])
        return {node: made[id(one), self._by_node.get(node) == self.model] for node, one in contents.items()}

    def answered(self, node: int, message: Message | None) -> None:
        """A node has answered this, so it holds the model that it is about."""
        if message is not None and (named := model_of(message.content)):
            self._by_node[node] = named

    def believed(self, node: int) -> bool:
        """Whether a node was sent the name alone."""
        return bool(self.model) and self._by_node.get(node) == self.model

    def forget(self, node: int) -> None:
        """A node does not hold what it was thought to."""
        self._by_node.pop(node, None)

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


def lacking() -> RecordDict:
    """A reply: the model that the request names is not here."""
    return RecordDict({_LACKING: ConfigRecord()})


def lacks(message: Message) -> bool:
    """Whether a reply asks for the whole model."""
    return not message.has_error() and _LACKING in message.content
