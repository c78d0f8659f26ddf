"""Which code runs at a site: its own, or what it accepted by the bytes; else nothing, and no line of what was sent."""

import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from flwr.clientapp import ClientApp
from flwr.supercore.run import Run
from flwr.supernode.runtime import run_clientapp

from fedha import permitted
from fedha.deploy import accepted, bundle, site_app
from fedha.deploy.site_app import SiteCode
from fedha.errors import FedhaError
from fedha.named import find
from tests.deploy.operators import built, disguised, line_of, source


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A site's file; what a process would keep until its end ends with the test."""
    path = tmp_path / accepted.FILE
    path.write_bytes(accepted.first())
    monkeypatch.setenv("FEDHA_ACCEPTED", str(path))
    monkeypatch.setenv("FEDHA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDHA_APP", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield path
    permitted._within.clear()
    for name in ("curious", "fedha_deployment"):
        sys.modules.pop(name, None)


def code_for(name: str, version: str) -> SiteCode:
    """A task whose app the server calls so."""
    run = replace(Run.create_empty(1), fab_id=name, fab_version=version)
    made = SiteCode(lambda client: cast(Any, (None, None, run, None)))
    made.pull_task_input(cast(Any, None))
    return made


def started(content: bytes, name: str = "operator/curious", version: str = "6.6.6") -> ClientApp:
    """What runs for a task whose bundle is this."""
    code = code_for(name, version)
    code.install_from_fab(content, skip_prompt=True)
    return code.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)(name, version, "f" * 64)


def test_flower_takes_each_step_that_is_replaced_from_its_module() -> None:
    """Were a step called otherwise, Flower's own would run."""
    called = run_clientapp.run_clientapp.__code__.co_names
    for name in site_app._REPLACED:
        assert name in called
        assert callable(getattr(SiteCode, name))
        assert name in vars(run_clientapp)


def test_a_flower_with_other_steps_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(run_clientapp), "install_from_fab")
    monkeypatch.setattr(site_app, "flwr_clientapp", lambda: pytest.fail("it ran"))
    for name in site_app._REPLACED[:1]:
        monkeypatch.setitem(vars(run_clientapp), name, vars(run_clientapp)[name])
    with pytest.raises(RuntimeError, match="has no install_from_fab"):
        site_app.main()


def test_by_default_nothing_that_comes_is_opened(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, stock = bundle.own(), zipfile.ZipFile

    def opened(file: Any, mode: str = "r", *more: Any) -> zipfile.ZipFile:
        assert mode == "w", "the bundle was opened"  # ours is made, to compare
        return stock(file, "w", *more)

    monkeypatch.setattr(zipfile, "ZipFile", opened)
    for content in (ours, b"not even a bundle"):
        assert isinstance(started(content, bundle.NAME, "1.0.0"), ClientApp)
    with pytest.raises(FedhaError, match=r"it runs its own fedha, .* and not 'operator/curious' '6.6.6' with SHA-256"):
        started(b"any")


def test_an_app_that_calls_itself_fedhas_does_not_run_either(
    site: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = built(disguised(tmp_path / "mark"))
    caplog.set_level("WARNING", "flwr")
    assert isinstance(started(content, bundle.NAME, "1.0.0"), ClientApp)
    assert not (tmp_path / "mark").exists()
    assert "fedha_deployment" not in sys.modules


def test_an_accepted_bundle_runs_and_one_with_another_byte_does_not(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDHA_APP", "accepted")
    content = built(source(tmp_path / "mark"))
    with pytest.raises(FedhaError, match="starts no app that its people have not accepted, and 'operator/curious'"):
        started(content)
    assert not list(tmp_path.glob("mark*"))
    accepted.add(site, line_of(content))
    with pytest.raises(FedhaError, match=f"{bundle.digest(content + b'x')} is none of theirs"):
        started(content + b"x")
    assert not list(tmp_path.glob("mark*"))
    assert isinstance(started(content), ClientApp)
    assert list(tmp_path.glob("mark*"))  # so that a file that is missing above means something


def test_our_own_bundle_is_accepted_from_the_start(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDHA_APP", "accepted")
    assert isinstance(started(bundle.own(), bundle.NAME, "1.0.0"), ClientApp)


def test_the_servers_words_for_a_bundle_name_no_folder(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower would load what lies in a folder that is named by the run's name, version and hash."""
    monkeypatch.setenv("FEDHA_APP", "accepted")
    content = built(source(tmp_path / "accepted"))
    accepted.add(site, line_of(content))
    for name, version in (("operator/curious", "1/../../../elsewhere"), ("operator/other", "6.6.6"), ("x", "6.6.6")):
        with pytest.raises(Exception, match="mismatch"):
            started(content, name, version)


@pytest.mark.parametrize("text", ["bundle 12\n", "yes\n"])
@pytest.mark.parametrize("mode", ["installed", "accepted"])
def test_a_file_that_cannot_be_understood_runs_nothing(
    mode: str, text: str, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDHA_APP", mode)
    site.write_text(text)
    with pytest.raises(FedhaError, match="line 1 of this site's"):
        started(bundle.own(), bundle.NAME, "1.0.0")


def test_a_mode_that_nobody_knows_runs_nothing(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDHA_APP", "any")
    with pytest.raises(FedhaError, match="FEDHA_APP is 'any'; set it to installed or accepted"):
        started(bundle.own(), bundle.NAME, "1.0.0")


def test_nothing_is_installed_and_nothing_loads_before_it_is_decided() -> None:
    code = code_for(bundle.NAME, "1.0.0")
    with pytest.raises(FedhaError, match="installs nothing"):
        code.install_app_dependencies(Path())
    with pytest.raises(FedhaError, match="before it was decided"):
        code.get_load_client_app_fn()("a/b", "1", "f")


def test_code_that_a_task_names_is_permitted_for_the_whole_process(site: Path) -> None:
    started(bundle.own(), bundle.NAME, "1.0.0")
    with pytest.raises(FedhaError, match="names code that was not accepted here"):
        find("data.name", "subprocess:check_output")
