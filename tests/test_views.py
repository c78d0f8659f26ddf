"""K views of an image that chance changes: each computed once, one taken by a round, the bits as without a cache."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedha.config import parse
from fedha.data.examples import Examples
from fedha.data.images.augment import Augmentation, written
from fedha.data.images.decode import Square
from fedha.errors import FedhaError
from fedha.features import Keeping, divided, featured
from fedha.features.ahead import compute, cost, parts_of
from fedha.features.trunk import computed
from fedha.flower.serve import Job, load_domains
from fedha.models import SplitModel
from fedha.placement import placed
from fedha.run import execute
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from tests.jobs import run_job
from tests.killed_runs import assert_resumes, without_time
from tests.test_features import Counting, Drawn, counted, examples, image_config

TURNED = {"augment": "tests.transforms_of_others:own_draws"}
VIEWS = 3


def drawn() -> Examples:
    """Inputs that a view changes by its number: `Drawn` adds the sum of what draws it."""
    some = examples()
    return Examples(Drawn(some.inputs), some.labels)


def viewed(
    some: Examples, model: SplitModel, cache: Path | None, views: int = VIEWS, *, trained: bool = True
) -> Examples:
    ready = placed(some, model)
    parts = divided(model, ready.form)
    assert parts is not None
    return featured(ready, parts, Keeping(cache, views=views), "these", whole=True, trained=trained)


def as_view(body: Counting, inputs: Tensor, view: int) -> Tensor:
    return computed(body, inputs + view)


@pytest.mark.parametrize("cached", [True, False])
def test_a_round_takes_one_view_of_each_row_and_an_evaluation_the_row_itself(cached: bool, tmp_path: Path) -> None:
    (model, body), inputs = counted(), examples().inputs
    found, rows = viewed(drawn(), model, tmp_path if cached else None), torch.arange(70)
    choices = torch.stack([as_view(body, inputs, view) for view in range(VIEWS)])
    assert torch.equal(found.take(rows), computed(body, inputs))
    seen = []
    for draws in ((0, 1, 0), (0, 2, 0), (0, 1, 1), (1, 1, 0)):
        taken = found.take(rows, draws)
        same = (taken == choices).all(2)
        assert bool(same.any(0).all())
        assert same.any(1).tolist() == [True] * VIEWS
        seen.append(taken)
        assert torch.equal(found.take(torch.tensor([41, 7]), draws), taken[[41, 7]])
    assert not any(torch.equal(seen[0], other) for other in seen[1:])
    assert torch.equal(found.select(torch.tensor([5, 60])).take(None, (0, 1, 0)), seen[0][[5, 60]])


def test_each_view_is_computed_once_whatever_the_run(tmp_path: Path) -> None:
    model, body = counted()
    some = drawn()
    bare = viewed(some, model, None)
    body.seen.clear()
    for seed in range(3):
        found = viewed(some, model, tmp_path)
        for number in range(4):
            draws = (seed, number, 1)
            assert torch.equal(found.take(None, draws), bare.take(None, draws))
    rows_seen = sum(body.seen)
    assert rows_seen >= 2 * 70 * VIEWS
    viewed(some, model, tmp_path).take(None, (9, 9, 9))
    assert sum(body.seen) == rows_seen
    body.seen.clear()
    viewed(some, model, tmp_path, views=VIEWS + 1)
    assert sum(body.seen) == 96  # 70 more, in blocks of 32


def test_what_is_evaluated_has_no_views(tmp_path: Path) -> None:
    model, body = counted()
    body.seen.clear()
    viewed(drawn(), model, tmp_path, trained=False)
    assert sum(body.seen) == 2 + 96  # its trial on zeros, and 70 in blocks of one shape


def test_views_of_what_nothing_changes_are_refused() -> None:
    with pytest.raises(FedhaError, match=r"model.features.views is 3, but nothing changes the inputs of these"):
        viewed(examples(), counted()[0], None)


def test_a_view_is_known_by_its_place_and_by_what_changes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "turning_here.py"
    module.write_text("def turn(image, degrees=90):\n    return image.rotate(degrees)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    one = Augmentation("turning_here:turn", "{}", Square(8, 1, "bilinear"))
    written.cache_clear()
    before = written(one)
    assert before != written(Augmentation(one.name, '{"degrees": 45}', one.square))
    module.write_text("def turn(image, degrees=90):\n    return image.rotate(-degrees)\n")
    written.cache_clear()
    assert written(one) != before
    sys.modules.pop("turning_here")
    written.cache_clear()


# --- runs ---


def config_of(tmp_path: Path, cache: bool = True, **more: Any) -> Any:
    features = {"views": VIEWS} | ({"cache": str(tmp_path / "features")} if cache else {})
    data = {"name": "folder", "root": str(tmp_path / "images"), "target": "c", "size": 8, **TURNED}
    model = {"name": "tests.test_features:frozen", "features": features}
    return image_config(tmp_path, data=data, model=model, **more)


RUNS: dict[str, dict[str, Any]] = {
    "full batches": {},
    "minibatches": {"training": {"rounds": 3, "batch_size": 4}},
    "local steps": {"training": {"rounds": 2, "mode": "local", "local": {"steps": 3, "batch_size": 4}}},
    "clients that share": {"data": {"clients_per_domain": 2}},
}


@pytest.mark.parametrize("name", list(RUNS))
def test_a_run_of_views_has_the_same_bits_with_and_without_a_cache(name: str, tmp_path: Path) -> None:
    more = dict(RUNS[name])
    config = config_of(tmp_path, **{key: value for key, value in more.items() if key != "data"})
    config = config.model_copy(update={"data": config.data.model_copy(update=more.get("data", {}))})
    bare = config.model_copy(update={"model": config_of(tmp_path, cache=False).model})
    compute(parts_of(config, load_domains(config)))
    ends = []
    for place, one in (("cached", config), ("bare", bare)):
        run_job(Job(one, tmp_path / place), Silent())
        ends.append((tmp_path / place / runfolder.MODEL).read_bytes())
    assert ends[0] == ends[1]
    assert without_time(tmp_path / "cached" / "metrics.jsonl") == without_time(tmp_path / "bare" / "metrics.jsonl")


def test_workers_take_the_same_views(tmp_path: Path) -> None:
    config = config_of(tmp_path, training={"rounds": 2, "batch_size": 4})
    ends = []
    for name in ("inline", "ray"):
        own = config.model_copy(update={"engine": parse({"engine": {"name": name, "batching": False}}).engine})
        execute(own, tmp_path / name, Silent())
        ends.append((tmp_path / name / runfolder.MODEL).read_bytes())
    assert ends[0] == ends[1]


def test_views_move_a_run_and_it_is_resumed_to_its_bits(tmp_path: Path) -> None:
    config = config_of(tmp_path, checkpoint={"every": 1})
    whole = assert_resumes(config, tmp_path, 2)
    run_job(Job(image_config(tmp_path), tmp_path / "plain"), Silent())
    assert (tmp_path / "plain" / runfolder.MODEL).read_bytes() != (whole / runfolder.MODEL).read_bytes()


def test_seeds_share_views_and_the_cost_is_told_before(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    parts = parts_of(config, load_domains(config))
    before = cost(parts)
    trained = sum(len(one.source) for one in parts if one.name == "train")
    examples_and_views = 36 + trained * VIEWS
    assert before.missing == before.wanted <= examples_and_views
    assert before.bytes == before.missing * (5 * 4 + 16)
    assert before.rate > 0
    assert compute(parts) == [("a", 12, 5, VIEWS), ("b", 12, 5, VIEWS), ("c", 12, 5, 0)]
    assert cost(parts)[1:3] == (0, 0)


def test_views_where_they_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match=r"model.features.views is 2, but data.augment is none"):
        parse({"model": {"features": {"views": 2}}})
    trained = config_of(tmp_path).model_copy(
        update={"model": parse({"model": {"name": "cnn", "hidden": [2], "features": {"views": 2}}, **DATA}).model}
    )
    with pytest.raises(FedhaError, match=r"model.features.views is 2, but no part of the network .* is frozen"):
        run_job(Job(trained, tmp_path / "trained"), Silent())


DATA = {"data": {"name": "folder", "root": "x", "target": "y", **TURNED}}
