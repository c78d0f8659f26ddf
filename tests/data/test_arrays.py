"""Laws of a user's own arrays: what goes in comes out, and anything else is refused with the file's name."""

import re

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedha.config import DataConfig
from fedha.data import load
from fedha.data.arrays import read
from fedha.data.examples import Placement
from fedha.errors import FedhaError

MINE = DataConfig(name="arrays")


def save(folder, name, n=10, shape=(3,), highest=1, **arrays):
    content = {
        "inputs": numpy.arange(n * numpy.prod(shape), dtype=float).reshape(n, *shape),
        "labels": numpy.arange(n) % (highest + 1),
    }
    numpy.savez(folder / f"{name}.npz", **(content | arrays))
    return folder / f"{name}.npz"


def mine(folder, seed=0, **options):
    return load(DataConfig(**({"name": "arrays", "root": folder, "target": "t"} | options)), seed)


@pytest.fixture
def folder(tmp_path):
    for name in ("b", "a", "t"):
        save(tmp_path, name)
    return tmp_path


def test_every_archive_but_the_target_is_a_source_by_name(folder):
    domains = mine(folder)
    assert [domain.name for domain in domains.sources] == ["a", "b"]
    assert [domain.name for domain in domains.targets] == ["t"]
    assert len(domains.targets[0].held_out) == 10
    assert str(folder) in domains.description


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.3, 3), (0.99, 9)])
def test_the_held_out_share_is_taken_and_nothing_is_lost(folder, share, count):
    for domain in mine(folder, held_out=share).sources:
        assert len(domain.held_out) == count
        rows = torch.cat([domain.train.inputs, domain.held_out.inputs])
        assert torch.equal(rows[rows[:, 0].argsort()], torch.arange(30.0).reshape(10, 3))


def test_the_seed_decides_what_is_held_out(folder):
    one, same, other = (mine(folder, seed=seed, held_out=0.5).sources[0].held_out.inputs for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("shape", [(3,), (2, 4, 4)])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "uint8", "int64", "bool", ">f4"])
@pytest.mark.parametrize("label_dtype", ["int64", "uint8", "bool", ">i2"])
def test_numbers_of_any_type_are_taken_as_floats_and_whole_ones_kept_as_such(tmp_path, shape, dtype, label_dtype):
    inputs = (numpy.arange(5 * numpy.prod(shape)) % 100).astype(dtype).reshape(5, *shape)
    labels = numpy.array([0, 1, 1, 0, 1]).astype(label_dtype)
    part = read(save(tmp_path, "a", inputs=inputs, labels=labels), MINE).held_out
    scale = 255 if dtype == "uint8" and len(shape) == 3 else 1
    whole = {"uint8": torch.uint8, "int64": torch.int64, "bool": torch.uint8}
    assert (part.inputs.dtype, part.labels.dtype) == (whole.get(dtype, torch.float32), torch.int64)
    for precision in (torch.float32, torch.float64):
        taken = part.to(Placement(torch.device("cpu"), precision)).take()
        assert torch.equal(taken, (torch.from_numpy(inputs.astype("float32")) / scale).to(precision))
    assert part.labels.tolist() == [0, 1, 1, 0, 1]


@pytest.mark.parametrize(("highest", "classes"), [((0, 0, 1), 2), ((1, 2, 0), 3), ((0, 1, 4), 5)])
def test_the_highest_label_of_all_domains_gives_the_classes(tmp_path, highest, classes):
    for name, label in zip("abt", highest, strict=True):
        save(tmp_path, name, highest=label)
    assert mine(tmp_path).classes == classes


def test_labels_that_are_no_class_numbers_are_refused(folder):
    save(folder, "b", labels=numpy.full(10, 1990))
    with pytest.raises(FedhaError, match=r"domain 'b' go up to 1990 but all domains have 30 examples"):
        mine(folder)
    save(folder, "b", labels=numpy.arange(10) - 1)
    with pytest.raises(FedhaError, match=r"'b' run from -1"):
        mine(folder)


def test_a_target_is_required_and_names_are_checked(folder):
    with pytest.raises(FedhaError, match=r"data.target is not set; name the unseen domain, one of a, b, t"):
        mine(folder, target=None)
    with pytest.raises(FedhaError, match=r"data.sources names 'aa'.*did you mean 'a'"):
        mine(folder, sources=["aa"])


def test_a_folder_without_archives_is_refused(tmp_path):
    for folder, said in ((tmp_path, "there is no .npz file in {}"), (tmp_path / "nowhere", "{} is no folder")):
        with pytest.raises(FedhaError, match=re.escape(said.format(folder))):
            mine(folder)


def test_files_that_are_not_used_are_not_read(folder):
    (folder / "broken.npz").write_bytes(b"garbage")
    assert len(mine(folder, sources=["a"]).sources) == 1
    with pytest.raises(FedhaError, match=r"broken.npz"):
        mine(folder)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": numpy.array([["x"]] * 10)}, r"inputs of .*a.npz have type <U1"),
        ({"inputs": numpy.ones((10, 2)) * 1j}, "have type complex128"),
        ({"inputs": numpy.ones(10)}, r"have type float64 and shape \(10,\)"),
        ({"inputs": numpy.array(1.0)}, r"shape \(\)"),
        ({"inputs": numpy.array([{}] * 10, dtype=object)}, "cannot read .*a.npz"),
        ({"labels": numpy.array([{}] * 10, dtype=object)}, "cannot read .*a.npz"),
        ({"labels": numpy.zeros(10)}, "labels of .*a.npz have type float64"),
        ({"labels": numpy.zeros((10, 1), dtype=int)}, r"labels of .*a.npz .*shape \(10, 1\)"),
        ({"labels": numpy.zeros(9, dtype=int)}, "a.npz has 10 inputs but 9 labels"),
    ],
)
def test_arrays_of_another_kind_are_refused_with_the_file(folder, arrays, message):
    save(folder, "a", **arrays)
    with pytest.raises(FedhaError, match=message):
        mine(folder)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": numpy.ones(3)}, "a.npz holds x but no array inputs; write it with numpy.savez"),
        ({"inputs": numpy.ones((3, 1))}, "a.npz holds inputs but no array labels"),
        ({}, "a.npz holds nothing but no array inputs"),
    ],
)
def test_missing_arrays_are_named(folder, arrays, message):
    numpy.savez(folder / "a.npz", **arrays)
    with pytest.raises(FedhaError, match=message):
        mine(folder)


def test_a_single_array_under_the_archives_name_is_refused(folder):
    with (folder / "a.npz").open("wb") as file:
        numpy.save(file, numpy.ones(3))
    with pytest.raises(FedhaError, match=r"a.npz holds a single array"):
        mine(folder)


def test_a_domain_without_examples_is_refused_by_name(folder):
    save(folder, "b", n=0)
    with pytest.raises(FedhaError, match=r"source domain 'b' has no training examples"):
        mine(folder)


def test_inputs_beyond_float32_are_refused_and_not_made_infinite_in_silence(folder):
    save(folder, "a", inputs=numpy.full((10, 3), 1e300))
    with pytest.raises(FedhaError, match=r"inputs of domain 'a'.*infinity"):
        mine(folder)


@given(st.binary(max_size=40), st.floats(0, 1), st.integers(0, 12))
def test_any_damage_is_an_error_of_ours_or_harmless(tmp_path_factory, noise, place, cut):
    path = save(tmp_path_factory.mktemp("damaged"), "a")
    content = path.read_bytes()
    start = int(place * len(content))
    path.write_bytes(content[:start] + noise + content[start + cut + len(noise) :])
    refusal = ""
    try:
        part = read(path, MINE).held_out
    except FedhaError as error:
        refusal = str(error)
    assert str(path) in refusal if refusal else len(part.inputs) == len(part.labels)


def test_an_array_that_is_not_read_is_named(tmp_path):
    assert read(save(tmp_path, "a", group=numpy.arange(10)), MINE).notes == (
        "of the archive only inputs, labels and groups are read, not group",
    )


def test_one_group_of_all_rows_is_said(tmp_path):
    for name in ("a", "t"):
        save(tmp_path, name, groups=numpy.zeros(10, int))
    assert any("all rows are one group, so all are trained on" in note for note in mine(tmp_path).notes)


@pytest.mark.parametrize("beside", [False, True])
def test_what_is_not_finite_is_named_by_its_row_in_the_users_own_file(folder, beside):
    inputs = numpy.ones((40, 3), dtype="float32")
    inputs[[29, 33], 1] = numpy.nan
    labels = numpy.arange(40) % 2
    labels[:7] = 255  # left out, and counted all the same
    save(folder, "a", inputs=inputs, labels=labels)
    if beside:
        numpy.save(folder / "a.inputs.npy", inputs)
        numpy.savez(folder / "a.npz", labels=labels)
    save(folder, "t")
    for seed in range(4):
        with pytest.raises(FedhaError, match=r"first in row (29|33) of its data as they were given \(counted from 0\)"):
            mine(folder, seed, unlabelled=255)
