"""Statistics of one domain at one model, for a head that is not linear: through torch.func.

The names of `statistics` and `hutchinson_diagonal` of `sketches`, with the signature ``(head, parameters, features,
labels)``: ``head(parameters, features)`` gives the logits [n, C], C = 1 being the one logit of class 1; labels may be
soft targets, as there. Head space is flat: P weights in the order of the dictionary. n examples, D features, no column
of ones. All are differentiable through features and parameters; all raise ValueError as `risk` does. Second derivatives
are a vmap (over directions) of a jvp (along one) of the gradient.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from fedha.cross_entropy import hits, mean_loss

Head = Callable[[dict[str, Tensor], Tensor], Tensor]
Named = Mapping[str, Tensor]
See = Callable[[Tensor, Tensor], Tensor]

CHUNK = 256  # directions in head space that are taken at once: bounds the memory where no graph is kept


def risk(head: Head, parameters: Named, features: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of the labels, in nats.

    Args:
        head: Maps (parameters, features) to logits, [n, C].
        parameters: The head's weights by name, P in all.
        features: The featurizer's output, [n, D], n >= 1.
        labels: Class indices, [n].

    Returns:
        Scalar.

    Raises:
        ValueError: n == 0, labels of another length, or logits that are not [n, C].
    """
    return mean_loss(logits(head, parameters, features, labels), labels)


def logits(head: Head, parameters: Named, features: Tensor, labels: Tensor) -> Tensor:
    """Logits, [n, C]; errors as in `risk`."""
    _check(features, labels)
    found = head(dict(parameters), features)
    if found.dim() != 2 or len(found) != len(features):
        raise ValueError(
            f"the head gave {len(features)} examples logits of shape {tuple(found.shape)}; expected [n, C]"
        )
    return found


def gradient(head: Head, parameters: Named, features: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the risk in the head, [P]."""
    value: Tensor = grad(_objective(head, parameters, features, labels))(_flat(parameters))
    return value


def hessian_vector_product(head: Head, parameters: Named, features: Tensor, labels: Tensor, vector: Tensor) -> Tensor:
    """Product of the risk's Hessian in the head with one vector [P] or a stack [m, P]; the shape of `vector`.

    Raises:
        ValueError: As in `risk`, or the vector is not as long as the head.

    Source:
        Pearlmutter (1994): the derivative of the gradient along the vector, forward over reverse.
    """
    _check_directions(vector, parameters, (1, 2))
    product = _product(head, parameters, features, labels)
    return product(vector) if vector.dim() == 1 else vmap(product, chunk_size=CHUNK)(vector)


def hessian_diagonal(head: Head, parameters: Named, features: Tensor, labels: Tensor) -> Tensor:
    """Exact diagonal of the risk's Hessian in the head, [P], by P products; for this head of either sign."""
    return _over_rows(head, parameters, features, labels, lambda unit, row: (unit * row).sum())


def gradient_hessian_product(head: Head, parameters: Named, features: Tensor, labels: Tensor) -> Tensor:
    """Hessian of the risk times its own gradient, ``H g``, [P]."""
    return _product(head, parameters, features, labels)(gradient(head, parameters, features, labels))


def gradient_variance(head: Head, parameters: Named, features: Tensor, labels: Tensor) -> Tensor:
    """Variance of the per-example head gradient, [P]; divides by n. The head must treat each example alone."""
    return _example_gradients(head, parameters, features, labels).var(0, correction=0)


def squared_gradient(head: Head, parameters: Named, features: Tensor, labels: Tensor) -> Tensor:
    """Mean of the squared per-example head gradient, [P]. The head must treat each example alone."""
    return _example_gradients(head, parameters, features, labels).square().mean(0)


def feature_mean(head: Head, parameters: Named, features: Tensor, labels: Tensor) -> Tensor:
    """Mean of the features, [D]."""
    _check(features, labels)
    return features.mean(0)


def feature_covariance(head: Head, parameters: Named, features: Tensor, labels: Tensor) -> Tensor:
    """Covariance of the features, [D, D]; divides by n - 1, so n >= 2."""
    _check(features, labels)
    if len(features) < 2:
        raise ValueError("a covariance needs two examples or more, got 1; raise the batch size")
    centred = features - features.mean(0)
    return centred.T @ centred / (len(features) - 1)


def feature_square(head: Head, parameters: Named, features: Tensor, labels: Tensor, centre: Tensor) -> Tensor:
    """Mean outer product of the features around a point, [D, D]; around their mean it is the covariance over n."""
    _check(features, labels)
    centred = features - centre
    return centred.T @ centred / len(features)


def scale_gradient(head: Head, parameters: Named, features: Tensor, labels: Tensor) -> Tensor:
    """Derivative of the risk in a dummy scale on the logits, at 1; scalar. Not ``<W, g>``: this head is not linear."""
    seen = logits(head, parameters, features, labels)
    value: Tensor = grad(lambda scale: mean_loss(scale * seen, labels))(seen.new_ones(()))
    return value


def hessian(head: Head, parameters: Named, features: Tensor, labels: Tensor) -> Tensor:
    """The risk's whole Hessian in the head, [P, P], for small heads."""
    return _over_rows(head, parameters, features, labels, lambda unit, row: row)


def hessian_off_diagonal(head: Head, parameters: Named, features: Tensor, labels: Tensor) -> Tensor:
    """The risk's Hessian in the head with its diagonal set to zero, [P, P], for small heads."""
    return _over_rows(head, parameters, features, labels, lambda unit, row: (1 - unit) * row)


def off_diagonal_energy(head: Head, parameters: Named, features: Tensor, labels: Tensor) -> Tensor:
    """Squared norm of the Hessian's off-diagonal part: m times the total variance of Hutchinson's estimate; scalar."""
    return _over_rows(head, parameters, features, labels, lambda unit, row: ((1 - unit) * row).square().sum()).sum()


def hutchinson_diagonal(head: Head, parameters: Named, features: Tensor, labels: Tensor, signs: Tensor) -> Tensor:
    """Hutchinson's estimate of the Hessian's diagonal, ``mean_j v_j * (H v_j)``, [P], from signs [m, P]."""
    _check_directions(signs, parameters, (2,))
    signs = signs.to(features)
    return (signs * hessian_vector_product(head, parameters, features, labels, signs)).mean(0)


def accuracy(head: Head, parameters: Named, features: Tensor, labels: Tensor) -> Tensor:
    """Share of examples whose label has the largest logit (for one logit: its sign; zero counts as class 0); scalar."""
    seen = logits(head, parameters, features, labels)
    return hits(seen, labels).to(seen.dtype).mean()


def _check(features: Tensor, labels: Tensor) -> None:
    if len(features) == 0:
        raise ValueError("a statistic needs at least one example, got 0; check the domain's data")
    if len(labels) != len(features):
        raise ValueError(f"there are {len(features)} feature rows but {len(labels)} labels; pass one label a row")


def _check_directions(vector: Tensor, parameters: Named, dimensions: tuple[int, ...]) -> None:
    size = len(_flat(parameters))
    if vector.dim() not in dimensions or vector.shape[-1] != size:
        shapes = " or ".join(f"[{size}]" if count == 1 else f"[m, {size}]" for count in dimensions)
        raise ValueError(f"the directions have shape {tuple(vector.shape)} but this head takes {shapes}")


def _flat(parameters: Named) -> Tensor:
    return torch.cat([value.flatten() for value in parameters.values()])


def _objective(head: Head, parameters: Named, features: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """The risk as a function of the flat head."""
    sizes = [value.numel() for value in parameters.values()]

    def objective(flat: Tensor) -> Tensor:
        pieces = zip(parameters.items(), torch.split(flat, sizes), strict=True)
        own = {name: piece.reshape(value.shape) for (name, value), piece in pieces}
        return mean_loss(logits(head, own, features, labels), labels)

    return objective


def _example_gradients(head: Head, parameters: Named, features: Tensor, labels: Tensor) -> Tensor:
    """Of each example's risk, [n, P]."""
    logits(head, parameters, features, labels)

    def alone(flat: Tensor, row: Tensor, label: Tensor) -> Tensor:
        return _objective(head, parameters, row[None], label[None])(flat)

    each: Tensor = vmap(grad(alone), in_dims=(None, 0, 0))(_flat(parameters), features, labels)
    return each


def _product(head: Head, parameters: Named, features: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """The Hessian as a function of a direction [P]."""
    slope, flat = grad(_objective(head, parameters, features, labels)), _flat(parameters)
    return lambda direction: jvp(slope, (flat,), (direction,))[1]


def _over_rows(head: Head, parameters: Named, features: Tensor, labels: Tensor, see: See) -> Tensor:
    """``see(unit vector i, row i of the Hessian)`` for each weight i, stacked."""
    product = _product(head, parameters, features, labels)
    weights = torch.arange(len(_flat(parameters)), device=features.device)

    def one(index: Tensor) -> Tensor:
        unit = (weights == index).to(features.dtype)
        return see(unit, product(unit))

    stacked: Tensor = vmap(one, chunk_size=CHUNK)(weights)
    return stacked
