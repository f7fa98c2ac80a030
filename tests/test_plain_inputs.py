"""Plain inputs are what they were, or the graph says so; inputs go by place and by name as in the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.codegen import rebuild
from tests.kinds.plain_inputs import Sample, Takes

X, MASK = torch.randn(3, 8), torch.randn(16)


class Options(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(
        self, x: Tensor, n: int = 2, flag: bool = False, scale: float = 1.0, name: str = "a", mask: Any = None
    ) -> Tensor:
        h = self.a(x) * n * scale
        if flag:
            h = h + 1
        if name == "b":
            h = h * 3
        return self.b((h if mask is None else h + mask).relu())


# Inputs of the example, then calls: positional inputs, keywords, and the sentence of those that are refused.
CALLS: dict[str, tuple[Any, list[tuple[tuple[Any, ...], dict[str, Any], str]]]] = {
    "a number": (
        (X, 2),
        [
            ((X,), {}, ""),
            ((X, 2), {}, ""),
            ((X,), {"n": 2}, ""),
            ((), {"n": 2, "x": X}, ""),
            ((X, 5), {}, "recorded with n=2"),
            ((X, None), {}, "recorded with n=2"),
            ((X, 2), {"unknown": 1}, "unexpected keyword"),
            ((X, 2, False), {}, "positional arguments"),
        ],
    ),
    "all of them": (
        (X, 3, True, 0.5, "b"),
        [
            ((X, 3, True, 0.5, "b"), {}, ""),
            ((X, 3, True, 0.25), {"name": "b"}, ""),
            ((X,), {}, "recorded with n=3"),
            ((X, 3, False, 0.5, "b"), {}, "recorded with flag=True"),
            ((X, 3, True, 0.5, "a"), {}, "recorded with name='b'"),
        ],
    ),
    "by name, in another order": (
        {"mask": MASK, "x": X},
        [
            ((X,), {"mask": MASK}, ""),
            ((X, 2, False, 1.0, "a", MASK), {}, ""),
            ((X, 2, False, 0.5, "a", MASK), {}, ""),
            ((X,), {}, "recorded with mask"),
            ((X, 3, False, 1.0, "a", MASK), {}, "recorded with n=2"),
        ],
    ),
    "a flag by name": ({"x": X, "flag": True}, [((X, 2, True), {}, ""), ((X,), {}, "recorded with flag=True")]),
}


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("form", ["graph", "source"])
def test_calls_do_as_the_model_or_say_why_not(kind: str, form: str) -> None:
    example, calls = CALLS[kind]
    model = Options()
    recorded: nn.Module = fxprune.trace(model, example)
    recorded = recorded if form == "graph" else rebuild(recorded)
    for args, named, refused in calls:
        if refused:
            with pytest.raises((AssertionError, TypeError), match=refused):
                recorded(*args, **named)
        else:
            assert torch.allclose(recorded(*args, **named), model(*args, **named))


def test_objects_are_asserted_to_hold_what_they_held() -> None:
    recorded = fxprune.trace(Takes(lambda s: s.x * s.scale), (Sample(X, 3.0, {"y": X}),))
    with pytest.raises(AssertionError, match=r"recorded with inputs_0\.scale=3\.0"):
        recorded(Sample(X, 2.0, {"y": X}))
    with pytest.raises(AssertionError, match=r"recorded with 1 entries of inputs_0\.more"):
        recorded(Sample(X, 3.0, {}))


def test_plans_keep_inputs_of_every_form() -> None:
    for example in ((X, 2), (Sample(X, 2.0, [X]),)):
        model: nn.Module = Options() if len(example) == 2 else Takes(lambda s: s.x * s.scale)
        slim = fxprune.prune(model, 0.5, example)
        text = slim.meta["fxprune"].plan.to_json()
        again = fxprune.apply(model, fxprune.Plan.from_json(text))
        assert torch.allclose(again(*example), slim(*example))


class Adds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, more: list[Tensor]) -> Tensor:
        return self.b(self.a(x) + sum(more))


def test_a_file_asserts_how_long_a_list_is() -> None:
    model, more = Adds(), [MASK, MASK]
    rebuilt = rebuild(fxprune.trace(model, (X, more)))
    assert torch.allclose(rebuilt(X, more), model(X, more))
    with pytest.raises(AssertionError, match="recorded with 2 entries of more"):
        rebuilt(X, more[:1])
