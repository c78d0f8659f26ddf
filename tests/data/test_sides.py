"""Laws of who is held out: in proportion, groups whole, and where examples are protected each by itself."""

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedha import data
from fedha.config import DataConfig, from_json, load_written, parse
from fedha.data.sides import Cut, by_label, held_out_count
from fedha.randomness import generator
from fedha.runs.folders import planned_runs


def sides(cut, labels, groups=None, inputs=None):
    labels = torch.as_tensor(labels)
    inputs = torch.arange(len(labels), dtype=torch.float32)[:, None] if inputs is None else inputs
    return cut.sides("here", inputs, labels, None if groups is None else torch.as_tensor(groups))


def test_three_positives_of_fifty_are_on_both_sides_of_every_draw():
    labels = torch.zeros(50, dtype=torch.int64).index_fill(0, torch.tensor([3, 17, 40]), 1)
    for seed in range(40):
        train, held_out = sides(Cut(0.2, seed=seed), labels)
        assert len(held_out) == 10
        assert 0 < int(labels[held_out].sum()) < 3
        assert 0 < int(labels[train].sum()) < 3


@given(st.lists(st.integers(0, 4), max_size=60), st.floats(0, 1), st.integers(0, 99))
def test_every_label_is_held_out_in_proportion(labels, share, seed):
    train, held_out = sides(Cut(share, seed=seed), labels or torch.zeros(0, dtype=torch.int64))
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(len(labels)))
    assert len(held_out) == held_out_count(len(labels), share)
    for label in set(labels):
        count = labels.count(label)
        held = sum(labels[place] == label for place in held_out)
        assert abs(held - share * count) < 5
        if count >= 2 and 5 <= len(held_out) <= len(labels) - 5:
            assert 0 < held < count


def test_many_labels_of_two_each_share_what_is_held_out():
    held_out = by_label(torch.arange(3000) % 1500, 0.2, torch.randperm(3000, generator=generator(0, "x")))
    assert int(held_out.sum()) == 600
    assert int(held_out.reshape(2, 1500).sum(0).max()) == 1


def test_the_random_split_is_that_of_earlier_versions():
    order = torch.randperm(50, generator=generator(7, "data", "held out", "here"))
    train, held_out = sides(Cut(0.3, "random", 7), torch.arange(50) % 2)
    assert (train.tolist(), held_out.tolist()) == (order[15:].tolist(), order[:15].tolist())


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=1, max_size=60), st.floats(0, 1))
def test_a_group_is_on_one_side(rows, share):
    groups, labels = torch.tensor(rows).T
    train, held_out = sides(Cut(share), labels, groups)
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(len(rows)))
    assert not set(groups[train].tolist()) & set(groups[held_out].tolist())
    assert len(train)
    if len(groups.unique()) > 1 and held_out_count(len(rows), share):
        assert len(held_out)


def test_groups_come_as_near_to_the_share_of_every_label_as_they_allow():
    groups = torch.arange(400) // 4
    labels = (groups % 10 == 0).long()
    for seed in range(10):
        train, held_out = sides(Cut(0.2, seed=seed), labels, groups)
        assert (len(held_out), int(labels[held_out].sum()), int(labels[train].sum())) == (80, 8, 32)


def test_a_label_of_two_groups_is_on_both_sides():
    groups = torch.arange(200) // 4
    labels = (groups < 2).long()
    for seed in range(10):
        train, held_out = sides(Cut(0.2, seed=seed), labels, groups)
        assert (int(labels[train].sum()), int(labels[held_out].sum())) == (4, 4)


@pytest.mark.parametrize("key", [None, b"a site's own"])
def test_where_examples_are_protected_a_side_depends_on_the_row_and_the_key_alone(key):
    inputs = torch.randn(200, 3, generator=generator(0, "x"))
    labels = torch.arange(200) % 2
    cut = Cut(0.3, seed=4, protected=True, key=key)
    held_out = set(sides(cut, labels, inputs=inputs)[1].tolist())
    assert 30 < len(held_out) < 90
    for kept in (torch.arange(200) != 17, torch.arange(200) < 50):
        places = kept.nonzero()[:, 0]
        fewer = {int(places[one]) for one in sides(cut, labels[kept], inputs=inputs[kept])[1]}
        assert fewer == held_out & set(places.tolist())
    other = Cut(0.3, seed=5, protected=True, key=key and b"another")
    assert set(sides(other, labels, inputs=inputs)[1].tolist()) != held_out


def test_where_examples_are_protected_duplicates_and_groups_fall_on_one_side():
    cut = Cut(0.5, protected=True)
    inputs = torch.arange(40.0)[:, None].repeat(2, 1)
    _, held_out = sides(cut, torch.arange(80) % 40 % 2, inputs=inputs)
    assert set((held_out % 40).tolist()) == set(held_out[held_out < 40].tolist())
    train, held_out = sides(cut, torch.zeros(80).long(), torch.arange(80) // 4)
    assert not set((train // 4).tolist()) & set((held_out // 4).tolist())


def test_a_larger_share_holds_out_the_same_and_more():
    small, large = (set(sides(Cut(share, protected=True), torch.zeros(99).long())[1].tolist()) for share in (0.2, 0.6))
    assert small < large


def test_private_data_are_split_so_in_every_data_set():
    plain, private = (data.load(DataConfig(), 0, protected=covered).sources[0] for covered in (False, True))
    assert len(plain.held_out) == 120
    rows = torch.cat([private.train.inputs, private.held_out.inputs])
    assert len(rows) == 599
    assert len(private.held_out) != 120


# --- what was written before there was a choice ---


def test_a_run_without_the_key_was_random_and_stays_so(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data: {name: arrays, target: t}\n")
    found = load_written(path)
    assert (found.data.split, found.data.layout, found.data.scale) == ("random", "channels_first", 1.0)
    assert load_written(path, ["data.split=stratified"]).data.split == "stratified"
    path.write_text("data: {name: heart, split: stratified}\n")
    assert load_written(path).data.split == "stratified"
    assert from_json('{"data": {"name": "heart"}}').data == DataConfig(name="heart", split="random")
    assert parse({}).data.split == "stratified"


def test_an_earlier_versions_run_goes_on_as_it_began(tmp_path):
    for name, text in (("a/config.yaml", "data: {name: heart}"), ("b/experiment.yaml", "data: {name: arrays}")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(f"{text}\nrecipe: erm\n")
    (tmp_path / "a" / "metrics.jsonl").write_text("")
    assert {config.data.split for config, _ in planned_runs(tmp_path)} == {"random"}


# --- archives with groups, and what is said ---


def save(folder, name, labels, **more):
    inputs = numpy.arange(3.0 * len(labels)).reshape(-1, 3)
    numpy.savez(folder / f"{name}.npz", inputs=inputs, labels=numpy.asarray(labels), **more)


@pytest.mark.parametrize("kind", [int, str, "bytes"])
def test_an_archives_groups_stay_together(tmp_path, kind):
    groups = numpy.arange(60) // 3
    groups = groups.astype("S") if kind == "bytes" else groups.astype(kind)
    for name in "at":
        save(tmp_path, name, [0, 1] * 30, groups=groups)
    config = DataConfig(name="arrays", root=tmp_path, target="t", held_out=0.3)
    for covered in (False, True):
        one = data.load(config, 1, protected=covered).sources[0]
        patients = [set((part.inputs[:, 0] // 9).tolist()) for part in (one.train, one.held_out)]
        assert len(patients[0] | patients[1]) == 20
        assert patients[1]
        assert not patients[0] & patients[1]
    random = data.load(config.model_copy(update={"split": "random"}), 1)
    assert "a: data.split is random, so the groups are not kept together" in random.notes


@pytest.mark.parametrize("groups", [numpy.zeros(3), numpy.zeros((10, 1), int), numpy.zeros(9, int)])
def test_groups_of_another_kind_are_refused(tmp_path, groups):
    for name in "at":
        save(tmp_path, name, [0, 1] * 5, groups=groups)
    with pytest.raises(data.FedhaError, match=r"groups of .*a\.npz have type .*must be integers or texts \[10\]"):
        data.load(DataConfig(name="arrays", root=tmp_path, target="t"), 0)


def test_a_class_that_a_side_lacks_is_noted(tmp_path):
    save(tmp_path, "a", [0] * 20 + [1])
    save(tmp_path, "b", [0, 1] * 10)
    save(tmp_path, "t", [0, 1])
    found = data.load(DataConfig(name="arrays", root=tmp_path, target="t"), 0)
    assert found.notes == ("a class is missing from the held-out examples of a (class 1)",)
    assert found.notes[0] in found.description
    shared = data.load(DataConfig(name="arrays", root=tmp_path, target="t", clients_per_domain=4), 0)
    assert (
        "a class is missing from the training examples of a/1 (class 1), a/2 (class 1), a/3 (class 1)" in shared.notes
    )
    assert (
        found.notes[0]
        not in data.load(DataConfig(name="arrays", root=tmp_path, target="t"), 0, protected=True).description
    )
