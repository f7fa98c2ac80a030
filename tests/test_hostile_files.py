"""Files that somebody else wrote: weights beside a saved source, checkpoints, data, names. Nothing of them is ever run."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import fxprune
from fxprune.cli.app import main
from fxprune.errors import InputError, PruneError
from fxprune.inputs.data import load_data
from fxprune.inputs.models import load_model

EVIL = '__import__("pathlib").Path("owned").touch()'
QUOTES = f'x""")\n{EVIL}\n("""'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """In a folder of its own, in which no code of a file may leave a trace."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path("owned").exists()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()


def saved() -> tuple[Path, Path]:
    file = fxprune.save(fxprune.prune(net(), 0.5, torch.zeros(1, 4)), "slim")
    return file, file.with_suffix(".safetensors")


def refused(folder: Path, said: str = "cannot be loaded") -> None:
    with pytest.raises(PruneError, match=said) as caught:
        fxprune.load(folder)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 1000


# -- weights beside a source ------------------------------------------------------------------------------------------------

STATE = {"0.weight": (4, 4), "0.bias": (4,), "2.weight": (2, 4), "2.bias": (2,)}


@pytest.mark.parametrize(
    "change",
    [
        {"0.weight": torch.zeros(5, 4)},
        {"0.weight": torch.zeros(4)},
        {"0.weight": torch.zeros(0)},
        {"0.weight": None},
        {"more": torch.zeros(1)},
        {EVIL: torch.zeros(1)},
        {"__class__": torch.zeros(1)},
        {"0.__init__": torch.zeros(1)},
        {"load": torch.zeros(1)},
    ],
    ids=["shape", "axes", "empty", "missing", "more", "code", "class", "method", "function"],
)
def test_weights_that_do_not_fit(change: dict[str, Any]) -> None:
    file, weights = saved()
    state = {**load_file(weights), **change}
    save_file({name: value for name, value in state.items() if value is not None}, weights)
    refused(file, "wrong weights")


def header(text: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(**fields: Any) -> bytes:
    return header(json.dumps({"0.weight": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64], **fields}}).encode())


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\0", bytes(8), header(b"{}", 2**63), header(b"{}", 10**12), header(b"{}", 100), header(b"{")),
        *(header(b"[" * 100_000), header(b'{"0.weight": 1}'), header(b"[]"), header(b"null"), header(b"1" * 5000)),
        *(header(b'{"__metadata__": 3}'), header(b'{"__metadata__": {"code": 3}}'), header(b'{"__metadata__": {"code": "x"}}')),
        *(entry(), entry(dtype="F33"), entry(dtype=["F32"]), entry(shape=[10**12]), entry(shape=[0, 2**70])),
        *(entry(shape=[-1, -16]), entry(shape=[1] * 100_000), entry(shape="ab"), entry(data_offsets=[0, 10**12])),
        *(entry(data_offsets=[64, 0]), entry(data_offsets=[-64, 0]), entry(data_offsets=[0.0, 64.0]), entry(data_offsets=None)),
    ],
)
def test_weights_with_a_lying_header(content: bytes) -> None:
    file, weights = saved()
    weights.write_bytes(content)
    refused(file)


def test_weights_cut_short_or_with_wrong_bytes() -> None:
    file, weights = saved()
    whole, rng = weights.read_bytes(), random.Random(0)
    for i in range(150):
        content = bytearray(whole[: rng.randrange(len(whole))] if i % 2 else whole)
        for _ in range(0 if i % 4 == 1 else 3):
            if content:
                content[rng.randrange(len(content))] = rng.randrange(256)
        weights.write_bytes(bytes(content))
        try:
            found = fxprune.load(file)
            assert {name: tuple(value.shape) for name, value in found.state_dict().items()} == STATE
        except PruneError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "load = 3",
        "def load(",
        "def load():\n    return 1 / 0",
        "raise SystemExit(3)",
        "\0",
        "\ud800",
        "x = " + "(" * 500,
        "import nothing_like_it",
    ],
)
def test_a_source_that_is_damaged(source: str) -> None:
    file, _ = saved()
    file.write_bytes(source.encode(errors="surrogatepass"))
    refused(file)


# -- names ------------------------------------------------------------------------------------------------------------------


def test_names_in_a_plan_are_never_code() -> None:
    """A plan's words go into the header of a saved source and into messages."""
    document = json.loads(fxprune.plan(net(), 0.5, torch.zeros(1, 4)).to_json())
    document["model"] = QUOTES
    document["options"] |= {"criterion": EVIL, "scope": EVIL, "ratio": {EVIL: 0.5}}
    document["whole"] = document["tied"] = {EVIL: QUOTES}
    for group in document["groups"]:
        group["reason"] = QUOTES
    plan = fxprune.Plan.from_json(json.dumps(document))
    slim = fxprune.apply(net(), plan)
    file = fxprune.save(slim, "slim")
    fxprune.load(file)
    compile(file.read_text(), "slim.py", "exec")
    assert file.read_text().count("owned") <= 1 and EVIL not in file.read_text().split('"""')[2]
    str(slim.meta["fxprune"]), str(fxprune.why(plan, "0"))


def test_a_checkpoint_with_hostile_names() -> None:
    Path("net.py").write_text("from torch import nn\n\ndef tiny():\n    return nn.Linear(3, 2)\n")
    for name in (EVIL, QUOTES, "__class__", "weight.__init__", "a" * 10_000, "\n", ""):
        torch.save({"weight": torch.zeros(2, 3), "bias": torch.zeros(2), name: torch.zeros(1)}, "w.pt")
        with pytest.raises(InputError, match="not in the model"):
            load_model("net.py:tiny", "w.pt")


@pytest.mark.parametrize("flag", ["--checkpoint", "--data", "--plan"])
def test_files_of_the_command_line(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.py").write_text(
        "from torch import nn\n\ndef tiny():\n    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))\n"
    )
    rng = random.Random(0)
    for content in (b"", b"\0" * 9, rng.randbytes(300), b"{}", b"[" * 10_000, b"PK\x03\x04", b"\x80\x02."):
        for name in ("x", "x.safetensors", "x.npz", "x.json"):
            Path(name).write_bytes(content)
            ratio = [] if flag == "--plan" else ["--ratio", "0.5"]
            with pytest.raises(SystemExit) as stopped:
                main(["prune", "net.py:tiny", "--input-size", "3", *ratio, flag, name])
            assert stopped.value.code == 2
            assert capsys.readouterr().err.startswith("error: ")


def test_a_size_of_many_digits(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.py").write_text("from torch import nn\n\ndef tiny():\n    return nn.Linear(3, 2)\n")
    with pytest.raises(SystemExit):
        main(["prune", "net.py:tiny", "--ratio", "0.5", "--input-size", "1" * 5000])
    said = capsys.readouterr().err
    assert said.startswith("error: --input-size") and len(said) < 400


# -- data -------------------------------------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self) -> Any:
        return eval, (EVIL,)


@pytest.mark.parametrize(
    "arrays",
    [
        {"inputs": np.array([Bomb()], object)},
        {"inputs": np.array(["a"])},
        {"inputs": np.zeros(3)},
        {"inputs": np.zeros((0, 3))},
        {"inputs": np.zeros((2, 3), complex)},
        {"inputs": np.zeros((2, 3)), "labels": np.zeros(3, int)},
        {"inputs": np.zeros((2, 3)), "labels": np.zeros(2)},
        {"inputs": np.zeros((2, 3)), "labels": np.array([Bomb()] * 2, object)},
        {"other": np.zeros((2, 3))},
    ],
    ids=["pickle", "text", "one axis", "nothing", "complex", "too many labels", "fractions", "pickled labels", "other name"],
)
def test_data_of_another_kind(arrays: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(InputError, match=r"data\.npz"):
        load_data(str(tmp_path / "data.npz"), net())
