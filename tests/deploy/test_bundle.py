"""What a bundle is, told without opening it; and that ours is the one that `flwr run` sends."""

import io
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk

from fedha.deploy import bundle
from fedha.errors import FedhaError
from tests.deploy.operators import built, source


def test_our_bundle_is_to_the_byte_what_flower_makes_of_the_folder_that_is_sent(tmp_path: Path) -> None:
    for name, content in bundle.SOURCE.items():
        (tmp_path / name).write_bytes(content)
    assert build_fab_from_disk(tmp_path) == bundle.own()
    found = bundle.describe(bundle.own())
    assert (found.name, found.version, found.client_app) == (
        bundle.NAME,
        bundle.VERSION,
        "fedha_deployment:client",
    )
    assert {name for name, _ in found.files} == {*bundle.SOURCE, ".info/CONTENT"}
    assert found.digest == bundle.digest(bundle.own()) == bundle.DIGEST


def test_a_bundle_is_told_apart_by_any_byte(tmp_path: Path) -> None:
    one, other = built(source(tmp_path / "a")), built(source(tmp_path / "b"))
    assert bundle.describe(one).name == bundle.describe(other).name == "operator/curious"
    assert bundle.digest(one) != bundle.digest(other)


def test_what_is_no_bundle_is_a_sentence(tmp_path: Path) -> None:
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    broken = built({**source(tmp_path), "pyproject.toml": source(tmp_path)["pyproject.toml"]})[:-40]
    for content in (b"", b"no zip", empty.getvalue(), broken):
        with pytest.raises(FedhaError, match="this is no Flower app bundle"):
            bundle.describe(content)
    with pytest.raises(FedhaError, match=r"cannot read .*none\.fab"):
        bundle.read(tmp_path / "none.fab")


@pytest.mark.parametrize("name", ["./curious.py", "//curious.py", "/curious.py", "a/../curious.py", "a//b.py"])
def test_a_name_that_is_another_one_written_otherwise_is_refused(name: str, tmp_path: Path) -> None:
    """Unpacked, it would lie over what a person was shown."""
    file = io.BytesIO(built(source(tmp_path)))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), "other")
    with pytest.raises(FedhaError, match="is no plain path; have it made anew"):
        bundle.describe(file.getvalue())


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO(built(source(tmp_path)))
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("curious.py", "other")
    with pytest.raises(FedhaError, match=r"holds 'curious\.py' twice"):
        bundle.describe(file.getvalue())
