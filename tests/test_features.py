"""Features of a frozen network: computed once, kept, shared, and the numbers that a run has without a cache."""

import errno
import stat
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fedha.config import parse
from fedha.data.domain import Domain
from fedha.data.examples import Chosen, Examples, Joined
from fedha.errors import FedhaError, UnwrittenError
from fedha.features import Keeping, divided, featured, forget, row_keys
from fedha.features import store as stores
from fedha.features.ahead import compute, parts_of
from fedha.features.source import Features
from fedha.features.trunk import BLOCK, computed
from fedha.flower.serve import Job, load_domains
from fedha.loading import load
from fedha.models import SplitModel
from fedha.models.state import trained_parameters
from fedha.placement import placed
from fedha.progress import reporting_to
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from tests.jobs import run_job
from tests.killed_runs import without_time


class Counting(nn.Module):
    """A frozen layer that counts the examples it sees."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.flat, self.body = nn.Flatten(), nn.Linear(128, width)
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        found: Tensor = self.body(self.flat(images)).relu()
        return found


def frozen(input_shape: Any, classes: int, drop: float = 0.0, width: int = 5) -> SplitModel:
    """A network of somebody's: a frozen body, a trained layer behind it."""
    layers = [nn.Flatten(), nn.Linear(int(numpy.prod(input_shape)), width).requires_grad_(False), nn.ReLU()]
    return SplitModel(nn.Sequential(*layers, nn.Dropout(drop), nn.Linear(width, 4)), nn.Linear(4, classes))


def counted(width: int = 5) -> tuple[SplitModel, Counting]:
    torch.manual_seed(0)
    body = Counting(width)
    return SplitModel(body, nn.Linear(width, 3)), body


def examples(count: int = 70, seed: int = 0) -> Examples:
    chance = torch.Generator().manual_seed(seed)
    return Examples(torch.rand(count, 2, 8, 8, generator=chance), torch.arange(count) % 3)


def kept(some: Examples, model: SplitModel, cache: Path | None, *, whole: bool = True, **more: Any) -> Tensor:
    """All features of some examples."""
    ready = placed(some, model)
    parts = divided(model, ready.form)
    assert parts is not None
    found = featured(ready, parts, Keeping(cache, **more), "these", whole=whole).take()
    assert isinstance(found, Tensor)
    return found


# --- which part is constant ---


def test_the_largest_part_that_nothing_changes_is_divided_off() -> None:
    for drop, names in ((0.0, ["0", "1", "2", "3"]), (0.5, ["0", "1", "2"])):
        model = frozen((2, 8, 8), 3, drop)
        parts = divided(model, examples().form)
        assert parts is not None
        assert [name for name, _ in parts.trunk.named_children()] == names
        assert trained_parameters(parts.rest).keys() == trained_parameters(model).keys()
        assert parts.width == 5


@pytest.mark.parametrize(
    "featurizer",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(128, 5)),
        nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, 5).requires_grad_(False)),
        nn.Sequential(nn.Conv2d(2, 4, 3).requires_grad_(False), nn.Conv2d(4, 4, 3), nn.Flatten()),
        nn.Flatten(),
    ],
    ids=["trained", "draws first", "no row of features before what is trained", "nothing to compute"],
)
def test_where_no_features_are_constant_nothing_is_divided(featurizer: nn.Module) -> None:
    assert divided(SplitModel(featurizer, nn.Linear(5, 3)), examples().form) is None


def test_running_statistics_that_move_are_no_constants() -> None:
    body = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(128)).requires_grad_(False)
    assert divided(SplitModel(body, nn.Linear(128, 3), batch_norm="averaged"), examples().form) is None
    assert divided(SplitModel(body, nn.Linear(128, 3), batch_norm="frozen"), examples().form) is not None


# --- the same bits, computed once ---


def test_no_features_of_a_network_of_fedhas_is_the_default() -> None:
    plain = {"name": "timm", "architecture": "resnet18", "weights": "none"}
    assert parse({"model": {**plain, "features": None}}) == parse({"model": plain})
    own = parse({"model": {"name": "tests.test_features:frozen", "features": None}})  # its own argument, if it has one
    assert own.model.options == {"features": None}


def test_a_rows_features_depend_on_no_other_row(tmp_path: Path) -> None:
    torch.manual_seed(3)
    trunk = nn.Sequential(nn.Conv2d(2, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten())
    trunk.requires_grad_(False)
    inputs = torch.rand(3 * BLOCK + 5, 2, 8, 8)
    whole = computed(trunk, inputs)
    order = torch.randperm(len(inputs))
    assert torch.equal(computed(trunk, inputs[order]), whole[order])
    assert torch.equal(computed(trunk, inputs[7:9]), whole[7:9])


def test_each_example_goes_through_once_whatever_the_order_split_and_process(tmp_path: Path) -> None:
    (model, body), some = counted(), examples()
    alone = kept(some, model, None)
    body.seen.clear()
    assert torch.equal(kept(some, model, tmp_path), alone)
    assert sum(body.seen) == 3 * BLOCK  # 70 rows, in blocks of one shape
    order = torch.randperm(70)
    body.seen.clear()
    for part in (order[:50], order[50:], order.flip(0)):
        model, body = counted()  # another process' network
        before = len(body.seen)
        assert torch.equal(kept(some.select(part), model, tmp_path), alone[part])
        assert sum(body.seen[before:]) == 2  # its trial on zeros


def test_more_examples_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    (model, body), more = counted(), examples(100)
    kept(more.select(slice(0, 70)), model, tmp_path)
    body.seen.clear()
    assert torch.equal(kept(more, model, tmp_path), kept(more, model, None))
    assert body.seen[0] == BLOCK
    assert sum(body.seen) == BLOCK + 4 * BLOCK  # 30 that were missing, and the 100 of the second


@pytest.mark.parametrize("whole", [True, False])
def test_float16_is_rounded_with_and_without_a_cache(whole: bool, tmp_path: Path) -> None:
    model, some = counted()[0], examples()
    exact = kept(some, model, None)
    for cache in (tmp_path, None):
        found = kept(some, model, cache, precision="float16", whole=whole)
        assert torch.equal(found, exact.half().float())
    assert not torch.equal(found, exact)


def test_features_beyond_float16_are_refused(tmp_path: Path) -> None:
    model, body = counted()
    body.body.weight.data *= 1e6
    with pytest.raises(FedhaError, match=r"beyond float16; set model.features.precision to float32"):
        kept(examples(), model, tmp_path, precision="float16")


def test_other_data_other_weights_and_another_precision_are_not_found(tmp_path: Path) -> None:
    (model, body), some = counted(), examples()
    kept(some, model, tmp_path)
    body.seen.clear()
    kept(examples(seed=1), model, tmp_path)
    assert body.seen
    body.body.weight.data[0, 0] += 1
    body.seen.clear()
    assert not torch.equal(kept(some, model, tmp_path), kept(some, counted()[0], None))
    assert body.seen
    assert len([one for one in tmp_path.iterdir() if one.is_dir()]) == 2
    kept(some, model, tmp_path, precision="float16")
    assert len([one for one in tmp_path.iterdir() if one.is_dir()]) == 3


def test_images_in_files_are_known_by_their_files(tmp_path: Path) -> None:
    config = image_config(tmp_path)
    domains = load_domains(config)
    compute(parts_of(config, domains))
    first = domains.sources[0]
    before = {*row_keys(first.train).tolist(), *row_keys(first.held_out).tolist()}
    path = next((tmp_path / "images").glob(f"{domains.sources[0].name}/*/*"))
    Image.new("L", (8, 8), 7).save(path)
    first = load_domains(config).sources[0]
    after = {*row_keys(first.train).tolist(), *row_keys(first.held_out).tolist()}
    assert (len(before - after), len(after - before), len(after)) == (1, 1, 12)


def test_rows_of_joined_and_chosen_sources_are_the_rows_themselves() -> None:
    some = examples()
    parts = Joined((some.inputs[:40], some.inputs[40:]))
    rows = torch.tensor([60, 3, 41])
    chosen = Examples(Chosen(parts, rows), some.labels[rows])
    assert row_keys(chosen).tolist() == row_keys(some)[rows.numpy()].tolist()


@dataclass(frozen=True)
class Begun:
    """A source that notes which rows it was told to begin with; chance changes nothing of it."""

    inputs: Tensor
    told: list[list[int]]
    augmentation: None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.inputs.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.inputs.dtype

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Tensor, draws: Any) -> Tensor:
        return self.inputs[rows]

    def expect(self, rows: Tensor, draws: Any) -> None:
        self.told.append(rows.tolist())


def test_inputs_of_features_that_are_known_are_not_begun(tmp_path: Path) -> None:
    model, rows, round_draws = frozen((2, 8, 8), 3), torch.tensor([7, 4, 7]), (0, 1, 2)
    parts = divided(model, examples().form)
    assert parts is not None
    for cache, remembered in ((None, [[4, 7], [5]]), (tmp_path, [])):
        told: list[list[int]] = []
        some = replace(examples(), inputs=Begun(examples().inputs, told))
        found = featured(placed(some, model), parts, Keeping(cache), "these", whole=False)
        told.clear()
        for wanted in (rows, rows, torch.tensor([4, 5])):
            found.expect(wanted, round_draws)
            found.take(wanted, round_draws)
        assert told == remembered


# --- what goes wrong ---


def test_what_a_killed_process_left_is_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model, body), some = counted(), examples(300)
    monkeypatch.setattr(stores, "_SAVE_EVERY", 0.0)
    plain = Features.fresh

    def stopped(self: Features, rows: Tensor, draws: Any = None) -> Tensor:
        if len(body.seen) > 6:
            raise KeyboardInterrupt
        return plain(self, rows, draws)

    with monkeypatch.context() as patched:
        patched.setattr(Features, "fresh", stopped)
        with pytest.raises(KeyboardInterrupt):
            kept(some, model, tmp_path)
    with (next(tmp_path.glob("*/part.rows"))).open("ab") as file:
        file.write(b"half a row")
    done, told = len(body.seen), list[str]()
    with reporting_to(told.append):
        found = kept(some, model, tmp_path)
    assert told == ["computing features of these: goes on at 256 of 300 examples"]
    assert len(body.seen) - done == 2  # 44 that were missing
    assert torch.equal(found, kept(some, model, None))
    assert not list(tmp_path.glob("*/part.*"))


def test_two_processes_compute_what_one_would(tmp_path: Path) -> None:
    found, bodies = [], [counted() for _ in range(4)]

    def go(model: SplitModel) -> None:
        found.append(kept(examples(), model, tmp_path))

    threads = [threading.Thread(target=go, args=(model,)) for model, _ in bodies]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == 4
    assert all(torch.equal(one, found[0]) for one in found)
    assert sum(sum(body.seen) - 2 for _, body in bodies) == 3 * BLOCK


def test_a_disk_that_fills_is_a_sentence_and_what_is_whole_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model, _), some = counted(), examples(300)

    def full(store: Any, features: Tensor) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(stores, "_bytes", full)
        with pytest.raises(UnwrittenError, match=r"cannot write the cache of features .*No space left"):
            kept(some, model, tmp_path)
    assert torch.equal(kept(some, model, tmp_path), kept(some, model, None))
    monkeypatch.setattr(stores.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(UnwrittenError, match=r"take \d[\d.]* k?B but the disk of the cache"):
        kept(examples(seed=5), model, tmp_path)


@pytest.mark.parametrize("to", ["nowhere.png", "link.png"])
def test_a_link_that_leads_nowhere_is_named(to: str, tmp_path: Path) -> None:
    config = image_config(tmp_path)
    (tmp_path / "images" / "a" / "x" / "link.png").symlink_to(tmp_path / "images" / "a" / "x" / to)
    with pytest.raises(FedhaError, match=r"cannot use the image .*link.png: .*; mend or remove it"):
        compute(parts_of(config, load_domains(config)))


def test_a_cache_without_a_name_is_refused() -> None:
    with pytest.raises(FedhaError, match=r"model.features.cache: it names no folder; leave it out, or name one"):
        parse({"model": {"name": "tests.test_features:frozen", "features": {"cache": ""}}})


def test_a_cache_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwrittenError, match=r"let model.features.cache name a folder"):
        kept(examples(), counted()[0], tmp_path / "file" / "cache")


def test_a_torn_file_is_not_read(tmp_path: Path) -> None:
    (model, body), some = counted(), examples()
    kept(some, model, tmp_path)
    rows = next(tmp_path.glob("*/*.rows"))
    rows.write_bytes(rows.read_bytes()[:-4])
    body.seen.clear()
    assert torch.equal(kept(some, model, tmp_path), kept(some, model, None))
    assert len(body.seen) == 6


def test_a_private_cache_is_its_owners_alone_and_goes_with_its_examples(tmp_path: Path) -> None:
    model, some = counted()[0], examples()
    cache = tmp_path / "features"
    kept(some, model, cache, private=True)
    files = [one for one in cache.rglob("*") if one.is_file()]
    assert {stat.S_IMODE(one.stat().st_mode) for one in files if one.suffix in (".rows", ".keys", ".json")} == {0o600}
    assert {stat.S_IMODE(one.stat().st_mode) for one in cache.iterdir()} == {0o700}
    forget(cache, row_keys(placed(some, model)))
    assert list(cache.glob("*/*.rows"))
    forget(cache, row_keys(placed(some.select(slice(1, 70)), model)))
    assert not list(cache.iterdir())
    kept(some, model, cache, private=True)
    forget(cache)
    assert not list(cache.iterdir())


# --- chance ---


class Drawn:
    """A source whose rows differ with each draw."""

    augmentation = "mine"

    def __init__(self, inputs: Tensor) -> None:
        self.inputs, self.shape, self.dtype = inputs, tuple(inputs.shape), inputs.dtype

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Tensor, draws: tuple[int, ...] | None) -> Tensor:
        return self.inputs[rows] + (0.0 if draws is None else sum(draws))


def test_examples_that_chance_changes_are_computed_anew_and_evaluated_from_the_cache(tmp_path: Path) -> None:
    (model, body), some = counted(), examples()
    drawn = Examples(Drawn(some.inputs), some.labels)
    ready = placed(drawn, model)
    parts = divided(model, ready.form)
    found = featured(ready, parts, Keeping(tmp_path), "these", whole=True)
    rows = torch.tensor([3, 1])
    body.seen.clear()
    assert torch.equal(found.take(rows), kept(some, model, None)[rows])
    assert torch.equal(found.take(rows, (0, 1, 0)), computed(body, some.inputs[rows] + 1))


# --- runs ---


def image_config(tmp_path: Path, **more: Any) -> Any:
    """Twelve small images in each of three domains, and a network of somebody's that is frozen."""
    chance = numpy.random.default_rng(0)
    for domain in ("a", "b", "c"):
        for label in ("x", "y"):
            folder = tmp_path / "images" / domain / label
            folder.mkdir(parents=True, exist_ok=True)
            for place in range(6):
                Image.fromarray(chance.integers(0, 255, (8, 8), dtype=numpy.uint8)).save(folder / f"{place}.png")
    return parse(
        {
            "data": {"name": "folder", "root": str(tmp_path / "images"), "target": "c", "size": 8},
            "model": {"name": "tests.test_features:frozen", "features": {"cache": str(tmp_path / "features")}},
            "recipe": "hgp",
            "training": {"rounds": 3},
            "evaluation": {"every": 2},
            "engine": {"name": "inline"},
            **more,
        }
    )


RUNS: dict[str, dict[str, Any]] = {
    "full batches": {},
    "minibatches": {"training": {"rounds": 3, "batch_size": 4}},
    "local steps": {"training": {"rounds": 2, "mode": "local", "local": {"steps": 3, "batch_size": 4}}},
    "fishr, some clients": {"recipe": "fishr", "training": {"rounds": 3, "clients_per_round": 1}},
    "secure sums": {"privacy": {"secure_aggregation": True, "minimum": 2}},
    "protected examples": {
        "recipe": "erm",
        "privacy": {"protect": "examples", "noise_multiplier": 1.0, "clip": 1.0},
    },
}


@pytest.mark.parametrize("name", list(RUNS))
def test_a_run_has_the_same_bits_with_and_without_a_cache(name: str, tmp_path: Path) -> None:
    config = image_config(tmp_path, **RUNS[name])
    bare = config.model_copy(update={"model": config.model.model_copy(update={"features": parse({}).model.features})})
    domains = load_domains(config)
    compute(parts_of(config, domains))
    for place, one in (("cached", config), ("bare", bare)):
        run_job(Job(one, tmp_path / place), Silent())
    one, other = ((tmp_path / place / runfolder.MODEL).read_bytes() for place in ("cached", "bare"))
    assert one == other
    assert without_time(tmp_path / "cached" / "metrics.jsonl") == without_time(tmp_path / "bare" / "metrics.jsonl")


def test_a_finished_run_takes_images_as_they_are(tmp_path: Path) -> None:
    config = image_config(tmp_path)
    results = run_job(Job(config, tmp_path / "run"), Silent())
    model = load(tmp_path / "run")
    target: Domain = load_domains(config).targets[0]
    some = placed(target.held_out, model)
    with torch.no_grad():
        right = (model(some.take()).argmax(1) == some.labels).float().mean()
    assert float(right) == pytest.approx(results["target"]["c"]["accuracy"])


def test_features_ahead_need_a_cache_and_something_frozen(tmp_path: Path) -> None:
    config = image_config(tmp_path)
    domains = load_domains(config)
    assert compute(parts_of(config, domains)) == [("a", 12, 5, 0), ("b", 12, 5, 0), ("c", 12, 5, 0)]
    with pytest.raises(FedhaError, match=r"model.features.cache is not set"):
        parts_of(parse({}), domains)
    trained = {"model": {"name": "tests.models_of_others:shaped", "features": {"cache": "f"}}}
    with pytest.raises(FedhaError, match=r"no part of network .* is frozen; set model.frozen: true"):
        parts_of(parse({**trained}), load_domains(parse({})))
