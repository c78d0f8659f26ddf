"""What answers at many heads give away: single examples, about one a head."""

from dataclasses import replace

import pytest
import torch

from fedha.audit import question_trials
from fedha.audit.attacker import Attacker
from fedha.audit.findings import NotRun
from fedha.audit.question_trials import drawn, share
from tests.diagnosis.made import head_of, sample


@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_as_many_heads_as_examples_give_their_features_exactly(outputs: int) -> None:
    one = sample(head_of(outputs, 6, 0), 1, count=60)
    found = drawn(one.heads, (outputs, 6), 60, 240, 0)
    assert share(found, one.features) >= 0.95
    nearest = torch.cdist(found, one.features).min(1).values
    assert float(nearest.max()) < 1e-6  # what distances are computed to
    few = drawn(one.heads, (outputs, 6), 60, 45, 0)
    assert len(few) < len(found) / 2
    assert share(one.features.mean(0)[None], one.features) == 0.0


def test_where_no_client_answers_nothing_is_drawn() -> None:
    attacker = Attacker(2, unasked="no client answers a diagnosis under privacy.protect: examples")
    (told,) = question_trials.run({}, {}, attacker)
    assert isinstance(told, NotRun)
    assert told.reason == attacker.unasked
    (told,) = question_trials.run({}, {}, replace(attacker, unasked=""))
    assert isinstance(told, NotRun)
    assert "final model" in told.reason
