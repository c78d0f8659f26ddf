"""Laws of the one YAML reader: texts stay texts, nothing is given twice, and little never makes much."""

import random
import tracemalloc
from pathlib import Path

import pytest

from fedha.config import load
from fedha.deploy import inventory
from fedha.errors import FedhaError
from fedha.privacy.limits import read_limits
from fedha.textfile import MARKS, decode
from fedha.yamlfile import LARGEST_BYTES, parse_yaml, read_yaml

NINE = "\n".join(
    f"{name}: &{name} [{', '.join(9 * [f'*{before}'])}]" for before, name in zip("abcdef", "bcdefg", strict=True)
)
BOMB = f"a: &a [x, x, x, x, x, x, x, x, x]\n{NINE}\n"


@pytest.mark.parametrize(
    "text", ["046", "4", "no", "yes", "on", "2024-01-01", "1e-1", "1_000", "0x1F", "1:30", ".inf", "true", "=", "08"]
)
def test_a_scalar_is_the_text_that_was_written(text: str) -> None:
    assert parse_yaml(f"- {text}\n- '{text}'\n- {{{text}: 1}}", "here") == [text, text, {text: "1"}]


@pytest.mark.parametrize("text", ["", "~", "null", "Null", "NULL"])
def test_nothing_is_nothing_unless_it_is_quoted(text: str) -> None:
    assert parse_yaml(f"a: {text}\nb: '{text}'", "here") == {"a": None, "b": text}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "here: the key 'a' is given twice, in lines 1 and 3; keep one"),
        ("a: 1\n'a': 2", "the key 'a' is given twice, in lines 1 and 2"),
        ("a: {b: 1, c: 2, b: 3}", "the key 'b' is given twice, both in line 1"),
        ("1: a\n'1': b", "the key '1' is given twice"),
        ("a: 1\n---\nb: 2", "here holds several documents, the second from line 2"),
        ("? [a]\n: 1", "line 1: a list or a mapping stands as a key"),
        ("a: !!python/name:os.system x", "line 1: the tag '!!python/name:os.system' is not read here"),
        ("a: !!binary aGk=", "the tag '!!binary' is not read here"),
        ("a: &a [*a]", "an alias within what it stands for"),
        ("a: &a {<<: *a}", "an alias within what it stands for"),
        (BOMB, "makes more than 20,000 values with its aliases"),
        ("[" + "a," * 30_000 + "]", "here is not YAML: it holds more than 20,000 values"),
        ("[" * 500 + "]" * 500, "nested too deeply"),
        ("[" * 60 + "]" * 60, "nested too deeply"),
        ("a: *b", "is not YAML: found undefined alias"),
        ("a: [1", "is not YAML: .*line 1"),
        ("<<: 3", "<< merges mappings"),
    ],
)
def test_what_is_not_plain_yaml_is_refused_in_a_sentence(text: str, message: str) -> None:
    with pytest.raises(FedhaError, match=message) as caught:
        parse_yaml(text, "here")
    assert len(str(caught.value)) < 700


def test_an_alias_and_a_merge_say_what_they_stand_for() -> None:
    text = "base: &base {a: 1, b: 2}\nmore: {<<: *base, b: 3}\nboth: {<<: [{a: 4}, *base]}\nsame: *base"
    found = parse_yaml(text, "here")
    assert found["more"] == {"a": "1", "b": "3"}
    assert found["both"] == {"a": "4", "b": "2"}
    assert found["same"] == found["base"]


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(f"data: {{name: arrays}}\n{BOMB}")
    assert path.stat().st_size < 400
    tracemalloc.start()
    with pytest.raises(FedhaError, match="with its aliases"):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()


def test_a_wide_config_makes_a_short_message(tmp_path: Path) -> None:
    path = tmp_path / "wide.yaml"
    path.write_text(
        "x: &x [" + "q, " * 90 + "q]\nseed: [" + "*x, " * 30 + "*x]\n" + "".join(f"k{i}: *x\n" for i in range(60))
    )
    with pytest.raises(FedhaError) as caught:
        load(path)
    assert len(str(caught.value)) < 4000


def test_every_file_of_settings_refuses_a_key_that_is_given_twice(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    for read, text in (
        (load, "data: {label_noise: 0.0}\nname: x\ndata: {held_out: 0.1}\n"),
        (read_limits, "max_epsilon: 1\nmin_examples: 3\nmax_epsilon: 100\n"),
        (inventory.read, "days: 3\nplaces: 1\ndays: 4\n"),
    ):
        path.write_text(text)
        with pytest.raises(FedhaError, match=r"file\.yaml: the key '\w+' is given twice, in lines 1 and 3"):
            read(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_believed(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes("name: grün\ntraining: {rounds: 7}\n".encode(encoding))
    assert (load(path).name, load(path).training.rounds) == ("grün", 7)
    path.write_bytes("max_epsilon: 3".encode(encoding))
    assert read_limits(path).max_epsilon == 3


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_what_has_no_mark_is_named_by_what_it_probably_is(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "file.yaml"
    for text in ("name: grün\ntraining: {rounds: 7}\n", "a: 1"):
        path.write_bytes(text.encode(encoding))
        for read in (load, read_limits, inventory.read):
            with pytest.raises(FedhaError, match=rf"in {encoding[:6].upper()} without a byte-order mark; save it as U"):
                read(path)


def test_bytes_in_another_encoding_are_named_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes("seed: 3\nname: grün\n".encode("latin-1"))
    for read in (load, read_limits, inventory.read):
        with pytest.raises(FedhaError, match=r"not text in UTF-8: byte 16, in line 2, is 0xfc .*save it as UTF-8"):
            read(path)
    for mark, name in MARKS[:4]:
        with pytest.raises(FedhaError, match=f"its byte-order mark says {name.removesuffix('-sig').upper()}"):
            decode(mark + b"\xff\xff\xff\xd8\xff", "here")


def test_what_cannot_be_a_file_of_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match=r"cannot read .*: Is a directory"):
        read_yaml(tmp_path)
    with pytest.raises(FedhaError, match=r"cannot read .*null byte"):
        read_yaml(Path("a\0b"))
    large = tmp_path / "large"
    large.write_bytes(b"#" * (LARGEST_BYTES + 1))
    with pytest.raises(FedhaError, match=r"holds 1,048,577 bytes"):
        read_yaml(large)


@pytest.mark.parametrize(
    ("read", "content"),
    [
        (
            load,
            b"name: x\ndata: &a {name: arrays, sources: [a, 046], held_out: 1e-1}\nrecipe: [erm, {name: hgp}]\n",
        ),
        (read_limits, b"max_epsilon: 3\nmin_examples: 1e2\nstatistics: [gradient]\nhead: {largest_norm: 100}\n"),
        (inventory.read, b"days: 3\nplaces: 1\ncreated: 2030-01-01T00:00:00Z\nclients: [{name: a, partition_id: 0}]\n"),
    ],
)
def test_any_damage_to_a_file_of_settings_is_one_sentence(tmp_path: Path, read, content: bytes) -> None:
    """Three hundred mutations: bytes lost, doubled, turned or put in."""
    path, chance = tmp_path / "file.yaml", random.Random(0)
    pieces = [
        b"\0",
        b"\xff\xfe",
        b": ",
        b"\n",
        b"*a",
        b"&a ",
        b"<<: ",
        b"!!x ",
        b"{",
        b"]",
        b"- ",
        b"'",
        b"%",
        b"---\n",
    ]
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(damaged))
            damaged[place : place + chance.choice([0, 1, 9])] = chance.choice(
                [*pieces, chance.randbytes(2), content[:60]]
            )
        path.write_bytes(damaged)
        refusal = ""
        try:
            read(path)
        except FedhaError as error:
            refusal = str(error)
        assert len(refusal) < 5000
