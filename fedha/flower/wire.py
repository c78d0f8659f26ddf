"""Requests and replies as Flower records: arrays stay arrays, everything else is a handful of scalars."""

import functools
import io
import json
import math
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, TypeVar, get_args

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedha.config import PrivacyConfig, TrainingConfig
from fedha.devices import to_device, to_host
from fedha.errors import FedhaError, brief
from fedha.exchange import Kind, Reply, Request, Task
from fedha.flower.tensor_array import TensorArray, array_record, as_tensor, filled
from fedha.inputs import nested, several
from fedha.jsonfile import parse_json
from fedha.metrics.asked import NOTHING, packed, unpacked
from fedha.models.state import CONSTANT, FROZEN, digests
from fedha.numerics import aligned
from fedha.recipes import Recipe, Term
from fedha.rules.table import check_allowed
from fedha.schema import shown

_R = TypeVar("_R", ArrayRecord, MetricRecord, ConfigRecord)
_OWN, _WEIGHED = "tensors", "sum"  # the names of the record of a reply's tensors
_LONGEST = 300  # characters of what the other side calls itself, or fails with
_SHAPE, _BY_NAME, _BY_PLACE, _SECURE = "input_shape", "/", "#", "secure"
_SENT = "rule"  # the record of what the run's rules send along
_SHAPES, _DIGESTS = "parameters", "digests"  # of an introduction's request
_KINDS, _OTHER = "kinds", "other"  # of an introduction's reply
_LENT = "lent"  # of an introduction: unseen domains that it asks for
CONTRACT = "contract"  # of a request and of an introduction: the digest of what was agreed on
_ASKED, _SUMS = "asked", "sums"  # what is counted where clients evaluate; the record of a reply that has it
_RUNNING, CONSTANTS = "running", "constants"  # records of a request; the latter also the scalar that names it
# Of an introduction: 1 where the client's noise can be repeated, else 0; and how many held-out examples there are.
SEEDED, HELD_OUT = "seeded", "held_out_examples"
LENDS = "lends"  # of an introduction: the client is no source, its domain is lent to diagnoses
UNREACHED = "unreached/"  # before the name of a parameter that no loss can move


def pack_tensors(tensors: Mapping[str, Tensor], *, in_place: bool = False) -> ArrayRecord:
    """Tensors by name as an ArrayRecord, order kept; those on the CPU are shared with it, so do not change them.

    Args:
        tensors: On any device.
        in_place: Whether they stay on their device, for readers in this process.
    """
    return array_record(pack_arrays(tensors, in_place=in_place))


def pack_arrays(tensors: Mapping[str, Tensor], *, in_place: bool = False) -> dict[str, Array]:
    """Tensors by name as arrays, as in `pack_tensors`."""
    kept = {name: value.detach() for name, value in tensors.items()} if in_place else to_host(tensors)
    return {name: TensorArray(value) for name, value in kept.items()}


def unpack_tensors(record: ArrayRecord, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The tensors of an ArrayRecord by name, not to be changed in place. Nothing is unpickled."""
    return to_device({name: aligned(_tensor(array)) for name, array in record.items()}, torch.device(device))


def _tensor(array: Array) -> Tensor:
    """One array's tensor, without parsing the NPY header where it is the one that numpy writes for plain data."""
    if isinstance(array, TensorArray):
        return array.tensor
    kind, shape = np.dtype(array.dtype), tuple(array.shape)
    data, start = array.data, 10 + int.from_bytes(array.data[8:10], "little")
    plain = data[:8] == b"\x93NUMPY\x01\x00" and b"'fortran_order': False" in data[10:start]
    if array.stype != "numpy.ndarray" or kind.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"an array says that it is {array.stype}, {kind}, of shape {shape}")
    if len(data) > start + kind.itemsize * math.prod(shape) or len(data) < kind.itemsize * math.prod(shape):
        raise ValueError(f"an array of {len(data)} bytes says that it is {kind} of shape {shape}")
    if not plain or f"'descr': {kind.str!r}".encode() not in data[10:start]:  # as somebody else writes it
        return torch.from_numpy(_as_told(array.data, kind, shape))
    values = np.frombuffer(data, dtype=kind, offset=start).reshape(shape)
    return as_tensor(values).clone()


def _as_told(data: bytes, kind: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """An NPY file's array, if its header says what its message says: numpy makes room for what a header says."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        told, fortran, found = header(file)
    except (SyntaxError, tokenize.TokenError) as error:  # numpy reads the header as Python's literals
        raise ValueError(f"an array's header cannot be read: {brief(error)}") from error
    if told != shape or found != kind:
        raise ValueError(f"an array says that it is {kind} of shape {shape}, and its header {found} of shape {told}")
    values = np.frombuffer(data, dtype=kind, offset=file.tell())
    return values.reshape(shape, order="F" if fortran else "C").copy()


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turn what a message that is not as we write it fails with into a sentence."""
    try:
        yield
    except FedhaError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, EOFError, RuntimeError) as error:
        said = " ".join(str(error).split())[:_LONGEST]
        raise FedhaError(f"{what} cannot be read ({type(error).__name__}: {said}); is it of another fedha?") from error


class _LastParameters:
    """The global model as last unpacked: a round's exchanges, and a process' clients, all get the same arrays."""

    arrays: tuple[Array, ...] = ()
    device: str = ""
    tensors: Mapping[str, Tensor] = MappingProxyType({})


def _parameters(record: ArrayRecord, device: torch.device | str) -> Mapping[str, Tensor]:
    arrays = tuple(record.values())
    same = len(arrays) == len(_LastParameters.arrays) and str(device) == _LastParameters.device
    if not same or any(one is not other for one, other in zip(arrays, _LastParameters.arrays, strict=True)):
        tensors = MappingProxyType(unpack_tensors(record, device))
        _LastParameters.arrays, _LastParameters.device, _LastParameters.tensors = arrays, str(device), tensors
    return _LastParameters.tensors


def pack_task(task: Task) -> str:
    """A task as one line of JSON: small enough to travel with every request, so no side can have another one."""
    training = task.training.model_dump(mode="json", exclude={"stop"})  # the server's affair
    content = {"recipe": asdict(task.recipe), "training": training, "seed": task.seed}
    if privacy := task.privacy.model_dump(mode="json", exclude_defaults=True):
        content["privacy"] = privacy
    return json.dumps(content)


@functools.lru_cache(maxsize=8)
def unpack_task(text: str) -> Task:
    """Read what `pack_task` wrote.

    Raises:
        FedhaError: It names a rule that this process was not told of, or cannot use.
    """
    content = parse_json(text)
    terms = tuple(Term(**term) for term in content["recipe"].pop("terms"))
    recipe = Recipe(terms=terms, **content["recipe"])
    training, privacy = TrainingConfig.model_validate(content["training"]), content.get("privacy", {})
    for rule in (training.optimizer, training.weight_averaging):
        check_allowed(rule)  # before it would be imported
    seed = content["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool):  # 0.0 is 0 to who compares, and another run to who draws
        raise FedhaError(f"the seed is {shown(seed)}, which is no whole number; look at the server")
    return Task(recipe, training, seed, PrivacyConfig.model_validate(privacy))


def pack_introduction(
    task: str, state: Mapping[str, Tensor], kinds: Mapping[str, str], contract: str = "", lent: Sequence[str] = ()
) -> RecordDict:
    """What a client is told before its first round.

    Args:
        task: The task, packed.
        state: The global model's, if that is known.
        kinds: What becomes of its parts, if that is known.
        contract: Digest of what was agreed on.
        lent: Unseen domains that a diagnosis asks for, by name: those who lend them have a part in it.
    """
    scalars = ConfigRecord({"task": task, **({CONTRACT: contract} if contract else {})})
    if lent:
        scalars[_LENT] = list(lent)
    if state:
        scalars[_SHAPES] = json.dumps({name: list(value.shape) for name, value in state.items()})
        still = {name: value for name, value in state.items() if kinds.get(name, FROZEN) in CONSTANT}
        scalars[_DIGESTS] = json.dumps(digests(still))
    return RecordDict({"request": scalars})


def announced_lent(content: RecordDict) -> tuple[str, ...]:
    """The unseen domains that an introduction asks for; () in a run."""
    return _names(_record(content, "request", ConfigRecord), _LENT)


def announced_shapes(content: RecordDict) -> dict[str, tuple[int, ...]]:
    """The shapes, by name, of the state that an introduction tells of; empty where it does not.

    Raises:
        FedhaError: They cannot be read.
    """
    with _reading("an introduction"):
        told = parse_json(str(_record(content, "request", ConfigRecord).get(_SHAPES, "{}")))
        return {str(name): tuple(int(length) for length in shape) for name, shape in told.items()}


def announced_digests(content: RecordDict) -> dict[str, str]:
    """The digests of the same; as `announced_shapes`."""
    with _reading("an introduction"):
        told = parse_json(str(_record(content, "request", ConfigRecord).get(_DIGESTS, "{}")))
        return {str(name): str(value) for name, value in told.items()}


def pack_request(
    request: Request,
    parameters: ArrayRecord,
    references: ArrayRecord,
    task: str,
    sent: ArrayRecord | None = None,
    *,
    in_place: bool = False,
) -> RecordDict:
    """A request's records; the arrays are packed once by the caller and shared by all clients. Its kind is the type of
    the message that carries it.
    """
    scalars: dict[str, Any] = {"task": task, "round": request.round, "share": request.averaging_weight}
    if request.additive:
        scalars["additive"] = True
    for name in ("measure", "evaluate"):
        if wanted := getattr(request, name):
            scalars[name] = list(wanted)
    if request.evaluate and request.asked:
        scalars[_ASKED] = packed(request.asked)
    if request.constants:
        scalars[CONSTANTS] = request.constants
    if request.contract:
        scalars[CONTRACT] = request.contract
    records: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
        "parameters": parameters,
        "references": references,
        "request": filled(ConfigRecord(), scalars),
    }
    records |= {_SENT: sent} if sent else {}
    if request.running:
        records[_RUNNING] = pack_tensors(request.running, in_place=in_place)
    return filled(RecordDict(), records)


def sent_constants(content: RecordDict) -> dict[str, Tensor] | None:
    """The constant part of the model, where a request brings it."""
    if CONSTANTS not in content:
        return None
    with _reading("a request"):
        return unpack_tensors(_record(content, CONSTANTS, ArrayRecord))


def kind_of(message_type: str) -> Kind:
    """What a message of this type asks, such as ``query.measure``; one of a secure sum's steps asks nothing new.

    Raises:
        FedhaError: It asks nothing that there is.
    """
    kind: Any = message_type.removeprefix("query.")
    if kind not in get_args(Kind):
        raise FedhaError(f"a message of type {message_type!r} is no request; there are {', '.join(get_args(Kind))}")
    return kind  # type: ignore[no-any-return]


def unpack_request(content: RecordDict, message_type: str, device: torch.device | str = "cpu") -> Request:
    """Read what `pack_request` wrote.

    Args:
        content: The message's.
        message_type: Its own.
        device: Where the tensors are wanted.

    Raises:
        FedhaError: It is something else.
    """
    with _reading("a request"):
        return _request(content, kind_of(message_type), device)


def _request(content: RecordDict, kind: Kind, device: torch.device | str) -> Request:
    scalars = _record(content, "request", ConfigRecord)
    return Request(
        task=unpack_task(str(scalars["task"])),
        round=int(str(scalars["round"])),
        parameters=_parameters(_record(content, "parameters", ArrayRecord), device),
        references=unpack_tensors(_record(content, "references", ArrayRecord), device),
        measure=_names(scalars, "measure"),
        averaging_weight=float(str(scalars["share"])),
        additive=bool(scalars.get("additive", False)),
        evaluate=_names(scalars, "evaluate"),
        asked=unpacked(parse_json(str(scalars[_ASKED]))) if _ASKED in scalars else NOTHING,
        sent=unpack_tensors(_record(content, _SENT, ArrayRecord), device) if _SENT in content else {},
        kind=kind,
        running=unpack_tensors(_record(content, _RUNNING, ArrayRecord), device) if _RUNNING in content else {},
        constants=str(scalars.get(CONSTANTS, "")),
        contract=str(scalars.get(CONTRACT, "")),
    )


def _names(scalars: ConfigRecord, key: str) -> tuple[str, ...]:
    names = scalars.get(key, [])
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


@dataclass(frozen=True)
class PlainReply:
    """A reply's records as plain dictionaries.

    Attributes:
        arrays: By record and name.
        metrics: By record and name.
        configs: By record and name.
    """

    arrays: dict[str, dict[str, Array]]
    metrics: dict[str, dict[str, Any]]
    configs: dict[str, dict[str, str | bytes | list[bytes]]]


def plain_reply(reply: Reply, *, in_place: bool = False) -> PlainReply:
    """What a reply's records hold; `in_place` as in `pack_tensors`."""
    return PlainReply(
        {_WEIGHED if reply.weighed else _OWN: pack_arrays(reply.tensors, in_place=in_place)},
        {
            "metrics": {"index": reply.client_id, "examples": reply.examples, **reply.metrics, **_shape(reply)},
            **({_SUMS: {name: list(values) for name, values in reply.sums.items()}} if reply.sums else {}),
        },
        {
            "client": {"name": reply.client_name, "domain": reply.domain, **_state(reply)},
            **({_SECURE: dict(reply.secure)} if reply.secure else {}),
        },
    )


def pack_reply(reply: Reply, *, in_place: bool = False) -> RecordDict:
    """A reply's records; `in_place` as in `pack_tensors`."""
    plain = plain_reply(reply, in_place=in_place)
    records: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {}
    records |= {name: array_record(values) for name, values in plain.arrays.items()}
    records |= {name: MetricRecord(dict(values)) for name, values in plain.metrics.items()}
    records |= {name: ConfigRecord(dict(values)) for name, values in plain.configs.items()}
    return RecordDict(records)


def _shape(reply: Reply) -> dict[str, list[int]]:
    """One entry for one input; of several, one each, by place or by name."""
    shape = reply.input_shape
    if not nested(shape):
        return {_SHAPE: list(shape)} if shape else {}
    sign = _BY_NAME if isinstance(shape, Mapping) else _BY_PLACE
    return {f"{_SHAPE}{sign}{name}": list(one) for name, one in several(shape).items()}


def _input_shape(metrics: Mapping[str, Any]) -> Any:
    """What `_shape` told of; () where it told nothing."""
    told = {name.removeprefix(_SHAPE): tuple(map(int, one)) for name, one in metrics.items() if isinstance(one, list)}
    if by_name := {name[1:]: one for name, one in told.items() if name.startswith(_BY_NAME)}:
        return by_name
    by_place = {int(name[1:]): one for name, one in told.items() if name.startswith(_BY_PLACE)}
    return tuple(by_place[place] for place in sorted(by_place)) or told.get("", ())


def _state(reply: Reply) -> dict[str, str | bytes | list[bytes]]:
    """What an introduction says of the network's state, as JSON."""
    told = {_KINDS: reply.kinds, _OTHER: reply.other}
    return {name: json.dumps(value) for name, value in told.items() if value}


def unpack_reply(content: RecordDict, device: torch.device | str = "cpu") -> Reply:
    """Read what `pack_reply` wrote.

    Args:
        content: The message's.
        device: Where the tensors are wanted.

    Raises:
        FedhaError: It is something else.
    """
    with _reading("a reply"):
        return _reply(content, device)


def _whole(value: float) -> int:
    if value != int(value) or value < 0:
        raise ValueError(f"{value} is no whole number from 0")
    return int(value)


def _reply(content: RecordDict, device: torch.device | str) -> Reply:
    metrics = _record(content, "metrics", MetricRecord)
    numbers = {name: value for name, value in metrics.items() if not isinstance(value, list)}
    index, examples = (_whole(numbers.pop(name)) for name in ("index", "examples"))
    for name in (SEEDED, HELD_OUT) if SEEDED in numbers or HELD_OUT in numbers else ():
        _whole(numbers[name])
    weighed = _WEIGHED in content
    tensors = unpack_tensors(_record(content, _WEIGHED if weighed else _OWN, ArrayRecord), device)
    who = _record(content, "client", ConfigRecord)
    return Reply(
        client_name=str(who["name"])[:_LONGEST],
        domain=str(who["domain"])[:_LONGEST],
        client_id=index,
        examples=examples,
        tensors=tensors,
        metrics=numbers,
        sums=_sums(content),
        weighed=weighed,
        input_shape=_input_shape(metrics),
        secure=_secure(content),
        kinds={str(name): str(kind) for name, kind in parse_json(str(who[_KINDS])).items()} if _KINDS in who else {},
        other=tuple(str(name) for name in parse_json(str(who[_OTHER]))) if _OTHER in who else (),
    )


def _sums(content: RecordDict) -> dict[str, Sequence[float]]:
    if _SUMS not in content:
        return {}
    found = dict(_record(content, _SUMS, MetricRecord))
    if not all(isinstance(values, list) for values in found.values()):
        raise ValueError("counts are no lists of numbers")
    return found  # type: ignore[return-value]


def _secure(content: RecordDict) -> dict[str, bytes | list[bytes]]:
    record = content.get(_SECURE)
    found: dict[str, bytes | list[bytes]] = {}
    for name, value in record.items() if isinstance(record, ConfigRecord) else ():
        if isinstance(value, bytes):
            found[name] = value
        elif isinstance(value, list):
            found[name] = [one for one in value if isinstance(one, bytes)]
    return found


def count_bytes(content: RecordDict) -> int:
    """Bytes of a message's records, without Flower's envelope."""
    return count_array_bytes(content) + count_other_bytes(content)


def count_other_bytes(content: RecordDict) -> int:
    """Bytes of what is no array."""
    return sum(one.count_bytes() for one in content.values() if isinstance(one, MetricRecord | ConfigRecord))


def count_array_bytes(content: RecordDict) -> int:
    """Bytes of its arrays."""
    return sum(
        len(name) + (array.count_bytes() if isinstance(array, TensorArray) else len(array.data))
        for record in content.values()
        if isinstance(record, ArrayRecord)
        for name, array in record.items()
    )


def _record(content: RecordDict, name: str, kind: type[_R]) -> _R:
    """One record; Flower's own views by kind make a new dictionary each time that they are looked at."""
    record = content[name]
    if not isinstance(record, kind):
        raise TypeError(f"record {name!r} is a {type(record).__name__}, not a {kind.__name__}")
    return record
