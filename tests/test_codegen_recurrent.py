"""Recurrent layers are compared as one operation each, not step by step."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.codegen.source_files import generated
from fxprune.codegen.structured.recurrent import WholeLayers
from fxprune.codegen.structured.same import _log, difference

KINDS: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    "lstm": (nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    "lstm with projections": (nn.LSTM, {"proj_size": 2}),
    "gru": (nn.GRU, {"bidirectional": True, "bias": False}),
    "rnn": (nn.RNN, {"nonlinearity": "relu", "batch_first": True}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5, 3, 4), (5, 4)], ids=["batch", "one sample"])
def test_what_a_layer_gives_has_its_sizes(kind: str, shape: tuple[int, ...]) -> None:
    make, options = KINDS[kind]
    layer, x = make(4, 6, device="meta", **options), torch.randn(shape, device="meta")
    noted: list[str] = []

    def note(name: str, args: Any, draws: bool, make: Any) -> Any:
        noted.append(name)
        return make()

    expected = outline(layer(x))
    with WholeLayers(note):
        assert outline(layer(x)) == expected
    assert len(noted) == 1


def outline(result: Any) -> list[Any]:
    return [(t.shape, t.stride()) for t in fxprune.nested.tensors(result)]


class Two(nn.Module):
    def __init__(self, swapped: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.a = nn.LSTM(4, 6, 2, dropout=dropout)
        self.b, self.swapped = nn.LSTM(4, 6, 2, dropout=dropout), swapped

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.a(x)[0], self.b(x)[0]
        return z - y if self.swapped else y - z  # type: ignore[no-any-return]


def test_steps_are_not_taken_one_by_one() -> None:
    model, x = Two(), torch.randn(50, 2, 4)
    log = _log(copy.deepcopy(model).to("meta"), ((x.to("meta"),), {}), copy.deepcopy(model).to("meta"))
    assert not log.error and len(log.lines) < 30 and sum(line.startswith("lstm") for line in log.lines) == 2


def test_differences_are_found() -> None:
    slim = fxprune.trace(Two(dropout=0.5), torch.randn(5, 2, 4))
    assert "Written as one forward" not in generated(slim)[0]
    assert not difference(slim, Two(dropout=0.5).to("meta"))
    assert "is aten.sub" in difference(slim, Two(swapped=True, dropout=0.5).to("meta"))
    assert "is lstm" in difference(slim, Two(dropout=0.25).to("meta"))


class Cast(Two):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x)


def test_a_cast_layer_is_another() -> None:
    slim = fxprune.trace(Two(), torch.randn(5, 2, 4))
    assert difference(slim, Cast().to("meta"))
