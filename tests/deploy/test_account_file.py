"""One account for a site's examples, whatever a server calls them; and one split, once for ever."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fedha.config import to_json
from fedha.data.export import export_sources
from fedha.deploy import apps
from fedha.deploy.account_file import account_of
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.flower.client import app_for
from fedha.flower.serve import load_domains
from fedha.privacy.account import Account
from fedha.privacy.ledger import Ledger, Release
from fedha.privacy.limits import Limits
from tests.privacy.rounds import settings
from tests.privacy.test_refusals import ask, parameters_of

pytest.importorskip("dp_accounting", reason='install "fedha[privacy]"')

NAMES: dict[str, dict[str, Any]] = {
    "colored_digits": {},
    "arrays": {"name": "arrays", "classes": 2, "target": "t"},
    "folder": {"name": "folder", "class_names": ["a", "b"], "target": "t", "size": 8, "channels": 3},
    "heart": {"name": "heart"},
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site's cache, beside the folder with its one exported domain."""
    (file, _) = export_sources(load_domains(settings("iga")), tmp_path / "exported")
    monkeypatch.setenv("FEDHA_DATA", str(file.parent))
    monkeypatch.setenv("FEDHA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def measured(config: Any, max_epsilon: float = 100.0, seed: int = 0) -> Any:
    """What a site answers to one request for its gradient, in a process that was just started."""
    apps._clients.cache_clear()
    own = config.model_copy(update={"seed": [seed]})
    clients = apps._clients(to_json(own), 0, Limits(max_epsilon=max_epsilon))
    return ask(InlineGrid(app_for(clients), 1), own, "query.measure", parameters_of(settings("iga")))


def accounts(cache: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((cache / "account").glob("examples-*.json"))]


def made(account: dict[str, Any]) -> int:
    return sum(entry["count"] for entry in account["ledgers"]["train"]["entries"])


def test_whatever_a_server_calls_the_data_the_account_is_one(site: Path) -> None:
    for data in NAMES.values():
        assert "tensors" in measured(settings("iga", data=data))
    (account,) = accounts(site)
    assert made(account) == len(NAMES)


def test_the_budget_is_that_of_all_names_together(site: Path) -> None:
    """With the rest of its round the first answer costs epsilon 1.66, the next 2.10, a third 2.48."""
    answers = ["tensors" in measured(settings("iga", data=data), max_epsilon=2.2) for data in NAMES.values()]
    assert answers == [True, True, False, False]


def test_another_split_of_the_same_examples_is_not_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is held out in one run and trained on in another would be counted in neither budget."""
    monkeypatch.delenv("FEDHA_DATA", raising=False)
    monkeypatch.setenv("FEDHA_CACHE", str(tmp_path))
    assert "tensors" in measured(settings("iga"))
    assert "tensors" in measured(settings("iga"))
    for other in (settings("iga", data={"held_out": 0.5}), settings("iga", data={"label_noise": 0.1})):
        assert measured(other).endswith("it could not answer (FedhaError); its own log says why")
    assert made(accounts(tmp_path)[0]) == 2


def test_a_site_whose_files_change_is_asked_by_name_what_they_are(site: Path) -> None:
    (other, _) = export_sources(load_domains(settings("iga", data={"label_noise": 0.0})), site.parent / "other")
    root = Path(os.environ["FEDHA_DATA"])
    assert "tensors" in measured(settings("iga"))
    (root / "domain.npz").write_bytes(other.read_bytes())
    with pytest.raises(FedhaError, match=r"no longer those of this site's account .* rename it to examples-") as told:
        account_of(site, root, 0)
    new = str(told.value).rpartition("rename it to ")[2].split()[0]
    (kept,) = (site / "account").glob("examples-*.json")
    kept.rename(kept.with_name(new))
    assert account_of(site, root, 0).read().ledgers["train"].entries


def test_files_that_are_no_part_of_an_exported_domain_change_nothing(site: Path) -> None:
    root = Path(os.environ["FEDHA_DATA"])
    before = account_of(site, root, 0).path
    (root / "t10k-labels-idx1-ubyte.gz").write_bytes(b"what data.download fetched")
    assert account_of(site, root, 0).path == before


def test_accounts_of_earlier_names_are_carried_on_together(site: Path) -> None:
    examples, release = len(load_domains(settings("iga")).sources[0].train), 3.0
    old = Ledger("example", examples, ((Release(release, "whole", examples), 5),))
    for name in ("colored_digits", "arrays"):
        Account(site / "account" / f"{name}-0.json", {"train": old}).write()
    Account(site / "account" / "heart-0.json", {"train": Ledger("example", 7)}).write()  # of other examples
    Account(site / "account" / "arrays-1.json", {"train": old}).write()  # of another client
    assert "tensors" in measured(settings("iga"))
    (account,) = accounts(site)
    assert made(account) == 11
    left = sorted(path.name for path in (site / "account").iterdir() if path.suffix == ".json")
    assert [name for name in left if name.startswith(("colored", "arrays", "heart"))] == [
        "arrays-1.json",
        "heart-0.json",
    ]


def test_a_run_that_holds_out_another_part_begins_no_account_beside_an_earlier_one(site: Path) -> None:
    """Of 400 trained on and 100 held out, a server that wants 250 and 250 would have found nothing spent."""
    examples = len(load_domains(settings("iga")).sources[0].train)
    old = Ledger("example", examples, ((Release(3.0, "whole", examples), 5),))
    Account(site / "account" / "arrays-0.json", {"train": old}).write()
    Account(site / "account" / "heart-0.json", {"train": Ledger("example", 7)}).write()
    account = Account(site / "account/new.json", earlier=tuple((site / "account").glob("*-0.json")))
    with pytest.raises(FedhaError, match=r"an earlier version \(.*\), of other numbers of examples than the run reads"):
        account.carry_on({"train": examples - 1, "held_out": 3})
    assert not (site / "account/new.json").exists()
    assert account.carry_on({"train": examples, "held_out": 3})


def test_a_folder_that_a_run_names_begins_no_account(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A data set that reads no folder, or an exported one with another file beside it, had an account for each."""
    monkeypatch.delenv("FEDHA_DATA")
    told = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
        with pytest.raises(FedhaError) as error:
            measured(settings("iga", data={"root": str(tmp_path / name)}))
        told.add(str(error.value))
    assert len(told) == 1
    assert "set FEDHA_DATA, or hold contracts" in told.pop()
    assert "tensors" in measured(settings("iga"))
    assert len(accounts(site)) == 1


def test_a_damaged_list_of_files_costs_time_alone(site: Path) -> None:
    root = Path(os.environ["FEDHA_DATA"])
    before = account_of(site, root, 0).path
    (site / "account" / "files.json").write_text("{")
    assert account_of(site, root, 0).path == before
