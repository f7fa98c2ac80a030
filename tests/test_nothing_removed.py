"""A ratio that removes nothing: the report says what bound."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

import fxprune

BOUND: dict[str, tuple[Any, dict[str, Any], str]] = {
    "ratio of all": (0.01, {}, "ratio=0.01 is less than half of one channel of all 28"),
    "no ratio by name": ({"0": 0.0}, {}, "all ratios by name are 0"),
    "multiples": (0.2, {"round_to": 16, "scope": "layer"}, "round_to=16, the multiple nearest .* all of it"),
    "multiples of all": (0.1, {"round_to": 16}, "round_to=16"),
    "multiples by name": ({"*": 0.2}, {"round_to": 16}, "round_to=16"),
    "limit": (0.5, {"max_ratio": 0.01}, "max_ratio=0.01 is less than one channel of any group"),
}


@pytest.mark.parametrize("kind", BOUND)
def test_the_report_says_what_bound(kind: str) -> None:
    ratio, options, said = BOUND[kind]
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2))
    report = fxprune.prune(net, ratio, torch.zeros(2, 4), verify=False, **options).meta["fxprune"]
    assert report.params_before == report.params_after
    (note,) = report.notes
    assert note.startswith("nothing was removed: ")
    assert re.search(said, note)
    assert note in str(report)


def test_nothing_is_said_where_channels_go() -> None:
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    assert not fxprune.prune(net, 0.5, torch.zeros(2, 4), verify=False).meta["fxprune"].notes
