"""A client's own file, or its own folder, holds what it has in the whole data set, bit for bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from fedha import data
from fedha.config import DataConfig
from fedha.data.domain import Domain
from fedha.data.export import FILE, export_sources, read_domain, write_domain
from fedha.errors import FedhaError

ROW = "{age}.0,1.0,4.0,130.0,?,0.0,2.0,150.0,1.0,1.5,2.0,0.0,3.0,{diagnosis}"


def same(one: Domain, other: Domain) -> bool:
    parts = [(part.inputs, part.labels) for domain in (one, other) for part in (domain.train, domain.held_out)]
    tensors = zip((*parts[0], *parts[1]), (*parts[2], *parts[3]), strict=True)
    return (one.name, one.shard) == (other.name, other.shard) and all(torch.equal(*pair) for pair in tensors)


@pytest.mark.parametrize("shard", [None, 0, 3])
def test_a_domain_is_read_as_it_was_written(tmp_path: Path, shard: int | None) -> None:
    domain = replace(data.load(DataConfig(), 3).sources[1], shard=shard)
    write_domain(tmp_path / FILE, domain, 2)
    again, classes = read_domain(tmp_path / FILE)
    assert same(again, domain)
    assert classes == 2
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert same(data.load_own(DataConfig(root=tmp_path), 99, 0), domain)  # whatever the config says of places and seeds


def test_an_exported_file_of_other_data_is_refused(tmp_path: Path) -> None:
    write_domain(tmp_path / FILE, data.load(DataConfig(), 0).sources[0], 2)
    with pytest.raises(FedhaError, match=r"data\.classes is 3 but .*domain\.npz was made for 2; export it again"):
        data.load_own(DataConfig(name="arrays", root=tmp_path, classes=3), 0, 0)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"text"])
def test_a_broken_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(FedhaError, match=r"^cannot read .*domain\.npz as a domain .*make it again"):
        read_domain(tmp_path / FILE)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    numpy.savez(tmp_path / FILE, train_inputs=numpy.array([object()]), train_labels=numpy.zeros(1, int))
    with pytest.raises(FedhaError, match="Object arrays cannot be loaded"):
        read_domain(tmp_path / FILE)


def test_embedded_data_give_each_client_its_source() -> None:
    config = DataConfig(color_flips=[0.3, 0.2, 0.1])
    everything = data.load(config, 5).sources
    assert all(same(data.load_own(config, 5, place), one) for place, one in enumerate(everything))
    with pytest.raises(FedhaError, match="partition-id is 3 but the data have 3 source domains"):
        data.load_own(config, 5, 3)


def test_a_hospital_needs_its_own_file_alone(tmp_path: Path) -> None:
    names = ("cleveland", "hungarian", "switzerland", "va")
    whole = tmp_path / "whole"
    whole.mkdir()
    for number, name in enumerate(names):
        (whole / f"processed.{name}.data").write_text(
            "\n".join(ROW.format(age=40 + number + row, diagnosis=row % 5) for row in range(9))
        )
    everything = data.load(DataConfig(name="heart", root=whole), 1).sources
    for place, name in enumerate(names[:3]):
        site = tmp_path / name
        site.mkdir()
        (site / f"processed.{name}.data").write_bytes((whole / f"processed.{name}.data").read_bytes())
        assert same(data.load_own(DataConfig(name="heart", root=site), 1, place), everything[place])
    with pytest.raises(FedhaError, match=r"cannot read .*processed\.hungarian\.data"):
        data.load_own(DataConfig(name="heart", root=tmp_path / "nowhere"), 1, 1)
    assert data.load_targets(DataConfig(name="heart", root=tmp_path / "nowhere"), 1) == ()
    assert data.load_targets(DataConfig(name="heart"), 1) == ()
    (tmp_path / "empty").mkdir()
    assert data.load_targets(DataConfig(name="heart", root=tmp_path / "empty"), 1) == ()
    with pytest.raises(FedhaError, match=r"processed\.va\.data"):
        data.load_targets(DataConfig(name="heart", root=tmp_path / "cleveland"), 1)


def test_arrays_are_told_by_the_folder_or_by_the_sources(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        inputs = numpy.random.default_rng(ord(name)).normal(size=(9, 4))
        numpy.savez(tmp_path / f"{name}.npz", inputs=inputs, labels=[0, 1, 2] * 3)
    options: dict[str, Any] = {"name": "arrays", "classes": 3}
    config = DataConfig(root=tmp_path, target="c", **options)
    everything = data.load(config, 2).sources
    for place, name in enumerate("ab"):
        site = tmp_path / name
        site.mkdir()
        (site / f"{name}.npz").write_bytes((tmp_path / f"{name}.npz").read_bytes())
        assert same(data.load_own(DataConfig(root=site, target="c", **options), 2, place), everything[place])
    with pytest.raises(FedhaError, match=r"holds 3 \.npz files; keep the client's own alone"):
        data.load_own(config, 2, 0)
    both = DataConfig(root=tmp_path, sources=["b", "a"], target="c", **options)
    assert same(data.load_own(both, 2, 1), everything[0])
    with pytest.raises(FedhaError, match=r"data\.classes is not set; a client sees its own labels alone"):
        data.load_own(DataConfig(name="arrays", root=tmp_path / "a"), 2, 0)


def test_the_number_of_classes_is_known_without_labels() -> None:
    assert data.class_count(DataConfig()) == data.class_count(DataConfig(name="heart")) == 2
    assert data.class_count(DataConfig(name="arrays", classes=5)) == 5
    with pytest.raises(FedhaError, match=r"data\.classes is not set; a deployment's server sees no labels"):
        data.class_count(DataConfig(name="arrays"))


def test_a_server_needs_the_targets_file_alone(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        inputs = numpy.random.default_rng(ord(name)).normal(size=(9, 4))
        numpy.savez(tmp_path / f"{name}.npz", inputs=inputs, labels=[0, 1, 2] * 3)
    server = tmp_path / "server"
    server.mkdir()
    (server / "c.npz").write_bytes((tmp_path / "c.npz").read_bytes())
    options: dict[str, Any] = {"name": "arrays", "classes": 3, "target": "c"}
    (alone,) = data.load_targets(DataConfig(root=server, **options), 2)
    assert same(alone, data.load(DataConfig(root=tmp_path, **options), 2).targets[0])
    with pytest.raises(FedhaError, match="label"):
        data.load_targets(DataConfig(root=server, **{**options, "classes": 2}), 2)


def test_sources_are_exported_one_folder_each_and_over_nothing(tmp_path: Path) -> None:
    domains = data.load(DataConfig(), 3)
    files = export_sources(domains, tmp_path / "out")
    assert [path.parent.name for path in files] == [one.name for one in domains.sources]
    for path, domain in zip(files, domains.sources, strict=True):
        assert same(read_domain(path)[0], domain)
    with pytest.raises(FedhaError, match="nothing is overwritten"):
        export_sources(domains, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(FedhaError, match=r"cannot write|there already"):
        export_sources(domains, tmp_path / "file")
