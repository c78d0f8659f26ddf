"""Was this example in the batch? The statistic's mean holds a share of every member's own term."""

import torch
from torch import Tensor

from fedha.audit.evidence import DIAGONALS

RIDGE = 0.01  # of the mean eigenvalue; measured in docs/decisions/0024

TRACEABLE = ("gradient", "feature_mean", *DIAGONALS)
"""Statistics that are means of one term an example: Hutchinson's is, plus noise of its own."""


def example_terms(name: str, head: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Each example's own term of a statistic, whose mean is the statistic.

    Args:
        name: One of `TRACEABLE`.
        head: [C, D].
        features: With the column of ones, [n, D].
        labels: [n].

    Returns:
        [n, size of the statistic].
    """
    if name == "feature_mean":
        return features[:, :-1]
    logits = features @ head.T
    p = torch.sigmoid(logits) if len(head) == 1 else torch.softmax(logits, 1)
    if name in DIAGONALS:
        return torch.einsum("nc,nd->ncd", p * (1 - p), features.square()).flatten(1)
    one_hot = labels[:, None] == (torch.arange(len(head)) if len(head) > 1 else torch.ones(1))
    return torch.einsum("nc,nd->ncd", p - one_hot.to(p), features).flatten(1)


def membership_scores(
    released: Tensor, examples: int, candidates: Tensor, known: Tensor, ridge: float = RIDGE
) -> Tensor:
    """How much likelier a released mean is with each candidate in the batch than without it.

    With mu and S the mean and covariance of terms of examples that are known not to be members, a mean of n terms is
    about normal, N(mu, S / n), and with candidate t among them its mean moves by (t - mu) / n. The log-likelihood ratio
    is ``(t - mu)^T S^-1 (mean - mu) - (t - mu)^T S^-1 (t - mu) / (2 n)``.

    Args:
        released: The statistic as sent, [P].
        examples: n, behind it.
        candidates: Terms, [k, P].
        known: Terms of known non-members from like data, [m, P], m >= 2.
        ridge: Added to S, in units of its mean eigenvalue, after every column is scaled to unit deviation.

    Returns:
        [k], higher for members; nats, as far as the normal approximation and the ridge hold.

    Source:
        An inner product with a released mean betrays its members: Homer et al. (PLoS Genetics 2008), Dwork et al.,
        "Robust Traceability from Trace Amounts" (FOCS 2015). The whitening is the likelihood ratio of the normal model.
    """
    known, candidates, released = known.double(), candidates.double(), released.double().flatten()
    centre, deviation = known.mean(0), known.std(0)
    used = deviation > 1e-9 * deviation.max().clamp(min=1e-300)  # a column that never varies tells nothing
    scaled = [(one[..., used] - centre[used]) / deviation[used] for one in (known, candidates, released)]
    reference, terms, mean = scaled
    m, width = reference.shape
    size = ridge * float(reference.square().sum()) / m / max(1, min(m, width))
    gram = reference @ reference.T + m * size * torch.eye(m, dtype=torch.float64)
    # (R^T R / m + size)^-1 t = (t - R^T (R R^T + m size)^-1 R t) / size: a system of m, not of P
    inside = torch.linalg.solve(gram, reference @ terms.T)
    whitened = (terms - inside.T @ reference) / size
    ratios: Tensor = whitened @ mean - (whitened * terms).sum(1) / (2 * examples)
    return ratios
