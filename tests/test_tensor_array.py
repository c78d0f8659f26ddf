"""An array that holds its tensor is, for everybody else, Flower's own."""

import io
import pickle
import warnings

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from hypothesis import given
from torch import Tensor

from fedha.data.examples import Examples, Placement
from fedha.flower.tensor_array import TensorArray, array_record, as_tensor
from fedha.flower.wire import pack_tensors, unpack_tensors
from tests.test_engines import tensors


@given(tensors())
def test_its_bytes_are_those_that_numpy_saves(tensor: Tensor) -> None:
    tensor = tensor.contiguous()
    file = io.BytesIO()
    np.save(file, tensor.numpy())
    ours, theirs = TensorArray(tensor), Array(tensor.numpy())
    assert ours.data == file.getvalue() == theirs.data
    assert ours.count_bytes() == len(theirs.data)
    assert (ours.dtype, ours.shape, ours.stype) == (theirs.dtype, theirs.shape, theirs.stype)
    assert ours.object_id == theirs.object_id  # what a network identifies it by
    assert ours.deflate() == theirs.deflate()


def test_in_one_process_the_tensor_itself_is_handed_on() -> None:
    sent = torch.randn(3, 4)
    received = unpack_tensors(pack_tensors({"w": sent}))["w"]
    assert received.data_ptr() == sent.data_ptr()


def moved(tensor: Tensor, numbers: int) -> Tensor:
    """The same numbers a few numbers behind a multiple of 64 bytes."""
    room = torch.empty(tensor.numel() + 32, dtype=tensor.dtype)
    begun = -room.data_ptr() % 64 // tensor.element_size() + numbers
    return room[begun : begun + tensor.numel()].view(tensor.shape).copy_(tensor)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_products_bits_do_not_depend_on_how_its_factors_came(kind: torch.dtype) -> None:
    """MKL's depend on where in memory a matrix begins: in a message that is wherever its bytes are."""
    reference, features = torch.randn(2, 9, dtype=kind), torch.randn(9, 33, dtype=kind)
    wanted = reference @ features
    for numbers in range(16):
        sent = TensorArray(moved(reference, numbers))
        as_bytes = Array(sent.dtype, sent.shape, sent.stype, sent.data)
        from_store = pickle.loads(pickle.dumps(sent, protocol=5))
        for array in (sent, as_bytes, from_store):
            received = unpack_tensors(array_record({"w": array}))["w"]
            assert received.data_ptr() % 64 == 0
            assert torch.equal(received @ features, wanted)
        held = Examples(moved(features, numbers), torch.zeros(9, dtype=torch.int64))
        taken = held.to(Placement(torch.device("cpu"), kind)).take()
        assert torch.equal(reference @ taken, wanted)


@pytest.mark.parametrize("tensor", [torch.randn(3, 4), torch.tensor(1.5), torch.zeros(0, 3)])
def test_pickled_its_memory_goes_beside_the_pickle(tensor: Tensor) -> None:
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(TensorArray(tensor), protocol=5, buffer_callback=buffers.append)
    assert len(content) < 300
    assert sum(buffer.raw().nbytes for buffer in buffers) == tensor.nbytes
    readonly = [bytes(buffer.raw()) for buffer in buffers]  # as what is mapped from shared memory
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        received = pickle.loads(content, buffers=readonly)
    assert torch.equal(received.tensor, tensor)
    assert isinstance(received, TensorArray)


def test_read_only_memory_is_shared_and_kept() -> None:
    values = np.arange(6.0).reshape(2, 3)
    values.flags.writeable = False
    tensor = as_tensor(values)
    assert tensor.data_ptr() == values.ctypes.data
    del values
    assert tensor.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_record_takes_it_for_an_array() -> None:
    record = ArrayRecord({"w": TensorArray(torch.ones(2))})
    assert record.to_numpy_ndarrays()[0].tolist() == [1, 1]
