"""Dispatch modes that see each operator which a model runs, one after the other, and in which of its modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fxprune import nested
from fxprune.labels.table import find
from fxprune.state import named_parts
from fxprune.tracing.dispatch_mode import DispatchMode
from fxprune.tracing.places import line_running

__all__ = [
    "Decisions",
    "Leaving",
    "Operators",
    "Scopes",
    "decomposes",
    "is_by_chance",
    "is_silent",
    "name_of",
    "number_of",
    "numbers_apart",
    "plain_kernels",
    "takes_number",
    "without_chance",
]

_ITEMS = (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default)


@lru_cache(maxsize=1024)
def takes_number(func: Any) -> bool:
    """Whether an operator gives code a number or a truth value of Python: ``item``, ``is_nonzero``, ``equal``."""
    returns = func._schema.returns
    return bool(returns) and all(r.type.kind() in ("BoolType", "NumberType", "IntType", "FloatType") for r in returns)


def number_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What it gives."""
    return _ITEMS[1](args[0]) if func in _ITEMS else func(*args, **kwargs)


def decomposes(func: Any) -> bool:
    """Whether an operator is made of others, and has no rule of its own: then these are seen, and not it."""
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    return func not in _ITEMS and find(func) is None and bool(func.has_kernel_for_dispatch_key(composite))


def is_silent(func: Any) -> bool:
    """Whether an operator is not counted: PyTorch runs it by itself, where somebody holds what a factory made."""
    return func is torch.ops.aten.detach.default


def is_by_chance(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether what an operator returns is another thing each time: random numbers, or memory as it is.

    One that draws only where it is told to (attention with dropout, which has none in evaluation) is none where it is not.
    """
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return name_of(func).removeprefix("new_").startswith("empty")
    return not any(value is not None and not value for _, value in _chances(func, args, kwargs))


def without_chance(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operator that draws by a probability returns at the probability zero; None where it has none, or writes."""
    shares = [(name, value) for name, value in _chances(func, args, kwargs) if isinstance(value, float)]
    if not shares or func._schema.is_mutable or not is_by_chance(func, args, kwargs):
        return None
    given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    return func(**given | {name: 0.0 for name, _ in shares})


def _chances(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
    """What an operator is told of whether it draws: a probability, or that it is in training."""
    given = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    given |= dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    return [(name, given[name]) for name in ("dropout_p", "dropout", "p", "train", "training") if name in given]


def name_of(func: Any) -> str:
    """``relu`` of ``aten::relu_.default``."""
    return str(func._schema.name.partition("::")[2])


def numbers_apart(one: Any, other: Any) -> bool:
    """Whether the arguments of two calls differ beside their tensors: in settings, not in whole numbers, which may be sizes."""
    mine, others = ([v for v in nested.leaves(a) if not isinstance(v, Tensor)] for a in (one, other))
    if len(mine) != len(others):
        return True
    sizes = [type(a) is int and type(b) is int for a, b in zip(mine, others, strict=True)]
    return any(not size and a != b for size, a, b in zip(sizes, mine, others, strict=True))


class Scopes:
    """The names of the modules that run, from hooks on a copy of a model."""

    def __init__(self, model: nn.Module) -> None:
        self.running: list[str] = []
        for name, part in named_parts(model, once=True):
            part.register_forward_pre_hook(self._entering(name), prepend=True)
            part.register_forward_hook(self._leave, always_call=True)

    @property
    def now(self) -> str:
        """The innermost; empty for the model itself."""
        return self.running[-1] if self.running else ""

    def _entering(self, name: str) -> Any:
        def enter(module: nn.Module, args: Any) -> None:
            self.running.append(name)

        return enter

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.running.pop()


@dataclass
class Decisions:
    """Truth values that code took from tensors, in the order in which it asked, and one that is to be the opposite.

    Attributes:
        flipped: the number of the one that is told the other way round; None: as they are.
        places: the line of code that asked for each.
    """

    flipped: int | None = None
    places: list[str] = field(default_factory=list)

    def __call__(self, value: Any) -> Any:
        if type(value) is not bool:
            return value
        self.places.append(line_running())
        return not value if self.flipped == len(self.places) - 1 else value


class Operators(DispatchMode):
    """Calls `operator` for each operator that runs, as the labels see them."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if decomposes(func):
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return func(*args, **kwargs) if is_silent(func) else self.operator(func, args, kwargs)

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What stands for the call of an operator that does not decompose."""
        raise NotImplementedError


class Leaving(TorchFunctionMode):
    """Hears where values leave PyTorch.

    Every run has one, since operators differ where any is there (a factory detaches its result).
    """

    def __init__(self, hear: Callable[[Tensor], None] | None = None) -> None:
        super().__init__()
        self.hear = hear

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if self.hear is not None and func in _EXITS and args and isinstance(args[0], Tensor):
            self.hear(args[0])
        return func(*args, **(kwargs or {}))


_EXITS = (
    Tensor.numpy,
    Tensor.tolist,
    Tensor.__array__,
    Tensor.__dlpack__,
    Tensor.data_ptr,
    Tensor.untyped_storage,
)


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Inside, attention of torch.nn runs its own code, and no fused kernel that would hide it."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
