"""Laws of augmentation: what is trained on alone is changed, by (seed, round, client, row), and by torchvision."""

import pickle
import random
from pathlib import Path

import numpy
import pytest
import torch

from fedha.config import DataConfig
from fedha.config import load as load_config
from fedha.data import DomainSet, load
from fedha.data.examples import Examples
from fedha.data.fingerprint import fingerprint
from fedha.data.images.domainbed import augmentation
from fedha.errors import FedhaError
from fedha.run import execute
from fedha.runs.listener import Silent
from tests.data.image_folders import image_folder, picture

v2 = pytest.importorskip("torchvision.transforms.v2")

OURS = "tests.transforms_of_others"
ALL = ["domainbed", *(f"{OURS}:{name}" for name in ("noisy", "own_draws")), "torchvision.transforms.v2:RandomRotation"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return image_folder(tmp_path / "images")


def mine(root: Path, augment: object = "domainbed", seed: int = 0, **options: object) -> DomainSet:
    if augment == ALL[3]:
        augment = {"name": augment, "degrees": "45"}
    content = {"name": "folder", "root": root, "target": "sketch", "size": 8, "augment": augment}
    return load(DataConfig(**(content | options)), seed)


def train(domains: DomainSet) -> Examples:
    return domains.sources[0].train


ROWS = torch.tensor([5, 0, 7, 2])
DRAWS = (3, 1, 0)


@pytest.mark.parametrize(("width", "height"), [(40, 30), (9, 200), (200, 9)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_domainbeds_is_torchvisions_own_with_the_same_seed(width: int, height: int, mode: str) -> None:
    image, ours = picture(3, width, height, mode), augmentation(16, grey=0.3)
    theirs = v2.Compose(
        [
            v2.RandomResizedCrop(16, scale=(0.7, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.3, 0.3, 0.3, 0.3),
            v2.RandomGrayscale(0.3),
        ]
    )
    for seed in range(20):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            wanted = theirs(image)
        found = ours(image, generator=torch.Generator().manual_seed(seed))
        assert numpy.array_equal(numpy.asarray(found), numpy.asarray(wanted))


@pytest.mark.parametrize("augment", ALL)
def test_seed_round_client_and_row_decide_and_nothing_else_does(root: Path, augment: str) -> None:
    one = train(mine(root, augment))
    whole = one.take(torch.arange(len(one)), DRAWS)
    for workers in (1, 3):
        other = pickle.loads(pickle.dumps(train(mine(root, augment, workers=workers))))
        torch.rand(3)
        other.expect(ROWS, DRAWS)
        assert torch.equal(other.take(ROWS, DRAWS), whole[ROWS])
        assert torch.equal(other.take(ROWS.flip(0), DRAWS), whole[ROWS.flip(0)])
    for place in range(3):
        moved = tuple(value + (at == place) for at, value in enumerate(DRAWS))
        assert not torch.equal(one.take(None, moved), whole)
    assert not torch.equal(whole, one.take())


def test_what_is_evaluated_is_never_changed(root: Path, tmp_path: Path) -> None:
    plain, changed = mine(root, "none"), mine(root)
    for one, other in zip((*plain.sources, *plain.targets), (*changed.sources, *changed.targets), strict=True):
        assert torch.equal(one.held_out.take(None, DRAWS), other.held_out.take())
        assert torch.equal(one.train.take(), other.train.take())
    assert torch.equal(plain.targets[0].held_out.take(None, DRAWS), changed.targets[0].held_out.take(None, DRAWS))
    assert fingerprint(plain) == fingerprint(changed)
    cached = mine(root, cache=tmp_path / "cache")
    assert torch.equal(train(cached).take(ROWS, DRAWS), train(changed).take(ROWS, DRAWS))
    assert torch.equal(train(cached).take(ROWS), train(plain).take(ROWS))


def test_global_generators_are_left_as_they_were(root: Path) -> None:
    one, before = train(mine(root, f"{OURS}:noisy")), (random.getstate(), torch.get_rng_state())
    state = numpy.random.get_state()[1].copy()
    one.take(ROWS, DRAWS)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert numpy.array_equal(numpy.random.get_state()[1], state)


def test_own_transforms_are_functions_of_an_image_or_make_one(root: Path) -> None:
    one = train(mine(root, f"{OURS}:mirrored", size=12))
    assert one.take(ROWS, DRAWS).shape == (4, 3, 12, 12)
    assert not torch.equal(one.take(ROWS, DRAWS), one.take(ROWS))
    made = train(mine(root, {"name": f"{OURS}:made", "strength": 2}))
    assert made.take(ROWS, DRAWS).shape == (4, 3, 8, 8)
    weak, strong = (train(mine(root, {"name": f"{OURS}:noisy", "most": most})) for most in ("0", "60"))
    assert torch.equal(weak.take(ROWS, DRAWS), train(mine(root, "none")).take(ROWS))
    assert not torch.equal(strong.take(ROWS, DRAWS), weak.take(ROWS, DRAWS))


@pytest.mark.parametrize(
    ("augment", "said"),
    [
        ("domianbed", "there is no augmentation 'domianbed'; did you mean 'domainbed'"),
        ({"strength": 2}, "give a name, or a mapping with name"),
        (
            {"name": "domainbed", "jiter": 0.1},
            "unexpected keyword argument 'jiter'.* did you mean 'jitter'",
        ),
        ({"name": "domainbed", "jitter": 0.7}, "data.augment.jitter is 0.7; give a number from 0 to 0.5"),
        ({"name": "domainbed", "scale": [0.9, 0.1]}, r"data.augment.scale is \[0.9, 0.1\]; give two shares"),
        ("none_such:thing", "data.augment is 'none_such:thing', but there is no such module"),
        (f"{OURS}:none", "has no 'none'"),
        ({"name": f"{OURS}:noisy", "least": 1}, "unexpected keyword argument 'least'; .* takes image"),
        ("torchvision.transforms.v2:RandomRotation", "missing a required argument: 'degrees'"),
    ],
)
def test_what_is_no_transform_is_refused_before_a_run(root: Path, augment: object, said: str) -> None:
    with pytest.raises(FedhaError, match=said):
        load(DataConfig(name="folder", root=root, target="sketch", size=8, augment=augment), 0)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("failing", r"ValueError: no image of 12 pixels; mend it"),
        ("nothing", "it makes str; let it return a Pillow image"),
        ("cropped_away", "it makes an image of 0 × 0 pixels; mend it"),
        ("beyond", "it makes numbers beyond 0 to 1; let the network normalise"),
    ],
)
def test_a_transform_that_fails_is_an_error_that_names_the_image(root: Path, name: str, said: str) -> None:
    one = train(mine(root, f"{OURS}:{name}"))
    with pytest.raises(FedhaError, match=rf"which fails on the image {root}/art/(cat|dog)/\d.png: {said}"):
        one.take(None, DRAWS)
    assert len(one.take()) == len(one)


def test_an_image_that_is_broken_is_named_as_such(root: Path) -> None:
    (root / "art" / "cat" / "1.png").write_bytes(b"")
    for augment in ("domainbed", f"{OURS}:mirrored"):
        with pytest.raises(FedhaError, match=r"cannot use the image .*/art/cat/1.png: it is empty"):
            train(mine(root, augment, held_out=0)).take(None, DRAWS)


def test_protected_examples_are_not_changed_by_their_place(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "data: {name: folder, root: x, target: y, augment: domainbed}\ntraining: {mode: local}\n"
        "privacy: {protect: examples, noise_multiplier: 1}\n"
    )
    with pytest.raises(FedhaError, match=r"privacy.protect: examples does not allow"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("mode", ["synchronous", "local"])
def test_a_run_is_the_same_with_any_number_of_threads_and_after_a_resume(root: Path, tmp_path: Path, mode: str) -> None:
    def weights(name: str, *more: str, rounds: int = 3, resume: bool = False) -> bytes:
        content = f"data: {{name: folder, root: {root}, target: sketch, size: 8, augment: domainbed}}\nseed: 0\n"
        batch = "batch_size: 4" if mode == "synchronous" else "local: {batch_size: 3}"
        model = "model: {name: cnn, hidden: [4]}\nrecipe: [erm]\ncheckpoint: {every: 1}\n"
        (tmp_path / "c.yaml").write_text(f"{content}{model}training: {{mode: {mode}, rounds: {rounds}, {batch}}}\n")
        config = load_config(tmp_path / "c.yaml", ["engine.name=inline", *more])
        execute(config, tmp_path / name, Silent(), resume=resume)
        return (tmp_path / name / "model.safetensors").read_bytes()

    whole = weights("whole")
    assert weights("one", "data.workers=1") == whole
    assert weights("plain", "data.augment=none") != whole
    weights("begun", rounds=2)
    assert weights("begun", "data.workers=3", resume=True) == whole
