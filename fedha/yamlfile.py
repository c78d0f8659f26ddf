"""YAML as people mean it: every scalar is the text that was written, and nothing is given twice.

YAML 1.1 makes numbers, truth values and dates of what looks like one, so that a hospital called 046 is 38 and one that
is called no is False. Here only a schema, which knows what a place is for, makes anything else of a text; null alone is
nothing.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from fedha.errors import FedhaError
from fedha.textfile import read_text

LARGEST_BYTES = 2**20
LARGEST_VALUES = 20_000  # with every alias written out
DEEPEST = 50

_TAG = "tag:yaml.org,2002:"
_TEXTS = frozenset(f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "timestamp"))
_KINDS: dict[type[yaml.Node], str] = {yaml.MappingNode: f"{_TAG}map", yaml.SequenceNode: f"{_TAG}seq"}


class _Loader(yaml.SafeLoader):
    """PyYAML's, which knows two plain scalars: nothing, and the key that merges."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (as PyYAML has it)

    composed = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Stop where it becomes too much, not when it has."""
        self.composed += 1
        if self.composed > LARGEST_VALUES:
            raise yaml.YAMLError(f"it holds more than {LARGEST_VALUES:,} values, which no such file has")
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(f"{_TAG}null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(f"{_TAG}merge", re.compile(r"<<\Z"), ["<"])


def read_yaml(path: Path, what: str = "", remedy: str = "") -> Any:
    """The content of a YAML file; arguments as in `fedha.textfile.read_text`.

    Returns:
        As `parse_yaml`.

    Raises:
        FedhaError: It cannot be read, is no text, or as `parse_yaml`.
    """
    try:
        size = path.stat().st_size
    except (OSError, ValueError):
        size = 0  # reading says what is wrong
    if size > LARGEST_BYTES:
        raise FedhaError(
            f"{f'{what} {path}'.strip()} holds {size:,} bytes; such a file has {LARGEST_BYTES:,} at most, so this is "
            "another one"
        )
    return parse_yaml(read_text(path, what, remedy), f"{what} {path}".strip())


def parse_yaml(text: str, name: str) -> Any:
    """YAML as mappings, lists, texts and None.

    Args:
        text: One document.
        name: What errors call it.

    Returns:
        Scalars as they were written, keys too; None where there is nothing, ``null`` or ``~``.

    Raises:
        FedhaError: It is not YAML, has several documents, a key twice or one that is no text, a tag that would make
            something else of a text, or aliases that make much of little.
    """
    try:
        document = yaml.compose(text, _Loader)
        return None if document is None else _Builder(name).value(document, 0)
    except yaml.composer.ComposerError as error:
        if error.context and error.context.startswith("expected a single document"):
            line = f", the second from line {error.problem_mark.line + 1}" if error.problem_mark else ""
            raise FedhaError(f"{name} holds several documents{line}; keep one") from error
        raise _not_yaml(name, error) from error
    except yaml.YAMLError as error:
        raise _not_yaml(name, error) from error
    except RecursionError:
        raise FedhaError(f"{name} is nested too deeply; such a file has {DEEPEST} levels at most") from None


class _Builder:
    """Turns a document's nodes into values, and counts what it makes."""

    def __init__(self, name: str) -> None:
        self._name, self._made = name, 0

    def value(self, node: yaml.Node, depth: int) -> Any:
        self._made += 1
        if self._made > LARGEST_VALUES:
            raise FedhaError(
                f"{self._name} makes more than {LARGEST_VALUES:,} values with its aliases; write out what you need"
            )
        if depth > DEEPEST:
            raise FedhaError(
                f"{self._name}, line {_line(node)}: nested too deeply, or an alias within what it stands for; such a "
                f"file has {DEEPEST} levels at most"
            )
        self._check_tag(node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(one, depth + 1) for one in node.value]
        return None if node.tag == f"{_TAG}null" else node.value

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        """Keys in the order they are written; those of a merge stand behind, and give way to the others."""
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            name = self._key(key)
            if name in lines:
                raise FedhaError(
                    f"{self._name}: the key {_short(name)} is given twice, {_lines(lines[name], key)}; keep one"
                )
            lines[name] = _line(key)
            made = self.value(value, depth + 1)
            if key.tag != f"{_TAG}merge":
                found[name] = made
                continue
            for one in made if isinstance(made, list) else [made]:
                if not isinstance(one, dict):
                    raise FedhaError(f"{self._name}, line {_line(key)}: << merges mappings; name one by its alias")
                merged = one | merged
        return found | {name: made for name, made in merged.items() if name not in found}

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise FedhaError(f"{self._name}, line {_line(node)}: a list or a mapping stands as a key; a key is a name")
        return str(node.value)

    def _check_tag(self, node: yaml.Node) -> None:
        known = _KINDS.get(type(node))
        if node.tag == known or (known is None and (node.tag in _TEXTS or node.tag in (f"{_TAG}null", f"{_TAG}merge"))):
            return
        raise FedhaError(
            f"{self._name}, line {_line(node)}: the tag {_short(node.tag.replace(_TAG, '!!'))} is not read here; "
            "leave it out"
        )


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _lines(first: int, second: yaml.Node) -> str:
    return f"in lines {first} and {_line(second)}" if first != _line(second) else f"both in line {first}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}…")


def _not_yaml(name: str, error: yaml.YAMLError) -> FedhaError:
    told = " ".join(str(error).split())
    return FedhaError(f"{name} is not YAML: {told if len(told) <= 500 else f'{told[:500]} …'}")
