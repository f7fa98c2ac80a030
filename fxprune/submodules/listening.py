"""What modules do while a model runs: with what they are called (hooks on a copy), and which attributes they write."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fxprune import nested
from fxprune.errors import InputError, PruneError, said
from fxprune.inputs.examples import random_like
from fxprune.state import deep_copy
from fxprune.submodules.calls import ModuleCall, Recording, call_of, form_of
from fxprune.tracing.skeleton import skeleton_of, to_meta
from fxprune.tracing.standing_in import as_it_is, standing_in

__all__ = ["Listener", "OutOfTime", "noting_writes", "record", "run_on_meta", "run_real"]


class OutOfTime(Exception):
    """A run took longer than it was given."""


class Listener:
    """Hooks on some modules of a model, that write down with what they are called. The model stays hooked: give a copy.

    Attributes:
        calls: name -> the first call that a graph can take; it fills while the model runs.
        returned: names of the modules that gave a result.
        faults: what a graph of one of the modules could not stand for, in the order of the run.
    """

    def __init__(self, model: nn.Module, names: Collection[str], seconds: float = math.inf) -> None:
        """Listen to the modules `names`; a run that takes longer than `seconds` from now ends with `OutOfTime`."""
        self.calls: dict[str, ModuleCall] = {}
        self.returned: set[str] = set()
        self.faults: list[InputError] = []
        self._end = time.monotonic() + seconds
        self._open: list[nn.Module] = []
        self._names = {id(model.get_submodule(name)): name for name in names}
        self._owners: dict[int, list[nn.Module]] = {}
        for name in names:
            owner = model.get_submodule(name)
            for part in owner.modules():
                self._owners.setdefault(id(part), []).append(owner)
        for part in model.modules():
            if id(part) in self._names:
                part.register_forward_pre_hook(self._enter, with_kwargs=True, prepend=True)
                part.register_forward_hook(self._leave, with_kwargs=True, always_call=True)
            elif id(part) in self._owners:
                part.register_forward_pre_hook(self._inside, with_kwargs=True)

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._open.append(module)
        if time.monotonic() > self._end:
            raise OutOfTime
        name = self._names[id(module)]
        try:
            call = call_of(name, module, args, kwargs)
        except InputError as error:
            self.faults.append(error)
            return
        if form_of(call) != form_of(self.calls.setdefault(name, call)):
            self.faults.append(
                InputError(f"submodule {name!r} is called in several ways (other types or options of inputs): name parts of it")
            )

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self._open.pop()
        if output is not None:  # None: it failed, or has no result
            self.returned.add(self._names[id(module)])

    def _inside(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        owners = self._owners[id(module)]
        if not any(owner in self._open for owner in owners):
            self.faults.append(
                InputError(
                    f"parts of submodule {self._names[id(owners[0])]!r} run outside of its own forward, which one graph cannot "
                    "stand for: name parts of it, or the module that holds it"
                )
            )


def record(model: nn.Module, args: Sequence[Any], named: Mapping[str, Any], names: Collection[str]) -> Recording:
    """The first call of each of the modules `names` in one forward of `model` in evaluation mode.

    The model runs on the meta device; where it needs values to go on before it has called all of them, a copy of it
    runs on random values of those shapes, or on the given ones.

    Raises:
        InputError: the model fails on the inputs; a module is never called, or is called with what a graph cannot take,
            in several ways, or in parts, past its own forward.
    """
    skeleton, _ = skeleton_of(model)
    listener = Listener(skeleton, names)
    _run(listener, run_on_meta, skeleton, args, named)  # if it fails, it reads values: what it has called so far is known
    if any(name not in listener.calls for name in names):
        real = deep_copy(model)
        listener = Listener(real, names)
        error = _run(listener, run_real, real, args, named)
        if error is not None:
            raise InputError(
                f"{type(model).__name__} fails on the example inputs: {type(error).__name__}: {said(error)}"
            ) from error
    for name in names:
        if name not in listener.calls:
            hint = "; name the modules inside it that are" if any(model.get_submodule(name).children()) else ""
            raise InputError(f"submodule {name!r} is never called when {type(model).__name__} runs on the example inputs{hint}")
    return Recording({name: listener.calls[name] for name in names})


def _run(listener: Listener, run: Callable[..., Any], *arguments: Any) -> Exception | None:
    """How a run ends; what the listener could not record counts more than that."""
    found = None
    try:
        run(*arguments)
    except Exception as error:
        found = error
    if listener.faults:
        raise listener.faults[0]
    if isinstance(found, PruneError):
        raise found
    return found


def run_on_meta(skeleton: nn.Module, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """One forward of a model on the meta device, in evaluation mode."""
    with torch.no_grad(), torch.device("meta"):
        return skeleton.eval()(*to_meta(tuple(args)), **to_meta(dict(named)))


def run_real(model: nn.Module, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """One forward in evaluation mode: on the given inputs, or on random values where they are on the meta device."""
    first = next((p for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()), None)
    device = torch.device("cpu") if first is None else first.device

    def real(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return random_like(value, device, None) if value.is_meta else value.detach().to(device, copy=True)

    with torch.no_grad():
        return model.eval()(*nested.map(real, tuple(args)), **nested.map(real, dict(named)))


# -- writes ----------------------------------------------------------------------------------------------------------------


class _Notes(threading.local):
    """Those who listen to the writes of this thread."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[nn.Module, str], None]] = []


_notes = _Notes()
_lock = threading.Lock()
_reports = ExitStack()  # while any thread listens
_listening = 0


@contextmanager
def noting_writes(note: Callable[[nn.Module, str], None]) -> Iterator[None]:
    """Have ``note(module, name)`` hear of every attribute of a module that this thread sets or deletes.

    A comparison of attributes before and after would not do: what forward sets to the value that it had (the width of a
    map, say) is a write too, and goes stale when channels go. So `nn.Module` reports writes while somebody listens. Each
    thread hears of its own; the last one to leave takes the report away. What forward changes inside an attribute (an
    item of a list) is no write of it.
    """
    global _listening
    with _lock:
        if not _listening:
            for name in ("__setattr__", "__delattr__"):
                _reports.enter_context(standing_in(nn.Module, name, _reporting(as_it_is(getattr(nn.Module, name)))))
        _listening += 1
    _notes.listeners.append(note)
    try:
        yield
    finally:
        _notes.listeners.remove(note)
        with _lock:
            _listening -= 1
            if not _listening:
                _reports.close()


def _reporting(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def reported(module: nn.Module, name: str, *value: Any) -> None:
        for note in _notes.listeners:
            note(module, name)
        original(module, name, *value)

    return reported
