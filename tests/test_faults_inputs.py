"""What users give by mistake: a file that is no checkpoint, a ratio of another kind."""

from __future__ import annotations

import io
import json
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

import fxprune
from fxprune.errors import InputError
from fxprune.inputs.checkpoints import read_state_dict
from fxprune.inputs.models import load_model
from fxprune.options import PruneOptions

SUFFIXES = (".pt", ".safetensors")
TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}
NETS = """
from torch import nn

def tiny():
    return nn.Linear(3, 2)

def lazy():
    return nn.LazyLinear(2)

class WithState(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass
"""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    file = tmp_path / "nets.py"
    file.write_text(NETS)
    return file


def pickled(value: object, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def tarred(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def header(text: bytes) -> bytes:
    """A safetensors file of one header and no data."""
    return struct.pack("<Q", len(text)) + text


IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
NO_CHECKPOINTS: dict[str, bytes] = {
    "empty": b"",
    "text": b"these are no weights\n" * 9,
    "one letter": b"w",
    "json": json.dumps({"weight": [1, 2, 3]}).encode(),
    "image": IMAGE,
    "zeros": bytes(512),
    "zip of text": zipped(readme=b"hello"),
    "empty zip": zipped(),
    "zip of nonsense": zipped(archive__data__pkl=b"\x80\x02}."),
    "zip of an image": zipped(**{"archive__data.pkl": IMAGE, "archive__version": b"3\n"}),
    "zip of no tensors": zipped(**{"archive__data.pkl": b"\x80\x02K\x01.", "archive__version": b"3\n"}),
    "zip of code": zipped(
        **{"archive__constants.pkl": b"\x80\x02).", "archive__data.pkl": b"\x80\x02}.", "archive__version": b"3"}
    ),
    "tar": tarred(readme=b"hello"),
    "old tar": tarred(storages=b"\x80\x02K\x01.", tensors=b"\x80\x02K\x01.", pickle=b"\x80\x02}."),
    "pickle of a list": b"\x80\x02]q\x00.",
    "pickle of nothing": b"\x80\x02.",
    "pickle that pops too much": b"\x80\x020.",
    "list": pickled([torch.zeros(2)]),
    "number": pickled(3),
    "tensor": pickled(torch.zeros(2)),
    "names of numbers": pickled({"weight": 3.5}),
    "numbers for names": pickled({0: torch.zeros(2)}),
    "an optimizer's": pickled({"state": {}, "param_groups": [{"lr": 0.1}]}),
    "whole model": pickled(nn.Linear(3, 2)),
    "old whole model": pickled(nn.Linear(3, 2), legacy=True),
    "header of text": header(b"not json"),
    "header of a list": header(b"[]"),
    "header beyond the file": header(b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'),
    "unknown dtype": header(b'{"w":{"dtype":"F12","shape":[0],"data_offsets":[0,0]}}'),
    "endless header": struct.pack("<Q", 2**63),
}


def one_sentence(read: Callable[[], object], name: str) -> None:
    with pytest.raises(InputError) as caught:
        read()
    said = str(caught.value)
    assert name in said and "\n" not in said and len(said) < 600, said


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", NO_CHECKPOINTS)
def test_a_file_that_is_no_checkpoint(tmp_path: Path, kind: str, suffix: str) -> None:
    file = tmp_path / f"w{suffix}"
    file.write_bytes(NO_CHECKPOINTS[kind])
    one_sentence(lambda: read_state_dict(file), file.name)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_is_no_checkpoint(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / f"w{suffix}"
    folder.mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read_state_dict(folder)


def harmless(file: Path) -> bool:
    """Whether a file is read as tensors, or refused in one sentence."""
    try:
        return all(isinstance(value, torch.Tensor) for value in read_state_dict(file).values())
    except InputError as error:
        return "\n" not in str(error)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_random_bytes(tmp_path: Path, suffix: str) -> None:
    rng = random.Random(0)
    file = tmp_path / f"w{suffix}"
    starts = [b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04", struct.pack("<Q", 40) + b"{", pickled(TENSORS, legacy=True)[:40]]
    for i in range(200):
        content = starts[i % len(starts)] + rng.randbytes(rng.choice((1, 7, 64, 999)))
        file.write_bytes(content)
        assert harmless(file), content


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "whole", [pickled(TENSORS), pickled(TENSORS, legacy=True), save(TENSORS)], ids=["zip", "legacy", "safetensors"]
)
def test_checkpoints_cut_short_or_with_wrong_bytes(tmp_path: Path, whole: bytes, suffix: str) -> None:
    rng = random.Random(0)
    file = tmp_path / f"w{suffix}"
    for i in range(200):
        content = bytearray(whole[: rng.randrange(len(whole))] if i % 2 else whole)
        for _ in range(0 if i % 4 == 1 else 3):
            if content:
                content[rng.randrange(len(content))] = rng.randrange(256)
        file.write_bytes(content)
        assert harmless(file), bytes(content)


def test_a_checkpoint_says_how_to_save_it_again(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"torch\.save\(model\.state_dict\(\), path\)"):
        read_state_dict(tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["W.SAFETENSORS", "w.Safetensors"])
def test_a_suffix_in_capitals(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(save(TENSORS))
    assert read_state_dict(tmp_path / name).keys() == TENSORS.keys()


# -- into a model ---------------------------------------------------------------------------------------------------------


def test_weights_for_a_model_whose_sizes_are_not_known_yet(nets: Path, tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "w.pt")
    assert torch.equal(load_model(f"{nets}:lazy", tmp_path / "w.pt").weight, TENSORS["weight"])


def test_weights_for_a_model_that_keeps_more_than_tensors(nets: Path, tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "w.pt")
    assert torch.equal(load_model(f"{nets}:WithState", tmp_path / "w.pt").weight, TENSORS["weight"])


@pytest.mark.parametrize(
    "weight",
    [
        torch.empty(2, 3, device="meta"),
        torch.ones(2, 3).to_sparse(),
        torch.ones(2, 3, dtype=torch.complex64),
    ],
    ids=["meta", "sparse", "complex"],
)
def test_tensors_that_are_no_weights(nets: Path, tmp_path: Path, weight: torch.Tensor) -> None:
    torch.save({**TENSORS, "weight": weight}, tmp_path / "w.pt")
    one_sentence(lambda: load_model(f"{nets}:tiny", tmp_path / "w.pt"), "weight")


# -- example inputs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (None, "--input-size"),
        ("3x8x8", "must be a tensor, a tuple of inputs or a dict"),
        ((), "pass what the model's forward takes"),
        ((torch.zeros(2, 3), object()), "pass tensors, numbers and text"),
    ],
    ids=["none", "text", "no tensor", "an object"],
)
def test_example_inputs_say_what_to_pass(inputs: object, said: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))

        def forward(self, x: torch.Tensor, unused: object = None) -> torch.Tensor:
            return self.layers(x)

    with pytest.raises(InputError, match=said):
        fxprune.plan(Net(), 0.5, inputs)


# -- ratios ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_a_ratio_from_numpy(kind: type) -> None:
    options = PruneOptions(kind(0.5), max_ratio=kind(0.75))
    assert json.dumps(options.to_json()) == json.dumps(PruneOptions(0.5, max_ratio=0.75).to_json())
    assert json.dumps(PruneOptions({"conv*": kind(0.5)}).to_json()["ratio"]) == '{"conv*": 0.5}'


def test_whole_numbers_from_numpy() -> None:
    options = PruneOptions(0.5, round_to=np.int64(4), seed=np.uint8(3))
    assert json.dumps(options.to_json()) == json.dumps(PruneOptions(0.5, round_to=4, seed=3).to_json())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"ratio": {}}, "ratio"),
        ({"ratio": {1: 0.5}}, "ratio"),
        ({"ratio": {"conv*": "half"}}, "ratio"),
        ({"ratio": np.float16("nan")}, "ratio"),
        ({"ratio": np.float32(1)}, "ratio"),
        ({"ratio": np.array([0.5])}, "ratio"),
        ({"ratio": np.bool_(True)}, "ratio"),
        ({"ratio": torch.tensor(0.5)}, "ratio"),
        ({"ratio": None}, "ratio"),
        ({"ratio": "0.5"}, "ratio"),
        ({"ratio": 0.5, "max_ratio": np.float16(2)}, "max_ratio"),
        ({"ratio": 0.5, "round_to": 2.0}, "round_to"),
        ({"ratio": 0.5, "round_to": np.int64(0)}, "round_to"),
        ({"ratio": 0.5, "seed": "lucky"}, "seed"),
        ({"ratio": 0.5, "seed": None}, "seed"),
        ({"ratio": 0.5, "seed": 1.5}, "seed"),
    ],
)
def test_options_of_the_wrong_kind(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        PruneOptions(**arguments)
    assert "\n" not in str(caught.value)


def test_a_plan_of_a_ratio_from_numpy() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    expected = fxprune.plan(model, 0.5, torch.zeros(2, 3))
    assert fxprune.plan(model, np.float16(0.5), torch.zeros(2, 3)).to_json() == expected.to_json()
