"""Laws of labels: every class has an example, or the config says that it may have none."""

from pathlib import Path

import numpy
import pytest
import torch

from fedha import data
from fedha.config import DataConfig
from fedha.data.labels import count_classes
from fedha.errors import FedhaError


def save(folder: Path, **labels: object) -> DataConfig:
    for name, one in labels.items():
        values = numpy.asarray(one)
        numpy.savez(folder / f"{name}.npz", inputs=numpy.arange(2.0 * len(values)).reshape(-1, 2), labels=values)
    return DataConfig(name="arrays", root=folder, target="t", held_out=0.2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [0, 1, 255] * 100,
            "labels of domain 'a' go up to 255, and classes 2, 3, 4 and 250 more have no example in any domain",
        ),
        ([1, 2, 3] * 9, "class 0 has no example in any domain"),
        ([0, 0, 0] * 9, "class 1 has no example in any domain"),
        ([0, 1, 3] * 9, "class 2 has no example .*set data.unlabelled: 3 .*or data.classes: 4"),
        ([0, 1, 10**15] * 9, "go up to 1000000000000000 but all domains have 81 examples together"),
    ],
)
def test_a_class_without_an_example_is_named(tmp_path: Path, labels: list[int], message: str) -> None:
    with pytest.raises(FedhaError, match=message):
        data.load(save(tmp_path, a=labels, b=labels, t=labels), 0)


def test_a_class_may_be_without_an_example_where_the_config_says_so(tmp_path: Path) -> None:
    config = save(tmp_path, a=[0, 1, 3] * 9, t=[0, 1, 1])
    assert data.load(config.model_copy(update={"classes": 4}), 0).classes == 4


def test_a_class_may_be_in_one_domain_alone() -> None:
    assert count_classes({"a": torch.tensor([0, 2]), "b": torch.tensor([1]), "c": torch.zeros(0).long()}) == 3


@pytest.mark.parametrize("mark", [255, -1, -100])
def test_rows_without_a_label_are_left_out_and_counted(tmp_path: Path, mark: int) -> None:
    rows = [0, mark, 1, mark, 0, 1, 0, 1]
    config = save(tmp_path, a=rows, t=[mark, 1, 0]).model_copy(update={"unlabelled": mark})
    found = data.load(config, 3)
    source, target = found.sources[0], found.targets[0].held_out
    inputs = torch.cat([source.train.inputs, source.held_out.inputs])
    assert sorted(inputs[:, 0].tolist()) == [0, 4, 8, 10, 12, 14]
    labels = torch.cat([source.train.labels, source.held_out.labels])
    assert all(int(label) == rows[int(row) // 2] for row, label in zip(inputs[:, 0], labels, strict=True))
    assert target.inputs.tolist() == [[2, 3], [4, 5]]
    assert found.classes == 2
    assert f"a: 2 of 8 rows have no label ({mark}) and are left out" in found.description
    assert f"t: 1 of 3 rows have no label ({mark}) and are left out" in found.description


def test_a_site_leaves_them_out_alike(tmp_path: Path) -> None:
    config = save(tmp_path, a=[0, 255, 1] * 4, t=[0, 1]).model_copy(update={"unlabelled": 255, "classes": 2})
    site = tmp_path / "site"
    site.mkdir()
    (site / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes())
    own, whole = data.load_own(config.model_copy(update={"root": site}), 0, 0), data.load(config, 0).sources[0]
    assert torch.equal(own.train.inputs, whole.train.inputs)
    assert "4 of 12 rows have no label (255) and are left out" in data.notes_of(own, 2)
