"""Set the numbers that the model's own code reads: part by part, tried on values and proved by what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune import nested
from fxprune.inputs.examples import own_copy
from fxprune.proofs.errors import relative_error
from fxprune.rewrite import Rewritten
from fxprune.shrinking.changes import Change, calls_of, changed, numbers_of, sizes_at, tensors_cut
from fxprune.shrinking.expected import UNKNOWN, Expected
from fxprune.shrinking.generated import generated_part
from fxprune.shrinking.listening import Listening
from fxprune.shrinking.scales import Scaling, as_folded, fold
from fxprune.shrinking.sized_code import SizedMethod
from fxprune.shrinking.sizing import Sizing, sizing_of
from fxprune.shrinking.slots import Setting, Slot, combinations, settings

__all__ = ["Fit", "fit"]

_NEAR = 1e-4  # relative, of what comes out of a part: the whole is proved apart
_TOGETHER = 12  # settings whose combinations are tried


@dataclass
class Fit:
    """What was found.

    Attributes:
        settings: module -> the numbers that are set.
        sized: modules whose own code runs with numbers in it: what these are, and which of them are not needed.
        generated: modules that run the part of the slim graph that they compute -> what happens to their own code.
        unfolded: attentions among them, whose factors are taken back.
        stuck: modules whose own code cannot follow, whatever its numbers -> what happens.
    """

    settings: dict[str, list[Setting]] = field(default_factory=dict)
    sized: dict[str, tuple[Sizing, frozenset[int]]] = field(default_factory=dict)
    generated: dict[str, str] = field(default_factory=dict)
    unfolded: set[fx.Node] = field(default_factory=set)
    stuck: dict[str, str] = field(default_factory=dict)


def fit(
    twin: nn.Module, rewritten: Rewritten, slim: fx.GraphModule, inputs: Any, folded: Mapping[fx.Node, Scaling] | None = None
) -> Fit:
    """Run a copy in evaluation, and where a part does not give what the slim graph does there, try other numbers in it.

    Args:
        twin: a copy over the tensors of `slim`; its numbers are set.
        folded: traced nodes whose changes its tensors make up for.
    """
    fitter = _Fitter(twin, rewritten, slim, folded or {})
    fitter.expected = Expected.of(rewritten, as_folded(slim, fitter.names, fitter.folded), inputs)
    args, named = own_copy(inputs)
    twin.eval()
    with torch.no_grad(), fitter.listening():
        try:
            twin(*args, **named)
        except Exception as error:  # of code that runs before or around the model's own
            fitter.fit.stuck.setdefault("", f"{type(error).__name__}: {error}")
    for name, made in fitter.instead.items():
        twin.get_submodule(name).__dict__["forward"] = made
    return fitter.fit


class _Misled(Exception):
    """A part was called with what it should not get."""


class _Fitter:
    """Stands around the forward of each part while the copy runs."""

    expected: Expected

    def __init__(self, twin: nn.Module, rewritten: Rewritten, slim: fx.GraphModule, folded: Mapping[fx.Node, Scaling]) -> None:
        self.twin, self.rewritten, self.slim, self.folded = twin, rewritten, slim, folded
        self.fit = Fit()
        self.names = {old: new.name for new, old in rewritten.context.origin.items()}
        self.counts: dict[str, int] = {}
        calls = [call for call in calls_of(rewritten) if call.old not in folded]
        self.numbers = numbers_of(changed(calls))
        self.changes: dict[str, list[Change]] = {}
        for one in calls:
            self.changes.setdefault(one.scope, []).append(one)
        self.cut = tensors_cut(rewritten)
        self.calls: dict[str, list[Any]] = {}
        for call in rewritten.cut.analysis.traced.calls:
            self.calls.setdefault(call.name, []).append(call)
        self.nodes: dict[str, list[fx.Node]] = {}
        for node in rewritten.cut.analysis.traced.graph.nodes:
            self.nodes.setdefault(str(node.meta.get("scope", "")), []).append(node)
        self.leaves = {str(n.target) for n in rewritten.module.graph.nodes if n.op == "call_module"}
        self.instead: dict[str, Callable[..., Any]] = {}  # forwards in the place of a part's own
        self.liked: dict[type, list[tuple[Slot, ...]]] = {}

    def listening(self) -> Listening:
        """Inside, the parts' forwards are watched."""
        return Listening({name: self.twin.get_submodule(name) for name in self.calls}, self._around)

    def _around(self, name: str, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        number = self.counts.get(name, 0)
        outputs = self.expected.outputs[name]
        if number >= len(outputs):
            self.counts[name] = number + 1
            return self.instead.get(name, forward)(*args, **kwargs)
        if _apart((args, kwargs), self.expected.inputs[name][number]):
            raise _Misled(f"{name} gets something else than in the slim graph")  # which is the fault of who calls it
        wanted, before = outputs[number], dict(self.counts)
        given = own_copy((args, kwargs))

        def attempt(first: bool = False) -> tuple[Any, str]:
            self.counts.clear()
            self.counts.update(before)
            own_args, own_kwargs = (args, kwargs) if first else own_copy(given)
            try:
                found = self.instead.get(name, forward)(*own_args, **own_kwargs)
            except Exception as error:
                return None, f"{type(error).__name__}: {error}"
            return found, _apart(found, wanted)

        found, wrong = attempt(first=True)
        if wrong:
            found, wrong = self._try(name, module, attempt, wrong)
        if wrong:
            found, wrong = self._try_code(name, module, attempt, wrong)
        if wrong and name:
            found, wrong = self._try_generated(name, module, attempt, wrong)
        self.counts[name] = number + 1
        if not wrong:
            return found
        self.fit.stuck.setdefault(name, wrong.splitlines()[0][:200] if wrong else "")
        if any(v is UNKNOWN for v in nested.leaves(wanted)):
            raise RuntimeError(f"{name} cannot follow, and what comes out of it is not known")
        return own_copy(wanted)

    def _try(self, name: str, module: nn.Module, attempt: Callable[[], tuple[Any, str]], wrong: str) -> tuple[Any, str]:
        """Numbers that may be it, the likeliest first; where none helps, all is as it was."""
        seen: set[tuple[Setting, ...]] = set()
        for chosen in self._choices(name, module):
            if chosen in seen:
                continue
            seen.add(chosen)
            for one in chosen:
                one.slot.put(module, one.new)
            found, still = attempt()
            if not still:
                self.fit.settings.setdefault(name, []).extend(chosen)
                slots = tuple(one.slot for one in chosen)
                if slots not in self.liked.setdefault(type(module), []):
                    self.liked[type(module)].insert(0, slots)
                return found, ""
            for one in chosen:
                one.slot.put(module, one.old)
        return None, wrong

    def _try_code(self, name: str, module: nn.Module, attempt: Callable[[], tuple[Any, str]], wrong: str) -> tuple[Any, str]:
        """The part's own code with numbers in it, as few as will do."""
        sizing = sizing_of(module, self.changes.get(name, []))
        if sizing is None:
            return None, wrong
        left_out: frozenset[int] = frozenset()
        best, still = self._with_code(name, module, sizing.methods(module), attempt)
        if still:
            self._without_code(name, module)
            return None, wrong
        for number in range(len(sizing.expressions)):
            found, still = self._with_code(name, module, sizing.methods(module, left_out | {number}), attempt)
            if not still:
                best, left_out = found, left_out | {number}
        self._with_code(name, module, sizing.methods(module, left_out), attempt)
        self.fit.sized[name] = sizing, left_out
        return best, ""

    def _try_generated(
        self, name: str, module: nn.Module, attempt: Callable[[], tuple[Any, str]], wrong: str
    ) -> tuple[Any, str]:
        """The part of the slim graph that the module computes, without the factors that its own code needs."""
        made = generated_part(module, self.slim, self.calls[name][0], self.names)
        mine = {n: s for n, s in self.folded.items() if f"{s.scope}.".startswith(f"{name}.")}
        if made is None:
            return None, wrong
        fold(self.twin, mine, undo=True)
        self.instead[name] = made
        found, still = attempt()
        if still:
            del self.instead[name]
            fold(self.twin, mine)
            return None, wrong
        self.fit.generated[name] = wrong.splitlines()[0][:200]
        self.fit.unfolded |= mine.keys()
        return found, ""

    def _with_code(self, name: str, module: nn.Module, methods: Mapping[str, Any], attempt: Any) -> tuple[Any, str]:
        self._without_code(name, module)
        for method, made in methods.items():
            if method == "forward":
                self.instead[name] = made
            else:
                module.__dict__[method] = made
        found: tuple[Any, str] = attempt()
        return found

    def _without_code(self, name: str, module: nn.Module) -> None:
        self.instead.pop(name, None)
        for key in [k for k, v in module.__dict__.items() if isinstance(v, SizedMethod)]:
            del module.__dict__[key]

    def _choices(self, name: str, module: nn.Module) -> Iterator[tuple[Setting, ...]]:
        """First what helped another part of its class; then what the rewrite changed in its code; then sizes of its tensors."""
        near = settings(module, self.numbers.get(name, {}))
        sizes = self._sizes(name, module)
        wide = near + [s for s in settings(module, sizes) if s not in near]
        for slots in self.liked.get(type(module), ()):
            yield from _with_slots(slots, wide)
        yield from combinations(near[:_TOGETHER])
        yield from combinations(wide[:_TOGETHER])
        known = sizes | self.numbers.get(name, {})
        for part in self._unheard(name, module):  # whose methods the module calls, past their forward
            there = settings(module, known, part)[: _TOGETHER // 2]
            yield from combinations(there)
            yield from combinations(near[: _TOGETHER // 2] + there) if there else ()
        below = [s for child, _ in module.named_children() for s in settings(module, known, child)]
        yield from combinations((wide + below)[:_TOGETHER])

    def _unheard(self, name: str, module: nn.Module) -> list[str]:
        """Parts of a module whose forward is not called, alone or in others."""
        prefix, heard = f"{name}." if name else "", [*self.calls, *self.leaves]
        return [
            n
            for n, _ in module.named_modules()
            if n and not any(f"{prefix}{n}.".startswith(f"{h}.") for h in heard if h != name)
        ]

    def _sizes(self, name: str, module: nn.Module) -> dict[int, list[int]]:
        """Sizes before -> after, of what goes in and out and of the tensors below."""
        found: dict[int, list[int]] = {}

        def add(old: int, new: int) -> None:
            if old != new and new not in found.setdefault(old, []):
                found[old].append(new)

        values = [(call.args, call.kwargs, call.output) for call in self.calls[name]]
        for value in (*values, self.nodes.get(name, [])):
            for old, news in sizes_at(self.rewritten, value).items():
                for new in news:
                    add(old, new)
        prefix = f"{name}." if name else ""
        for tensor, (before, after) in self.cut.items():
            if tensor.startswith(prefix) and tensor.removeprefix(prefix).count(".") < 2:
                for old, new in zip(before, after, strict=True):
                    add(old, new)
        return {old: news for old, news in found.items() if news}


def _with_slots(slots: tuple[Slot, ...], found: list[Setting]) -> Iterator[tuple[Setting, ...]]:
    import itertools

    options = [[s for s in found if s.slot == slot] for slot in slots]
    yield from itertools.islice(itertools.product(*options), 16)


def _apart(found: Any, wanted: Any) -> str:
    """How an output differs from the one that is wanted; empty if it does not, as far as that is known."""
    here, there = list(nested.leaves(found)), list(nested.leaves(wanted))
    if len(here) != len(there):
        tensors = nested.tensors(found), nested.tensors(wanted)
        if len(tensors[0]) != len(tensors[1]):
            return ""  # another form than what was recorded: the parts around it tell
        here, there = list(tensors[0]), list(tensors[1])
    for a, b in zip(here, there, strict=True):
        if isinstance(b, Tensor):
            if not isinstance(a, Tensor) or a.shape != b.shape:
                return f"a result has the shape {tuple(getattr(a, 'shape', ()))} where {tuple(b.shape)} is right"
            if a.is_floating_point() and not relative_error(a, b) <= _NEAR:
                return f"a result is off by {relative_error(a, b):.1e}"
    return ""
