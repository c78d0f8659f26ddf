"""What `fedha data fetch` gets, and where a person gets what it cannot."""

from dataclasses import dataclass
from urllib.parse import quote

from fedha.data import mnist
from fedha.data.heart import FILE


@dataclass(frozen=True)
class Remote:
    """One published file.

    Attributes:
        name: Under which it is kept.
        urls: Where it is, tried in order.
        sha256: Of its contents.
        size: Most bytes that it may have, as it is sent.
        packed: Whether it is a gzip, of whose contents the digest is: packed copies differ.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str
    size: int
    packed: bool = False


@dataclass(frozen=True)
class Guide:
    """A data set that has no direct download.

    Attributes:
        title: As its authors call it.
        where: Pages where a person gets it.
        terms: What is known of its licence.
        layout: What must stand in the folder, and how a config names it.
    """

    title: str
    where: tuple[str, ...]
    terms: str
    layout: str


_HEART = {
    "cleveland": "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8",
    "hungarian": "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796",
    "switzerland": "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314",
    "va": "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f",
}
_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/"
_RESEARCH = "no licence is known to us: for research; ask the authors for anything else"


def mnist_files() -> tuple[Remote, ...]:
    """MNIST's four files, at its mirrors."""
    return tuple(
        Remote(
            f"{one.name}.gz", tuple(f"{mirror}{one.name}.gz" for mirror in mnist.MIRRORS), one.sha256, one.size, True
        )
        for one in (*mnist.TRAIN, *mnist.TEST)
    )


def heart_files() -> tuple[Remote, ...]:
    """The four hospitals' files."""
    names = {FILE.format(hospital): digest for hospital, digest in _HEART.items()}
    return tuple(Remote(name, (_UCI + quote(name),), digest, 2**20) for name, digest in names.items())


DIRECT = {"mnist": mnist_files(), "heart": heart_files()}
USED_BY = {
    "mnist": "data: {name: rotated_mnist, root: ROOT, target: '75'} or {name: colored_mnist, root: ROOT}",
    "heart": "data: {name: heart, root: ROOT}",
}
GUIDES = {
    "pacs": Guide(
        "PACS (Li et al., ICCV 2017), 9,991 images, 7 classes",
        (
            "http://www.eecs.qmul.ac.uk/~dl307/project_iccv2017",
            "https://github.com/facebookresearch/DomainBed (download.py)",
        ),
        _RESEARCH,
        "art_painting, cartoon, photo and sketch (DomainBed's archive calls the folder kfold)",
    ),
    "vlcs": Guide(
        "VLCS (Fang et al., ICCV 2013), 10,729 images, 5 classes",
        ("https://github.com/facebookresearch/DomainBed (download.py)",),
        "four data sets with terms of their own (Caltech101, LabelMe, SUN09, VOC2007), for research",
        "Caltech101, LabelMe, SUN09 and VOC2007",
    ),
    "officehome": Guide(
        "Office-Home (Venkateswara et al., CVPR 2017), 15,588 images, 65 classes",
        ("https://www.hemanthdv.org/officeHomeDataset.html",),
        "for non-commercial research and education, as its page says",
        "Art, Clipart, Product and 'Real World'",
    ),
    "terraincognita": Guide(
        "Terra Incognita (Beery et al., ECCV 2018), 24,788 images, 10 classes as DomainBed takes them",
        (
            "https://lila.science/datasets/caltech-camera-traps",
            "https://github.com/facebookresearch/DomainBed (download.py sorts the images of four locations)",
        ),
        "Community Data License Agreement, permissive variant",
        "location_38, location_43, location_46 and location_100",
    ),
    "domainnet": Guide(
        "DomainNet (Peng et al., ICCV 2019), 586,575 images, 345 classes",
        ("https://ai.bu.edu/M3SDA/ (the cleaned version)",),
        "for non-commercial research, as its page says",
        "clipart, infograph, painting, quickdraw, real and sketch",
    ),
}
