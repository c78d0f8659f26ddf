"""Who has what, drawn: a row a client, a column a class, a disc as large as the examples, a colour a domain."""

import html
import math
from collections.abc import Sequence

from fedha.data.examine import Examined, Holding

_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb", "#222255")  # Tol's, bright
_CELL, _LABEL, _TOP = 26, 150, 24  # pixels
_CLIENTS, _CLASSES = 200, 60  # that are drawn


def holdings_section(examined: Examined) -> str:
    """The page's part on clients: the picture, and a table of counts."""
    if not examined.clients:
        return ""
    rows = examined.clients[:_CLIENTS]
    more = len(examined.clients) - len(rows)
    told = f"<p>and {more:,} more clients</p>" if more else ""
    return f"<h2>Clients</h2>{picture(rows, _domains(examined.clients))}{_table(rows)}{told}"


def picture(clients: Sequence[Holding], domains: Sequence[str]) -> str:
    """An SVG. Where a client has a class of several domains, discs lie within each other, the largest below.

    Args:
        clients: A row each.
        domains: All, in the order of their colours.
    """
    classes = min(max(len(next(iter(one.held.values()))) for one in clients), _CLASSES)
    most = max(sum(own) for one in clients for own in zip(*one.held.values(), strict=True)) or 1
    colour = {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(domains)}
    parts = [_text(_LABEL + (label + 0.5) * _CELL, 16, str(label), "middle") for label in range(classes)]
    for row, one in enumerate(clients):
        middle = _TOP + (row + 0.5) * _CELL
        parts.append(_text(_LABEL - 8, middle + 4, one.name, "end"))
        for label in range(classes):
            parts.append(_discs(one, label, _LABEL + (label + 0.5) * _CELL, middle, most, colour))
    height = _TOP + len(clients) * _CELL
    for place, name in enumerate(domains):
        at = height + 20 + place * 18
        parts.append(f'<circle cx="{_LABEL}" cy="{at}" r="6" fill="{colour[name]}"/>{_text(_LABEL + 12, at + 4, name)}')
    width, whole = _LABEL + classes * _CELL + 10, height + 24 + len(domains) * 18
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{whole}" font-family="sans-serif" '
        f'font-size="11" role="img" aria-label="examples of each class at each client">{"".join(parts)}</svg>'
    )


def _discs(one: Holding, label: int, across: float, down: float, most: int, colour: dict[str, str]) -> str:
    """All that a client has of a class: discs whose areas add up, one within the other."""
    counts = sorted(((own[label], name) for name, own in one.held.items()), reverse=True)
    left, parts = sum(count for count, _ in counts), []
    for count, name in counts:
        if count:
            radius = 0.5 * (_CELL - 2) * math.sqrt(left / most)
            title = html.escape(f"{one.name}, class {label}: {count} of {name}")
            disc = f'<circle cx="{across:g}" cy="{down:g}" r="{radius:.2f}" fill="{colour[name]}">'
            parts.append(f"{disc}<title>{title}</title></circle>")
            left -= count
    return "".join(parts)


def _table(clients: Sequence[Holding]) -> str:
    classes = len(next(iter(clients[0].held.values())))
    heads = ["client", "domain", "examples", *map(str, range(classes))] if classes <= _CLASSES else None
    heads = heads or ["client", "domain", "examples"]
    rows = [
        [one.name, name, str(sum(own)), *(map(str, own) if len(heads) > 3 else ())]
        for one in clients
        for name, own in one.held.items()
    ]
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{cells}</table>"


def _domains(clients: Sequence[Holding]) -> list[str]:
    return list(dict.fromkeys(name for one in clients for name in one.held))


def _text(across: float, down: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{across:g}" y="{down:g}" text-anchor="{anchor}">{html.escape(text)}</text>'
