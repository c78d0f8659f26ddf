"""Data sets of Hugging Face's ``datasets``, made in memory and saved: images, texts and numbers, by domain."""

import pickle
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from fedha import data
from fedha.config import DataConfig, parse
from fedha.errors import FedhaError

datasets = pytest.importorskip("datasets")
image = pytest.importorskip("PIL.Image")

datasets.disable_progress_bars()
HERE = "tests.data.test_hub"
WARDS = ["a", "b", "t"]


def saved(root: Path, **columns: Any) -> Path:
    rows = {"ward": [WARDS[row // 6] for row in range(18)], "label": [row % 2 for row in range(18)], **columns}
    made = datasets.Dataset.from_dict(rows).cast_column("label", datasets.ClassLabel(names=["well", "ill"]))
    made.save_to_disk(str(root))
    return root


def config(root: Path, **section: object) -> DataConfig:
    return parse({"data": {"name": "hub", "root": str(root), "domain": "ward", "target": "t", **section}}).data


def ids(texts: list[str]) -> list[list[int]]:
    return [[len(word) for word in text.split()] for text in texts]


def ragged(texts: list[str]) -> numpy.ndarray:
    return numpy.zeros((len(texts), 2))


def fails(texts: list[str]) -> None:
    raise KeyError("vocabulary")


def test_images_are_decoded_when_they_are_taken_and_travel_as_a_place(tmp_path: Path) -> None:
    pictures = [image.fromarray(numpy.full((9, 5), 10 * row, dtype=numpy.uint8)) for row in range(18)]
    found = data.load(config(saved(tmp_path / "d", scan=pictures), inputs="scan", size="4", held_out="0"), 0)
    assert [one.name for one in (*found.sources, *found.targets)] == WARDS
    assert (found.input_shape, found.classes) == ((1, 4, 4), 2)  # grey, as the first source's first image
    train = found.sources[1].train
    assert sorted((train.take()[:, 0, 0, 0] * 255).round().long().tolist()) == [60, 70, 80, 90, 100, 110]
    assert len(pickle.dumps(train.inputs)) < 2000
    again = pickle.loads(pickle.dumps(train.inputs)).take(torch.tensor([2]), None)
    assert torch.equal(again, train.inputs.take(torch.tensor([2]), None))
    found = data.load(config(tmp_path / "d", inputs="scan", channels="3"), 0)
    assert found.input_shape == (3, 32, 32)


def test_texts_become_token_ids_by_a_function_of_the_users(tmp_path: Path) -> None:
    texts = [f"{'x' * (1 + row % 3)} yy" for row in range(18)]
    section = config(saved(tmp_path / "d", note=texts), inputs="note", tokens=f"{HERE}:ids", held_out="0")
    found = data.load(section, 0)
    assert found.sources[0].train.inputs.dtype == torch.int64
    rows = found.sources[0].train.metadata["row as given"]
    assert found.sources[0].train.inputs.tolist() == [[1 + row % 3, 2] for row in rows]


def test_columns_of_numbers_stand_side_by_side_and_arrays_alone(tmp_path: Path) -> None:
    columns = {"age": list(range(18)), "dose": [0.5] * 18, "ids": [[row, 1, 2] for row in range(18)]}
    root = saved(tmp_path / "d", **columns)
    assert data.load(config(root, inputs=["age", "dose"]), 0).targets[0].held_out.take().tolist() == [
        [row, 0.5] for row in range(12, 18)
    ]
    found = data.load(config(root, inputs="ids"), 0)
    assert found.targets[0].held_out.inputs[0].tolist() == [12, 1, 2]
    assert found.targets[0].held_out.inputs.dtype == torch.int64


def test_saved_parts_are_domains_where_no_column_is(tmp_path: Path) -> None:
    parts = {name: datasets.Dataset.from_dict({"x": [1.0, 2.0], "label": ["no", "yes"]}) for name in ("n", "s", "t")}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "d"))
    found = data.load(config(tmp_path / "d", domain=None, inputs=["x"]), 0)
    assert [one.name for one in (*found.sources, *found.targets)] == ["n", "s", "t"]
    with pytest.raises(FedhaError, match=r"holds n, s, t; name one in data\.part"):
        data.load(config(tmp_path / "d", inputs=["x"]), 0)


def test_a_site_needs_its_own_rows_alone(tmp_path: Path) -> None:
    root = saved(tmp_path / "d", x=[float(row) for row in range(18)])
    whole = data.load(config(root, inputs=["x"]), 3)
    for client, name in enumerate("ab"):
        own = datasets.load_from_disk(str(root)).filter(lambda row, name=name: row["ward"] == name)
        own.save_to_disk(str(tmp_path / name))
        alone = data.load_own(config(tmp_path / name, inputs=["x"], class_names=["well", "ill"]), 3, client)
        assert torch.equal(alone.train.take(), whole.sources[client].train.take())
    assert data.class_count(config(root, inputs=["x"], class_names=["well", "ill"])) == 2


@pytest.mark.parametrize(
    ("columns", "section", "message"),
    [
        ({}, {"inputs": "scan"}, r"has no column 'scan', which data\.inputs names"),
        ({}, {"inputs": ["x"], "label": "lable"}, r"no column 'lable', which data\.label names; did you mean 'label'"),
        ({}, {"inputs": ["x"], "domain": "wards"}, r"no column 'wards', which data\.domain names; did you mean 'ward'"),
        ({}, {"inputs": ["x"], "target": "u"}, r"data\.target names 'u', which is no domain"),
        ({"x": [None, *[1.0] * 17]}, {"inputs": ["x"]}, r"row 0: column 'x' has no value"),
        ({"x": ["hi"] * 18}, {"inputs": "x"}, r"column 'x' holds texts; name .* data\.tokens"),
        ({"x": ["hi"] * 18}, {"inputs": "x", "tokens": f"{HERE}:ragged"}, r"makes float64 \[6, 2\] of 6 texts; let it"),
        ({"x": ["hi"] * 18}, {"inputs": "x", "tokens": f"{HERE}:fails"}, r"which fails with KeyError: 'vocabulary'"),
        ({"x": ["hi"] * 18}, {"inputs": "x", "tokens": f"{HERE}:none"}, r"has no 'none'"),
        ({"x": [[1] * (1 + row) for row in range(18)]}, {"inputs": "x"}, r"holds arrays of 1 to 6 numbers; cut or pad"),
        ({}, {"inputs": ["x"], "class_names": ["well", "dead"]}, r"the label is 'ill', which is none of the classes"),
        ({}, {"inputs": ["x"], "size": "0"}, r"data\.size is 0"),
        ({}, {}, r"missing a required argument: 'inputs'"),
    ],
)
def test_what_does_not_fit_is_a_sentence(tmp_path: Path, columns: dict, section: dict, message: str) -> None:
    root = saved(tmp_path / "d", **{"x": [1.0] * 18, **columns})
    with pytest.raises(FedhaError, match=message):
        data.load(config(root, **section), 0)


def test_a_broken_image_and_a_folder_that_is_none_are_named(tmp_path: Path) -> None:
    contents = [{"bytes": b"no image", "path": None}] * 18
    root = saved(tmp_path / "d", scan=contents)
    datasets.load_from_disk(str(root)).cast_column("scan", datasets.Image()).save_to_disk(str(tmp_path / "e"))
    with pytest.raises(FedhaError, match=r"row 0: column 'scan': it is no JPEG"):
        data.load(config(tmp_path / "e", inputs="scan"), 0)
    with pytest.raises(FedhaError, match=r"which is no folder; save it with datasets' save_to_disk"):
        data.load(config(tmp_path / "none", inputs="scan"), 0)
    with pytest.raises(FedhaError, match=r"cannot read .* as a saved data set"):
        data.load(config(tmp_path, inputs="scan"), 0)
