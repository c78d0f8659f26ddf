"""Whether a recipe can move a network at all: some penalties do not depend on any parameter that is trained."""

from collections.abc import Sequence

import torch

from fedha.config import TrainingConfig
from fedha.errors import FedhaError, listed
from fedha.inputs import Form, arguments
from fedha.measurement import Circumstances, measure, view_head
from fedha.models.split import SplitModel
from fedha.penalty import active_terms
from fedha.recipes import Recipe, Term

_EXAMPLES = 8


def unmoved(
    recipe: Recipe, model: SplitModel, form: Form | Sequence[int], sources: int, training: TrainingConfig
) -> list[str]:
    """What of a recipe cannot change how this network is trained, a sentence each; nothing where all of it can.

    Args:
        recipe: What is aligned.
        model: Any network; its parameters are not looked at, only what depends on them.
        form: Of its inputs, or the shape of one.
        sources: How many clients train.
        training: How; a single client that takes one step from its own statistics has no distance to them.
    """
    terms = active_terms(recipe, 0.5)
    if terms and sources == 1 and training.mode == "synchronous" and all(term.target != "zero" for term in terms):
        return [f"recipe {recipe.name!r} has nothing to align: there is one client; it trains as erm does"]
    if any(value.requires_grad for value in model.featurizer.parameters()):
        return []  # every statistic is made of the features, so all of them move
    try:
        still = [term.statistic for term in terms if not _moves(term, recipe, model, form)]
    except (RuntimeError, TypeError, ValueError, IndexError, FedhaError):
        return []  # it takes no such inputs, or so few examples are too few: then nothing is known
    if not still:
        return []
    depends = f"{listed(still)} {'does' if len(still) == 1 else 'do'} not depend on any parameter that is trained"
    left = "it trains as erm does" if len(still) == len(terms) else "the rest of it does"
    return [f"recipe {recipe.name!r} cannot move this network: {depends}; {left}"]


def _moves(term: Term, recipe: Recipe, model: SplitModel, form: Form | Sequence[int]) -> bool:
    """Whether a term's statistic is made of a head's parameters, on some examples of zeros."""
    own = {name: value.detach().requires_grad_(value.requires_grad) for name, value in model.named_parameters()}
    some = next(iter(own.values()))
    view = view_head(model, own)
    with torch.no_grad():
        by_place, by_name = arguments(Form.of(form, some.dtype).zeros(_EXAMPLES, device=some.device))
        features = view.prepare(model.featurizer(*by_place, **by_name))
    labels = torch.arange(_EXAMPLES, device=some.device) % 2
    around = Circumstances(0, 1, None, recipe.probes, {"gradient": some.new_ones(view.shape)})
    with torch.enable_grad():
        return measure(term.statistic, view, features, labels, around).requires_grad
