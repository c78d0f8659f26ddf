"""A ledger counts what was released, says for which neighbours, and survives a checkpoint."""

import json

import pytest

from fedha.errors import FedhaError
from fedha.privacy.ledger import Ledger, Release, restore, round_releases
from fedha.privacy.sampling import Sampling

WHOLE, POISSON = Release(2.0, "whole", 100), Release(1.0, "poisson", 10)
SHUFFLED, FIXED = Release(1.0, "shuffled", 10), Release(1.0, "without_replacement", 10)


def test_equal_releases_are_counted_together_in_any_order() -> None:
    ledger = Ledger("example", 100).add([(WHOLE, 1), (POISSON, 5)]).add([(POISSON, 2), (WHOLE, 1)])
    assert ledger.entries == ((WHOLE, 2), (POISSON, 7))
    assert Ledger("example", 100).add([]) == Ledger("example", 100)


@pytest.mark.parametrize(
    ("made", "relation"),
    [
        ([], "add or remove one example"),
        ([WHOLE, POISSON], "add or remove one example"),
        ([WHOLE, SHUFFLED], "replace one example by one that adds nothing"),
        ([POISSON, Release(1.0, "unamplified", 3)], "replace one example by one that adds nothing"),
        ([FIXED, WHOLE], "replace one example by another"),
    ],
)
def test_a_ledger_says_which_data_sets_are_neighbours(made: list[Release], relation: str) -> None:
    assert Ledger("example", 100).add((one, 1) for one in made).relation == relation


def test_a_ledger_survives_a_checkpoint() -> None:
    ledger = Ledger("client", 100).add([(WHOLE, 3), (FIXED, 4)])
    assert restore(json.loads(json.dumps(ledger.state()))) == ledger


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "the privacy ledger has version 2, this is 1"),
        ({"unit": "domain"}, "cannot be read"),
        ({"entries": [{"noise_multiplier": 1.0}]}, "cannot be read"),
        ({"entries": None}, "cannot be read"),
        ({"population": 0}, "there are 0 examples to protect"),
        ({"entries": [{"noise_multiplier": 0.0, "sampling": "whole", "sample": 9, "count": 1}]}, "has no epsilon"),
    ],
)
def test_a_damaged_ledger_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(FedhaError, match=message):
        restore({**Ledger("example", 100).add([(WHOLE, 3)]).state(), **change})


@pytest.mark.parametrize("noise", [0.0, -1.0, float("inf"), float("nan")])
def test_a_release_without_noise_has_no_epsilon(noise: float) -> None:
    with pytest.raises(FedhaError, match="has no epsilon"):
        Release(noise, "whole", 100)


def test_sampling_without_a_theorem_is_refused() -> None:
    with pytest.raises(FedhaError, match="sampling 'bootstrap' cannot be accounted for; name one of whole, poisson"):
        Release(1.0, "bootstrap", 100)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([Release(1.0, "whole", 99)], "a sum over 99 of 100 is not over the whole"),
        ([Release(1.0, "poisson", 101)], "a sample of 101 of 100"),
        ([Release(1.0, "poisson", 0)], "a sample of 0 of 100"),
        ([POISSON, FIXED], "one ledger cannot hold both"),
    ],
)
def test_what_cannot_be_accounted_for_is_refused(made: list[Release], message: str) -> None:
    with pytest.raises(FedhaError, match=message):
        Ledger("example", 100).add((one, 1) for one in made)


def test_a_round_releases_its_exchanges_and_its_steps() -> None:
    assert round_releases(2, 3.0, Sampling("whole", 50, 50), 1, 4.0) == (
        (Release(3.0, "whole", 50), 2),
        (Release(4.0, "whole", 50), 1),
    )
    assert round_releases(0, 3.0, Sampling("poisson", 5, 50), 7, 4.0) == ((Release(4.0, "poisson", 5), 7),)
    shuffled = round_releases(1, 3.0, Sampling("shuffled", 5, 50), 21, 4.0)
    assert shuffled[1] == (Release(4.0, "shuffled", 5), 3)  # ten batches a pass: the third pass has begun
