"""Data by name: what is read, in what order, prepared how, and what is refused."""

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
from fxprune.inputs.data import DataSpec, load_data
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


# -- .npz ----------------------------------------------------------------------------------------------------------------


def test_arrays_go_in_as_they_are(tmp_path: Path) -> None:
    values, tokens = RNG.normal(size=(5, 3, 4, 4)), RNG.integers(0, 99, (5, 7))
    np.savez(tmp_path / "floats.npz", x=values, y=np.arange(5)[:, None])
    np.savez(tmp_path / "tokens.npz", inputs_train=tokens, inputs_test=tokens[:2])
    images, labels = all_of(tmp_path / "floats.npz")
    assert (
        images.dtype is torch.float32 and torch.equal(images, torch.tensor(values).float()) and labels.tolist() == [*range(5)]
    )
    (found,) = all_of(f"{tmp_path / 'tokens.npz'}:train")
    assert found.dtype is torch.int64 and found.tolist() == tokens.tolist()
    assert len(all_of(f"{tmp_path / 'tokens.npz'}:test")[0]) == 2


def test_bytes_are_images(tmp_path: Path) -> None:
    images = pixels(4, 6, 5, 3)
    expected = torch.tensor(images).movedim(3, 1) / 255
    np.savez(tmp_path / "last.npz", images=images)
    np.savez(tmp_path / "first.npz", images=np.moveaxis(images, 3, 1))
    np.savez(tmp_path / "grey.npz", images=images[..., 0])
    for name in ("last", "first"):
        assert torch.allclose(all_of(tmp_path / f"{name}.npz")[0], expected)
    grey = all_of(tmp_path / "grey.npz", size=(1, 6, 5))[0]
    assert torch.allclose(grey, expected[:, :1])
    assert torch.allclose(all_of(tmp_path / "grey.npz", size=(3, 6, 5))[0], expected[:, :1].expand(-1, 3, -1, -1))
    np.savez(tmp_path / "either.npz", images=pixels(2, 3, 5, 3))
    with pytest.raises(InputError, match="which axis has the colours"):
        load_data(str(tmp_path / "either.npz"), NET)


@pytest.fixture
def jpegs(tmp_path: Path) -> tuple[Path, dict[str, Any], list[bytes]]:
    files = [encoded(pixels(8, 8, 3)) for _ in range(5)]
    offset = np.cumsum([0, *map(len, files)])
    arrays = {"jpeg": np.frombuffer(b"".join(files), np.uint8), "offset": offset, "label": np.arange(5, dtype=np.uint8)}
    np.savez(tmp_path / "jpeg.npz", **arrays)
    return tmp_path / "jpeg.npz", arrays, files


def test_jpeg_files_end_to_end(jpegs: tuple[Path, dict[str, Any], list[bytes]]) -> None:
    path, _, files = jpegs
    images, labels = all_of(path, batch_size=2)
    expected = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    assert torch.allclose(images, torch.tensor(expected).movedim(3, 1) / 255) and labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: {"offset": a["offset"][::-1]}, "must rise"),
        (lambda a: {"offset": a["offset"] + 1}, "must rise"),
        (lambda a: {"offset": a["offset"] - 1}, "must rise"),
        (lambda a: {"offset": a["offset"][:1]}, "one more than images"),
        (lambda a: {"jpeg": a["jpeg"].astype(int)}, "one more than images"),
        (lambda a: {"label": a["label"][:-1]}, "labels must be 5"),
        (lambda a: {"jpeg": np.zeros_like(a["jpeg"])}, "image 0 of .* no readable image"),
        (lambda a: {"jpeg": np.array([Bomb()], object)}, "not a readable .npz"),
    ],
)
def test_jpeg_arrays_that_do_not_fit(jpegs: tuple[Path, dict[str, Any], list[bytes]], change: Any, said: str) -> None:
    path, arrays, _ = jpegs
    np.savez(path, **(arrays | change(arrays)))
    with pytest.raises(InputError, match=said):
        all_of(path)


# -- functions, digits, samples ------------------------------------------------------------------------------------------

MINE = """
import torch
from neighbour import WIDTH
from torch.utils.data import TensorDataset

batches = [(torch.full((2, WIDTH), float(i)), torch.tensor([i, i])) for i in range(3)]
def as_list(): return batches
def as_generator(): yield from batches
def as_dataset(): return TensorDataset(torch.arange(10.), torch.arange(10))
def as_tensors(): return torch.ones(4, 2), torch.ones(4)
def as_number(): return 3
def failing(): raise RuntimeError("no disk")
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "neighbour.py").write_text("WIDTH = 4\n")
    (tmp_path / "mydata.py").write_text(MINE)
    return str(tmp_path / "mydata.py")


@pytest.mark.parametrize("name", ["as_list", "as_generator", "batches"])
def test_batches_of_a_function(mine: str, name: str) -> None:
    loader = load_data(f"{mine}:{name}", NET)
    for _ in range(2):  # it can be gone through again
        assert [labels.tolist() for _, labels in loader] == [[0, 0], [1, 1], [2, 2]]
    assert len(list(load_data(f"{mine}:{name}", NET, limit=3))) == 2


def test_a_module_in_the_present_folder(mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.chdir(Path(mine).parent)
    try:
        assert len(list(load_data("mydata:as_list", NET))) == 3
    finally:
        for name in ("mydata", "neighbour"):
            sys.modules.pop(name, None)


def test_a_dataset_is_put_into_batches(mine: str) -> None:
    found = list(load_data(f"{mine}:as_dataset", NET, batch_size=4, limit=6, seed=1))
    assert [len(x) for x, _ in found] == [4, 2]
    assert sorted({int(y) for _, part in found for y in part}) != [*range(6)]  # drawn, not the first ones
    assert all(torch.equal(x.long(), y) for x, y in found)


def test_digits() -> None:
    from sklearn.datasets import load_digits

    from fxprune.inputs.digits import digits

    held_out, whole = all_of("digits:test"), all_of("digits")
    assert torch.equal(held_out[0], digits().test_x) and torch.equal(held_out[1], digits().test_y)
    assert whole[1].bincount().tolist() == np.bincount(load_digits().target).tolist()
    assert all_of("digits:test", size=(3, 16, 16), limit=5)[0].shape == (5, 3, 16, 16)
    normalised = all_of("digits:train", mean=[0.3], std=[0.5])[0]
    assert torch.allclose(normalised, (digits().train_x - 0.3) / 0.5)


def test_a_sample_is_the_seeds() -> None:
    one, same, other = (all_of("digits", limit=50, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(all_of("digits", limit=50)[0], all_of("digits")[0][:50])
    loader = load_data("digits", NET, limit=100, batch_size=30)
    assert len(loader) == len(list(loader)) == 4 and loader.images == 100
    assert torch.equal(next(iter(loader))[0], next(iter(loader))[0])


def test_samples_are_a_dataset() -> None:
    loader = load_data("digits:test", NET)
    x, y = next(iter(torch.utils.data.DataLoader(loader.samples, 7, shuffle=True)))
    assert x.shape == (7, 1, 8, 8) and y.shape == (7,)
    assert torch.equal(loader.samples[3][0], loader.samples.batch([3])[0][0])


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere.npz", "no file or folder 'nowhere.npz'"),
        ("nowhere.npz:train", "no file or folder 'nowhere.npz'"),
        ("nowhere/at/all", "no file or folder"),
        ("no file", "no file or folder"),
        ("digits:val", "digits:train, digits:test or digits"),
        ("no_such_module:batches", "'no_such_module' cannot be imported"),
        ("math:taw", r"has no 'taw' \(did you mean 'tau'"),
        ("math:tau", "gave a float, not an iterable"),
        ("{mine}", "names no function"),
        ("{mine}:nothing", "has no 'nothing'"),
        ("{mine}:as_number", "gave a int"),
        ("{mine}:as_tensors", "tuple of tensors"),
        ("{mine}:failing", r"failing\(\) failed: RuntimeError: no disk"),
        ("{folder}/empty", "no images and no folders"),
        ("{folder}/data.pkl", "not opened"),
        ("{folder}/notes.txt", "none of the data"),
        ("x" * 5000, "no file or folder"),
        ("a\0b", "no file or folder"),
        (3, "named by text"),
    ],
)
def test_what_is_no_data(source: Any, said: str, mine: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "notes.txt").write_text("no data")
    with pytest.raises(InputError, match=said):
        load_data(source.format(mine=mine, folder=tmp_path) if isinstance(source, str) else source, NET)


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"batch_size": 0}])
def test_numbers_that_give_no_batch(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        DataSpec("digits", **wrong).loader(NET)


def test_images_of_several_sizes_want_one(tmp_path: Path) -> None:
    for number in (8, 9):
        (tmp_path / f"{number}.png").write_bytes(encoded(pixels(8, number, 3), "PNG"))
    with pytest.raises(InputError, match="several sizes"):
        all_of(tmp_path)
    assert all_of(tmp_path, size=(3, 8, 8))[0].shape == (2, 3, 8, 8)
