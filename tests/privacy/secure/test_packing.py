"""Bytes from anybody: a message of the kind that is expected, or refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedha.privacy.secure.messages import (
    Advert,
    MaskedInput,
    Survivors,
)
from fedha.privacy.secure.packing import pack, unpack
from tests.privacy.secure.told import (
    refuse,
    usual,
)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    refuse(
        unpack, Advert, data, match=rf"^{len(data)} bytes that should be a Advert of secure aggregation are not one; s"
    )


@pytest.mark.parametrize(
    "change",
    [
        (b'"Advert"', b'"KeyList"'),
        (b'"place":0', b'"place":"0"'),
        (b'"place":0', b'"place":0.0'),
        (b'"place":0', b'"place":true'),
        (b'"place":0', b'"place":null'),
        (b'"place":0', b'"place":0,"more":1'),
        (b'"place":0,', b""),
        (b'{"bytes":', b'{"text":'),
        (b'"channel_key":{"bytes":"', b'"channel_key":{"bytes":"!'),
        (b'"place":0', b'"place":' + b"[" * 100_000),
        (b'"place":0', b'"place":' + b"1" * 5000),
        (b'"Advert",', b""),
    ],
    ids=range(12),
)
def test_a_message_with_another_field_or_kind_is_refused(change: tuple[bytes, bytes]) -> None:
    data = pack(usual().message("add_advert", 0))
    changed = data.replace(*change)
    assert changed != data
    assert unpack(Advert, data) == usual().message("add_advert", 0)
    refuse(unpack, Advert, changed, match=r"bytes that should be a Advert of secure aggregation are not one")


def test_a_list_where_a_list_of_another_kind_belongs_is_refused() -> None:
    data = pack(usual().arguments["confirm", 0][1])
    for wrong in (b'{"0":1}', b'"0123"', b"[[0],1,2,3]", b'["0"]'):
        refuse(unpack, Survivors, data.replace(b"[0,1,2,3]", wrong), match=r"bytes that should be a Survivors")


def test_a_session_of_impossible_numbers_is_refused_with_their_sentence() -> None:
    session = usual().session
    changed = pack(session).replace(b'"threshold":3', b'"threshold":2')
    refuse(unpack, type(session), changed, match=r"^a threshold of 2 of 5 clients is out of range; more than half")


def test_a_masked_vector_does_not_print_its_words() -> None:
    assert "words" not in repr(MaskedInput(b"", 1, np.arange(3, dtype="<u8")))
