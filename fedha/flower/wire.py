"""Requests and replies as Flower records: arrays stay arrays, everything else is a handful of scalars."""

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedha.config import TrainingConfig
from fedha.devices import to_device, to_host
from fedha.exchange import Reply, Request, Task
from fedha.flower.tensor_array import TensorArray, array_record
from fedha.recipes import Recipe, Term


def pack_tensors(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Tensors by name as an ArrayRecord, order kept; those on the CPU are shared with it, so do not change them."""
    return array_record({name: TensorArray(value) for name, value in to_host(tensors).items()})


def unpack_tensors(record: ArrayRecord, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The tensors of an ArrayRecord by name, not to be changed in place. Nothing is unpickled."""
    return to_device({name: _tensor(array) for name, array in record.items()}, torch.device(device))


def _tensor(array: Array) -> Tensor:
    """One array's tensor, without parsing the NPY header where it is the one that numpy writes for plain data."""
    if isinstance(array, TensorArray):
        return array.tensor
    data, start = array.data, 10 + int.from_bytes(array.data[8:10], "little")
    plain = data[:8] == b"\x93NUMPY\x01\x00" and b"'fortran_order': False" in data[10:start]
    if not plain or array.stype != "numpy.ndarray":
        return torch.from_numpy(array.numpy())
    values = np.frombuffer(data, dtype=array.dtype, offset=start).reshape(array.shape)
    return torch.from_numpy(values.copy())


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
    return json.dumps(
        {"recipe": asdict(task.recipe), "training": task.training.model_dump(mode="json"), "seed": task.seed}
    )


@functools.lru_cache(maxsize=8)
def unpack_task(text: str) -> Task:
    """Read what `pack_task` wrote."""
    content = json.loads(text)
    terms = tuple(Term(**term) for term in content["recipe"].pop("terms"))
    recipe = Recipe(terms=terms, **content["recipe"])
    return Task(recipe, TrainingConfig.model_validate(content["training"]), content["seed"])


def pack_request(request: Request, parameters: ArrayRecord, references: ArrayRecord, task: str) -> RecordDict:
    """A request's records; the arrays are packed once by the caller and shared by all clients."""
    scalars = ConfigRecord({"task": task, "round": request.round, "share": request.share})
    if request.measure:
        scalars["measure"] = list(request.measure)
    return RecordDict({"parameters": parameters, "references": references, "request": scalars})


def unpack_request(content: RecordDict, device: torch.device | str = "cpu") -> Request:
    """Read what `pack_request` wrote."""
    scalars = content.config_records["request"]
    measure = scalars.get("measure", [])
    return Request(
        task=unpack_task(str(scalars["task"])),
        round=int(str(scalars["round"])),
        parameters=_parameters(content.array_records["parameters"], device),
        references=unpack_tensors(content.array_records["references"], device),
        measure=tuple(str(name) for name in measure) if isinstance(measure, list) else (),
        share=float(str(scalars["share"])),
    )


def pack_reply(reply: Reply) -> RecordDict:
    """A reply's records."""
    numbers: dict[str, int | float | list[int] | list[float]] = {"index": reply.index, "examples": reply.examples}
    numbers.update(reply.metrics)
    return RecordDict(
        {
            "tensors": pack_tensors(reply.tensors),
            "metrics": MetricRecord(numbers),
            "client": ConfigRecord({"name": reply.client, "domain": reply.domain}),
        }
    )


def unpack_reply(content: RecordDict) -> Reply:
    """Read what `pack_reply` wrote."""
    numbers = {name: value for name, value in content.metric_records["metrics"].items() if not isinstance(value, list)}
    index, examples = int(numbers.pop("index")), int(numbers.pop("examples"))
    tensors = unpack_tensors(content.array_records["tensors"])
    who = content.config_records["client"]
    return Reply(str(who["name"]), str(who["domain"]), index, examples, tensors, numbers)


def count_bytes(content: RecordDict) -> int:
    """Bytes of a message's records, without Flower's envelope."""
    arrays = sum(
        len(name) + (array.count_bytes() if isinstance(array, TensorArray) else len(array.data))
        for record in content.array_records.values()
        for name, array in record.items()
    )
    metrics = sum(record.count_bytes() for record in content.metric_records.values())
    return arrays + metrics + sum(record.count_bytes() for record in content.config_records.values())
