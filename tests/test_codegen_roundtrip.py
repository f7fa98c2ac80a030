"""Saved models in a fresh process."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from support.codegen import Residual, Ties, traced
from torch import nn
from torch.fx import symbolic_trace

import fxprune
from fxprune.codegen import check_round_trip, load, rebuild, save, source_of
from fxprune.codegen.roundtrip import same_bits
from fxprune.errors import NotEquivalent, PruneError


@pytest.mark.slow
def test_fresh_process(tmp_path: Path) -> None:
    check_round_trip(symbolic_trace(Residual()), tmp_path, {"x": torch.randn(2, 3, 8, 8)})


@pytest.mark.slow
def test_fresh_process_with_defaults(tmp_path: Path) -> None:
    check_round_trip(traced(lambda self, x, y=None, scale=-2.5: x * scale), tmp_path, {"x": torch.randn(3), "scale": 2})


DAMAGE = {
    "another value": (("return self[0](input)", "return self[0](input) + 1"), "output tensor 0 differs"),
    "fxprune itself": (("import json", "import json, fxprune"), "must not need fxprune"),
    "one output more": (("return self[0](input)", "return input, input"), "returns 2 tensors"),
}


@pytest.mark.parametrize("kind", ["another value", *(pytest.param(k, marks=pytest.mark.slow) for k in list(DAMAGE)[1:])])
def test_fresh_process_finds_differences(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replacement, message = DAMAGE[kind]
    slim = symbolic_trace(nn.Sequential(nn.Linear(2, 2)).eval())
    file = save(slim, tmp_path)

    def damaged(*_: object) -> Path:
        file.write_text(file.read_text().replace(*replacement))
        return file

    monkeypatch.setattr("fxprune.codegen.roundtrip.save", damaged)
    with pytest.raises(NotEquivalent, match=message):
        check_round_trip(slim, tmp_path, (torch.randn(1, 2),))


def test_random_numbers_and_model_are_left_alone() -> None:
    slim = symbolic_trace(Ties())
    code, state, seed = slim.code, copy.deepcopy(slim.state_dict()), torch.get_rng_state()
    rebuild(slim)
    assert torch.equal(torch.get_rng_state(), seed)
    assert slim.code == code
    assert all(map(same_bits, slim.state_dict().values(), state.values()))


def test_public_names() -> None:
    assert fxprune.save is save
    assert fxprune.load is load


def test_graphs_of_torch_export_are_refused() -> None:
    exported = torch.export.export(nn.Sequential(nn.Linear(2, 2)), (torch.zeros(1, 2),)).module()
    with pytest.raises(PruneError, match="flatten their inputs"):
        source_of(exported)
