"""Any damage to a file of a run's folder is one sentence, and no other file is touched."""

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from fedha.errors import FedhaError
from fedha.report.comparison import read_runs
from fedha.report.page import write_report
from fedha.runs import folders, own_files, runfolder
from tests.made_runs import record, results, write_run
from tests.mutations import damaged_bytes, damaged_json

PRIVACY = {
    "protect": "examples",
    "noise_multiplier": 1.0,
    "epsilon": {"near": 1.0},
    "delta": {"near": 1e-5},
    "relation": "add or remove one example",
    "sampling": ["whole"],
    "noise": "from the seed",
}


def damaged(name: str, content: bytes) -> Iterator[bytes]:
    if name == runfolder.RESULTS:
        return chain(damaged_bytes(content, 100), damaged_json(json.loads(content), 200))
    if name == own_files.MARKER:
        return chain(damaged_bytes(content, 200), damaged_json(json.loads(content), 100))
    if name == runfolder.METRICS:
        lines = (b"%s\n" % one for one in damaged_json(record(5), 200))
        return chain(damaged_bytes(content, 100), lines)
    return damaged_bytes(content, 300)


@pytest.mark.parametrize("name", [runfolder.RESULTS, runfolder.METRICS, own_files.MARKER])
def test_any_damage_to_a_file_of_a_folder_is_one_sentence(tmp_path: Path, name: str) -> None:
    """Three hundred mutations of each file; of every fifteenth the whole way of `fedha report` is gone."""
    folder = write_run(tmp_path / "run", privacy=PRIVACY)
    own_files.claim(folder, runfolder.CONFIG, runfolder.METRICS, runfolder.RESULTS)
    page = tmp_path / "page.html"
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    refused = 0
    for number, content in enumerate(damaged(name, whole[name])):
        (folder / name).write_bytes(content)
        sentence = ""
        try:
            own_files.owned(folder)
            runfolder.read_metrics(folder)
            runfolder.read_results(folder)
            if number % 15 == 0:  # the rest reads and draws the same values, more slowly
                folders.planned_runs(tmp_path)
                write_report(read_runs(folders.find_runs([tmp_path]))[0], page)
        except FedhaError as error:
            sentence = str(error)
        refused += bool(sentence)
        assert len(sentence) < 2000
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {**whole, name: content}
    assert refused > 50
    assert results().keys() <= json.loads(whole[runfolder.RESULTS]).keys()
