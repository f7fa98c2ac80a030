"""Generated models of whole networks, and the text of one."""

from __future__ import annotations

import pytest
import torch
import torchvision
from support.codegen import Residual, assert_equal_bits, forward_text
from torch.fx import symbolic_trace

from fxprune.codegen import source_of
from tests.kinds import sampled

ZOO = ["resnet18", "googlenet", "shufflenet_v2_x0_5", "mobilenet_v3_small", "densenet121", "squeezenet1_1"]


@pytest.mark.parametrize("name", sampled([pytest.param(name, id=str(name)) for name in ZOO]))
def test_torchvision_model(name: str) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    slim = symbolic_trace(model)
    made = assert_equal_bits(slim, torch.randn(2, 3, 64, 64))
    assert type(made).__name__ == type(model).__name__
    text = forward_text(slim)
    assert "operator" not in text
    assert "getattr" not in text
    assert max(map(len, source_of(slim).splitlines())) <= 110


def test_golden_text() -> None:
    source = source_of(symbolic_trace(Residual()))
    start = source.index("class Residual")
    assert (
        source[start : source.index("def slim_")].rstrip()
        == """
class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.blocks = nn.ModuleList([nn.Conv2d(8, 8, 1), nn.Identity()])
        self.fc = nn.Linear(16, 2)

    def forward(self, x: Any) -> Any:
        x = self.conv(x)
        x = self.norm(x)
        x = F.relu(x)
        y = x[:, :8]

        y = self.blocks[0](y)
        y = self.blocks[1](y)
        y = y + x
        x = x * 2
        x = x - 1
        x = torch.cat([y, x], dim=1)
        x = x.mean((2, 3)).flatten(1)
        return self.fc(x)
""".strip()
    )
    assert "import fxprune" not in source
    assert "from fxprune" not in source
