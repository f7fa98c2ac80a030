"""The names of modules that have several.

Those that hold tensors stay one (`fxprune.codegen.structured.shared`). Of others, as of an activation that many blocks were
given, each owner gets its own: that computes the same.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator

from torch import fx, nn

from fxprune.codegen.structured.function_layers import put

__all__ = ["Aliases", "owners", "part_layers"]


class Aliases:
    """The names of modules that have several and hold tensors.

    Attributes:
        others: the first name of each -> its other names.
        first: another name -> the first one.
    """

    def __init__(self, whole: nn.Module, graph: fx.Graph) -> None:
        self.others: dict[str, list[str]] = defaultdict(list)
        self.first: dict[str, str] = {}
        layers = {str(node.target) for node in graph.nodes if node.op == "call_module"}
        known: dict[int, str] = {}
        for path, module in whole.named_modules(remove_duplicate=False):
            if any(owner in self.first or owner in layers for owner in owners(path)):
                continue  # part of a module that has several names, or that torch's own code calls
            own = known.setdefault(id(module), path)
            if own != path and any(True for _ in (*module.parameters(), *module.buffers())):
                self.others[own].append(path)
                self.first[path] = own

    def below(self, target: str, path: str) -> str:
        """The shortest name of a called module below another module; an empty text if it has none there."""
        return _nearest((target, *self.others.get(target, ())), path)


def part_layers(whole: nn.Module, graph: fx.Graph) -> None:
    """Give each owner of a layer without tensors one of its own, and each call that of the innermost module it is part of."""
    names: dict[int, list[str]] = defaultdict(list)
    again: set[str] = set()
    for path, module in whole.named_modules(remove_duplicate=False):
        if again.isdisjoint(owners(path)):  # else it is a part of what has another name
            again.update([path] if names[id(module)] else [])
            names[id(module)].append(path)
    layers = {path: several for several in names.values() if len(several) > 1 for path in several}
    called = set()
    for node in graph.nodes:
        if node.op == "call_module" and (several := layers.get(str(node.target))) and _is_plain(whole, several[0]):
            around = (path for path, _ in reversed(node.meta.get("calls", ())))
            node.target = next(filter(None, (_nearest(several, path) for path in around)), node.target)
            called.update(several)
    left = called - {str(node.target) for node in graph.nodes if node.op == "call_module"}
    for path in called:
        put(whole, path, nn.Module() if path in left else copy.copy(whole.get_submodule(path)))


def _is_plain(whole: nn.Module, path: str) -> bool:
    module = whole.get_submodule(path)
    return not (module._modules or module._parameters or module._buffers)


def _nearest(names: Iterable[str], path: str) -> str:
    prefix = f"{path}." if path else ""
    return min((name for name in names if name.startswith(prefix)), key=lambda name: name.count("."), default="")


def owners(path: str) -> Iterator[str]:
    """The names of the modules around one, but for the whole."""
    while "." in path:
        path = path.rpartition(".")[0]
        yield path
