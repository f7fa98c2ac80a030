"""Functions that torch.compile made run as they are written while a model that calls them is recorded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.proofs.errors import relative_error


class Compiled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)
        self.before = torch.compile(lambda h: h.relu() + 1, backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.compile(torch.tanh, backend="eager")(self.before(self.a(x))))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_functions_are_recorded_as_written() -> None:
    model, x = Compiled().eval(), torch.randn(3, 8)
    recorded = fxprune.trace(model, (x,))
    assert [n.name for n in recorded.graph.nodes if n.op == "call_method"] == ["relu"]
    assert relative_error(recorded(x), model(x)) < 1e-6
    slim = fxprune.prune(model, 0.5, (x,))
    assert fxprune.verify(model, slim, latency=False).passed
