"""Sketches: estimates of the Hessian's diagonal from random signs (Hutchinson).

The signs are data here, not state: the caller draws them (`draw_signs`) from the run's seed, the round and, for
independent signs, the client.
"""

import torch
from torch import Tensor

from fedha import statistics
from fedha.randomness import generator


def draw_signs(seed: int, round: int, probes: int, shape: torch.Size, owner: str | None = None) -> Tensor:
    """Random signs for one round.

    Args:
        seed: The run's seed.
        round: The round, from 1.
        probes: How many sign vectors, m >= 1.
        shape: The head's shape, [C, D].
        owner: Whose signs: None for the round's shared ones, else a client's name (independent signs).

    Returns:
        [m, C, D], entries -1.0 and 1.0, float32 on the CPU.

    Raises:
        ValueError: probes < 1.

    Source:
        Rademacher probes (Hutchinson, 1989).
    """
    if probes < 1:
        raise ValueError(f"probes is {probes}; Hutchinson needs at least 1")
    draws = generator(seed, "signs", round, "shared" if owner is None else f"client {owner}")
    size = probes * torch.Size(shape).numel()
    # 64 signs a draw: with a draw for each, drawing costs as much as the products
    words = torch.empty(-(-size // 64), dtype=torch.int64).random_(-(2**63), None, generator=draws)
    bits = words.view(torch.uint8)[:, None] >> torch.arange(8, dtype=torch.uint8) & 1
    signs = bits.view(torch.int8).mul_(2).sub_(1).flatten()[:size]
    return signs.reshape(probes, *shape).to(torch.float32)


def hutchinson_diagonal(head: Tensor, features: Tensor, labels: Tensor, signs: Tensor) -> Tensor:
    """Hutchinson's estimate of the Hessian's diagonal: ``mean_j v_j * (H v_j)``.

    All probes go through one batched product, or, where that costs more operations than the head's Hessian itself,
    through ``rowsum(H * mean_j v_j v_j^T)``, whose cost does not depend on m. The two agree up to rounding.

    Args:
        head: Weights, [C, D].
        features: Features with a last column of ones, [n, D], n >= 1.
        labels: Class indices, [n]; checked, otherwise not read.
        signs: Entries -1 and 1, [m, C, D].

    Returns:
        [C, D], in nats per squared unit weight. Its mean over all sign vectors is the exact diagonal.

    Raises:
        ValueError: As in `statistics.risk`, or signs are not [m, C, D].

    Source:
        Hutchinson (1989); used for domain generalization by Hemati et al. (ICCV 2023).
    """
    if signs.dim() != 3 or signs.shape[1:] != head.shape:
        raise ValueError(
            f"signs have shape {tuple(signs.shape)}; expected [m, {head.shape[0]}, {head.shape[1]}] for this head"
        )
    signs = signs.to(features)
    if through_hessian(len(features), head.shape[0], head.shape[1], len(signs)):
        flat = signs.flatten(1)
        coupling = flat.T @ flat / len(signs)
        return (statistics.hessian(head, features, labels) * coupling).sum(1).reshape(head.shape)
    if len(signs) <= len(features):
        return (signs * statistics.hessian_vector_product(head, features, labels, signs)).mean(0)
    # sum_j v_jck (H v_j)_ck = sum_i z_ik sum_j q_ijc v_jck, q the changes: n tensors C x D in between, not m
    changes = statistics.residual_changes(head, features, labels, signs)  # [n, m, C]
    carried = torch.bmm(changes.permute(2, 0, 1), signs.transpose(0, 1))  # [C, n, D]
    return (carried * features).sum(1) / (len(features) * len(signs))


def through_hessian(examples: int, classes: int, width: int, probes: int) -> bool:
    """Whether the Hessian itself costs fewer multiplications than the batched probes, and fits a small head."""
    weights = classes * width
    by_hessian = examples * weights * weights + probes * weights * weights
    by_probes = 2 * examples * probes * weights
    return weights <= 4096 and by_hessian < by_probes


def hutchinson_expected(head: Tensor, features: Tensor, labels: Tensor, reference: Tensor, probes: int) -> Tensor:
    """Expectation over independent signs of Hutchinson's squared distance to a reference, without a probe.

    It is ``||d - reference||^2 + (1 / m) ||O(H)||^2``, d the exact diagonal, O(H) the off-diagonal part: with
    independent signs the method aligns the diagonals and also shrinks every client's own curvature.

    Args:
        head: Weights, [C, D].
        features: Features with a last column of ones, [n, D], n >= 1.
        labels: Class indices, [n]; checked, otherwise not read.
        reference: The mean diagonal, a constant, [C, D].
        probes: m, the number of probes that the published method would draw.

    Returns:
        Scalar, in squared nats per unit weight to the fourth.

    Raises:
        ValueError: As in `statistics.risk`, or probes < 1.

    Source:
        docs/decisions/0003-hutchinson-in-expectation.md derives it.
    """
    if probes < 1:
        raise ValueError(f"probes is {probes}; Hutchinson needs at least 1")
    distance = (statistics.hessian_diagonal(head, features, labels) - reference).square().sum()
    return distance + statistics.off_diagonal_energy(head, features, labels) / probes
