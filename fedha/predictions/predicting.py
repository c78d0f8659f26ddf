"""A finished run's network on examples, piece by piece: predictions are written as they come, and counted."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from fedha import cross_entropy, numerics
from fedha.config import Config, load_written
from fedha.data.check import check_finite
from fedha.data.examples import Examples
from fedha.data.groups import groups_of
from fedha.data.unlabelled import UNKNOWN
from fedha.errors import FedhaError
from fedha.loading import Expectation, load
from fedha.metrics.asked import Asked, asked
from fedha.metrics.counts import nested, numbers_of, of_scores, predictions, probabilities_of
from fedha.metrics.values import as_recorded, joined
from fedha.models.split import SplitModel
from fedha.pieces import in_pieces, rows_at_once
from fedha.placement import placed
from fedha.predictions.examples import Piece, ids_of, pieces_of
from fedha.predictions.writing import Block, write
from fedha.runs import runfolder

_LARGEST = 1024  # rows of a block


@dataclass
class Predicted:
    """What was predicted.

    Attributes:
        output: The file.
        rows: How many.
        domains: The metrics of those with labels, by domain and part, as results have them.
    """

    output: Path
    rows: int = 0
    domains: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)


def predict(
    run: Path,
    output: Path,
    data: str | None = None,
    *,
    rule: str = "final",
    round: int | None = None,
    metrics: Sequence[str] | None = None,
) -> Predicted:
    """Write what a run's network says of examples, and evaluate those that have labels.

    Memory holds a block of rows, and what metrics of single examples need: their probabilities.

    Args:
        run: The finished run's folder.
        output: A .csv or .parquet file: id, domain, part, label, prediction, and the probability of each class.
        data: As in `examples.pieces_of`.
        rule: Whose round's weights, as in `fedha.load`.
        round: Or those of this round.
        metrics: By name; None: the run's.

    Raises:
        FedhaError: The run, the data or the output cannot be used.
    """
    model = load(run, rule=rule, round=round)
    config, expects = load_written(run / runfolder.CONFIG), cast(Expectation, model.expects)
    numerics.configure(config.engine.threads)
    names = list(config.evaluation.metrics if metrics is None else metrics)
    pieces = pieces_of(run, config, expects, data)
    groups = config.evaluation.groups or "" if all(one.part for one in pieces) else ""
    counting = _Counting(config, names, asked(names, groups, expects.classes), Predicted(output))
    classes = list(expects.class_names) or [str(one) for one in range(expects.classes)]
    write(output, (block for one in pieces for block in counting.blocks(model, one, classes)))
    return counting.found


@dataclass
class _Counting:
    """What is counted on the way."""

    config: Config
    names: Sequence[str]
    wanted: Asked
    found: Predicted

    def blocks(self, model: SplitModel, piece: Piece, classes: Sequence[str]) -> Iterator[Block]:
        """The rows of a piece, a block at a time; counted when all are through."""
        examples, ids = placed(piece.examples, model), ids_of(piece.examples)
        rows = min(_LARGEST, rows_at_once(model, examples.form, (), 1))
        pooled: dict[str, Any] = {"examples": 0}
        scores: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(examples), rows):
            some = examples.select(slice(start, start + rows))
            logits = in_pieces(model, model, {}, some, rows)
            _check_answers(logits, piece, ids[start : start + rows])
            probabilities = probabilities_of(logits)
            self.found.rows += len(some)
            yield _block(piece, ids[start : start + rows], some.labels, predictions(logits), probabilities, classes)
            if len(there := (some.labels != UNKNOWN).nonzero()[:, 0]):
                pooled = joined(pooled, self._counted(some.select(there), logits[there]))
                scores += [(probabilities[there].float(), some.labels[there])] if self.wanted.scores else []
        if pooled["examples"]:
            for name in self.wanted.scores:
                both = (torch.cat(one) for one in zip(*scores, strict=True))
                pooled[name] = of_scores(name, *both)[0]
            seed = self.config.seed[0]
            self.found.domains[piece.domain, piece.part] = as_recorded(pooled, self.names, seed=seed)

    def _counted(self, some: Examples, logits: Tensor) -> Mapping[str, Any]:
        plain = Asked(self.wanted.counts, (), self.wanted.groups, self.wanted.classes)
        losses, hits = cross_entropy.losses(logits, some.labels), cross_entropy.hits(logits, some.labels)
        return nested(numbers_of(losses, hits, logits, some.labels, plain, groups_of(some, self.wanted.groups)))


def _check_answers(logits: Tensor, piece: Piece, ids: Sequence[Any]) -> None:
    """Refuse answers that are no numbers; where the inputs are to blame, that is said."""
    if bool(logits.isfinite().all()):
        return
    check_finite(piece.domain, piece.part or "to be predicted", piece.examples)
    row = ids[int((~logits.isfinite().all(1)).nonzero()[0])]
    raise FedhaError(f"the run's network gives no finite numbers for {row} of {piece.domain!r}; look at that example")


def _block(
    piece: Piece, ids: Sequence[Any], labels: Tensor, taken: Tensor, probabilities: Tensor, classes: Sequence[str]
) -> Block:
    count = len(labels)
    classes = [*classes, *(f"output {one}" for one in range(len(classes), probabilities.shape[1]))]  # of no class
    return {
        "id": list(map(str, ids)),
        "domain": [piece.domain] * count,
        "part": [piece.part] * count,
        "label": ["" if one == UNKNOWN else classes[one] for one in labels.tolist()],
        "prediction": [classes[one] for one in taken.tolist()],
        **{f"p_{name}": column for name, column in zip(classes, probabilities.T.tolist(), strict=True)},
    }
