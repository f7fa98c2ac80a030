"""Data in arrays, from functions, and as samples; and what is no data."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_data import NET, RNG, Bomb, all_of, encoded, pixels

from fxprune.errors import InputError
from fxprune.inputs.data import DataSpec, load_data

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
