"""What a statistic is: one row that says how it is made of means over examples, and all else that a run asks of it.

Because it is a function of means, it can be taken in pieces, its penalty has an exact gradient in pieces, and what is
computed from means that were released costs no privacy (`fedha.objective`, `fedha.privacy.releasable`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from fedha.errors import FedhaError

if TYPE_CHECKING:  # torch takes a second, and whoever reads a config needs none of it
    from torch import Tensor

    from fedha.measurement import Piece

Owner = Literal["client", "round"]


class Terms(Protocol):
    """Examples at a linear head, with a bias, one at a time: n examples, C classes, D features with a column of ones.

    Attributes:
        features: [n, D].
        squares: Of the features, [n, D].
        ones: [n, 1].
        logits: [n, C]; one column is the binary logistic head.
        probabilities: [n, C].
        weights: What each example counts, [n, 1]; 1 but for class weights.
        residuals: ``p - y``, [n, C], times the weight.
        changes: How the residuals change along the pooled gradient, [n, C].
        losses: Negative log-likelihoods, [n, 1].
        hits: Whether the label has the largest logit, [n, 1].
    """

    @property
    def features(self) -> "Tensor": ...
    @property
    def squares(self) -> "Tensor": ...
    @property
    def ones(self) -> "Tensor": ...
    @property
    def logits(self) -> "Tensor": ...
    @property
    def probabilities(self) -> "Tensor": ...
    @property
    def weights(self) -> "Tensor": ...
    @property
    def residuals(self) -> "Tensor": ...
    @property
    def changes(self) -> "Tensor": ...
    @property
    def losses(self) -> "Tensor": ...
    @property
    def hits(self) -> "Tensor": ...


@dataclass(frozen=True)
class Mean:
    """A mean over examples.

    Attributes:
        name: What it is called in messages and settings.
        of: Some rows' mean of it, differentiable; over more rows it must be the mean of the parts', weighed by rows.
        along: Another mean, of the whole batch, that it is taken along or around: ``piece.directions[along.name]``.
        symmetric: Whether it is a symmetric matrix times that other mean, so that a pull u on it pulls that one by the
            same matrix times u; otherwise its derivative in the other one must vanish.
        outer: Each example's term as an outer product, its two factors [n, U] and [n, V]: what clipping it needs.
            None: nobody has bounded what one example adds.
    """

    name: str
    of: "Callable[[Piece], Tensor]"
    along: "Mean | None" = None
    symmetric: bool = False
    outer: "Callable[[Terms], tuple[Tensor, Tensor]] | None" = None


Derive = Callable[[Mapping[str, "Tensor"], float], "Tensor"]


@dataclass(frozen=True)
class Formula:
    """How something comes from means.

    Attributes:
        means: Which.
        derive: The function of them by name, and of n; a mean of two axes that stands for fewer is cut to its shape.
    """

    means: tuple[Mean, ...]
    derive: Derive


@dataclass(frozen=True)
class Space:
    """What a head and a batch are like, for counting numbers.

    Attributes:
        rows: n.
        weights: P, of the head.
        classes: C; 1 where the head is not linear.
        width: D with the bias, or P.
        probes: Sign vectors of the Hutchinson statistics.
        closed: Whether the head is linear, with closed forms.
    """

    rows: int
    weights: int
    classes: int
    width: int
    probes: int
    closed: bool


@dataclass(frozen=True)
class Statistic:
    """A row of the table.

    Attributes:
        name: What recipes call it.
        means: What it is made of.
        derive: As in `Formula`; None: it is its only mean.
        summary: One phrase for tables.
        order: 0, 1 or 2: derivatives of the risk in the head that it holds.
        least_examples: Of how many examples it can be taken at all; domains and minibatches have so many.
        reference: The statistic whose average is its reference, by name; "": its own.
        needs: References that must be known before it can be measured; each costs an earlier exchange.
        local: The statistic that takes its place in local steps; "": itself.
        signs: Whose random signs it takes: the client's own, or the round's; None: none.
        at_once: The same of a batch in one piece, where that is cheaper, or more exact, than from its means.
        released: Other means and another function, where every example is protected; None: the same.
        unreleasable: Why it cannot be released; "" where each of its means has an `outer`.
        each: Numbers that it holds at once for every row, beside the features.
        once: Numbers that it holds at once beside them.
        size: How many numbers it has for a linear head of C classes and D features, for tables.
        representation: What the featurizer must give: "" for anything, or ``gaussian`` (`fedha.models.gaussian`).
        sampled: Whether it has so many for each of a recipe's `probes`: what it draws for all clients alike.
        degree: With what power of the features' scale it grows, at the same logits: what it is measured in where
            a term's `units` are features.
    """

    name: str
    means: tuple[Mean, ...]
    derive: Derive | None = None
    summary: str = ""
    order: int = 0
    least_examples: int = 1
    reference: str = ""
    needs: tuple[str, ...] = ()
    local: str = ""
    signs: Owner | None = None
    at_once: "Callable[[Piece], Tensor] | None" = None
    released: Formula | None = None
    unreleasable: str = ""
    each: Callable[[Space], int] = lambda space: 0
    once: Callable[[Space], int] = lambda space: space.weights
    size: Callable[[int, int], int] = lambda classes, width: classes * width
    sampled: bool = False
    degree: int = 0
    representation: Literal["", "gaussian"] = ""

    @property
    def probes(self) -> bool:
        """Whether it reads a recipe's `probes`."""
        return self.sampled or self.signs is not None

    def __post_init__(self) -> None:
        if not self.name or not self.means:
            raise FedhaError(f"statistic {self.name!r} needs a name and one mean or more: Statistic(name, (Mean(…),))")
        if self.derive is None and len(self.means) > 1:
            raise FedhaError(f"statistic {self.name!r} has {len(self.means)} means; give derive, which joins them")

    @property
    def formula(self) -> Formula:
        """How it comes from its means."""
        only = self.means[0].name
        return Formula(self.means, self.derive or (lambda means, examples: means[only]))

    @property
    def refusal(self) -> str:
        """Why it cannot be released; "" where it can."""
        return "" if self.release else self.unreleasable or "nobody has bounded what one example adds to it"

    @property
    def release(self) -> Formula | None:
        """How it comes from means that clipping can bound; None where nobody has bounded one of them."""
        formula = self.released or self.formula
        bounded = not self.unreleasable and all(mean.outer is not None for mean in formula.means)
        return formula if bounded else None
