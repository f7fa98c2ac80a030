"""What forward carries from one call to the next in Python objects, and goes by: a graph does not, so it is refused by name.

What forward wrote is given to a second recording. Where that comes to the same graph, nobody reads what was written, or what
is read is made anew from nothing but sizes (a table kept for later).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, fx, nn

from fxprune import nested
from fxprune.errors import TraceError
from fxprune.tracing.modules.registered import refused
from fxprune.tracing.places import line_running
from fxprune.tracing.state.python_state import MISSING, put, put_back
from fxprune.tracing.values.proxy import is_proxy, value_of

__all__ = ["check_state", "made_of_sizes"]


class _Stale:
    """A value of an earlier call: it may lie where it was put, and be replaced, but not be used."""

    def __init__(self, name: str, used: list[TraceError]) -> None:
        object.__setattr__(self, "_fxprune", (name, used))

    def __getattr__(self, name: str) -> Any:
        where, used = object.__getattribute__(self, "_fxprune")
        used.append(_refused(where, line_running()))
        raise used[-1]


def _stale_operator(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        where, used = object.__getattribute__(self, "_fxprune")
        used.append(_refused(where, line_running()))
        raise used[-1]

    return method


for _name in "add radd sub rsub mul rmul truediv rtruediv matmul rmatmul getitem len iter bool int float lt gt le ge".split():
    setattr(_Stale, f"__{_name}__", _stale_operator(_name))
_Stale.__torch_function__ = classmethod(lambda cls, func, types, args=(), kwargs=None: _use(args, kwargs))  # type: ignore[attr-defined]


def _use(args: Any, kwargs: Any) -> Any:
    for leaf in nested.leaves((args, kwargs or {})):
        if type(leaf) is _Stale:
            return leaf.shape
    raise TraceError("a value of an earlier call is used")


def _refused(name: str, line: str = "") -> TraceError:
    where = f" ({line})" if line else ""
    return TraceError(
        f"forward keeps {name!r} from one call for the next{where}, which a graph does not: keep it in a buffer "
        "(register_buffer) of one shape, pass it as an input, or prune the other parts with submodules=[...]"
    )


def check_state(recorder: Any, again: Callable[[], tuple[Any, Any]], same: Callable[[Any], bool]) -> None:
    """Record again with what forward wrote, to see that it goes by none of it. What it wrote is left there.

    A number that a second call leaves as the first one did is settled; one that moves on (a counter) must not be read.

    Args:
        recorder: of the first recording; what it wrote was put back, what it registered was not.
        again: records once more; the recording, and its recorder.
        same: whether a recording is the first one.

    Raises:
        TraceError: forward goes by what it wrote in a call before.
    """
    left: dict[str, tuple[Any, Any, Any]] = {}
    used: list[TraceError] = []
    for name, holder, key, old, new in recorder.changes:
        if new is MISSING:
            continue
        key = value_of(key)  # results may be kept by device
        first = old is MISSING or old is None  # what is kept for later calls, made of parameters: a table of biases
        if made_of_sizes(recorder, new, parameters=first):
            put_back(holder, key, old)
            continue
        left[name] = holder, key, new
        put(holder, key, _later(new, name, used))
    if not left and not recorder.registers:
        return
    error = refused(recorder.registers) if recorder.registers else _refused(next(iter(left)))
    moving = _recorded_alike(error, again, same, used)
    counters = [name for name in left if name in moving and type(left[name][2]) in (int, float)]
    for name in counters:
        holder, key, new = left[name]
        put(holder, key, _counted(type(new))(new + 1, name, used))
    if counters:
        _recorded_alike(_refused(counters[0]), again, same, used)


def _recorded_alike(
    refusal: TraceError, again: Callable[[], tuple[Any, Any]], same: Callable[[Any], bool], used: list[TraceError]
) -> set[str]:
    """The names of what another recording wrote, which must be the same as the first, and register nothing."""
    try:
        found, recorder = again()
    except Exception as error:
        raise (used[0] if used else refusal) from error
    if used or recorder.registers or not same(found):
        raise used[0] if used else refusal
    return {name for name, *_ in recorder.changes}


def _later(value: Any, name: str, used: list[TraceError]) -> Any:
    """A value as the next call finds it: stale where it is of the graph."""
    if nested.form_of(value) == "leaf":
        return _Stale(name, used) if is_proxy(value) else value
    try:
        return nested.map(lambda leaf: _Stale(name, used) if is_proxy(leaf) else leaf, value)
    except Exception:
        return value


def _counted(kind: type) -> Any:
    """A number that notes where code goes by it; sums and products of it are such numbers, too."""

    def made(value: Any, name: str, used: list[TraceError]) -> Any:
        number = Counted(value)
        number.place = (name, used)
        return number

    def asks(method: str) -> Any:
        def asked(self: Any, *args: Any) -> Any:
            self.place[1].append(_refused(self.place[0], line_running()))
            return getattr(kind, method)(self, *args)

        return asked

    def counts(method: str) -> Any:
        def counted(self: Any, *args: Any) -> Any:
            result = getattr(kind, method)(self, *args)
            return _counted(type(result))(result, *self.place) if type(result) in (int, float) else result

        return counted

    Counted: Any = type(kind.__name__, (kind,), {})
    for name in ("eq", "ne", "lt", "le", "gt", "ge", "bool", "index", "float"):
        if hasattr(kind, f"__{name}__"):
            setattr(Counted, f"__{name}__", asks(f"__{name}__"))
    Counted.__hash__ = kind.__hash__
    for name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "floordiv", "mod", "pow", "neg", "abs"):
        setattr(Counted, f"__{name}__", counts(f"__{name}__"))
    return made


def made_of_sizes(recorder: Any, value: Any, parameters: bool = False) -> bool:
    """Whether a value holds something of the graph, none of which follows the values of inputs (or of `parameters`)."""
    pending = [leaf.node for leaf in nested.leaves(value) if is_proxy(leaf) and leaf.tracer is recorder]
    if not pending:
        return False
    seen: set[fx.Node] = set(pending)
    while pending:
        node = pending.pop()
        known = recorder.values.get(node)
        if node.op in ("placeholder", "call_module"):
            return False
        if node.op == "get_attr" and isinstance(known, nn.Parameter) and not parameters:
            return False
        for source in _sources(node):
            if source not in seen and isinstance(recorder.values.get(source), Tensor):
                seen.add(source)
                pending.append(source)
    return True


def _sources(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes whose values a node's value follows: not that of which it takes the size alone."""
    sized = node.op == "call_method" and str(node.target) in ("size", "new_zeros", "new_ones", "new_full", "new_empty")
    alike = str(getattr(node.target, "__name__", "")).endswith("_like")
    return itertools.islice(node.all_input_nodes, int(sized or alike), None)
