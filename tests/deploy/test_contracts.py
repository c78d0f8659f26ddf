"""A site of a deployment holds contracts: what its people agreed to is answered, and nothing else, whoever asks."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

from fedha import data
from fedha.config import Config, to_json
from fedha.deploy import agreements, apps, contracts
from fedha.deploy.agreements import Agreement, read, to_text
from fedha.deploy.contracts import of_run
from fedha.deploy.create import Wanted, create
from fedha.errors import FedhaError
from fedha.flower import handshake
from fedha.flower.failure import find_failure
from fedha.flower.serve import Job, serve
from fedha.flower.wire import pack_introduction, pack_request, pack_task, pack_tensors
from fedha.privacy.agreed import Deviation
from fedha.privacy.book import Book
from fedha.privacy.book import to_text as to_line
from fedha.privacy.contract import contract_of
from fedha.privacy.contract_words import changes, in_words
from fedha.runs.listener import Silent
from tests.deploy.federations import MADE, US
from tests.deploy.test_command import Command, deploy  # noqa: F401  # a fixture
from tests.deploy.test_private import Forgetful
from tests.privacy.rounds import settings
from tests.privacy.test_contract import request_of

KEY = "1f" * 32


def plain(recipe: str = "iga", **sections: Any) -> Config:
    return settings(recipe, **{"privacy": {"protect": "nothing"}, "federation": {"clients": 2}, **sections})


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site's folder: it holds contracts, and has agreed to nothing yet."""
    monkeypatch.setenv("FEDHA_CONTRACTS", str(tmp_path / "contracts"))
    monkeypatch.setenv("FEDHA_CACHE", str(tmp_path / "cache"))
    for name in ("FEDHA_LIMITS", "FEDHA_DATA"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "contracts").mkdir()
    return tmp_path


def agree(site: Path, config: Config, name: str = "agreed", **own: Any) -> Path:
    path = site / "contracts" / f"{name}.yaml"
    path.write_text(to_text(Agreement(name, config, own)))
    return path


def run(config: Config, folder: Path, asked: Config | None = None, **options: Any) -> dict[str, Any]:
    """A run whose server trains with one config and tells the sites another."""
    grid = Forgetful(apps.deployed_client_app(), {"settings": to_json(asked or config), "out": folder.name})
    return serve(Job(config, folder), grid, Silent(), domains=None, **options)


def ask(config: Config, **changes: Any) -> str:
    """One message of a server with a mind of its own; what the site says to it."""
    grid = Forgetful(apps.deployed_client_app(), {"settings": to_json(config), "out": "a"})
    request = request_of(config, **changes)
    kind = "query.measure" if request.kind == "measure" else request.kind
    content = pack_request(request, pack_tensors(request.parameters), pack_tensors({}), pack_task(request.task))
    (reply,) = grid.send_and_receive([Message(content, next(iter(grid.get_node_ids())), kind, group_id="1")])
    failed = find_failure(reply)
    return failed.sentence if failed else ""


# --- what is answered ---


@pytest.mark.parametrize("config", [plain("fishr"), settings("exact_diagonal", federation={"clients": 2})])
def test_what_was_agreed_on_is_answered_and_waits_and_folders_are_the_servers(config: Config, site: Path) -> None:
    agree(site, config)
    there = config.model_copy(
        update={
            "name": "another",
            "federation": config.federation.model_copy(update={"patience": 7.0}),
            "checkpoint": config.checkpoint.model_copy(update={"every": 1}),
        }
    )
    assert run(there, site / "a")["rounds"] == 3
    (book,) = (site / "cache" / "contracts").glob("*-0.json")
    assert json.loads(book.read_text())["latest"]["train"] == 3
    assert book.stat().st_mode & 0o777 == 0o600


def test_a_run_under_a_contract_has_the_bits_of_one_without(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agree(site, plain())
    run(plain(), site / "a")
    monkeypatch.delenv("FEDHA_CONTRACTS")
    run(plain(), site / "b")
    assert (site / "a" / "model.safetensors").read_bytes() == (site / "b" / "model.safetensors").read_bytes()


def seeded(config: Config, *seeds: int) -> Config:
    return config.model_copy(update={"seed": list(seeds)})


OTHERS: dict[str, tuple[Config, str]] = {
    "another seed": (seeded(plain(), 1), "seed 1, and agreed was 0"),
    "another recipe": (plain("vrex"), "recipe.name 'vrex', and agreed was 'iga'"),
    "more rounds": (plain(training={"rounds": 9}), "training.rounds 9, and agreed was 3"),
    "another network": (plain(model={"hidden": [7]}), "model.hidden [7], and agreed was [6]"),
    "other data": (plain(data={"label_noise": 0.1}), "data.label_noise 0.1, and agreed was 0.25"),
    "another part held out": (plain(data={"held_out": 0.5}), "data.held_out 0.5, and agreed was 0.2"),
    "another schedule": (
        plain(federation={"schedule": "piggyback", "clients": 2}),
        "federation.schedule 'piggyback', and agreed was 'exact'",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_was_not_agreed_on_is_refused_named_and_counted(
    name: str, site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, told = OTHERS[name]
    agree(site, plain())
    logging.getLogger("flwr").propagate = True
    for _ in range(2):
        assert f"this site refuses to answer (contract): the server asks with {told}; run what" in ask(config)
    assert "fedha refuses a run, for the 2. time because of" in caplog.text
    assert list(json.loads((site / "cache" / "contracts" / "refused.json").read_text()).values()) == [2]
    assert not (site / "cache" / "account").exists()


def test_a_message_that_asks_otherwise_than_its_run_is_refused_too(site: Path) -> None:
    """The run's settings are as agreed, and what travels with a message is not."""
    agree(site, plain())
    task = contract_of(plain(training={"rounds": 9})).task
    held = contract_of(plain())
    grid = Forgetful(apps.deployed_client_app(), {"settings": to_json(plain()), "out": "a"})
    request = request_of(plain())
    content = pack_request(request, pack_tensors(request.parameters), pack_tensors({}), pack_task(task))
    (reply,) = grid.send_and_receive([Message(content, 2, "query.measure", group_id="1")])
    failed = find_failure(reply)
    assert failed is not None
    assert "training.rounds 9, and agreed was 3" in failed.sentence
    (book,) = (site / "cache" / "contracts").glob(f"{held.digest}-0.json")
    assert json.loads(book.read_text())["refused"] == {"training.rounds": 1}


def introduced(config: Config, place: int = 0) -> str:
    """What a site says to a server that introduces a run of its own making."""
    grid = Forgetful(apps.deployed_client_app(), {"settings": to_json(config), "out": "a"})
    task = contract_of(config).task
    content = handshake.greeted(pack_introduction(pack_task(task), {}, {}, contract_of(config).digest))
    (reply,) = grid.send_and_receive([Message(content, list(grid.get_node_ids())[place], "query.introduce")])
    failed = find_failure(reply)
    return failed.sentence if failed else str(dict(reply.content.config_records))


def images(**data: Any) -> Config:
    known = {"name": "folder", "class_names": ["a", "b"], "target": "t", "size": 8, "channels": 3}
    return plain(data={**known, "sources": ["ward"], **data}, model={"one_logit": False})


def test_a_server_whose_run_was_not_agreed_on_learns_nothing_of_the_sites_files(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a site has a part in a run is asked before anything else; the run named the file to look in."""
    monkeypatch.setenv("FEDHA_DATA", str(site / "data"))
    (site / "data").mkdir()
    (site / "data" / "patients.csv").write_text("name,born,finding\nJane Roe,1961,positive\n")
    for _ in range(2):
        told = introduced(images(manifest="patients.csv"))
        assert "refuses to answer (contract)" in told
        assert not any(word in told for word in ("born", "finding", "Jane", "patients"))
        agree(site, images(size=9))  # which names no list
    agree(site, images(size=9, manifest="patients.csv"))
    told = introduced(images())  # what is wrong with the site's own list, its own log says
    assert told.endswith("could not answer (FedhaError); its own log says why")


@pytest.mark.parametrize("name", ["{site}/elsewhere", "../elsewhere", "ward/../../elsewhere"])
def test_a_source_that_leads_out_of_the_folder_is_nobodys(
    name: str, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has no part in a run says so: by such a name, whether there is a folder anywhere on the machine."""
    monkeypatch.setenv("FEDHA_DATA", str(site / "data"))
    config = images(sources=[name.format(site=site)])
    (site / "data/ward").mkdir(parents=True)
    before = introduced(config, 1)
    (site / "elsewhere").mkdir()
    assert introduced(config, 1) == before
    assert introduced(images(), 1) != before


def test_a_site_that_agreed_to_nothing_answers_nothing(site: Path) -> None:
    assert "agreed was none: its folder of contracts is empty" in ask(plain())


def test_the_nearest_contract_says_what_is_otherwise(site: Path) -> None:
    agree(site, plain("vrex"), "far")
    agree(site, seeded(plain(), 4, 5), "near")
    assert "the server asks with seed 0, and agreed was 4" in ask(plain())
    assert ask(seeded(plain(), 5)) == ""


def test_a_folder_is_read_once_and_again_when_a_person_changes_it(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file takes longer to read than a request; what is taken back binds from the next request on."""
    read_times: list[Path] = []
    monkeypatch.setattr(agreements, "read", lambda path: read_times.append(path) or read(path))
    path = agree(site, plain())
    for _ in range(3):
        assert contracts.held_here(plain(), site / "cache") is not None
    assert read_times == [path]
    path.unlink()
    with pytest.raises(FedhaError, match="agreed was none"):
        contracts.held_here(plain(), site / "cache")
    agree(site, plain("vrex"))
    assert contracts.held_here(plain("vrex"), site / "cache") is not None


def test_rounds_are_counted_over_all_runs_of_a_server(site: Path) -> None:
    """Another run has a context of its own; what was answered is on the site's disk."""
    agree(site, plain(), repeats=4)
    run(plain(), site / "a")
    run(plain(), site / "b")
    with pytest.raises(FedhaError, match=r"round 2 once more .*4 answers again in all, which were given"):
        run(plain(), site / "c")


def test_contracts_whose_digests_begin_alike_have_counts_of_their_own(site: Path) -> None:
    """Who proposes contracts can find two; asked in turn, each would have begun the other's count anew."""
    agree(site, plain(), repeats=0)
    held = contract_of(plain())
    (site / "cache/contracts").mkdir(parents=True)
    other = site / "cache/contracts" / f"{held.digest[:16]}-0.json"
    other.write_text(to_line(Book(f"{held.digest[:16]}{'0' * 48}", {"train": 3})))
    run(plain(), site / "a")
    assert json.loads(other.read_text())["latest"] == {"train": 3}
    with pytest.raises(FedhaError, match="round 1 once more"):
        run(plain(), site / "b")


def test_a_count_that_has_an_earlier_versions_name_is_carried_on(site: Path) -> None:
    agree(site, plain(), repeats=0)
    held = contract_of(plain())
    (site / "cache/contracts").mkdir(parents=True)
    short = site / "cache/contracts" / f"{held.digest[:16]}-0.json"
    short.write_text(to_line(Book(held.digest, {"measure gradient": 3})))
    with pytest.raises(FedhaError, match="round 1 once more"):
        run(plain(), site / "a")
    assert not short.exists()


def test_a_run_that_goes_on_from_its_checkpoint_repeats_rounds(site: Path) -> None:
    class Interrupting(Silent):
        def round_done(self, record: Any) -> None:
            if record["round"] == 2:
                raise KeyboardInterrupt

    agree(site, plain(training={"rounds": 4}))
    config = plain(training={"rounds": 4})
    grid = Forgetful(apps.deployed_client_app(), {"settings": to_json(config), "out": "a"})
    with pytest.raises(KeyboardInterrupt):
        serve(Job(config, site / "a"), grid, Interrupting(), domains=None)
    assert run(config, site / "a", resume=True)["rounds"] == 4


# --- who is held out ---


def held(config: Config, site: Path) -> torch.Tensor:
    apps._clients.cache_clear()
    found = contracts.held_here(config, site / "cache")
    assert found is not None
    clients = apps._clients(to_json(found[0]), 0, None, found[1])
    return clients._make_domain(None).held_out.inputs  # type: ignore[arg-type]


def test_who_is_held_out_follows_no_seed_and_a_simulation_has_the_same(site: Path) -> None:
    """Trained on at seed 0 and evaluated at seed 1 an example was in neither budget: 124 of 500 were in both parts."""
    config = settings("iga", federation={"clients": 2})
    agree(site, config, split=KEY)
    with pytest.raises(FedhaError, match="seed 1, and agreed was 0"):
        contracts.held_here(seeded(config, 1), site / "cache")
    agree(site, seeded(config, 0, 1), split=KEY)  # even where both seeds were agreed on
    one, other = held(config, site), held(seeded(config, 1), site)
    assert {row.numpy().tobytes() for row in one[:, 0]} != set()
    first = data.load(config.data, 0, protected=True).sources[0].name
    keys = {first: bytes.fromhex(KEY)}
    for seed, found in ((0, one), (1, other)):
        simulated = data.load(config.data, seed, protected=True, keys=keys).sources[0]
        assert torch.equal(simulated.held_out.inputs, found)


def test_a_key_that_is_not_the_sites_is_refused(site: Path) -> None:
    config = settings("iga", federation={"clients": 2})
    agree(site, config)
    held(config, site)  # makes the site's own
    agree(site, config, split=KEY)
    with pytest.raises(FedhaError, match="contract has another key of what is held out"):
        held(config, site)


# --- files ---


def test_a_file_says_what_was_agreed_on_and_holds_it_whole(tmp_path: Path) -> None:
    config = settings("exact_diagonal", privacy={"scales": {"gradient": 0.1}}, training={"learning_rate": 1e-3})
    one = Agreement("a", seeded(config, 3, 4), {"split": KEY, "repeats": None, "numbers": ("loss",)})
    (tmp_path / "a.yaml").write_text(to_text(one))
    found = read(tmp_path / "a.yaml")
    assert [held for _, held in found.runs()] == [held for _, held in one.runs()]
    assert [held.digest for _, held in found.runs()] == [contract_of(run).digest for run in one.config.runs()]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "contract is missing"),
        ("contract: 2\nconfig: {}", "contract is 2"),
        ("contract: 1\nconfig: {recipe: none}", "recipe 'none' is no row"),
        ("contract: 1\nsplit: abc\nconfig: {recipe: erm}", "the key of a split has 3 characters"),
        ("contract: 1\nrepeat: 3\nconfig: {recipe: erm}", "unknown key 'repeat'; did you mean 'repeats'"),
        ("contract: 1\nnumbers: [labels]\nconfig: {recipe: erm}", "sends 'labels'"),
        ("[", "is not YAML"),
    ],
)
def test_a_file_that_says_something_else_is_explained(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(FedhaError, match=problem):
        read(path)


def test_a_name_of_the_data_is_agreed_on_too() -> None:
    """An exported domain loads under any name: four names were four accounts of one data set."""
    found = of_run([Agreement("a", plain())], plain(data={"name": "heart"}))
    assert isinstance(found, Deviation)
    assert (found.key, found.asked, found.agreed) == ("data.name", "'heart'", "'colored_digits'")


# --- words ---


def test_a_contract_in_words_says_what_leaves_and_what_covers_it() -> None:
    config = settings("exact_diagonal", privacy={"evaluation_noise": 5.0})
    told = "\n".join(in_words(contract_of(config, split=KEY)))
    for words in (
        "Recipe exact_diagonal (weight 1): gradient × 1, hessian_diagonal × 1.",
        "Rounds: 3, seed 0. Of each kind 5 answers may be asked for again in all.",
        "Each round it measures gradient, hessian_diagonal, and trains (synchronous).",
        "Evaluated: held_out.",
        "Every example is covered: noise 3 × the clip; evaluation_noise 5.0.",
        "The server sees each client's answers.",
        "Who is held out is decided by this site's key 1f1f1f1f….",
        f"Digest {contract_of(config).digest}.",
    ):
        assert words in told
    secret = plain(privacy={"protect": "nothing", "secure_aggregation": True, "minimum": 4}, federation={"clients": 5})
    assert "The server learns sums of at least 4 clients" in "\n".join(in_words(contract_of(secret)))


def test_what_another_contract_changes_is_said_by_key() -> None:
    before, after = contract_of(plain()), contract_of(plain(training={"rounds": 9}), evaluate=())
    assert changes(before, after) == [
        "training.rounds: 3 → 9",
        "evaluate: ['held_out', 'train'] → []",
        "repeats: 5 → 9",
    ]


# --- commands ---


def test_init_has_the_sites_hold_a_contract_and_show_says_it_in_words(deploy: Command) -> None:  # noqa: F811
    code, said, _ = deploy("init", "fed", "--no-demo")
    assert code == 0
    assert "The sites hold a contract: they answer deployment and nothing else" in said
    sites = [Path("fed/clients") / name / "contracts/deployment.yaml" for name in ("north", "south", "west")]
    keys = {read(path).own["split"] for path in sites}
    assert len(keys) == 3
    assert "split" not in read(Path("fed/contracts/deployment.yaml")).own
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in sites)
    code, said, _ = deploy("show", "--to", "fed")
    assert code == 0
    assert "Contract deployment: 1 run" in said
    assert "Recipe hgp (weight 1)" in said
    assert "Client north agreed to deployment, as far as this folder knows" in said


def test_a_proposal_is_seen_and_accepted_at_the_site(deploy: Command) -> None:  # noqa: F811
    deploy("init", "fed", "--no-demo")
    code, said, _ = deploy("propose", "fed/server/configs/deployment.yaml", "training.rounds=9", "--to", "fed")
    assert code == 0
    assert "A person there accepts it: fedha deploy accept proposed/deployment.yaml" in said
    site = Path("fed/clients/north")
    agreed = read(site / "contracts/deployment.yaml")
    assert agreed.config.training.rounds == 3  # nothing has changed yet
    assert read(site / "proposed/deployment.yaml").own == agreed.own
    code, said, _ = deploy("show", "--to", str(site))
    assert "Proposed, and not accepted: deployment" in said
    assert "training.rounds: 3 → 9" in said
    code, said, _ = deploy("accept", "proposed/deployment.yaml", "--at", str(site), "--look")
    assert "training.rounds: 3 → 9" in said
    assert read(site / "contracts/deployment.yaml").config.training.rounds == 3
    code, said, _ = deploy("accept", "proposed/deployment.yaml", "--at", str(site))
    assert code == 0
    assert "This site holds it now" in said
    assert read(site / "contracts/deployment.yaml").config.training.rounds == 9
    assert not list((site / "proposed").iterdir())
    code, _, said = deploy("accept", "proposed/deployment.yaml", "--at", str(site))
    assert code == 2
    assert "cannot read the contract" in said


def test_what_init_is_told_is_what_the_sites_agree_to(deploy: Command) -> None:  # noqa: F811
    Path("mine.yaml").write_text("name: mine\nrecipe: [erm, iga]\nseed: [0, 1]\n")
    code, _, _ = deploy("init", "fed", "--no-demo", "--config", "mine.yaml")
    assert code == 0
    assert {path.name for path in Path("fed/clients/west/contracts").iterdir()} == {"mine.yaml"}
    assert Path("fed/server/configs/mine.yaml").is_file()
    _, said, _ = deploy("show", "--to", "fed")
    assert "Contract mine: 4 runs" in said
    assert "The same of iga, seed 1. Digest " in said
    Path("mine.yaml").write_text("name: mine\nrecipe: [erm, iga]\nseed: [0, 1, 2, 3]\n")
    deploy("init", "many", "--no-demo", "--config", "mine.yaml")
    _, said, _ = deploy("show", "--to", "many")
    assert said.count("Each round it measures gradient,") == 1, "what leaves with the last recipe is said too"


def test_runs_that_come_with_a_proposal_are_told_in_words(deploy: Command) -> None:  # noqa: F811
    """A proposal with another seed could else change anything unseen."""
    deploy("init", "fed", "--no-demo")
    agreed = "fed/server/configs/deployment.yaml"
    deploy("propose", agreed, "seed=[7, 8]", "recipe=iga", "training.weight_averaging=swad", "--to", "fed")
    code, said, _ = deploy("accept", "proposed/deployment.yaml", "--at", "fed/clients/north", "--look")
    assert code == 0
    assert "no more: recipe hgp, seed 0" in said
    assert "new: 2 runs" in said
    assert "Recipe iga (weight 1)" in said
    assert "weight_averaging 'swad'" in said
    assert "The same of iga, seed 8. Digest " in said
    deploy("propose", agreed, "recipe=[{name: hgp, weight: 5}, hgp]", "--to", "fed")  # one of them is the old one
    _, said, _ = deploy("accept", "proposed/deployment.yaml", "--at", "fed/clients/north", "--look")
    assert "recipe.weight: 1.0 → 5.0" in said
    assert "new: 1 run" in said


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("data.partition={name: dirichlet, alpha: 0.5}", "data.partition divides what is in one place"),
        ("data.clients_per_domain=2", "data.clients_per_domain is 2, but each site of a deployment"),
    ],
)
def test_what_no_site_could_answer_is_not_even_proposed(change: str, says: str, deploy: Command) -> None:  # noqa: F811
    deploy("init", "fed", "--no-demo")
    code, _, said = deploy("propose", "fed/server/configs/deployment.yaml", change, "--to", "fed")
    assert (code, says in said) == (2, True), said
    assert not list(Path("fed/clients/north/proposed").iterdir())


def test_a_site_that_is_added_holds_what_the_others_agreed_to(tmp_path: Path) -> None:
    from fedha.deploy import change

    create(
        tmp_path / "fed",
        Wanted(("north",), ("fed.example.org",), 8443, 825),
        MADE,
        US,
        {},
        None,
        [Agreement("a", plain())],
    )
    change.add_client(tmp_path / "fed", "east", MADE, US)
    north, east = (read(tmp_path / "fed/clients" / name / "contracts/a.yaml") for name in ("north", "east"))
    assert north.config == east.config
    assert north.own["split"] != east.own["split"]
