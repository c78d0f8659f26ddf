"""Laws of the heart data: what a row becomes, what is missing, and that hospitals share nothing."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedha.config import DataConfig
from fedha.data import load
from fedha.data.heart import ATTRIBUTES, HOSPITALS, parse
from fedha.errors import FedhaError

HEADER = "age, sex, cp, trestbps, chol, fbs, restecg, thalach, exang, oldpeak, slope, ca, thal, num"
CENTRE = "55,0.5,2.5,130,240,0.5,1,140,0.5,1,2,1,5,0"
numbers = st.floats(-8, 500, allow_nan=False).filter(lambda value: value != 0)


@pytest.fixture
def folder(tmp_path):
    """Four hospitals of ten made-up rows; ages tell whose row it is."""
    for place, name in enumerate(HOSPITALS):
        lines = [f"{20 + 10 * place + row},1,4,140,?,0,1,120,1,2,2,-9.0,?,{row % 5}" for row in range(10)]
        (tmp_path / f"processed.{name}.data").write_text("\n".join([HEADER, *lines]) + "\n")
    return tmp_path


def heart(folder, seed=0, **options):
    return load(DataConfig(name="heart", root=folder, **options), seed)


def ages(part):
    return [round(age * 10 + 55) for age in part.inputs[:, 0].tolist()]


def test_a_row_at_the_centre_is_zero():
    assert not parse(CENTRE, "here").inputs.any()


@given(st.lists(st.none() | numbers, min_size=13, max_size=13), st.integers(0, 4))
def test_a_row_is_scaled_by_the_table_and_its_gaps_are_marked(values, diagnosis):
    line = ",".join("?" if value is None else repr(value) for value in values)
    part = parse(f"{line},{diagnosis}", "here")
    for place, (value, (_, centre, scale)) in enumerate(zip(values, ATTRIBUTES, strict=True)):
        expected = 0.0 if value is None else (value - centre) / scale
        assert part.inputs[0, place].item() == torch.tensor(expected, dtype=torch.float32).item()
        assert part.inputs[0, 13 + place].item() == (value is None)
    assert part.labels.tolist() == [int(diagnosis > 0)]
    assert (part.inputs.shape, part.inputs.dtype, part.labels.dtype) == ((1, 26), torch.float32, torch.int64)


@pytest.mark.parametrize("gap", ["?", "-9", "-9.0", " ? "])
def test_every_way_to_write_a_gap_is_missing(gap):
    part = parse(",".join([gap] * 13 + ["0"]), "here")
    assert part.inputs[0].tolist() == [0.0] * 13 + [1.0] * 13


def test_zero_is_missing_only_where_nobody_has_none():
    part = parse("0,0,0,0,0,0,0,0,0,0,0,0,0,0", "here")
    assert [name for (name, _, _), gap in zip(ATTRIBUTES, part.inputs[0, 13:], strict=True) if gap] == [
        "trestbps",
        "chol",
    ]


def test_a_line_of_names_and_empty_lines_are_skipped():
    assert len(parse(f"{HEADER}\n{CENTRE}\n\n{CENTRE}\n", "here")) == 2
    assert parse(HEADER, "here").inputs.shape == (0, 26)
    assert len(parse("", "here")) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2,3", "line 2: 3 values"),
        (CENTRE + ",1", "line 2: 15 values"),
        (CENTRE.replace("240", "high"), "line 2: chol is 'high'"),
        (CENTRE.replace("240", "nan"), "line 2: chol is 'nan'"),
        (CENTRE.replace("240", "inf"), "line 2: chol is 'inf'"),
        (CENTRE.replace("240", ""), "line 2: chol is ''"),
        (CENTRE[:-1] + "5", "line 2: the diagnosis is '5'"),
        (CENTRE[:-1] + "0.5", "line 2: the diagnosis is '0.5'"),
        (CENTRE[:-1] + "?", "line 2: diagnosis is '[?]'"),
        (HEADER, "line 2: age is 'age'"),
    ],
)
def test_a_bad_row_is_refused_with_its_file_line_and_value(line, message):
    with pytest.raises(FedhaError, match=f"some file, {message}"):
        parse(f"{CENTRE}\n{line}", "some file")


@given(st.text(max_size=80))
def test_any_text_is_rows_or_an_error_of_ours(text):
    refusal = ""
    try:
        part = parse(text, "here")
    except FedhaError as error:
        refusal = str(error)
    assert "here" in refusal if refusal else part.inputs.isfinite().all()


def test_va_is_unseen_and_the_others_are_sources_by_default(folder):
    domains = heart(folder)
    assert [domain.name for domain in domains.sources] == ["cleveland", "hungarian", "switzerland"]
    assert [domain.name for domain in domains.targets] == ["va"]
    assert sorted(ages(domains.targets[0].held_out)) == list(range(50, 60))
    assert [(len(domain.train), len(domain.held_out)) for domain in domains.sources] == [(8, 2)] * 3


def test_chosen_hospitals_come_in_the_order_asked_for(folder):
    domains = heart(folder, sources=["va", "cleveland"], target="hungarian", held_out=0)
    assert [domain.name for domain in domains.sources] == ["va", "cleveland"]
    assert [sorted(ages(domain.train))[0] for domain in domains.sources] == [50, 20]


def test_files_of_hospitals_that_are_not_used_may_be_missing(folder):
    (folder / "processed.switzerland.data").unlink()
    assert len(heart(folder, sources=["cleveland"], target="va").sources) == 1
    with pytest.raises(FedhaError, match=r"processed.switzerland.data"):
        heart(folder)


def test_one_hospitals_rows_change_nothing_in_another(folder):
    before = heart(folder)
    path = folder / "processed.hungarian.data"
    path.write_text(path.read_text().replace("140", "200"))
    after = heart(folder)
    for place, same in ((0, True), (1, False), (2, True)):
        one, other = before.sources[place].train.inputs, after.sources[place].train.inputs
        assert torch.equal(one, other) == same


def test_the_seed_decides_what_is_held_out(folder):
    one, same, other = (heart(folder, seed=seed, held_out=0.5) for seed in (1, 1, 2))
    assert [ages(d.held_out) for d in one.sources] == [ages(d.held_out) for d in same.sources]
    assert [ages(d.held_out) for d in one.sources] != [ages(d.held_out) for d in other.sources]


def test_a_hospital_that_does_not_exist_is_refused_with_the_nearest(folder):
    with pytest.raises(FedhaError, match=r"data.target names 'hungary'.*did you mean 'hungarian'"):
        heart(folder, target="hungary")


def test_files_that_are_no_text_or_no_table_are_refused_by_name(folder):
    path = folder / "processed.va.data"
    path.write_bytes(b"\xff\xfe\x00garbage")
    with pytest.raises(FedhaError, match=re.escape(str(path))):
        heart(folder)
    path.write_text("garbage")
    with pytest.raises(FedhaError, match=re.escape(f"{path}, line 1: 1 values")):
        heart(folder)


def test_a_hospital_without_rows_is_refused_by_name(folder):
    (folder / "processed.cleveland.data").write_text(HEADER)
    with pytest.raises(FedhaError, match=r"'cleveland' has no training examples"):
        heart(folder)


@pytest.fixture(scope="module")
def real(shared_data):
    folder = shared_data / "heart"
    if not folder.is_dir():
        pytest.skip(f"needs the UCI files: {folder} is no folder")
    return heart(folder, held_out=0)


def test_the_real_hospitals_have_their_published_patients_and_diagnoses(real):
    parts = [domain.train for domain in real.sources] + [real.targets[0].held_out]
    assert [len(part) for part in parts] == [303, 294, 123, 200]
    assert [int(part.labels.sum()) for part in parts] == [139, 106, 115, 149]


def test_the_real_gaps_are_where_they_are_documented(real):
    parts = [domain.train for domain in real.sources] + [real.targets[0].held_out]
    gaps = torch.stack([part.inputs[:, 13:].sum(0) for part in parts]).long()
    names = [name for name, _, _ in ATTRIBUTES]
    assert gaps[:, names.index("chol")].tolist() == [0, 23, 123, 56]
    assert gaps[:, names.index("trestbps")].tolist() == [0, 1, 2, 57]
    assert gaps[:, names.index("ca")].tolist() == [4, 291, 118, 198]
    assert gaps[0].sum() == 6


def test_the_real_attributes_are_of_order_one_after_scaling(real):
    for part in [*(domain.train for domain in real.sources), real.targets[0].held_out]:
        assert part.inputs.abs().max() < 9
        assert part.inputs.std(0).max() < 2
