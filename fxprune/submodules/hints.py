"""What to do with a model that cannot be recorded whole: the submodules of it that can, largest first."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from torch import nn

from fxprune.errors import PruneError, TraceError
from fxprune.state import deep_copy
from fxprune.submodules.calls import ModuleCall
from fxprune.submodules.listening import Listener, OutOfTime, run_on_meta, run_real
from fxprune.tracing.skeleton import skeleton_of
from fxprune.tracing.state.hook_state import put_back_after

__all__ = ["naming_submodules", "traceable_submodules"]

_SHOWN = 12


@contextmanager
def naming_submodules(model: nn.Module, args: Sequence[Any], named: Mapping[str, Any]) -> Iterator[None]:
    """Have a `TraceError` name the submodules of `model` that could be pruned instead."""
    try:
        yield
    except TraceError as error:
        try:
            with put_back_after(model):
                names = traceable_submodules(model, args, named)
        except Exception:  # the model may do anything at all: the error at hand is what matters
            names = []
        if not names:
            raise
        hint, text = f"submodules={names!r}, or all of it in its own class with form='module'", str(error)
        if "submodules=[...]" in text:
            raise TraceError(text.replace("submodules=[...]", hint)) from error
        raise TraceError(f"{text}; prune the parts that can be traced with {hint}") from error


def traceable_submodules(model: nn.Module, args: Sequence[Any], named: Mapping[str, Any], seconds: float = 12.0) -> list[str]:
    """Names of the largest submodules that can be recorded alone and have channels to lose; none if the model fails.

    Args:
        model: runs on the meta device, and where that ends half way (it reads values), a copy of it for a third of the time.
        args, named: example inputs of the whole model.
        seconds: to spend; what was found by then counts.
    """
    end = time.monotonic() + seconds
    names = [name for name, _ in model.named_modules() if name]
    skeleton, _ = skeleton_of(model)
    listener = Listener(skeleton, names, seconds)
    try:
        run_on_meta(skeleton, args, named)
        calls = _returned(listener)
    except Exception:
        real = deep_copy(model)
        more = Listener(real, names, seconds / 3)
        with suppress(OutOfTime):  # any other error is the example's: nothing said here would help
            run_real(real, args, named)
        calls = _returned(more) | _returned(listener)
    return _traceable(model, calls, end)[:_SHOWN]


def _returned(listener: Listener) -> dict[str, ModuleCall]:
    return {name: call for name, call in listener.calls.items() if name in listener.returned}


def _traceable(model: nn.Module, calls: Mapping[str, ModuleCall], end: float) -> list[str]:
    """Try the children of a module, largest first, and look into those that fail."""
    from fxprune.analysis.analysis import analyze_model

    size = {id(m): sum(p.numel() for p in m.parameters()) for m in model.modules()}
    names = {id(m): name for name, m in model.named_modules()}
    found: list[str] = []

    def visit(module: nn.Module) -> None:
        for child in sorted(module.children(), key=lambda m: -size[id(m)]):
            if time.monotonic() > end or not size[id(child)] or not any(child.children()):
                continue
            call = calls.get(names[id(child)])
            if call is not None:
                try:
                    if analyze_model(child, call.args, call.kwargs).free:
                        found.append(names[id(child)])
                    continue
                except PruneError:
                    pass
            visit(child)

    visit(model)
    return sorted(found, key=lambda name: -size[id(model.get_submodule(name))])
