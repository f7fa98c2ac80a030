"""What is recorded of submodules: calls by hooks, and the attributes that they write while they run."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.submodules.calls import Recording
from fxprune.submodules.listening import Listener, OutOfTime, noting_writes, record
from fxprune.submodules.parts import Submodules

X = torch.randn(2, 16)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 4)
        self.seen = 0
        self.kind = "inner"

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc(x)
        return found


class Writer(nn.Module):
    """Two layers; `write(module, x)` runs in forward, after the first."""

    def __init__(self, write: Callable[[Any, Tensor], None] = lambda m, x: None) -> None:
        super().__init__()
        self.a = nn.Linear(16, 12)
        self.inner = Inner()
        self.width, self.unit, self.old = 12, 4, "old"
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        self.write(self, x)
        found: Tensor = self.inner(x)
        return found


class Whole(nn.Module):
    """Reads values between its parts, so that it cannot be recorded whole."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Any:
        x = x * x[x > 0].mean()
        return [part(x) for part in self.parts]


def set_to_the_same(m: Any, x: Tensor) -> None:
    m.width = x.shape[1]


def set_to_another(m: Any, x: Tensor) -> None:
    m.width = len(x)


def delete(m: Any, x: Tensor) -> None:
    if hasattr(m, "old"):
        del m.old


def set_in_a_child(m: Any, x: Tensor) -> None:
    m.inner.seen = 1


def set_by_name(m: Any, x: Tensor) -> None:
    setattr(m.inner, "se" + "en", 0)


def set_in_training(m: Any, x: Tensor) -> None:
    if m.training:
        m.width = 12


def set_and_put_back(m: Any, x: Tensor) -> None:
    m.width, kept = 0, m.width
    m.width = kept


WRITES: dict[Callable[[Any, Tensor], None], set[str]] = {
    set_to_the_same: {"parts.0.width"},
    set_to_another: {"parts.0.width"},
    delete: {"parts.0.old"},
    set_in_a_child: {"parts.0.inner.seen"},
    set_by_name: {"parts.0.inner.seen"},
    set_in_training: {"parts.0.width"},
    set_and_put_back: {"parts.0.width"},
}


def settings(slim: nn.Module) -> dict[str, Any]:
    part = slim.get_submodule("parts.0")
    names = {"width": part, "unit": part, "old": part, "inner.seen": part.inner, "inner.kind": part.inner}
    found = {name: getattr(owner, name.rpartition(".")[2], "absent") for name, owner in names.items()}
    return {f"parts.0.{name}": value for name, value in found.items()}


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
def test_what_forward_writes_is_not_kept_and_a_plan_gives_the_same(write: Callable[[Any, Tensor], None]) -> None:
    model = Whole(Writer(write))
    slim = fxprune.prune(model, 0.5, X, submodules="parts.0")
    plan = fxprune.Plan.from_json(slim.meta["fxprune"].plan.to_json())
    kept = {"parts.0.width": 12, "parts.0.unit": 4, "parts.0.old": "old", "parts.0.inner.seen": 0}
    expected = kept | {"parts.0.inner.kind": "inner"} | dict.fromkeys(WRITES[write], "absent")
    assert settings(slim) == expected
    for verify in (True, False):
        assert settings(fxprune.apply(model, plan, verify=verify)) == expected
    assert settings(fxprune.prune(slim, 0.3, X, submodules="parts.0")) == expected


def test_a_write_counts_for_all_names_of_a_module() -> None:
    first, second = Writer(set_in_a_child), Writer()
    second.inner = first.inner
    whole = Submodules.of(Whole(first, second), ["parts.0", "parts.1"], X)
    whole.parts(*(torch.randn(v.shape) for v in whole.inputs))
    assert whole.recording.written == {"parts.0.inner.seen", "parts.1.inner.seen"}


def test_nothing_is_written_on_the_model_or_on_copies() -> None:
    model = Whole(Writer(set_to_the_same))
    before = [sorted(vars(m)) for m in model.modules()]
    methods = what_modules_do()
    whole = Submodules.of(model, "parts.0", X)
    assert whole.recording.written == set()  # so far only the whole model ran
    parts = whole.parts
    twin = copy.deepcopy(parts)
    assert sorted(vars(twin)) == sorted(vars(parts))
    twin(*(torch.randn(v.shape) for v in whole.inputs))
    assert whole.recording.written == {"parts.0.width"}
    assert before == [sorted(vars(m)) for m in model.modules()]
    assert what_modules_do() == methods


def what_modules_do() -> list[object]:
    functions = [vars(nn.Module)[name] for name in ("__setattr__", "__delattr__")]
    return [(function, function.__code__, function.__kwdefaults__) for function in functions]


# -- threads -----------------------------------------------------------------------------------------------------------


def test_each_thread_hears_its_own_writes_and_the_last_one_tidies_up() -> None:
    methods = what_modules_do()
    module, heard, step = nn.Module(), {}, threading.Barrier(4)

    def listen(number: int) -> None:
        found: list[str] = []
        step.wait()
        for turn in range(50):
            with noting_writes(lambda _, name: found.append(name)):
                setattr(module, f"of_{number}_{turn}", turn)
                delattr(module, f"of_{number}_{turn}")
        heard[number] = found

    threads = [threading.Thread(target=listen, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, found in heard.items():
        assert found == [f"of_{number}_{turn}" for turn in range(50) for _ in range(2)]
    assert len(heard) == 4
    assert what_modules_do() == methods


def test_listeners_in_listeners_and_errors() -> None:
    methods = what_modules_do()
    module, outer, inner = nn.Module(), [], []
    with noting_writes(lambda _, name: outer.append(name)):
        with pytest.raises(AttributeError), noting_writes(lambda _, name: inner.append(name)):
            module.a = 1
            del module.absent
        module.b = 2
    module.c = 3
    assert (outer, inner) == (["a", "absent", "b"], ["a", "absent"])
    assert what_modules_do() == methods


# -- calls -------------------------------------------------------------------------------------------------------------


class Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError


class Tries(nn.Module):
    """Goes on after a part failed."""

    def __init__(self) -> None:
        super().__init__()
        self.bad, self.good = nn.Sequential(Fails()), nn.Sequential(nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Any:
        try:
            return self.bad(x)
        except ValueError:
            return self.good(x)


def test_a_part_that_fails_is_heard_but_gives_no_result() -> None:
    model = Tries()
    listener = Listener(model, ["bad", "good"])
    model(X)
    assert set(listener.calls) == {"bad", "good"}
    assert listener.returned == {"good"}
    assert not listener.faults


def test_a_part_that_runs_after_its_owner_failed_is_outside_of_it() -> None:
    model = Tries()
    listener = Listener(model, ["bad"])
    model(X)
    with pytest.raises(ValueError):
        model.bad[0](X)
    assert ["outside of its own forward" in str(fault) for fault in listener.faults] == [True]


def test_faults_stay_in_the_order_of_the_run_and_the_first_call_counts() -> None:
    model = Writer()
    listener = Listener(model, ["a"])
    model.a(X)
    model.a(X.double().float())
    with pytest.raises(RuntimeError):
        model.a(X.double())
    assert listener.calls["a"].args[0].shape == (2, 16)
    assert ["in several ways" in str(fault) for fault in listener.faults] == [True]


def test_a_run_ends_in_time() -> None:
    model = Writer()
    Listener(model, ["a"], seconds=-1)
    with pytest.raises(OutOfTime):
        model(X)


def test_a_recording_is_of_the_named_modules_in_order() -> None:
    recording = record(Whole(Writer(), Writer()), (X,), {}, ["parts.0", "parts.1"])
    assert list(recording.calls) == ["parts.0", "parts.1"]
    assert all(call.args[0].is_meta for call in recording.calls.values())
    assert isinstance(copy.deepcopy(recording), Recording) and copy.deepcopy(recording) is recording
