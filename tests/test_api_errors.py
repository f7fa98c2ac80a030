"""What the verbs refuse, and what they prune around."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.api import Residual, X, model
from torch import Tensor, nn

import fxprune
from fxprune.codegen.roundtrip import same_result
from fxprune.proofs.errors import relative_error
from fxprune.proofs.randomize import randomize

BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "ratio above 1": (lambda: fxprune.prune(model(), 1.5, X), fxprune.InputError, "between 0 and 1"),
    "ratio 0": (lambda: fxprune.prune(model(), 0.0, X), fxprune.InputError, "between 0 and 1"),
    "ratio NaN": (lambda: fxprune.prune(model(), math.nan, X), fxprune.InputError, "nan"),
    "ratio as text": (lambda: fxprune.prune(model(), "half", X), fxprune.InputError, "half"),
    "criterion": (lambda: fxprune.prune(model(), 0.5, X, criterion="l3"), fxprune.InputError, "did you mean 'l"),
    "scope": (lambda: fxprune.prune(model(), 0.5, X, scope="globel"), fxprune.InputError, "did you mean 'global'"),  # type: ignore[arg-type]
    "ignore": (lambda: fxprune.prune(model(), 0.5, X, ignore=["conv3"]), fxprune.InputError, "did you mean 'conv"),
    "attention": (lambda: fxprune.prune(model(), 0.5, X, attention="head"), fxprune.InputError, "'head'"),  # type: ignore[arg-type]
    "max_ratio": (lambda: fxprune.prune(model(), 0.5, X, max_ratio=0), fxprune.InputError, "max_ratio"),
    "round_to": (lambda: fxprune.prune(model(), 0.5, X, round_to=0), fxprune.InputError, "round_to"),
    "no example": (lambda: fxprune.prune(model(), 0.5), fxprune.InputError, "example_inputs"),
    "example without tensor": (lambda: fxprune.prune(model(), 0.5, [3]), fxprune.InputError, "no tensor"),
    "example of another shape": (lambda: fxprune.prune(model(), 0.5, torch.randn(2, 4, 8, 8)), fxprune.TraceError, "stem"),
    "too many inputs": (lambda: fxprune.prune(model(), 0.5, (X, 1.0, X)), fxprune.InputError, "2 positional inputs"),
    "nothing to prune": (lambda: fxprune.prune(nn.Conv2d(3, 4, 1), 0.5, X), fxprune.NothingToPrune, "output"),
    "not a model": (lambda: fxprune.prune(3, 0.5, X), fxprune.InputError, "nn.Module"),  # type: ignore[arg-type]
    "scores of a wrong shape": (
        lambda: fxprune.prune(model(), 0.5, X, criterion=lambda g, t: torch.ones(3)),
        fxprune.InputError,
        "shape",
    ),
    "scores that are NaN": (
        lambda: fxprune.prune(model(), 0.5, X, criterion=lambda g, t: torch.full((g.size,), math.nan)),
        fxprune.InputError,
        "not finite",
    ),
    "unknown layer": (lambda: fxprune.why(model(), "conv9", X), fxprune.InputError, "did you mean 'conv"),
    "plan for another model": (
        lambda: fxprune.apply(model(8), fxprune.plan(model(), 0.5, X)),
        fxprune.PlanMismatch,
        "names or shapes differ",
    ),
    "text that is no plan": (lambda: fxprune.Plan.from_json("hello"), fxprune.PlanMismatch, "not JSON"),
    "JSON that is no plan": (lambda: fxprune.Plan.from_json('{"a": 1}'), fxprune.PlanMismatch, "format"),
    "damaged plan": (lambda: fxprune.Plan.from_json(damaged()), fxprune.PlanMismatch, "damaged"),
    "slim of something else": (lambda: fxprune.verify(model(), model()), fxprune.InputError, "GraphModule"),  # type: ignore[arg-type]
    "name that GraphModule takes": (lambda: fxprune.prune(Clash(), 0.5, X), fxprune.TraceError, "'code'"),
    "path that depends on data": (lambda: fxprune.prune(DataDependent(), 0.5, X), fxprune.TraceError, "test_api_errors.py"),
}


class Clash(nn.Sequential):
    def __init__(self) -> None:
        super().__init__()
        self.code, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)


class DataDependent(Residual):
    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


def damaged() -> str:
    document = json.loads(fxprune.plan(model(), 0.5, X).to_json())
    document["groups"][0]["kept"] = [5, 2]
    return json.dumps(document)


@pytest.mark.parametrize(("call", "kind", "words"), BAD.values(), ids=BAD.keys())
def test_bad_input_gets_one_clear_sentence(call: Callable[[], Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=r"(?s).*") as caught:
        call()
    assert isinstance(caught.value, fxprune.PruneError)
    assert words in str(caught.value)


def test_constants_that_forward_writes_and_tiles() -> None:
    class Marked(Residual):
        def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
            x = self.norm1(self.conv1(self.stem(x)))
            ramp = torch.zeros(1, 1, x.shape[2], x.shape[3])  # names no device
            ramp[:, :, :, 0] = torch.ones(8)
            x = self.conv2(x + ramp).relu() * torch.ones(1, 1, 1).tile([16, 1, 1]).to(x.dtype)
            return self.fc(x.mean((2, 3)))

    original = randomize(Marked()).double().eval()
    slim = fxprune.prune(original, 0.5, X.double(), scope="layer")
    assert len(slim.meta["fxprune"].plan.kept["conv1.weight"][0]) == 8
    assert fxprune.verify(original, slim, latency=False).passed


def test_unknown_operator_is_pruned_around() -> None:
    @torch.library.custom_op("fxprune_tests::twist", mutates_args=())
    def twist(x: Tensor) -> Tensor:
        return x.flip(1) * 2

    @twist.register_fake
    def _(x: Tensor) -> Tensor:
        return torch.empty_like(x)

    class Twisted(Residual):
        def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
            x = self.conv2(self.norm1(self.conv1(self.stem(x))).relu())
            return self.fc(twist(x).mean((2, 3)))

    original = randomize(Twisted())
    slim = fxprune.prune(original, 0.5, X)
    plan = slim.meta["fxprune"].plan
    assert len(plan.group("conv1.weight").kept) < 16
    answer = fxprune.why(plan, "conv2")
    assert answer.status == "frozen"
    assert "twist" in str(answer)
    assert "test_api_errors.py" in str(answer)
    assert relative_error(slim.eval()(X).shape, (2, 5)) == 0


def test_importing_is_fast_and_light() -> None:
    code = "import sys, fxprune; print([m for m in ('torch', 'timm', 'torchvision', 'scipy', 'networkx') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_pickling_keeps_the_function(tmp_path: Path) -> None:
    """torch.fx would trace a pickled module again, and freeze the mode of one that asks for it."""
    slim = fxprune.prune(model(), 0.5, X).eval()
    torch.save(slim, tmp_path / "slim.pt")
    assert same_result(torch.load(tmp_path / "slim.pt", weights_only=False)(X), slim(X))

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(nn.functional.dropout(self.one(x), 0.5, self.training))

    slim = fxprune.prune(Dropping(), 0.5, torch.zeros(2, 6))
    torch.save(slim, tmp_path / "dropping.pt")
    again = torch.load(tmp_path / "dropping.pt", weights_only=False)
    for mode in (True, False):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            expected = slim.train(mode)(torch.ones(2, 6))
            torch.manual_seed(0)
            assert torch.equal(again.train(mode)(torch.ones(2, 6)), expected)
    assert copy.deepcopy(slim).eval()(torch.zeros(2, 6)).shape == (2, 4)
