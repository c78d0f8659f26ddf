"""Which classes the images of all domains are of, and which label each image has."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedha.data.images.manifest import is_number
from fedha.data.images.tree import Folder, check_names, shown
from fedha.errors import FedhaError, listed


def classes_of(found: Mapping[str, Folder], names: Sequence[str] | None, where: str, *, numbers: bool) -> Sequence[str]:
    """The classes, in the order of their labels.

    Args:
        found: All domains, by name.
        names: What the config says; None: the union of the domains' own, sorted.
        where: What the domains were found in.
        numbers: Whether labels that are all whole numbers are the classes' numbers, as in a manifest.

    Raises:
        FedhaError: A class has no image in any domain, or there is one class only.
    """
    if names is not None:
        return names
    classes = sorted({name for one in found.values() for name in one.classes})
    used = {label for one in found.values() for label in one.labels}
    if empty := [name for name in classes if name not in used]:
        raise FedhaError(
            f"the class folder {empty[0]!r} holds no image in any domain of {where}; remove it, or list the classes in "
            "data.class_names"
        )
    if numbers and all(map(is_number, classes)):
        classes = _numbers({int(one) for one in classes}, where)
    if len(classes) < 2:
        raise FedhaError(f"all images of {where} are of one class, {classes[0]!r}; two are needed")
    return classes


def labels_of(folder: Folder, classes: Sequence[str], *, numbers: bool) -> Tensor:
    """Which class each image of a domain is of, [n].

    Args:
        folder: The domain.
        classes: In the order of their labels.
        numbers: Whether a label may also be a class's number.

    Raises:
        FedhaError: An image is of none of the classes, or names differ by case alone.
    """
    check_names(
        {f"{name!r} (data.class_names)": name for name in classes}
        | {f"{name!r} ({folder.name})": name for name in folder.classes},
        "classes" if numbers else "folders",
    )
    places = {name: place for place, name in enumerate(classes)}
    if numbers:
        by_number = {one: int(one) for one in folder.classes if is_number(one) and int(one) < len(classes)}
        places = {**by_number, **places}
    if strange := [name for name in folder.classes if name not in places]:
        what = f"label {strange[0]!r} of domain {folder.name}" if numbers else shown(folder.path / strange[0])
        remedy = "correct it" if numbers else "rename or remove the folder"
        raise FedhaError(f"{what} is none of the classes {listed(classes)}; {remedy}, or name it in data.class_names")
    return torch.tensor([places[one] for one in folder.labels], dtype=torch.int64)


def _numbers(found: set[int], where: str) -> list[str]:
    """The numbers from 0 to the highest, each of which must be there."""
    if len(found) <= max(found):
        absent = next(number for number in range(max(found)) if number not in found)
        raise FedhaError(
            f"the labels of {where} go up to {max(found)} but none is {absent}; number the classes 0, 1, 2, …, or list "
            "what stands in the file in data.class_names"
        )
    return [str(number) for number in range(max(found) + 1)]
