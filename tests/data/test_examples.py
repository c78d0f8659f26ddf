"""Examples are a source: whatever keeps them, the same rows give the same inputs, and nothing more is read."""

import pickle
import sys
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

from fedha import data
from fedha.config import DataConfig
from fedha.data.checked import checked_domain
from fedha.data.domain import Domain
from fedha.data.examples import Examples, Placement, joined
from fedha.data.export import FILE, export_sources, read_domain
from fedha.data.fingerprint import fingerprint
from fedha.data.mapped import Mapped, open_array
from fedha.errors import FedhaError

CPU = torch.device("cpu")
KINDS = ["u1", "?", "i2", "<u2", "i4", "i8", "f2", "f4", ">f8"]


def values(kind: str, *shape: int) -> numpy.ndarray:
    return (numpy.arange(numpy.prod(shape)) * 7 % 200).reshape(shape).astype(kind)


def saved(folder: Path, layout: str, kind: str = "f4", shape: tuple[int, ...] = (3, 4), rows: int = 40) -> DataConfig:
    """Three domains in one of the layouts of a user's folder."""
    for place, name in enumerate("abt"):
        inputs, labels = values(kind, rows, *shape), (numpy.arange(rows) + place) % 2
        inputs[:, 0] += numpy.asarray(place, kind)
        if layout == "archive":
            numpy.savez(folder / f"{name}.npz", inputs=inputs, labels=labels)
        elif layout == "beside":
            numpy.savez(folder / f"{name}.npz", labels=labels)
            numpy.save(folder / f"{name}.inputs.npy", inputs)
        else:
            (folder / name).mkdir()
            numpy.save(folder / name / "inputs.npy", inputs)
            numpy.save(folder / name / "labels.npy", labels)
    return DataConfig(name="arrays", root=folder, target="t")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["beside", "folder"])
def test_mapped_inputs_are_those_of_an_archive(tmp_path: Path, layout: str, kind: str) -> None:
    places = tmp_path / "archive", tmp_path / layout
    for place in places:
        place.mkdir()
    held, mapped = (data.load(saved(place, place.name, kind), 3) for place in places)
    for precision in (torch.float32, torch.float64):
        where = Placement(CPU, precision)
        for one, other in zip((*held.sources, *held.targets), (*mapped.sources, *mapped.targets), strict=True):
            for part in ("train", "held_out"):
                mine, theirs = getattr(one, part).to(where), getattr(other, part).to(where)
                assert torch.equal(mine.labels, theirs.labels)
                assert torch.equal(mine.take(), theirs.take())
                assert mine.form == theirs.form
    assert isinstance(held.sources[0].train.inputs, torch.Tensor)
    assert not isinstance(mapped.sources[0].train.inputs, torch.Tensor)
    assert fingerprint(held) == fingerprint(mapped)


@pytest.mark.parametrize("covered", [False, True])
def test_the_same_examples_are_held_out_of_a_mapped_file(tmp_path: Path, covered: bool) -> None:
    labels = []
    for layout in ("archive", "beside"):
        (tmp_path / layout).mkdir()
        found = data.load(saved(tmp_path / layout, layout, "u1", (4, 4)), 0, protected=covered)
        labels.append([one.held_out.take().sum().item() for one in found.sources])
    assert labels[0] == labels[1]


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64", ">f4", "int16", "bool"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_of_any_size_are_the_files_however_they_are_read(tmp_path: Path, kind: str, order: str) -> None:
    whole = numpy.asarray(numpy.random.default_rng(0).integers(0, 2, (9, 30, 41)).astype(kind), order=order)
    numpy.save(tmp_path / "a.npy", whole)
    mapped = open_array(tmp_path / "a.npy")
    for rows in ([8, 0, 3, 3], [2, 3, 4], [], [5]):
        found = mapped.take(torch.tensor(rows, dtype=torch.int64))
        assert numpy.array_equal(found.numpy(), whole[rows].astype(found.numpy().dtype))


def test_rows_columns_and_unlabelled_examples_of_a_mapped_file(tmp_path: Path) -> None:
    config = saved(tmp_path, "beside", "u1", (6, 6, 3)).model_copy(update={"unlabelled": 9})
    numpy.savez(tmp_path / "a.npz", labels=[0, 1, 9, 0] * 10, groups=numpy.arange(40) // 4)
    found = data.load(config, 0)
    raw = torch.from_numpy(numpy.load(tmp_path / "t.inputs.npy")).permute(0, 3, 1, 2) / 255
    assert torch.equal(found.targets[0].held_out.take(), raw)
    assert torch.equal(found.targets[0].held_out.take(torch.tensor([7, 3, 3])), raw[[7, 3, 3]])
    assert len(found.sources[0].train) + len(found.sources[0].held_out) == 30
    assert "10 of 40 rows have no label (9)" in found.description
    assert set(found.sources[0].train.groups.tolist()).isdisjoint(found.sources[0].held_out.groups.tolist())


def test_a_mapped_file_is_found_by_a_site_and_by_others(tmp_path: Path) -> None:
    config = saved(tmp_path, "folder").model_copy(update={"classes": 2, "sources": ["a", "b"]})
    own = data.load_own(config, 0, 1)
    assert own.name == "b"
    travelled = pickle.loads(pickle.dumps(own.train))
    assert len(pickle.dumps(own.train.inputs.source)) < 1000
    assert torch.equal(travelled.take(), own.train.take())


def test_export_leaves_mapped_inputs_in_a_file(tmp_path: Path) -> None:
    found = data.load(saved(tmp_path, "beside", "u1", (5, 5)), 0)
    (path, _) = export_sources(found, tmp_path / "out")
    assert {one.name for one in path.parent.iterdir()} == {
        FILE,
        "domain.train_inputs.npy",
        "domain.held_out_inputs.npy",
    }
    again, classes = read_domain(path)
    assert classes == 2
    assert torch.equal(again.train.take(), found.sources[0].train.take())
    assert again.train.divisor == 255
    assert not isinstance(again.train.inputs, torch.Tensor)


def save_damaged(folder: Path, what: str) -> None:
    path = folder / "a.inputs.npy"
    if what == "short":
        path.write_bytes(path.read_bytes()[:-5])
    elif what == "text":
        path.write_text("no array")
    elif what == "objects":
        numpy.save(path, numpy.array([[object()]] * 40), allow_pickle=True)
    elif what == "rows":
        numpy.save(path, numpy.zeros((39, 3, 4), "f4"))
    elif what == "twice":
        numpy.savez(folder / "a.npz", labels=[0, 1] * 20, inputs=numpy.zeros((40, 3, 4)))
    elif what == "both":
        (folder / "a").mkdir()
        numpy.save(folder / "a" / "inputs.npy", numpy.zeros((40, 3, 4)))
    elif what == "nan":
        broken = numpy.load(path)
        broken[31, 2, 1] = numpy.nan
        numpy.save(path, broken)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("short", r"a\.inputs\.npy has .* bytes of the .* that its header tells of; write it again"),
        ("text", r"cannot read .*a\.inputs\.npy as an array: .*write it with numpy\.save"),
        ("objects", r"a\.inputs\.npy holds Python objects, which are not read"),
        ("rows", r"has 39 inputs but 40 labels"),
        ("twice", r"inputs are in .*a\.npz and in .*a\.inputs\.npy; keep one of them"),
        ("both", r"holds both a\.npz and a/inputs\.npy; keep one of them"),
        ("nan", r"domain 'a' .* contain NaN or infinity: 1 number in 1 of .* at \[2, 1\]"),
    ],
)
def test_a_file_that_cannot_be_mapped_is_one_sentence(tmp_path: Path, what: str, message: str) -> None:
    config = saved(tmp_path, "beside")
    save_damaged(tmp_path, what)
    with pytest.raises(FedhaError, match=message):
        data.load(config, 0)


def test_a_file_that_changes_or_goes_is_said_when_it_is_read(tmp_path: Path) -> None:
    numpy.save(tmp_path / "x.npy", values("f4", 10, 3))
    examples = Examples(open_array(tmp_path / "x.npy"), torch.zeros(10).long())
    assert torch.equal(examples.take(slice(2, 4)), torch.from_numpy(values("f4", 10, 3))[2:4])
    numpy.save(tmp_path / "x.npy", values("f4", 5, 3))
    with pytest.raises(FedhaError, match=r"x\.npy: its size is another than when the run began; leave a run's files"):
        examples.take()
    (tmp_path / "x.npy").unlink()
    with pytest.raises(FedhaError, match=r"x\.npy: No such file"):
        examples.take()


def test_a_map_of_numpys_stays_in_its_file(tmp_path: Path) -> None:
    numpy.save(tmp_path / "x.npy", values("i8", 10, 3))
    opened = numpy.load(tmp_path / "x.npy", mmap_mode="r")
    domain = Domain("a", Examples(opened[2:8], numpy.arange(6) % 2), Examples(opened[8:], [0, 1]))
    found = checked_domain(domain, 0)
    assert isinstance(found.train.inputs, Mapped)
    assert torch.equal(found.train.take(), torch.from_numpy(values("i8", 10, 3))[2:8])
    assert torch.equal(found.held_out.take(torch.tensor([1])), torch.from_numpy(values("i8", 10, 3))[9:])
    strided = checked_domain(replace(domain, train=Examples(opened[::2], numpy.arange(5) % 2)), 0)
    assert torch.equal(strided.train.take(), torch.from_numpy(values("i8", 10, 3))[::2])


def test_parts_are_joined_where_they_are(tmp_path: Path) -> None:
    numpy.save(tmp_path / "x.npy", values("f4", 10, 3))
    whole = Examples(open_array(tmp_path / "x.npy"), torch.arange(10) % 2)
    held = Examples(torch.from_numpy(values("f4", 10, 3)), torch.arange(10) % 2)
    rows = torch.tensor([9, 1, 4])
    for one in (
        joined([whole.select(rows), whole.select(slice(0, 2))]),
        joined([held.select(rows), whole.select(slice(0, 2))]),
    ):
        assert torch.equal(one.take(), held.take(torch.tensor([9, 1, 4, 0, 1])))
        assert torch.equal(one.take(torch.tensor([4, 0])), held.take(torch.tensor([1, 9])))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_file_far_larger_than_the_budget_costs_a_block(tmp_path: Path) -> None:
    """240 MB are looked at for NaN, and taken in blocks of scattered rows; 64 MB of pages and a block are in memory."""
    for name in "at":
        file = numpy.lib.format.open_memmap(tmp_path / f"{name}.inputs.npy", "w+", "f4", (30_000, 1000))
        file.flush()
        del file
        numpy.savez(tmp_path / f"{name}.npz", labels=numpy.arange(30_000) % 2)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _kilobytes("VmRSS")
    found = data.load(DataConfig(name="arrays", root=tmp_path, target="t"), 0)
    for block in found.sources[0].train.blocks():
        assert not found.sources[0].train.take(block).any()
    assert (_kilobytes("VmHWM") - before) / 1000 < 120


def _kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])
