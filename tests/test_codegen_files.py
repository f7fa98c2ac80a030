"""Saved files: what is written, and what is refused when it is read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from support.codegen import Custom, Residual, graph_of
from torch import nn
from torch.fx import symbolic_trace

from fxprune.codegen import load, save
from fxprune.codegen.reader import read_safetensors
from fxprune.codegen.roundtrip import same_bits, same_result
from fxprune.errors import InputError, PruneError


def test_save_and_load(tmp_path: Path) -> None:
    slim = symbolic_trace(Residual().eval())
    slim.meta["fxprune"] = SimpleNamespace(
        model='evil"""\nimport os', macs_before=4000, macs_after=1000, params_before=200, params_after=50
    )
    first, second = save(slim, tmp_path / "new" / "dir"), save(slim, tmp_path / "other.py")
    assert first == tmp_path / "new" / "dir" / "slim.py"
    assert sorted(path.name for path in first.parent.iterdir()) == ["slim.py", "slim.safetensors"]
    assert second.with_suffix(".safetensors").read_bytes() == first.with_suffix(".safetensors").read_bytes()
    assert save(slim, tmp_path / "third").read_bytes() == first.read_bytes()
    header = first.read_text().split('"""')[1]
    assert "evil''' import os" in header
    assert "(-75.0%)" in header
    x = torch.randn(2, 3, 8, 8)
    for path in (first, first.parent, second, str(second)):
        assert same_result(load(path)(x), slim(x))
    assert not list(tmp_path.rglob("*.pyc"))


def test_safetensors_library_reads_the_weights(tmp_path: Path) -> None:
    slim = symbolic_trace(Residual())
    file = save(slim, tmp_path)
    stored = safetensors.torch.load_file(file.with_suffix(".safetensors"))
    assert stored.keys() == slim.state_dict().keys()


def test_saving_again_replaces_both_files(tmp_path: Path) -> None:
    save(symbolic_trace(Residual()), tmp_path)
    other = symbolic_trace(nn.Sequential(nn.Linear(2, 2)))
    save(other, tmp_path)
    assert list(load(tmp_path).state_dict()) == list(other.state_dict())
    with pytest.raises(PruneError):
        broken = symbolic_trace(nn.Sequential(Custom(2, 2)))
        broken.get_submodule("0").register_forward_hook(lambda *_: None)
        save(graph_of(broken, lambda graph, x: graph.call_module("0", (x,))), tmp_path)
    assert list(load(tmp_path).state_dict()) == list(other.state_dict())
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("wrong", [nn.Linear(2, 2), "model", None])
def test_save_refuses_other_things(wrong: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a torch"):
        save(wrong, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_save_refuses_wrong_places(tmp_path: Path) -> None:
    slim = symbolic_trace(nn.Sequential(nn.Linear(2, 2)))
    (tmp_path / "file").write_text("")
    (tmp_path / "dir.py").mkdir()
    for place in ("file", "dir.py", "file/slim.py"):
        with pytest.raises(InputError, match="not a place"):
            save(slim, tmp_path / place)
    with pytest.raises(PruneError, match="meta device"):
        save(slim.to("meta"), tmp_path / "x")


def test_load_refuses_missing_and_damaged_files(tmp_path: Path) -> None:
    file = save(symbolic_trace(nn.Sequential(nn.Linear(2, 2))), tmp_path)
    weights = file.with_suffix(".safetensors")
    good_weights, good_source = weights.read_bytes(), file.read_bytes()
    for data in (
        b"",
        good_weights[:5],
        good_weights[:-1],
        b"\xff" * 8 + good_weights[8:],
        good_weights + b"x",
    ):
        weights.write_bytes(data)
        if data != good_weights + b"x":
            with pytest.raises(PruneError, match="cannot be loaded"):
                load(tmp_path)
    weights.write_bytes(good_weights)
    file.write_text("def load(")
    with pytest.raises(PruneError, match="cannot be loaded"):
        load(tmp_path)
    file.write_bytes(good_source)
    weights.unlink()
    with pytest.raises(PruneError, match="does not exist"):
        load(tmp_path)
    with pytest.raises(InputError, match="neither a directory nor"):
        load(tmp_path / "model.pt")


def _file(header: object, data: bytes = bytes(8)) -> io.BytesIO:
    text = json.dumps(header).encode()
    return io.BytesIO(len(text).to_bytes(8, "little") + text + data)


def _entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    "header",
    [
        [],
        3,
        {"a": 1},
        _entry("F33"),
        _entry(shape=[3]),
        _entry(offsets=(0, 9)),
        _entry(offsets=(4, 12)),
        _entry(offsets=(-8, 0)),
        _entry(shape=[-1, -2]),
        _entry(shape=[1 << 62, 4], offsets=(0, 0)),
        _entry(offsets="ab"),
        _entry(shape="ab"),
        _entry(offsets=(0, 8, 16)),
        _entry(shape=None),
    ],
)
def test_reader_refuses_hostile_headers(header: object) -> None:
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_safetensors(_file(header))


def test_reader_refuses_deep_nesting() -> None:
    text = b"[" * 200_000
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        read_safetensors(io.BytesIO(len(text).to_bytes(8, "little") + text))


def test_reader_reads_every_dtype() -> None:
    dtypes = [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
    ]
    dtypes += [torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2]
    tensors = {str(dtype): torch.tensor([[1, 0], [3, 1]]).to(dtype) for dtype in dtypes}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    found = read_safetensors(io.BytesIO(safetensors.torch.save(tensors)))
    assert found.keys() == tensors.keys()
    assert all(same_bits(found[name], tensors[name]) for name in tensors)


def test_generated_load_names_what_does_not_fit(tmp_path: Path) -> None:
    file = save(symbolic_trace(nn.Sequential(nn.Linear(2, 2))), tmp_path)
    weights = file.with_suffix(".safetensors")
    for tensors, message in [
        ({"0.weight": torch.zeros(2, 2)}, "'0.bias' is missing"),
        (
            {"0.weight": torch.zeros(2, 3), "0.bias": torch.zeros(2)},
            r"has shape \(2, 3\), expected shape \(2, 2\)",
        ),
        ({"0.weight": torch.zeros(2, 2), "0.bias": torch.zeros(2), "c": torch.zeros(1)}, "has no 'c'"),
    ]:
        safetensors.torch.save_file(tensors, weights)
        with pytest.raises(PruneError, match=message):
            load(tmp_path)
