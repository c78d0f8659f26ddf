"""Data sets as somebody else writes them, named in configs of the tests as tests.data_of_others:function."""

from pathlib import Path

import numpy as np
import torch

from fedha.data import Domain, DomainSet, Examples, split
from fedha.data.sides import Cut
from fedha.recipes import Recipe, Term


def wards(cut: Cut, wards: int = 3, rows: int = 30, shift: float = 1.0) -> list[Domain]:
    made = []
    for ward in range(wards):
        inputs = torch.randn(rows, 4) + shift * ward
        made.append(split(f"ward{ward}", Examples(inputs, (inputs[:, 0] > shift * ward).long()), cut))
    return made


def whole(rows: int = 20) -> DomainSet:
    first, second, third = wards(Cut(0.2), rows=rows)
    return DomainSet((first, second), (Domain("t", third.train.select(slice(0)), third.train),), 2, "three wards")


def from_folder(root: Path, held_out: float) -> list[Domain]:
    made = []
    for path in sorted(root.glob("*.npy")):
        table = np.load(path)
        cut = round(held_out * len(table))
        parts = (Examples(some[:, :-1].astype("f4"), some[:, -1].astype(int)) for some in (table[cut:], table[:cut]))
        made.append(Domain(path.stem, *parts))
    return made


def with_its_own_numbers(cut: Cut, classes: int = 3, target: str = "ward1") -> list[Domain]:
    """Its defaults are its own where a config says nothing of them."""
    made = wards(cut)
    return [Domain(f"{one.name} of {classes}, not {target}", one.train, one.held_out) for one in made]


def no_domains() -> str:
    return "domains"


def fails() -> list[Domain]:
    raise KeyError("wards.csv")


HALF = Recipe("whatever", (Term("gradient", 0.5),), "of a package")


def half() -> Recipe:
    return HALF


def broken() -> Recipe:
    raise RuntimeError("no licence")


def no_recipe() -> int:
    return 3
