"""Methods whose code another stands in for: the class keeps its function, and nothing is left afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.tracing import patching
from fxprune.tracing.standing_in import as_it_is, standing_in


class Base:
    def plain(self, a: int, b: int = 2, *, c: int = 3) -> tuple[int, ...]:
        return a, b, c

    def of_a_class(self, a: int) -> Any:
        return super().__init__, a


def with_two_outer_variables() -> Any:
    one, two = 1, 2
    return lambda self, a: (one, two, a)


class Closed:
    of_two = with_two_outer_variables()
    of_c = len


def state(owner: type, name: str) -> tuple[object, ...]:
    method = vars(owner)[name]
    return (
        method,
        getattr(method, "__code__", None),
        getattr(method, "__defaults__", None),
        getattr(method, "__kwdefaults__", None),
    )


@pytest.mark.parametrize(("owner", "name"), [(Base, "plain"), (Base, "of_a_class"), (Closed, "of_two"), (Closed, "of_c")])
def test_another_stands_in_and_nothing_is_left(owner: type, name: str) -> None:
    before = state(owner, name)
    with pytest.raises(ValueError, match="inside"), standing_in(owner, name, lambda *args, **kwargs: (args[1:], kwargs)):
        assert getattr(owner(), name)(5, c=7) == ((5,), {"c": 7})
        with standing_in(owner, name, lambda self, a: -a):
            assert getattr(owner(), name)(5) == -5
        assert getattr(owner(), name)(6) == ((6,), {})
        raise ValueError("inside")
    assert state(owner, name) == before


def test_a_class_keeps_its_function() -> None:
    """Which is what makes it cheap: no class that comes from it is told."""
    method = vars(Base)["plain"]
    with standing_in(Base, "plain", lambda *_: None):
        assert vars(Base)["plain"] is method
    assert Base().plain(1) == (1, 2, 3)


def test_as_it_is_does_what_the_method_did() -> None:
    kept = as_it_is(Base.plain), as_it_is(Base.of_a_class)
    with standing_in(Base, "plain", lambda *_: None), standing_in(Base, "of_a_class", lambda *_: None):
        assert kept[0](Base(), 1) == (1, 2, 3)
        assert kept[0](Base(), 1, 4, c=5) == (1, 4, 5)
        assert kept[1](Base(), 1)[1] == 1
    assert as_it_is(len) is len


def test_modules_are_as_they_were_after_a_recording_and_after_one_that_fails() -> None:
    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert vars(nn.Module)["__getattr__"].__code__ is not before[1], "the recorder hears of attributes here"
            raise ValueError("own error")

    before = state(nn.Module, "__getattr__")
    fxprune.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    assert state(nn.Module, "__getattr__") == before
    with pytest.raises(fxprune.PruneError, match="own error"):
        fxprune.trace(Fails(), torch.zeros(1, 2))
    assert state(nn.Module, "__getattr__") == before


def test_what_another_library_puts_there_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def __get__(self, module: Any, kind: type) -> Any:
            return lambda name: patching.module_attribute(module, name)

    other = Other()
    monkeypatch.setattr(nn.Module, "__getattr__", other)
    assert "weight" in fxprune.trace(nn.Sequential(nn.Linear(2, 2)), torch.zeros(1, 2)).get_submodule("0").state_dict()
    assert vars(nn.Module)["__getattr__"] is other
