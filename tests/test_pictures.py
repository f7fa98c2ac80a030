"""Groups and layers as graphs for other programs."""

from __future__ import annotations

import io
from typing import Any

import networkx as nx
import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.analysis.pictures import dot, graphml
from fxprune.cli.app import main


class Net(nn.Module):
    """A parameter of the model itself, whose group has its name."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Parameter(torch.ones(4, 6)), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x @ self.table)


def test_dot_shows_layers_groups_and_arrows() -> None:
    text = dot(fxprune.analyze(nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2)), torch.zeros(1, 3)))
    assert text.startswith("digraph groups {") and text.endswith("}\n")
    assert '"group 0.weight" [shape=ellipse, style=filled, fillcolor=palegreen, label="0.weight\\n8 channels, free"];' in text
    assert '"layer 0" -> "group 0.weight";' in text and '"group 0.weight" -> "layer 1";' in text
    assert "fillcolor=lightgrey" in text


def test_graphml_is_read_back() -> None:
    analysis = fxprune.analyze(Net(), torch.zeros(1, 4))
    found = nx.read_graphml(io.BytesIO(graphml(analysis).encode()))
    assert dict(found.nodes(data=True)) == dict(analysis.graph.nodes(data=True)) and set(found.edges) == set(
        analysis.graph.edges
    )
    assert found.nodes["table (parameter)"] == {"kind": "layer"}


def test_the_command_writes_both(tmp_path: Any) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2))\n"
    )
    files = tmp_path / "a.dot", tmp_path / "a.graphml"
    with pytest.raises(SystemExit) as stopped:
        main(
            ["inspect", f"{tmp_path / 'nets.py'}:net", "--input-size", "6", "--dot", str(files[0]), "--graphml", str(files[1])]
        )
    assert not stopped.value.code
    assert files[0].read_text().startswith("digraph") and "<graphml" in files[1].read_text()
