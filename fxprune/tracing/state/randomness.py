"""Random numbers that model code draws while it is recorded: those of torch's functions are nodes, all others are found."""

from __future__ import annotations

import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from fxprune.errors import TraceError
from fxprune.tracing.places import is_models_code, place_in

__all__ = ["DRAWS", "kept_apart", "refuse_draws"]

# Functions of torch that are recorded even where no argument is a proxy: what they give differs from call to call.
DRAWS = frozenset(("rand", "randn", "randint", "randperm"))


class _States:
    """The states of the generators that everybody shares, by the name of their library."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {"Python's random": random.getstate(), "torch": torch.get_rng_state()}
        if "numpy" in sys.modules:
            self.found["numpy"] = sys.modules["numpy"].random.get_state(legacy=False)

    def changed(self) -> str:
        """The library whose generator has another state now; empty where there is none."""
        now = _States().found
        return next((name for name, state in self.found.items() if not _equal(state, now[name])), "")

    def restore(self) -> None:
        random.setstate(self.found["Python's random"])
        torch.set_rng_state(self.found["torch"])
        if "numpy" in self.found:
            sys.modules["numpy"].random.set_state(self.found["numpy"])


@contextmanager
def kept_apart() -> Iterator[Callable[[], str]]:
    """Leave the generators as they were, whatever is drawn inside; the function says whose numbers were drawn.

    Where other threads run, which may have drawn them, the generators are left alone.
    """
    before = _States()
    try:
        yield before.changed
    finally:
        if threading.active_count() == 1 and before.changed():
            before.restore()


def refuse_draws(again: Callable[[], Any]) -> None:
    """Do again what has drawn numbers, to name the line that draws them.

    Raises:
        TraceError: a line of the model's code draws random numbers that no graph holds. (Where none does, another thread did.)
    """
    alone = threading.active_count() == 1
    found = Counter(_draw_of(again) for _ in range(1 if alone else _RUNS))
    (line, drawn), count = found.most_common(1)[0]
    if drawn and count > (0 if alone else _RUNS - 2):
        what = "outside of the graph" if drawn == "torch" else f"of {drawn}"
        raise TraceError(
            f"the model draws random numbers {what} ({line}), which a graph would repeat forever: draw them with a function of "
            "torch on the fly (torch.rand(...)), whose result stays a tensor, or prune the other parts with submodules=[...]"
        )


_RUNS = 5  # beside other threads, whose draws are at another line each time


def _draw_of(again: Callable[[], Any]) -> tuple[str, str]:
    """The line of the model's code after which a generator has another state, and whose; empty where there is none."""
    last, drawn, before = "", "", _States()

    def line(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal last, drawn
        drawn = drawn or before.changed()
        if not drawn:
            last = place_in(frame)
        return None if drawn else line

    def call(frame: FrameType, event: str, arg: Any) -> Any:
        return line if is_models_code(frame) and not drawn else None

    traced = sys.gettrace()
    sys.settrace(call)
    try:
        again()
    except Exception:  # it ran before: what matters is the line
        pass
    finally:
        sys.settrace(traced)
    return (last, drawn) if drawn else ("", "")


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return all(_equal(value, b[key]) for key, value in a.items())
    return bool((a == b).all()) if hasattr(a, "all") else bool(a == b)
