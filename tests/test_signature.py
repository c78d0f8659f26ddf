"""A function's annotations are its options' schema: for strangers' functions as for fedha's own."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from fedha.errors import FedhaError
from fedha.named import invoke


class Side(BaseModel):
    width: float
    names: list[str] = []


def plain(
    count: Annotated[int, Field(ge=1)] = 1,
    rate: float = 0.5,
    where: Path | None = None,
    kind: Literal["a", "b"] = "a",
    codes: list[str] | None = None,
    steps: list[int] = [],  # noqa: B006
    cap: int | None = None,
    many: float | str = "all",
    sides: dict[str, Side] | None = None,
    anything: Any = None,
    flag: bool = False,
) -> dict[str, Any]:
    return dict(locals())


def called(**options: Any) -> dict[str, Any]:
    return invoke("data", "plain", plain, options, {})


@pytest.mark.parametrize(
    ("option", "given", "taken"),
    [
        ("count", "0x10", 16),
        ("rate", "1e-1", 0.1),
        ("rate", "3", 3.0),
        ("where", "~/data", Path("~/data")),
        ("codes", ["007", "1.0"], ["007", "1.0"]),
        ("steps", ["1_000", "2"], [1000, 2]),
        ("cap", None, None),
        ("many", "0.5", 0.5),
        ("many", "half", "half"),
        ("sides", {"x": {"width": "2", "names": ["1"]}}, {"x": Side(width=2, names=["1"])}),
        ("anything", ["1", "x"], [1, "x"]),
        ("flag", "true", True),
    ],
)
def test_a_text_becomes_what_the_annotation_asks_for(option: str, given: Any, taken: Any) -> None:
    found = called(**{option: given})[option]
    assert (found, type(found)) == (taken, type(taken))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": "0"}, r"^data\.count is 0: input should be greater than or equal to 1$"),
        ({"count": "high", "flag": "maybe"}, r"^data\.count is 'high': .*; data\.flag is 'maybe': "),
        ({"kind": "c"}, r"^data\.kind is 'c': input should be 'a' or 'b'$"),
        ({"sides": {"x": {"widht": "2"}}}, r"data\.sides\.x\.width is missing"),
        ({"kodes": ["1"]}, r"unexpected keyword argument 'kodes'; .*; 'kodes' is none; did you mean 'codes'"),
    ],
)
def test_what_is_something_else_is_named_with_its_value(options: dict, message: str) -> None:
    with pytest.raises(FedhaError, match=message):
        called(**options)


def test_annotations_that_nobody_can_check_are_left_to_the_function() -> None:
    def theirs(loose: list, tensor: "NoSuchType" = None, none: int = None) -> tuple:  # noqa: F821, RUF013
        return loose, tensor, none

    assert invoke("model", "theirs", theirs, {"loose": ["1"], "tensor": "2", "none": None}, {}) == ([1], 2, None)
