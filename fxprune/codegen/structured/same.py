"""Whether a generated model does what the slim one does: the same operations on the same tensors, in both modes.

Both run on the meta device, on the shapes of the inputs with which the model was recorded, while every operation that reaches
PyTorch's dispatcher is written down with its arguments: numbers as they are, tensors by where they come from (a name in the
model, an input, the result of an operation), and by what changed their memory since. Operations that depend on each other
come in one order, then; others may come in any.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fxprune import nested
from fxprune.codegen.structured.constants import equal_constants
from fxprune.codegen.structured.recurrent import WholeLayers
from fxprune.codegen.structured.simplify import Whole
from fxprune.tracing.skeleton import copy_with

__all__ = ["difference"]


def difference(slim: fx.GraphModule, made: nn.Module) -> str:
    """Where a model on the meta device departs from the slim one, in words; empty if nowhere.

    Args:
        made: its state has the names of that of `slim`.
    """
    own = type(slim).forward
    held = Whole(slim)
    del held.__dict__["graph"], held.__dict__["meta"]
    other, _ = copy_with(held, lambda t: _on_meta(t))
    example, same = slim.meta["example"], equal_constants(slim)
    flags = any(str(node.target).rpartition(".")[2] == "training" for node in slim.graph.nodes) or slim.meta.get("modes")
    for training in (True, False) if flags else (True,):  # layers are the same whatever their mode
        _set_mode(other, training, slim.meta.get("modes", {}))
        made.train(training)
        answers: list[bool] = []
        for _ in range(TRIES):  # what the code asks of values that a shape has not: as the slim model's assertions want it
            expected = _log(other, example, lambda *args, **named: own(other, *args, **named), same, answers)
            if not expected.error.startswith("AssertionError") or True not in expected.answers:
                break
            last = max(place for place, answer in enumerate(expected.answers) if answer)
            answers = [*expected.answers[:last], False]
        found = _log(made, example, made, answers=expected.answers)
        if departure := _departure(expected, found):
            return f"in {'training' if training else 'evaluation'}, {departure}"
    return ""


def _departure(expected: _Log, found: _Log) -> str:
    """What one run did that the other did not; in which order does not matter where no value depends on it."""
    if expected.error:
        return f"where shapes alone do not tell: {expected.error:.200}"
    surplus, missing = Counter(found.keys), Counter(expected.keys)
    surplus, missing = surplus - missing, missing - surplus
    more = next((n for n, key in enumerate(found.keys) if key in surplus), None)
    less = next((n for n, key in enumerate(expected.keys) if key in missing), None)
    if more is not None and less is not None:
        return f"step {more} is {found.lines[more]:.120}, not {expected.lines[less]:.120}"
    if more is not None:
        return f"step {more} is {found.lines[more]:.120}, which is one too many"
    return "" if less is None else f"step {less} is missing: {expected.lines[less]:.120}"


def _on_meta(tensor: Tensor) -> Tensor:
    made = torch.empty_like(tensor.detach(), device="meta")
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def _set_mode(model: nn.Module, training: bool, modes: Mapping[bool, Mapping[str, bool]]) -> None:
    model.train(training)
    for name, flag in modes.get(training, {}).items():
        model.get_submodule(name).training = flag


def _log(
    model: nn.Module,
    example: Sequence[Any],
    forward: Callable[..., Any],
    same: Mapping[str, str] | None = None,
    answers: Sequence[bool] = (),
) -> _Log:
    """The operations of one run and what they leave behind; or how it fails.

    Args:
        same: name of a constant -> that of another with the same values, by which it goes.
        answers: what truth values that forward asks for are, one after another; True from there on.
    """
    same = same or {}
    args, named = nested.map(lambda v: v.clone() if isinstance(v, Tensor) else v, example)
    log = _Log(answers)
    state = (*model.named_parameters(), *model.named_buffers())
    for name, tensor in state:
        log.know(tensor, same.get(name, name))
    for number, tensor in enumerate(nested.tensors((args, named))):
        log.know(tensor, f"input {number}")
    try:
        with torch.enable_grad(), WholeLayers(log.layer), log:
            outputs = forward(*args, **named)
    except Exception as error:
        log.error = f"{type(error).__name__}: {error}"
        log.write(log.error)
        return log
    log.write("outputs", list(nested.tensors(outputs)))
    log.write("state", [tensor for name, tensor in state if name not in same])
    log.write("inputs", list(nested.tensors((args, named))))
    return log


class _Log(TorchDispatchMode):
    """Writes down operations. It keeps all tensors, so that their ids stay their own.

    A tensor is called by the operation that made it and by those that changed its memory since, each with what it was given:
    two runs do the same if they have the same operations under these names, whatever their order.

    Attributes:
        lines: an operation each, for people: its tensors go by the number of the operation that made them.
        keys: the same, by those names.
        error: how the run failed, if it did.
        answers: what forward was told of truth values, one after another.
    """

    def __init__(self, answers: Sequence[bool] = ()) -> None:
        super().__init__()
        self.given = answers
        self.answers: list[bool] = []
        self.lines: list[str] = []
        self.keys: list[str] = []
        self.error = ""
        self.names: dict[int, tuple[str, str]] = {}  # of tensors, for people and for keys
        self.changed: dict[int, str] = {RANDOM: ""}  # memory -> the key of the operation that changed it last
        self.met: list[Tensor] = []
        self.making = False  # tensors, which is no operation of the model

    def know(self, tensor: Tensor, name: str, key: str = "") -> None:
        """Call a tensor by a name from now on."""
        if id(tensor) not in self.names:
            self.names[id(tensor)] = name, key or name
            self.met.append(tensor)

    def write(self, operation: str, args: Any = (), kwargs: Any = None, state: str = "") -> str:
        """Write an operation down; return its key."""
        self.lines.append(f"{operation} {self._shown(args, 0)} {self._shown(kwargs or {}, 0)}")
        key = f"{operation} {self._shown(args, 1)} {self._shown(kwargs or {}, 1)} {state}"
        self.keys.append(hashlib.blake2b(key.encode(), digest_size=16).hexdigest())
        return self.keys[-1]

    def layer(self, name: str, args: Sequence[Any], draws: bool, make: Callable[[], tuple[Tensor, ...]]) -> Any:
        """Write down a layer that is one operation; give what `make` does."""
        state = f"{torch.is_grad_enabled():d}{torch.is_inference_mode_enabled():d}"
        key = self.write(name, args, state=state + (self.changed.get(RANDOM, "") if draws else ""))
        if draws:
            self.changed[RANDOM] = key
        self.making = True
        given = make()
        self.making = False
        self._know_all(given, key)
        return given

    def _know_all(self, result: Any, key: str) -> None:
        """Call what the last operation gave by that."""
        for number, tensor in enumerate(nested.tensors(result)):
            self.know(tensor, f"{len(self.lines) - 1}.{number}", f"{key}.{number}")

    def _shown(self, value: Any, form: int) -> str:
        """Arguments as text; `form`: that of `names`."""
        if isinstance(value, Tensor):
            name = self.names.get(id(value), (f"a tensor of shape {tuple(value.shape)}",) * 2)[form]
            changed = self.changed.get(_memory(value)) if form else None
            return name if changed is None else f"{name} after {changed}"
        if isinstance(value, (list, tuple)):
            return f"({', '.join(self._shown(v, form) for v in value)})"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{key}: {self._shown(item, form)}' for key, item in value.items())}}}"
        return repr(value)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.making:
            return func(*args, **(kwargs or {}))
        state = f"{torch.is_grad_enabled():d}{torch.is_inference_mode_enabled():d}"
        changes = _changes(func, args, kwargs or {})
        if RANDOM in changes:
            state += self.changed[RANDOM]
        key = self.write(str(func), args, kwargs, state)
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool and args[0].is_meta:
            self.answers.append(self.given[len(self.answers)] if len(self.answers) < len(self.given) else True)
            return self.answers[-1]
        result = _quick(func, args)
        if result is None:
            moves = "device" in _arguments_of(func)  # a tensor of another device has no place here
            result = func(*args, **({**(kwargs or {}), "device": "meta"} if moves else kwargs or {}))
        self.changed.update(dict.fromkeys(changes, key))
        self._know_all(result, key)
        return result


TRIES = 8  # of answers to what forward asks
RANDOM = 0  # stands for the memory of the generator of random numbers


@functools.cache
def _arguments_of(func: Any) -> set[str]:
    return {argument.name for argument in func._schema.arguments}


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _changes(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[int]:
    """The memory that an operation changes."""
    changed = [RANDOM] if torch.Tag.nondeterministic_seeded in func.tags else []
    for place, argument in enumerate(func._schema.arguments):
        written = argument.alias_info is not None and argument.alias_info.is_write
        if written or argument.name in ("running_mean", "running_var"):  # of which the schema of batch norm does not tell
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            changed += [_memory(tensor) for tensor in nested.tensors(value)]
    return changed


_LIKE_FIRST = frozenset("relu gelu silu hardswish hardsigmoid sigmoid tanh hardtanh leaky_relu elu neg exp _softmax".split())
_PAIRS = frozenset("add sub mul div".split())


def _quick(func: Any, args: Sequence[Any]) -> Any:
    """What an operation gives on the meta device, where that is plain: many have no kernel there that is not slow Python."""
    if func.namespace != "aten" or not args or not isinstance(args[0], Tensor):
        return None
    name, first = func._schema.name.removeprefix("aten::"), args[0]
    if not first.is_floating_point() or not first.is_meta:
        return None
    if name in _LIKE_FIRST:
        return torch.empty_like(first)
    if name.removesuffix("_") in _PAIRS:
        other = args[1]
        plain = not isinstance(other, Tensor) or (other.shape == first.shape and other.dtype == first.dtype)
        if plain and not isinstance(other, complex) and (not isinstance(other, Tensor) or other.stride() == first.stride()):
            return first if name.endswith("_") else torch.empty_like(first)
    if name == "native_batch_norm":
        size = first.shape[1] if args[5] else 0
        return torch.empty_like(first), first.new_empty(size), first.new_empty(size)
    return None
