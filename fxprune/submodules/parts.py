"""Prune named submodules of a model that cannot be recorded as one graph, such as a detector's backbone and heads.

Each submodule is recorded on the inputs that it gets when the whole model runs. All of them together are one graph to
the rest of fxprune (`Parts`), so that ratios, rankings and checks hold over all of them; then each gets its own graph, in
the place of the original. What passes between a submodule and the rest of the model keeps all its channels.
"""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from fxprune.errors import InputError, NotEquivalent, PlanMismatch, nearest, said, shown
from fxprune.inputs.examples import describe, example_of, settle_inputs
from fxprune.planning.plan import Plan
from fxprune.planning.report import Report
from fxprune.state import deep_copy, named_tensors
from fxprune.submodules.calls import ModuleCall, Recording, holds_tensors
from fxprune.submodules.dressing import Part
from fxprune.submodules.listening import noting_writes, record, run_real
from fxprune.submodules.splicing import attach, join, split
from fxprune.tracing.state.hook_state import put_back_after

__all__ = ["Parts", "Submodules"]


class Parts(nn.Module):
    """The submodules of a model, under their names in it, each run on an input of its own.

    ``forward(*inputs)`` takes the arguments of all calls that hold tensors, in order, and returns a tuple of all outputs.
    """

    def __init__(self, model: nn.Module, recording: Recording) -> None:
        super().__init__()
        self._fxprune_recording = recording
        self.training = model.training
        for name in recording.calls:
            attach(self, name, model.get_submodule(name), model)
        # What the plan, the report and errors call it.
        self.__class__ = type(f"{type(model).__name__}[{', '.join(recording.calls)}]", (Parts,), {})

    def forward(self, *inputs: Any) -> tuple[Any, ...]:
        """Run all parts; the recording gets the attributes that they write."""
        remaining, outputs = iter(inputs), []
        names: dict[int, list[str]] = {}
        for name, module in self.named_modules(remove_duplicate=False):
            names.setdefault(id(module), []).append(name)

        def note(module: nn.Module, attribute: str) -> None:
            written.update(f"{name}.{attribute}" for name in names.get(id(module), ()))

        written = self._fxprune_recording.written
        with noting_writes(note):
            for name, call in self._fxprune_recording.calls.items():
                args = [_rebuilt(next(remaining), v) if holds_tensors(v) else v for v in call.args]
                kwargs = {k: _rebuilt(next(remaining), v) if holds_tensors(v) else v for k, v in call.kwargs.items()}
                outputs.append(self.get_submodule(name)(*args, **kwargs))
        return tuple(outputs)


def _rebuilt(value: Any, like: Any) -> Any:
    """Containers of the recorded types around the tensors of `value`, which may be a proxy."""
    if isinstance(like, Tensor):
        return value
    if not holds_tensors(like):
        return like
    if isinstance(like, Mapping):
        return type(like)((k, _rebuilt(value[k], v)) for k, v in like.items())  # type: ignore[call-arg]
    items = [_rebuilt(value[i], v) for i, v in enumerate(like)]
    return type(like)(*items) if hasattr(like, "_fields") else type(like)(items)


@dataclass(eq=False)
class Submodules:
    """The submodules of one model that are pruned together.

    Attributes:
        model: the user's model.
        recording: with what each submodule is called, and what they write while they run.
        example: the inputs of the whole model, where they are known.
    """

    model: nn.Module
    recording: Recording
    example: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    @classmethod
    def of(cls, model: nn.Module, patterns: str | Iterable[str], example_inputs: Any) -> Submodules:
        """Find the submodules by name or glob, and record with what they are called.

        Raises:
            InputError: a pattern matches nothing, a submodule is not called or cannot be recorded alone.
        """
        args, named = settle_inputs(model, example_inputs)
        names = _names(model, (patterns,) if isinstance(patterns, str) else tuple(patterns))
        _check_alone(model, names)
        if not isinstance(getattr(model, "meta", {}), dict):
            raise InputError("the model has an attribute 'meta' of its own, where the report goes: rename it")
        try:
            with put_back_after(model):
                recording = record(model, args, named, names)
        except InputError as error:
            if error.__cause__ is None or not isinstance(example_inputs, list):
                raise
            # The model fails on as many inputs: a list of images is one.
            args = (list(args),)
            with put_back_after(model):
                recording = record(model, args, named, names)
        return cls(model, recording, (args, named))

    @classmethod
    def of_plan(cls, model: nn.Module, plan: Plan) -> Submodules | None:
        """The submodules that a plan was made for; None if it is for the whole model.

        Raises:
            PlanMismatch: the model has no such submodules.
        """
        entries = plan.options.get("submodules")
        if not entries:
            return None
        try:
            calls = {str(e["name"]): ModuleCall(*example_of(e["inputs"])) for e in entries}
            for name in calls:
                model.get_submodule(name)
            if list(calls) != _names(model, [glob.escape(name) for name in calls]) or len(calls) != len(entries):
                raise KeyError("their names overlap, or are in another order")
        except (InputError, KeyError, TypeError, AttributeError) as error:
            raise PlanMismatch(
                f"the plan is for submodules that {type(model).__name__} does not have: {said(error)}"
            ) from error
        return cls(model, Recording(calls))

    @property
    def names(self) -> list[str]:
        """Of the submodules, in the order of the model."""
        return list(self.recording.calls)

    @property
    def parts(self) -> Parts:
        """All submodules as one module, over the tensors of the model."""
        return Parts(self.model, self.recording)

    @property
    def inputs(self) -> tuple[Any, ...]:
        """Inputs of `parts`, on the meta device."""
        values = (v for call in self.recording.calls.values() for v in (*call.args, *call.kwargs.values()))
        return tuple(v for v in values if holds_tensors(v))

    def described(self) -> list[dict[str, Any]]:
        """What a plan stores: enough to record the submodules again without running the model."""
        return [{"name": name, "inputs": describe(call.args, call.kwargs)} for name, call in self.recording.calls.items()]

    def split(self, joint: fx.GraphModule) -> dict[str, Part]:
        """One GraphModule for each submodule, from the one of all; `parts` have been traced."""
        return split(joint, self.model, self.recording)

    def join(self, parts: Mapping[str, fx.GraphModule]) -> fx.GraphModule:
        """The inverse of `split`."""
        return join(parts, self.model, self.recording.calls)

    def joined_from(self, slim: nn.Module) -> fx.GraphModule:
        """One GraphModule of the pruned submodules of `slim`, a model that `put_back` made."""
        parts = {}
        for name in self.names:
            parts[name] = part = slim.get_submodule(name)
            if not isinstance(part, fx.GraphModule):
                raise InputError(f"submodule {name!r} of slim is a {type(part).__name__}, not the GraphModule that prune made")
        joint = self.join(parts)  # type: ignore[arg-type]  # checked above
        joint.meta["fxprune"] = slim.meta["fxprune"]  # type: ignore[index]
        return joint

    def put_back(self, parts: Mapping[str, nn.Module], report: Report, check: bool) -> nn.Module:
        """A copy of the model with `parts` in the place of its submodules, wherever it refers to them.

        Raises:
            NotEquivalent: `check`, and the result does not run although the model does.
        """
        memo: dict[int, Any] = {id(self.model.get_submodule(name)): part for name, part in parts.items()}
        result = deep_copy(self.model, memo)
        result.meta = {**getattr(result, "meta", {}), "fxprune": report}  # type: ignore[assignment]
        if check and self.example is not None:
            with put_back_after(self.model):
                self._check_runs(result, *self.example)
        return result

    def _check_runs(self, result: nn.Module, args: Sequence[Any], named: Mapping[str, Any]) -> None:
        try:
            run_real(deep_copy(result), args, named)
        except Exception as error:
            try:
                run_real(deep_copy(self.model), args, named)
            except Exception as own:
                raise InputError(
                    f"{type(self.model).__name__} fails on the example inputs: {type(own).__name__}: {own}"
                ) from own
            raise NotEquivalent(
                f"with its submodules pruned, {type(self.model).__name__} fails where it ran before: {type(error).__name__}: "
                f"{said(error)}; it may use parts of {', '.join(map(repr, self.names))} other than by calling them, or call "
                "them with other sizes"
            ) from error


def _names(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of the modules that the patterns match, outermost ones only, in the order of the model."""
    known = [name for name, _ in model.named_modules() if name]
    found: set[str] = set()
    for pattern in patterns:
        matched = [n for n in known if n == pattern or fnmatch.fnmatchcase(n, pattern)]
        if not matched:
            raise InputError(f"submodule {shown(pattern)} matches no module of {type(model).__name__}{nearest(pattern, known)}")
        found.update(matched)
    return [n for n in known if n in found and not any(n.startswith(f"{other}.") for other in found)]


def _check_alone(model: nn.Module, names: Sequence[str]) -> None:
    """No tensor of the submodules may be used elsewhere under another name: it would no longer be one tensor."""
    chosen = {id(model.get_submodule(name)) for name in names}
    prefixes = tuple(f"{n}." for n, m in model.named_modules(remove_duplicate=False) if id(m) in chosen)  # all their names
    inside: dict[int, str] = {}
    outside: dict[int, str] = {}
    for name, tensor in named_tensors(model).items():
        (inside if name.startswith(prefixes) else outside).setdefault(id(tensor), name)
    for key in inside.keys() & outside.keys():
        raise InputError(
            f"{inside[key]!r} is the same tensor as {outside[key]!r}, outside the submodules: name the modules that hold both"
        )
