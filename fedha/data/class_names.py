"""Labels as people write them, texts or numbers, as classes."""

from collections.abc import Callable, Mapping, Sequence

from fedha.errors import FedhaError, listed


def plain(label: object) -> str:
    """A label as it is known: whole numbers alike, however they are written, such as 1 and 1.0."""
    text = str(label)
    try:
        value = float(text)
    except ValueError:
        return text
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 and "_" not in text else text


def classes_of(
    labels: Mapping[str, Sequence[str]],
    declared: Sequence[str] | None,
    classes: int | None,
    where: Callable[[str, int], str],
) -> list[str]:
    """The classes in the order of their labels.

    Args:
        labels: Of each domain, as `plain` has them; they are looked at where nothing is declared.
        declared: As the config names them.
        classes: How many there are, where the labels are 0, 1, 2, … themselves.
        where: What errors call a row of a domain.

    Raises:
        FedhaError: There is one class, or a label is none of them.
    """
    found = sorted({one for some in labels.values() for one in some}, key=_by_number)
    if declared is None and classes is None:
        if len(found) < 2:
            raise FedhaError(f"all labels are {found[0]!r}; two classes are needed, or name them in data.class_names")
        return found
    names = [plain(one) for one in declared] if declared is not None else [str(one) for one in range(classes or 0)]
    if len(set(names)) < len(names):
        raise FedhaError(f"data.class_names is {listed(names)}; name each class once")
    for domain, some in labels.items():
        for row, one in enumerate(some):
            if one not in names:
                why = f"the classes {listed(names)} (data.{'class_names' if declared is not None else 'classes'})"
                raise FedhaError(f"{where(domain, row)}: the label is {one[:40]!r}, which is none of {why}")
    return names


def check_alone(declared: Sequence[str] | None, classes: int | None) -> None:
    """Refuse a site whose config leaves open what only all domains together tell.

    Raises:
        FedhaError: Neither the classes nor their number is given.
    """
    if declared is None and classes is None:
        raise FedhaError("data.class_names is not set; a site sees its own labels alone, so the config must name them")


def _by_number(name: str) -> tuple[int, float, str]:
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name
