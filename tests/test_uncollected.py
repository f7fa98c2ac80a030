"""The garbage collector waits while fxprune works, and is then as it was."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import fxprune
from fxprune.tracing.uncollected import uncollected


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    gc.enable()


@pytest.mark.parametrize("enabled", [True, False])
def test_it_is_afterwards_as_it_was_before(enabled: bool) -> None:
    gc.enable() if enabled else gc.disable()
    with pytest.raises(ValueError, match="inside"), uncollected():
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise ValueError("inside")
    assert gc.isenabled() is enabled


def test_the_last_of_several_threads_turns_it_on() -> None:
    first, second = threading.Event(), threading.Event()
    found = []

    def longer() -> None:
        with uncollected():
            first.set()
            second.wait(10)
            found.append(gc.isenabled())

    thread = threading.Thread(target=longer)
    with uncollected():
        thread.start()
        first.wait(10)
    assert not gc.isenabled()
    second.set()
    thread.join()
    assert found == [False] and gc.isenabled()


class Asks(nn.Module):
    """Says at each run of its forward whether garbage is collected."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.fails = nn.Linear(4, 8), nn.Linear(8, 2), fails

    def forward(self, x: Tensor) -> Tensor:
        HEARD.put(gc.isenabled())
        if self.fails:
            raise ValueError("own error")
        return self.b(self.a(x).relu())


class Heard:
    """What no recording puts back."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: list[bool] = []

    def put(self, enabled: bool) -> None:
        object.__getattribute__(self, "found").append(enabled)


HEARD = Heard()


def test_nothing_is_collected_while_a_model_is_recorded_and_proved() -> None:
    del HEARD.found[:]
    fxprune.prune(Asks(), 0.5, torch.zeros(2, 4))
    assert len(HEARD.found) == 3 and not any(HEARD.found)
    assert gc.isenabled()


def test_an_error_leaves_it_as_it_was() -> None:
    with pytest.raises(fxprune.PruneError, match="own error"):
        fxprune.prune(Asks(fails=True), 0.5, torch.zeros(2, 4))
    assert gc.isenabled()
