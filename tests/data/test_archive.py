"""Laws of archives: read as NumPy reads them, in one copy, and whatever they claim."""

import io
import random
import resource
import sys
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedha import data
from fedha.config import DataConfig
from fedha.data.archive import members, read_inputs, read_values, reorder
from fedha.errors import FedhaError


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", "f4", ">f8", "f2", "?", "i8"])
@pytest.mark.parametrize("shape", [(7, 3), (5, 4, 6), (6, 5, 5, 3), (0, 3), (4, 0), (3, 1)])
@pytest.mark.parametrize("save", [numpy.savez, numpy.savez_compressed])
def test_values_are_numpys(tmp_path: Path, order: str, dtype: str, shape: tuple[int, ...], save) -> None:
    values = numpy.asarray(numpy.arange(numpy.prod(shape)).reshape(shape) % 99, dtype=dtype, order=order)
    save(tmp_path / "a.npz", inputs=values)
    member = members(tmp_path / "a.npz")["inputs"]
    axes = (0, *range(len(shape) - 1, 0, -1))
    made = read_inputs(tmp_path / "a.npz", member, axes, 2.0)
    assert torch.equal(made, torch.from_numpy(values.astype("f4").transpose(axes).copy()) / 2)
    assert made.is_contiguous()
    assert numpy.array_equal(read_values(tmp_path / "a.npz", member), values)


@given(st.integers(0, 9), st.integers(0, 40), st.randoms())
def test_rows_are_put_in_order_where_they_are(n: int, columns: int, chance) -> None:
    values = torch.arange(n * columns, dtype=torch.float32).reshape(n, columns)
    order = torch.tensor(chance.sample(range(n), n), dtype=torch.int64)
    expected, place = values[order], values.data_ptr()
    assert torch.equal(reorder(values, order), expected)
    assert values.data_ptr() == place


def claim(path: Path, shape: tuple[int, ...]) -> None:
    """An archive of a few bytes whose header says that it is large."""
    file = io.BytesIO()
    numpy.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inputs.npy", file.getvalue() + b"1234")
        labels = io.BytesIO()
        numpy.save(labels, numpy.zeros(4, int))
        archive.writestr("labels.npy", labels.getvalue())


def test_a_file_that_claims_more_than_it_holds_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    claim(tmp_path / "a.npz", (4, 10**12))
    with pytest.raises(FedhaError, match=r"a\.npz as arrays: array inputs has shape .*for which the file is too short"):
        members(tmp_path / "a.npz")


def test_memory_that_ends_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "at":
        numpy.savez(tmp_path / f"{name}.npz", inputs=numpy.zeros((4, 3)), labels=[0, 1, 0, 1])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    config = DataConfig(name="arrays", root=tmp_path, target="t")

    def scarce(*size, dtype):
        resource.setrlimit(resource.RLIMIT_AS, (2**30, hard))
        try:
            return torch.zeros(2**40, dtype=dtype)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    monkeypatch.setattr("fedha.data.archive.torch.empty", scarce)
    with pytest.raises(FedhaError, match=r"the data in .* do not fit into this machine's memory"):
        data.load(config, 0)


def test_any_damage_to_an_archive_is_one_sentence(tmp_path: Path) -> None:
    """Three hundred mutations: bytes lost, doubled, turned or put in, in the headers as well as in the values."""
    values = {"inputs": numpy.arange(24.0).reshape(8, 3), "labels": [0, 1] * 4, "groups": ["a", "b", "c", "d"] * 2}
    numpy.savez(tmp_path / "a.npz", **values)
    numpy.savez_compressed(tmp_path / "t.npz", **values)
    whole, chance = {name: (tmp_path / f"{name}.npz").read_bytes() for name in "at"}, random.Random(0)
    config, refused = DataConfig(name="arrays", root=tmp_path, target="t"), 0
    for _ in range(300):
        name = chance.choice("at")
        damaged = bytearray(whole[name])
        for _ in range(chance.randint(1, 3)):
            place = chance.randrange(len(damaged))
            damaged[place : place + chance.choice([0, 1, 2, 40])] = chance.randbytes(chance.choice([0, 1, 2, 40]))
        (tmp_path / f"{name}.npz").write_bytes(damaged)
        try:
            data.load(config, 0)
        except FedhaError as error:
            refused += len(str(error)) < 2000
        (tmp_path / f"{name}.npz").write_bytes(whole[name])
    assert refused > 200


def kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_loading_takes_a_quarter_more_than_the_examples_at_most(tmp_path: Path, dtype: str) -> None:
    rows = 24000 // numpy.dtype(dtype).itemsize  # of as many bytes: bytes stay such
    for name in "at":
        inputs = numpy.random.default_rng(0).integers(0, 2, (rows, 3, 32, 32), dtype="u1").astype(dtype)
        numpy.savez(tmp_path / f"{name}.npz", inputs=inputs, labels=numpy.arange(rows) % 2)
    del inputs
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = kilobytes("VmRSS")
    found = data.load(DataConfig(name="arrays", root=tmp_path, target="t"), 0)
    parts = [part for one in (*found.sources, *found.targets) for part in (one.train, one.held_out)]
    assert kilobytes("VmHWM") - before < 1.25 * sum(part.inputs.nbytes for part in parts) / 1024
