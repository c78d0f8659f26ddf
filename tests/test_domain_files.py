"""A program's domains in files: another process has the same ones, by their digest, and what it cannot have is said."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fedha
from fedha.data.domain import Domain, DomainSet, Examples
from fedha.data.domain_set import digest, domain_set
from fedha.engine import domain_files
from fedha.errors import FedhaError
from fedha.objects import get_object
from tests import models_of_others
from tests.test_simulation import DOMAINS


def inputs_of(kind: str, folder: Path, count: int, seed: int) -> Any:
    draws = torch.Generator().manual_seed(seed)
    numbers = torch.randn(count, 3, generator=draws)
    if kind == "mapped":
        np.save(folder / f"{seed}.npy", numbers.numpy())
        return np.load(folder / f"{seed}.npy", mmap_mode="r")
    return {
        "float64": numbers.double(),
        "bfloat16": numbers.bfloat16(),
        "bytes": (numbers.abs() * 9).to(torch.uint8),
        "tuple": (numbers, numbers.long()),
        "named": {"b": numbers, "a": numbers[:, :1]},
    }[kind]


def given(kind: str, folder: Path) -> DomainSet:
    def domain(place: int) -> Domain:
        labels, groups = torch.arange(12) % 2, torch.arange(12) // 3
        train, held_out = (inputs_of(kind, folder, 12, 2 * place + side) for side in range(2))
        return Domain(f"d{place}", Examples(train, labels, groups), Examples(held_out, labels))

    return domain_set([domain(place) for place in range(3)], ["d2"], None, "somebody's")


@pytest.mark.parametrize("kind", ["float64", "bfloat16", "bytes", "tuple", "named", "mapped"])
def test_another_process_has_the_same_domains(kind: str, tmp_path: Path) -> None:
    domains = given(kind, tmp_path)
    domain_files.write("mine", domains, tmp_path / "domains")
    domain_files.offer(tmp_path / "domains")
    found = get_object("data", "mine")
    assert digest(found) == digest(domains)
    assert (found.classes, found.description, found.notes) == (domains.classes, domains.description, domains.notes)
    assert type(found.sources[0].train.inputs) is type(domains.sources[0].train.inputs)
    assert torch.equal(found.sources[1].train.groups, domains.sources[1].train.groups)


def test_what_lies_in_a_file_is_not_written_again(tmp_path: Path) -> None:
    domains = given("mapped", tmp_path)
    chosen = domains.sources[0].train.select(torch.tensor([4, 1]))
    domains = DomainSet((Domain("d", chosen, domains.sources[1].train),), domains.targets, 2, "")
    domain_files.write("mine", domains, tmp_path / "domains")
    assert not any("inputs" in one.name for one in (tmp_path / "domains").iterdir())
    found = domain_files.read(tmp_path / "domains")[1].sources[0].train
    assert torch.equal(found.take(), chosen.take())
    for path in tmp_path.glob("*.npy"):
        path.unlink()
    with pytest.raises(FedhaError, match="cannot read"):
        domain_files.read(tmp_path / "domains")[1].sources[0].train.take()


class Endless:
    """Somebody's source, which this program alone has."""

    shape, dtype = (60, 2, 3), torch.float32

    def __len__(self) -> int:
        return 60

    def take(self, rows: Tensor, draws: object) -> Tensor:
        return torch.zeros(len(rows), 2, 3)


def test_a_source_that_another_process_cannot_have_is_refused_before_the_run(tmp_path: Path) -> None:
    own = Domain("own", Examples(Endless(), torch.arange(60) % 2), Examples(torch.zeros(4, 2, 3), torch.arange(4) % 2))
    with pytest.raises(
        FedhaError, match=re.escape("inputs of domain 'own' are a Endless of this program, which Flower")
    ):
        fedha.simulate([own, *DOMAINS], models_of_others.fitted, "erm", engine="flower", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_objects_on_the_flower_engine_give_the_inline_runs_bits(tmp_path: Path) -> None:
    runs = {}
    for engine in ("inline", "flower"):
        result = fedha.simulate(
            DOMAINS,
            models_of_others.fitted,
            "exact_diagonal",
            target="d2",
            training={"rounds": 2, "batch_size": 16},
            engine=engine,
            out=tmp_path / engine,
        )
        runs[engine] = (result.folder / "model.safetensors").read_bytes()
        assert result.accuracy("d2") >= 0
    assert runs["flower"] == runs["inline"]
