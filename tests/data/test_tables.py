"""Tables: what a row becomes, where its statistics come from, and what is said of cells that do not fit."""

from pathlib import Path

import numpy
import pytest
import torch

from fedha import data
from fedha.config import Config, DataConfig, load_written, parse
from fedha.data.tables.statistics import Sums
from fedha.errors import FedhaError
from fedha.flower.serve import load_domains
from fedha.run import execute
from fedha.runs.listener import Silent
from fedha.runs.runfolder import read_model, read_results

NORTH = "age,sex,ward,sick\n30,m,a,no\n40,f,b,yes\n50,m,c,no\n60,f,d,yes\n,f,e,yes\n"
SOUTH = "age,sex,ward,sick\n20,f,a,no\n,m,b,yes\n30,f,c,no\n80,m,d,yes\n"
EAST = "age,sex,ward,sick\n55,x,a,yes\n45,f,b,no\n"
FILES = {"north.csv": NORTH, "south.csv": SOUTH, "east.csv": EAST}
STATISTICS = {"age": {"mean": "40", "deviation": "10", "missing": "true"}, "sex": {"categories": ["f", "m"]}}


def config(root: Path, files: dict[str, str | bytes] = FILES, **section: object) -> DataConfig:
    for name, content in files.items():
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    given = {"name": "table", "root": str(root), "label": "sick", "target": "east", "leave_out": ["ward"]}
    return parse({"data": {**given, **section}}).data


def test_numbers_are_standardised_by_the_sources_training_parts_alone(tmp_path: Path) -> None:
    found = data.load(config(tmp_path, held_out="0.4"), 1)
    assert found.input_shape == (4,)  # age, sex=f, sex=m, and where age is missing
    ages = {"no": [30, 50, 20, 30], "yes": [40, 60, 80, 0]}
    trained = torch.cat([one.train.take() for one in found.sources])
    known = trained[trained[:, 3] == 0, 0]
    assert float(known.mean()) == pytest.approx(0, abs=1e-6)
    assert float(known.std(unbiased=False)) == pytest.approx(1, abs=1e-6)
    assert trained[trained[:, 3] == 1, 0].tolist() == [0.0] * int(trained[:, 3].sum())  # the mean stands for it
    other = data.load(config(tmp_path, {"east.csv": EAST.replace("55", "5500000")}, held_out="0.4"), 1)
    for one, same in zip(found.sources, other.sources, strict=True):
        assert torch.equal(one.train.take(), same.train.take())  # the target has no say
    assert found.classes == len(ages)


def test_what_the_sources_gave_is_told_and_refused_where_it_would_have_to_be_counted(tmp_path: Path) -> None:
    section = config(tmp_path)
    found = data.load(section, 0)
    assert "after each source gave number, mean and sum of squares of a column; the categories of a column" in (
        found.description
    )
    for protect in ("examples", "clients"):
        whole = {"data": section.model_dump(mode="json"), "recipe": "erm", "training": {"averaging": "clients"}}
        private = {"protect": protect, "noise_multiplier": 1.0}
        with pytest.raises(FedhaError, match=r"privacy\.protect is .*, but table takes from each source number, mean"):
            load_domains(parse({**whole, "privacy": private}))
        declared = {**whole["data"], "options": {**section.options, "statistics": STATISTICS}}
        assert load_domains(parse({**whole, "data": declared, "privacy": private})).released == ()


def test_a_category_that_only_the_target_has_is_none_and_told(tmp_path: Path) -> None:
    found = data.load(config(tmp_path), 0)
    assert found.targets[0].held_out.take()[:, 1:3].tolist() == [[0.0, 0.0], [1.0, 0.0]]
    assert any("1 rows have a 'sex' that no source has, such as 'x'" in one for one in found.notes)


def test_sums_of_parts_are_those_of_the_whole_whatever_the_offset() -> None:
    values = 1e9 + numpy.random.default_rng(0).normal(size=300)
    parts = [values[:7], values[7:100], values[100:]]
    sums = [Sums(len(one), one.mean(), ((one - one.mean()) ** 2).sum()) for one in parts]
    whole = Sums()
    for one in sums:
        whole = whole.plus(one)
    assert whole.mean == pytest.approx(values.mean(), rel=1e-15)
    assert whole.squares / 300 == pytest.approx(values.var(), rel=1e-6)


def test_a_site_has_its_own_rows_as_all_together_would(tmp_path: Path) -> None:
    section = config(tmp_path, statistics=STATISTICS, class_names=["no", "yes"])
    found = data.load(section, 2)
    for place, name in enumerate(("north", "south")):
        (tmp_path / name).mkdir()
        own = config(tmp_path / name, {f"{name}.csv": FILES[f"{name}.csv"]}, **section.options)
        alone = data.load_own(own, 2, place)
        source = next(one for one in found.sources if one.name == name)
        assert alone.name == name
        assert torch.equal(alone.train.take(), source.train.take())
        assert torch.equal(alone.held_out.labels, source.held_out.labels)
        assert data.class_count(own) == 2
    (tmp_path / "server").mkdir()
    (target,) = data.load_targets(config(tmp_path / "server", {"east.csv": EAST}, **section.options), 2)
    assert torch.equal(target.held_out.take(), found.targets[0].held_out.take())


def test_a_site_without_declared_statistics_or_classes_is_refused(tmp_path: Path) -> None:
    files = {"north.csv": NORTH}
    with pytest.raises(FedhaError, match=r"data\.class_names is not set; a site sees its own labels alone"):
        data.load_own(config(tmp_path, files), 0, 0)
    with pytest.raises(FedhaError, match=r"data\.statistics is not set; a site sees its own rows alone"):
        data.load_own(config(tmp_path, files, class_names=["no", "yes"]), 0, 0)


def test_one_file_with_a_column_of_domains_is_the_same_data(tmp_path: Path) -> None:
    (tmp_path / "several").mkdir()
    apart = data.load(config(tmp_path / "several"), 0)
    rows = [
        f"{name.removesuffix('.csv')},{row}" for name, text in FILES.items() for row in text.splitlines()[1:] if row
    ]
    (tmp_path / "whole.csv").write_text("\n".join(["hospital,age,sex,ward,sick", *rows]))
    for root in (tmp_path, tmp_path / "whole.csv"):
        section = config(tmp_path, {}, domain="hospital").model_copy(update={"root": root})
        found = data.load(section, 0)
        assert [one.name for one in found.sources] == ["north", "south"]
        for one, other in zip(found.sources, apart.sources, strict=True):
            assert torch.equal(one.train.take(), other.train.take())


def test_columns_decide_groups_and_sides(tmp_path: Path) -> None:
    rows = [f"{row},{row // 3},{'train' if row % 4 else 'test'},{row % 2}" for row in range(24)]
    files = {f"{name}.csv": "\n".join(["x,patient,part,sick", *rows]) for name in ("north", "south", "east")}
    section = {"leave_out": None, "group": "patient", "held_out": "0.3"}
    grouped = data.load(config(tmp_path, files, **section), 0).sources[0]
    assert not set(grouped.train.groups.tolist()) & set(grouped.held_out.groups.tolist())
    sided = data.load(config(tmp_path, files, **section, split_column="part"), 0).sources[0]
    assert sorted(sided.held_out.metadata["row as given"].tolist()) == list(range(0, 24, 4))


def test_parquet_is_read_as_the_same_table(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "text").mkdir()
    plain = data.load(config(tmp_path / "text"), 0)
    for name, text in FILES.items():
        rows = [row.split(",") for row in text.splitlines()]
        columns = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
        ages = [int(one) if one else None for one in columns.pop("age")]
        made = pyarrow.table({"age": ages, **{key: list(column) for key, column in columns.items()}})
        parquet.write_table(made, tmp_path / name.replace("csv", "parquet"))
    found = data.load(config(tmp_path, {}), 0)
    for one, other in zip((*found.sources, *found.targets), (*plain.sources, *plain.targets), strict=True):
        assert torch.equal(one.held_out.take(), other.held_out.take())
    parquet.write_table(pyarrow.table({"age": [[1], [2]], "sick": [0, 1]}), tmp_path / "north.parquet")
    with pytest.raises(FedhaError, match=r"north\.parquet: column 'age': it has the type list<.*neither numbers nor"):
        data.load(config(tmp_path, {}, leave_out=None, features=["age"]), 0)
    (tmp_path / "north.parquet").write_bytes(b"PAR1")
    with pytest.raises(FedhaError, match=r"cannot read .*north\.parquet as Parquet"):
        data.load(config(tmp_path, {}), 0)


def test_values_may_stay_as_they_are(tmp_path: Path) -> None:
    found = data.load(config(tmp_path, standardise="false", impute="zero", indicator="false", held_out="0"), 0)
    assert found.sources[0].train.take().shape == (5, 3)
    assert sorted(found.sources[0].train.take()[:, 0].tolist()) == [0, 30, 40, 50, 60]
    assert found.released == ("the categories of a column",)


@pytest.mark.parametrize(
    ("files", "section", "message"),
    [
        ({}, {"label": "ill"}, r"north\.csv has no column 'ill', which data\.label names"),
        ({"north.csv": NORTH.replace("50", "5O")}, {}, r"north\.csv, line 4: column 'age': '5O' is no number; mend it"),
        ({"east.csv": EAST.replace("45", "old")}, {}, r"east\.csv, line 3: column 'age': 'old' is no number"),
        ({"north.csv": NORTH.replace("50,m", "inf,m")}, {}, r"line 4: column 'age': 'inf' is no number"),
        ({"north.csv": NORTH.replace("50,m", "1_0,m")}, {}, r"line 4: column 'age': '1_0' is no number"),
        ({"south.csv": SOUTH.replace("30,f", "30")}, {}, r"south\.csv, line 4: 3 cells, but there are 4 columns"),
        ({"north.csv": NORTH.replace(",", ";")}, {}, r"seems to have ';' between its cells; set data\.delimiter"),
        ({"north.csv": ""}, {}, r"north\.csv is empty; its first line must have the columns' names"),
        ({"north.csv": NORTH.replace("ward", "age", 1)}, {}, r"line 1: there are two columns 'age'"),
        ({"south.csv": SOUTH.replace("age", "years", 1)}, {}, r"south\.csv has no column 'age', as .*north\.csv has"),
        ({"north.csv": NORTH.replace("60,f,d,yes", "60,f,d,")}, {}, r"line 5: column 'sick' .* has no value; fill"),
        ({"north.csv": NORTH.replace("50,m", '50,"m')}, {}, r"north\.csv, line \d+: unexpected end of data"),
        ({"north.csv": b"\x80\x81"}, {}, r"is not text in UTF-8"),
        ({"north.parquet": b""}, {}, r"holds both north\.csv and north\.parquet; keep one"),
        ({}, {"impute": "error"}, r"north\.csv, line 6: column 'age' has no value; fill it in, or set data\.impute"),
        ({}, {"impute": "median"}, r"data\.impute is 'median': input should be 'mean', 'zero' or 'error'"),
        ({}, {"features": ["age", "weight"]}, r"no column 'weight', which data\.features names"),
        ({}, {"group": "sick"}, r"column 'sick' is named as two things"),
        ({}, {"features": ["age", "sick"]}, r"column 'sick' is named as a feature and as something else"),
        ({}, {"class_names": ["no", "maybe"]}, r"line 3: the label is 'yes', which is none of the classes no, maybe"),
        ({}, {"split_column": "ward"}, r"line 2: column 'ward' is 'a'; write train, or test or held_out"),
        ({}, {"statistics": {**STATISTICS, "iq": {}}}, r"no column 'iq', which data\.features names"),
        ({}, {"statistics": {"age": {"mean": "b"}}}, r"data\.statistics\.age\.mean is 'b'"),
        ({}, {"statistics": {"age": {"deviation": "0"}}}, r"data\.statistics\.age\.deviation is '0': .*greater than 0"),
        ({}, {"statistics": {"sex": {"categories": ["f"]}}}, r"'m', which is none of its categories \(f\)"),
        ({}, {"lable": "sick"}, r"'lable' is none; did you mean 'label'"),
    ],
)
def test_what_does_not_fit_names_file_line_and_column(tmp_path: Path, files: dict, section: dict, message: str) -> None:
    with pytest.raises(FedhaError, match=message):
        data.load(config(tmp_path, {**FILES, **files}, **section), 0)


def test_a_row_without_a_label_is_left_out_and_counted_where_that_is_asked_for(tmp_path: Path) -> None:
    files = {**FILES, "north.csv": NORTH.replace("60,f,d,yes", "60,f,d,?")}
    found = data.load(config(tmp_path, files, on_unlabelled="skip"), 0)
    assert "north: 1 of 5 rows have no label and are left out" in found.notes
    assert len(found.sources[0].train) + len(found.sources[0].held_out) == 4


def test_a_run_goes_on_and_its_config_says_the_same_again(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    section = config(tmp_path / "tables", statistics=STATISTICS).model_dump(mode="json")

    def wanted(rounds: int) -> Config:
        rest = {"model": {"name": "linear"}, "recipe": "hgp", "engine": {"name": "inline"}}
        return parse({"data": section, "training": {"rounds": rounds}, **rest})

    execute(wanted(1), tmp_path / "run", Silent())
    assert load_written(tmp_path / "run" / "config.yaml") == wanted(1)
    execute(wanted(2), tmp_path / "run", Silent(), resume=True)
    execute(wanted(2), tmp_path / "whole", Silent())
    parts, whole = (read_model(tmp_path / name) for name in ("run", "whole"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert "4 inputs" in read_results(tmp_path / "run")["data"]
