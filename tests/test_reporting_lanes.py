"""The drawing of groups: where bars and lines lie."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest
import torch
from torch import nn

import fxprune
from fxprune.planning.plan import GroupPlan
from fxprune.reporting.lanes import drawing, layers_of

STREAM = [
    (
        "stream",
        [
            ("stem", 0, "producer"),
            ("out1", 0, "producer"),
            ("in1", 1, "consumer"),
            ("in2", 1, "consumer"),
            ("out2", 0, "producer"),
        ],
    ),
    ("inner1", [("in1", 0, "producer"), ("in1.bias", 0, "affine"), ("out1", 1, "consumer")]),
    ("inner2", [("in2", 0, "producer"), ("out2", 1, "consumer")]),
]


def groups(members: list[tuple[str, list[tuple[str, int, str]]]]) -> list[GroupPlan]:
    return [GroupPlan(name, 8, "free", "", True, own, [0, 1, 2]) for name, own in members]


def at_random(seed: int) -> list[GroupPlan]:
    """Any layers that make and read any groups; some groups have neither."""
    numbers = random.Random(seed)
    names = [f"layer{number}.weight" for number in range(numbers.randint(1, 40))]
    found = []
    for number in range(numbers.randint(1, 60)):
        roles = ("producer", "consumer", "affine")
        own = [(numbers.choice(names), numbers.randint(0, 1), numbers.choice(roles)) for _ in range(numbers.randint(0, 6))]
        found.append((f"group{number}", own))
    return groups(found)


def test_layers_come_in_the_order_of_the_stream() -> None:
    assert [layer.name for layer in layers_of(groups(STREAM))] == ["stem", "in1", "out1", "in2", "out2"]


def test_a_stream_is_a_long_bar_above_its_blocks() -> None:
    found = drawing(groups(STREAM))
    stream, first, second = (bar["pieces"] for bar in found["bars"])
    assert len(stream) == 1 and stream[0][1] < first[0][1] == second[0][1]
    assert stream[0][0] < first[0][0] < first[0][0] + first[0][2] < second[0][0] < stream[0][0] + stream[0][2]
    assert [(a, b, name) for a, b, name, _ in found["lines"]] == [(0, 1, "in1"), (1, 0, "out1"), (0, 2, "in2"), (2, 0, "out2")]


@pytest.mark.parametrize("seed", range(30))
def test_bars_lie_apart_and_inside(seed: int) -> None:
    """Whatever the groups are: no bar covers another, none leaves the drawing, and each line begins and ends at its bars."""
    made = at_random(seed)
    found = drawing(made)
    assert found == drawing(made)
    pieces = sorted((y, x, x + width) for bar in found["bars"] for x, y, width in bar["pieces"])
    assert len(found["bars"]) == len(made) and all(bar["pieces"] for bar in found["bars"])
    for (y0, _, end), (y1, start, _) in pairwise(pieces):
        assert y0 < y1 or end <= start
    for y, start, end in pieces:
        assert 0 <= start < end <= found["width"] and 0 <= y <= found["height"] - found["bar"]
    for source, target, _, path in found["lines"]:
        x0, y0, *_, x1, y1 = map(float, re.findall(r"[\d.]+", path))
        for number, x, y in ((source, x0, y0), (target, x1, y1)):
            assert any(
                left - 0.2 <= x <= left + width + 0.2 and top - 0.2 <= y <= top + found["bar"] + 0.2
                for left, top, width in found["bars"][number]["pieces"]
            )


def test_a_real_model_is_drawn_whole() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(24, 2))
    plan = fxprune.plan(net, 0.5, torch.zeros(1, 3, 6, 6))
    found = drawing(plan.groups)
    assert [name for _, _, name, _ in found["lines"]] == ["3.weight", "5.weight"]
    assert [bar["text"] for bar in found["bars"]] == ["0", "3", "5"]


def test_nothing_to_draw() -> None:
    assert drawing([]) == {"width": 0.0, "height": 0.0, "bar": 18.0, "bars": [], "lines": []}
