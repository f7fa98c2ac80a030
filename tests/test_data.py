"""Images by name: what is read, in what order, prepared how, and what is refused."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fxprune
from fxprune.errors import InputError
from fxprune.inputs.data import load_data
from fxprune.inputs.preparing import Preparation, preparation_of

RNG = np.random.default_rng(0)
NET = nn.Conv2d(3, 4, 3)


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


def all_of(source: object, model: nn.Module = NET, **options: Any) -> tuple[torch.Tensor, ...]:
    batches = list(load_data(str(source), model, **({"seed": None} | options)))
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def encoded(image: np.ndarray, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three classes, the second in folders of its own; one image is grey, and one file is none."""
    for number, name in enumerate(("b/x.png", "b/a.JPG", "a/z/2.png", "a/0.jpg", "c/grey.png")):
        file = tmp_path / "images" / "train" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        kind = "JPEG" if file.suffix.lower() == ".jpg" else "PNG"
        file.write_bytes(encoded(pixels(8, 10, 3) if number < 4 else pixels(8, 10), kind))
    (tmp_path / "images" / "train" / "b" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def test_a_tree_is_read_as_torchvision_reads_it(tree: Path) -> None:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.functional import to_tensor

    peer = ImageFolder(str(tree / "train"))
    images, labels = all_of(tree / "train")
    assert labels.tolist() == [label for _, label in peer] == [0, 0, 1, 1, 2]
    assert torch.allclose(images, torch.stack([to_tensor(image) for image, _ in peer]))
    again = all_of(f"{tree}:train", batch_size=2)
    assert torch.equal(images, again[0]) and torch.equal(labels, again[1])


@pytest.mark.parametrize(("outputs", "told"), [(3, False), (4, True)])
def test_a_missing_class_folder_is_told(outputs: int, told: bool, tree: Path) -> None:
    """The numbers of the classes after it are those of their neighbours, and nothing else would show it."""
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, outputs))
    found = fxprune.validate(model, model, load_data(str(tree / "train"), model), latency=False)
    assert any("numbered wrongly" in note for note in found.notes) == told


def test_a_folder_of_folders_wants_a_name(tree: Path) -> None:
    (tree / "val").mkdir()
    with pytest.raises(InputError, match=r"holds train, val: name one of them, as --data .*:val"):
        load_data(str(tree), NET)
    with pytest.raises(InputError, match=r"no folder 'test': it has train, val"):
        load_data(f"{tree}:test", NET)
    (tree / "train" / "d").mkdir()
    with pytest.raises(InputError, match=r"class 'd' has no image"):
        load_data(f"{tree}:train", NET)


def test_images_without_labels(tree: Path) -> None:
    (found,) = all_of(tree / "train" / "b")
    assert found.shape == (2, 3, 8, 10)


def test_a_damaged_image_is_named(tree: Path) -> None:
    (tree / "train" / "c" / "grey.png").write_bytes(b"\x89PNG\r\n\x1a\nnot one")
    with pytest.raises(InputError, match=r"grey\.png' is no readable image"):
        all_of(tree / "train")


@pytest.mark.parametrize(
    ("size", "crop", "mode", "interpolation"),
    [
        ((3, 16, 16), 0.875, "center", "bicubic"),
        ((3, 16, 16), 1.0, "center", "bilinear"),
        ((1, 21, 21), 0.9, "center", "bilinear"),
        ((3, 16, 16), 0.95, "squash", "bicubic"),
        ((3, 16, 24), 0.9, "center", "bilinear"),
        ((3, 16, 16), 0.9, "border", "bilinear"),
    ],
)
@pytest.mark.parametrize("shape", [(40, 57), (61, 33), (16, 16)])
def test_images_are_placed_as_timm_places_them(
    size: tuple[int, int, int], crop: float, mode: str, interpolation: str, shape: tuple[int, int]
) -> None:
    from timm.data import create_transform

    mean, std = (0.5, 0.4, 0.3)[: size[0]], (0.2, 0.3, 0.1)[: size[0]]
    image = Image.fromarray(pixels(*shape, 3)).convert("L" if size[0] == 1 else "RGB")
    theirs = create_transform(size, interpolation=interpolation, mean=mean, std=std, crop_pct=crop, crop_mode=mode)
    ours = Preparation(size, mean, std, crop, interpolation, mode).pictures([image])
    assert ours.shape == (1, *size)
    assert torch.allclose(ours[0], theirs(image), atol=1e-5)


def test_preparation_follows_the_model() -> None:
    import timm
    from torchvision.models import resnet18

    vit = timm.create_model("test_vit")
    found, config = preparation_of(vit), vit.pretrained_cfg
    assert found.size == tuple(config["input_size"]) and found.mean == tuple(config["mean"]) != (0.485, 0.456, 0.406)
    assert (found.crop, found.interpolation) == (config["crop_pct"], config["interpolation"]) and not found.note
    one = timm.create_model("test_resnet", in_chans=1)
    one.pretrained_cfg = {**one.pretrained_cfg, "mean": (0.1, 0.2, 0.6)}
    grey = preparation_of(one)
    assert grey.channels == 1 and grey.mean == pytest.approx((0.3,))
    known = preparation_of(resnet18(), (3, 64, 64))
    assert (known.size, known.crop, known.mean) == ((3, 64, 64), 0.875, (0.485, 0.456, 0.406))
    assert preparation_of(resnet18(), std=[0.5], crop=1).std == (0.5,)
    other = preparation_of(NET.double())
    NET.float()
    assert (other.size, other.mean, other.crop, other.dtype) == (None, None, 1.0, torch.float64)
    assert "not normalised" in other.note


@pytest.mark.parametrize(
    "wrong", [{"size": (4, 8, 8)}, {"size": (3, 8)}, {"crop": 0}, {"crop": float("nan")}, {"mean": (0.1, 0.2)}, {"std": (0.0,)}]
)
def test_a_preparation_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        preparation_of(NET, **wrong)


# -- CIFAR ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cifar(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """CIFAR-10's binary version with 2 images a file; gives the folder that torchvision is given, and the records."""
    records = np.concatenate([RNG.integers(0, 10, (12, 1), np.uint8), pixels(12, 3072)], 1)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        records[2 * number : 2 * number + 2].tofile(folder / name)
    return tmp_path, records


def test_cifar_as_bytes(cifar: tuple[Path, np.ndarray]) -> None:
    root, records = cifar
    images, labels = all_of(f"{root}:train", mean=(0.5, 0.5, 0.5))
    expected = torch.from_numpy(records[:10, 1:].reshape(10, 3, 32, 32)).float() / 255 - 0.5
    assert torch.allclose(images, expected) and labels.tolist() == records[:10, 0].tolist()
    held_out = all_of(root / "cifar-10-batches-bin" / "test_batch.bin")
    assert held_out[1].tolist() == records[10:, 0].tolist()
    assert torch.equal(held_out[0], all_of(f"{root / 'cifar-10-batches-bin'}:test")[0])
    with pytest.raises(InputError, match=r"holds train and test: give --data .*:train or .*:test"):
        load_data(str(root), NET)


def test_cifar_100_gives_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    np.concatenate([np.array([[3, 99], [4, 20]], np.uint8), pixels(2, 3072)], 1).tofile(folder / "test.bin")
    assert all_of(tmp_path)[1].tolist() == [99, 20]  # the one part that is there


def test_bytes_that_are_no_cifar(cifar: tuple[Path, np.ndarray]) -> None:
    file = cifar[0] / "cifar-10-batches-bin" / "test_batch.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="records have 3073 bytes"):
        load_data(str(file), NET)
    np.full(3073, 77, np.uint8).tofile(file)
    with pytest.raises(InputError, match="has a label 77"):
        load_data(str(file), NET)


class Bomb:
    def __reduce__(self) -> Any:
        return eval, ("exec('raise SystemExit')",)


@pytest.mark.parametrize(
    ("kind", "folder", "files"),
    [
        ("CIFAR10", "cifar-10-batches-py", ["data_batch_1", "test_batch"]),
        ("CIFAR100", "cifar-100-python", ["train", "test", "meta"]),
    ],
)
def test_pickled_cifar_is_refused_with_a_way_out(kind: str, folder: str, files: list[str], tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    for name in files:
        (tmp_path / folder / name).write_bytes(pickle.dumps(Bomb()))
    for source in (tmp_path, tmp_path / folder, f"{tmp_path}:test"):
        with pytest.raises(InputError, match=r"are not opened: convert it once") as refused:
            load_data(str(source), NET)
        assert f"import {kind} as C; d = C('{tmp_path}', train=False); numpy.savez('cifar-test.npz'" in str(refused.value)
    # What that command writes: CIFAR10.data is [n, 32, 32, 3], its targets a list.
    np.savez(tmp_path / "cifar-test.npz", images=pixels(2, 32, 32, 3), labels=[1, 9])
    images, labels = all_of(tmp_path / "cifar-test.npz")
    assert images.shape == (2, 3, 32, 32) and labels.tolist() == [1, 9]
