"""Digits whose domains differ in the shares of their classes and in nothing else: label shift, known exactly."""

from typing import Annotated

import torch
from pydantic import Field

from fedha.data import digits
from fedha.data.about import about
from fedha.data.domain import DomainSet, Examples, split
from fedha.data.sides import Cut
from fedha.data.wanted import check_unseen
from fedha.errors import FedhaError
from fedha.randomness import generator

Share = Annotated[float, Field(ge=0, le=1)]


@about(
    "1,797 real digits of scikit-learn in domains with other shares of their classes: label shift alone",
    needs="",
    domains="labels0, labels1, …: one for each of data.shares",
    classes=10,
)
def digits_labels(
    cut: Cut,
    target: str | list[str] | None = None,
    sources: list[str] | None = None,
    shares: Annotated[list[Share], Field(min_length=2)] = [0.1, 0.9, 0.5],  # noqa: B006  # read, never changed
) -> DomainSet:
    """Disjoint parts of the 1,797 images of 8x8, as large as their shares allow and of one size, to an image.

    Args:
        cut: Its seed decides which images a domain gets; decides what is held out.
        target: The unseen domains; required.
        sources: Those that are trained on; None: all others.
        shares: Of the digits 5 to 9 in each domain. Two domains' classes are as far apart in total variation as these.

    Returns:
        Inputs [n, 1, 8, 8] of bytes, ten classes.

    Raises:
        FedhaError: No target, or domains too small to be any.

    Source:
        E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998),
        its test part.
    """
    names = [f"labels{place}" for place in range(len(shares))]
    check_unseen(names, target)
    images, labels = digits.as_bytes()
    order = torch.randperm(len(labels), generator=generator(cut.seed, "data", "shuffle"))
    low, high = order[labels[order] < 5], order[labels[order] >= 5]
    given = (high, shares), (low, [1 - share for share in shares])
    size = min(len(kind) / sum(some) for kind, some in given if sum(some) > 0)
    made, begun = [], [0, 0]
    for place, name in enumerate(names):
        part = []
        for which, (kind, some) in enumerate(given):
            end = begun[which] + int(size * some[place])
            if some[place] > 0 and end == begun[which]:
                raise FedhaError(f"data.shares {shares} leave {name!r} no digit of a kind; say 0, or fewer domains")
            part.append(kind[begun[which] : end])
            begun[which] = end
        chosen = torch.cat(part).sort().values
        made.append(split(name, Examples(images[chosen][:, None], labels[chosen]), cut))
    told = ", ".join(f"{name} {share:g}" for name, share in zip(names, shares, strict=True))
    return DomainSet(tuple(made), (), 10, f"digits of scikit-learn, {int(size)} a domain; shares of 5 to 9: {told}")
