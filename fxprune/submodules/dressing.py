"""What a recorded submodule keeps of the original beside its tensors: classes, settings, and methods other than forward.

Settings that forward writes are left out: a graph does not write them, so they would go stale. (A default that the class
has for such a setting stays in sight.)
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Set
from typing import Any

from torch import Tensor, fx, nn

from fxprune import nested
from fxprune.errors import PruneError
from fxprune.tracing.graphs.module import Recorded

__all__ = ["Part", "dressed", "part_of"]

_INTERNAL = frozenset(nn.Module().__dict__)


class Part(Recorded):
    """A recorded submodule in the place of the original, whose settings and other methods it keeps.

    Only `forward` is the graph's: any other method (``head.compute_loss``) is the code of the original's class.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            original = self.__dict__.get("meta", {}).get("original")
            if original is None or name.startswith("__"):
                raise
            if name in original.__dict__:
                return original.__dict__[name]
            found = inspect.getattr_static(type(original), name, None)
            if found is None:
                raise
            return found.__get__(self, type(original)) if hasattr(found, "__get__") else found


def part_of(root: nn.Module, graph: fx.Graph, original: nn.Module, name: str, written: Set[str]) -> Part:
    """A `Part` with the modules and tensors of `root`; `original` is the submodule `name`."""
    part = Part(nn.Module(), fx.Graph(), type(original).__name__)
    part._modules, part._parameters, part._buffers = root._modules, root._parameters, root._buffers
    part._non_persistent_buffers_set = root._non_persistent_buffers_set
    part.training = root.training
    part.graph = graph
    if isinstance(original, fx.GraphModule):
        original = original.meta.get("original", original)
    if not isinstance(original, fx.GraphModule):
        part.meta["original"] = _bare(original, name, written)
    return part


def dressed(slim: nn.Module, original: nn.Module, name: str, written: Set[str]) -> nn.Module:
    """`slim` with the classes and settings of `original` for the modules that only hold others."""
    made: dict[int, nn.Module] = {}

    def visit(here: nn.Module, there: nn.Module, path: str) -> nn.Module:
        if type(here) is not nn.Module:  # a leaf, which the graph calls
            return here
        if id(here) not in made:
            made[id(here)] = new = nn.Module() if isinstance(there, fx.GraphModule) else _bare(there, path, written)
            new.__dict__["forward"] = _refuse
            new._modules = {k: m and visit(m, there.get_submodule(k), f"{path}.{k}") for k, m in here._modules.items()}
            new._parameters, new._buffers = dict(here._parameters), dict(here._buffers)
            new._non_persistent_buffers_set = set(here._non_persistent_buffers_set)
            new.training = here.training
        return made[id(here)]

    return visit(slim, original, name)


def _refuse(*args: Any, **kwargs: Any) -> Any:
    raise PruneError(
        "a module inside a recorded submodule is called by itself, but its code is of the model before pruning: call the "
        "submodule, or name the modules inside it in submodules=[...]"
    )


def _bare(module: nn.Module, name: str, written: Set[str]) -> nn.Module:
    """A module of the same class with copies of its settings, without tensors, parts and hooks."""
    kind = type(module)
    new = kind.__new__(kind)
    new.__dict__.update(nn.Module().__dict__)
    for key, value in module.__dict__.items():
        if key not in _INTERNAL and f"{name}.{key}" not in written and not _holds_state(value):
            new.__dict__[key] = copy.deepcopy(value)
    return new


def _holds_state(value: Any) -> bool:
    return any(
        isinstance(leaf, (Tensor, nn.Module)) or isinstance(getattr(leaf, "__self__", None), nn.Module)
        for leaf in nested.leaves(list(value) if isinstance(value, set) else value)
    )
