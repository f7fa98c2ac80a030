"""Models whose parts have odd names, in copies, pickles and generated source."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.errors import PruneError, TraceError
from tests.kinds.names import InDict, Own

NAMES = ["class", "self", "module", "None", "with space", "it's", "ünï", "ﬁ", "0", "x" * 300, "print", "nn", "{x}", "a#b", "%s"]


@pytest.mark.parametrize("kind", [InDict, Own])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_survives_every_form(kind: type[nn.Module], name: str, tmp_path: Path) -> None:
    x = torch.randn(2, 8)
    slim = fxprune.prune(kind([name]).eval(), 0.5, x)
    expected = slim(x)
    loaded = fxprune.load(fxprune.save(slim, tmp_path / "slim.py"))
    for other in (copy.deepcopy(slim), pickle.loads(pickle.dumps(slim)), loaded):
        assert torch.equal(other(x), expected)
        assert list(other.state_dict()) == list(slim.state_dict())


@pytest.mark.parametrize("last", [None, 3])
def test_what_a_shell_printed_last_is_no_name_of_a_part(last: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Own(["ﬁ", "ß"]).eval(), torch.randn(2, 8)
    monkeypatch.setattr("builtins._", last, raising=False)
    recorded = fxprune.trace(model, x)
    assert torch.equal(recorded(x), model(x))
    monkeypatch.delattr("builtins._")
    assert torch.equal(copy.deepcopy(recorded)(x), model(x))


def test_a_name_that_is_code_never_runs(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in (InDict, Own):
        with pytest.raises(TraceError, match="rename it"):
            fxprune.trace(kind(['")+print("run")+("']), torch.randn(2, 8))
    assert "run" not in capsys.readouterr().out


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, **inputs: Tensor) -> Tensor:
        return self.b(self.a(next(iter(inputs.values()))))


def test_an_input_of_no_name_is_refused() -> None:
    for name in ("x): print(1)\n#", "class", "a b"):
        with pytest.raises(PruneError, match="input named"):
            fxprune.prune(Keywords(), 0.5, {name: torch.randn(2, 8)})


class Indexed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 32), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x)[:, torch.arange(0, 32, 2)] * torch.arange(16.0))


def test_pruning_again_keeps_the_constants_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8)
    model: nn.Module = Indexed()
    for _ in range(3):
        slim = fxprune.prune(model, 0.25, x)
        assert fxprune.verify(model, slim, latency=False).passed
        traced = fxprune.trace(copy.deepcopy(slim), x)
        assert torch.equal(traced(x), slim(x))
        loaded = fxprune.load(fxprune.save(slim, tmp_path / "slim.py"))
        again = fxprune.prune(loaded, 0.25, x)
        assert fxprune.verify(loaded, again, latency=False).passed
        model = slim


class Twice(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.same = self.a

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.same(self.a(self.stem(x)).relu()))


@pytest.mark.parametrize("kind", [Indexed, Twice])
def test_a_copy_of_a_recording_has_the_same_state(kind: type[nn.Module]) -> None:
    slim = fxprune.prune(kind().eval(), 0.25, torch.randn(2, 8))
    twin = copy.deepcopy(slim)
    assert list(twin.state_dict()) == list(slim.state_dict())
    assert {p.data_ptr() for p in twin.parameters()}.isdisjoint(p.data_ptr() for p in slim.parameters())
    assert len(list(twin.parameters())) == len(list(slim.parameters()))
    x = torch.randn(3, 8)
    assert torch.equal(twin(x), slim(x))
    assert [n for n, _ in twin.named_modules()] == [n for n, _ in slim.named_modules()]
    assert {n: m.training for n, m in twin.named_modules()} == {n: m.training for n, m in slim.named_modules()}
