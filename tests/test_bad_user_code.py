"""Errors of the user's own code are named: criteria, losses, data, policies, forwards and hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_bad_arguments import BATCHES, LABELS, X, net, pruned
from torch import Tensor, nn

import fxprune
from fxprune.errors import InputError, PruneError, TraceError
from fxprune.planning import policies

# -- the user's own code ----------------------------------------------------------------------------------------------------


def fails(*_: Any) -> Any:
    raise KeyError("mine\nand more")


def data() -> Iterator[Any]:
    yield X, LABELS
    raise OSError("no disk")


class Refuses(policies.Policy):
    def choose(self, analysis: Any, scores: Any) -> Any:
        return fails()


def chooses(channels: Any, name: str = "a.weight") -> type[policies.Policy]:
    return type("Chooses", (policies.Policy,), {"choose": lambda self, analysis, scores: {name: channels}})


@pytest.fixture
def scope(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[policies.Policy]], str]:
    def name(made: type[policies.Policy]) -> str:
        monkeypatch.setattr(policies.registry, "_registered", {"mine": made})
        return "mine"

    return name


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"criterion": fails}, "criterion fails failed on group 'a.weight': KeyError"),
        ({"criterion": lambda g, t: None}, "gave scores of shape|gave None"),
        ({"criterion": lambda g, t: "high"}, "gave 'high'"),
        ({"criterion": lambda g, t: [1j] * g.size}, "not one number"),
        ({"criterion": lambda g: 1}, "failed on group 'a.weight': TypeError"),
        ({"criterion": "taylor", "data": BATCHES, "loss": fails}, "the loss failed on a batch"),
        ({"criterion": "taylor", "data": BATCHES, "loss": lambda o, y: 1.0}, "tensor of one number"),
        ({"criterion": "taylor", "data": BATCHES, "loss": lambda o, y: o.sum().detach()}, "does not depend on the weights"),
        ({"criterion": "taylor", "data": BATCHES, "loss": lambda o, y: o.sum() * float("nan")}, "not finite"),
        ({"criterion": "taylor", "data": data()}, "data failed after 1 batches: OSError: no disk"),
        ({"criterion": "apoz", "data": data()}, "data failed after 1 batches: OSError: no disk"),
        ({"criterion": "taylor", "data": [(X, LABELS + 9)]}, "the loss failed on a batch"),
        ({"criterion": "taylor", "data": [(X[:, :2], LABELS)]}, "the model failed on a batch"),
        ({"criterion": "apoz", "data": [X[:, :2]]}, "the model failed on a batch"),
        ({"criterion": "apoz", "data": [X * float("nan")]}, "not finite"),
    ],
)
def test_errors_of_criteria_losses_and_data(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        pruned(**options)
    assert "\n" not in str(caught.value)
    if "failed" in str(caught.value):
        assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (Refuses, "policy Refuses failed: KeyError"),
        (chooses([0], "nothing"), "there is no group 'nothing'"),
        (chooses([99]), "must choose some of the 8 channels"),
        (chooses([-1]), "must choose some"),
        (chooses([1, 1]), "each once"),
        (chooses(range(8)), "must choose some"),
        (chooses(["a"]), "must choose some"),
        (chooses([0.5]), "must choose some"),
        (chooses(3), "policy Chooses failed"),
    ],
)
def test_policies_that_choose_wrongly(policy: type[policies.Policy], said: str, scope: Any) -> None:
    with pytest.raises(InputError, match=said):
        pruned(scope=scope(policy))


class Raises(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return fails(super().forward(x))


class Endless(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return self.forward(x)


def hooked() -> nn.Module:
    model = net()
    model.a.register_forward_hook(fails)
    return model


@pytest.mark.parametrize(
    "model", [Raises(nn.Linear(6, 6)), Endless(nn.Linear(6, 6)), hooked()], ids=["raises", "endless", "hook"]
)
def test_errors_of_forward_and_hooks(model: nn.Module) -> None:
    with pytest.raises(TraceError, match=r"test_bad_user_code\.py:\d+|RecursionError") as caught:
        fxprune.prune(model, 0.5, X)
    assert "\n" not in str(caught.value) and caught.value.__cause__ is not None


def test_interrupts_pass() -> None:
    class Stops(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fxprune.prune(Stops(nn.Linear(6, 6)), 0.5, X)


@pytest.mark.parametrize("shape", [(1, 3, 10**6, 10**6), (10**12, 3, 4, 4)], ids=["image", "batch"])
def test_inputs_too_large_to_run(shape: tuple[int, ...]) -> None:
    large = torch.empty(shape, device="meta")
    assert fxprune.plan(net(), 0.5, large).macs[0] > 0
    with pytest.raises(InputError, match=r"GB, too much to run the model on"):
        fxprune.prune(net(), 0.5, large)


@pytest.mark.filterwarnings("ignore:Complex modules")
def test_a_type_that_safetensors_lacks(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4)).to(torch.complex128)
    with pytest.raises(PruneError, match=r"0\.weight is of torch\.complex128"):
        fxprune.save(fxprune.trace(model, torch.zeros(1, 4, dtype=torch.complex128)), tmp_path / "x")
    assert not list(tmp_path.iterdir())
