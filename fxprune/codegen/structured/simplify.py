"""A model's graph and modules as they are written: without what does nothing, and with linear layers as layers.

before                                     after
y = self.drop(x)      # Dropout(p=0.0)     y = x
y = F.linear(y, out.weight, out.bias)      y = self.out(y)      # nn.Linear
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.dropout import _DropoutNd

from fxprune.codegen.regions import conditions
from fxprune.codegen.structured.aliases import Aliases, part_layers
from fxprune.codegen.structured.asserted import GUARD, SAME
from fxprune.codegen.structured.constants import merge_constants
from fxprune.codegen.structured.function_layers import layers_of_functions, put
from fxprune.codegen.structured.mode_values import gather_mode_values
from fxprune.codegen.values import called_by

__all__ = ["Whole", "simplified"]

_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)


class Whole(nn.Module):
    """A model to be written: the modules share their tensors with the slim model, and nothing else.

    Attributes:
        aliases: the names of modules that have several.
        graph: a copy; ``node.meta["needed"]`` are the conditions under which each node is needed (`conditions`).
        meta: of the slim model.
    """

    aliases: Aliases

    def __init__(self, slim: fx.GraphModule) -> None:
        super().__init__()
        shallow = _shallow(slim, {}, {id(slim.get_submodule(path)) for node in slim.graph.nodes for path in called_by(node)})
        for table in ("_modules", "_parameters", "_buffers"):
            self.__dict__[table] = shallow.__dict__[table]
        self._non_persistent_buffers_set = slim._non_persistent_buffers_set
        for name, value in vars(slim).items():
            if isinstance(value, torch.Tensor):
                self.__dict__[name] = value
        self.training = slim.training
        self.meta = slim.meta
        self.graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        output = self.graph.graph_copy(slim.graph, copies)
        last = next(node for node in slim.graph.nodes if node.op == "output")
        copies[last] = self.graph.output(output)
        for node, needed in conditions(slim).items():
            copies[node].meta["needed"] = needed


def simplified(slim: fx.GraphModule) -> Whole:
    """A copy of the model without what does nothing in either mode; its state has the same names."""
    whole = Whole(slim)
    _without_idle(whole)
    merge_constants(whole)
    layers_of_functions(whole)
    _alike(whole.graph)
    gather_mode_values(whole.graph)
    part_layers(whole, whole.graph)
    _without_empty(whole, "", whole, _read(whole))
    whole.aliases = Aliases(whole, whole.graph)
    return whole


def _alike(graph: fx.Graph) -> None:
    """Have all calls of split name their dimension, whether the model's code made them or the rewrite, and messages of the
    recorder no nodes."""
    for node in graph.nodes:
        said = node.args[1] if node.target is torch._assert and len(node.args) == 2 else None
        if isinstance(said, str) and said.startswith(GUARD):
            node.args = (node.args[0], SAME)
        if node.target in ("split", torch.split) and node.op in ("call_method", "call_function") and len(node.args) == 3:
            node.args, node.kwargs = node.args[:2], {"dim": node.args[2]}


def _shallow(module: nn.Module, memo: dict[int, nn.Module], leaves: set[int]) -> nn.Module:
    """A copy over the same tensors; what no node calls only holds parts, whatever its class."""
    if id(module) not in memo:
        leaf = id(module) in leaves
        new = copy.copy(module) if leaf or type(module) is nn.Module else _holder(module)
        memo[id(module)] = new
        inside = leaves | {id(m) for m in module._modules.values()} if leaf else leaves
        children = {k: None if m is None else _shallow(m, memo, inside) for k, m in module._modules.items()}
        new.__dict__["_modules"] = children
        new.__dict__["_parameters"], new.__dict__["_buffers"] = dict(module._parameters), dict(module._buffers)
    return memo[id(module)]


def _holder(module: nn.Module) -> nn.Module:
    new = nn.Module()
    new.training = module.training
    new._non_persistent_buffers_set = module._non_persistent_buffers_set
    new.__dict__.update({name: value for name, value in vars(module).items() if isinstance(value, torch.Tensor)})
    return new


def _idle(module: nn.Module) -> bool:
    """Whether a layer returns what it is given, in both modes: dropout with p = 0 returns its very input."""
    return type(module) is nn.Identity or (isinstance(module, _DropoutNd) and module.p == 0)


def _without_idle(whole: Whole) -> None:
    for node in list(whole.graph.nodes):
        plain = len(node.args) == 1 and not node.kwargs and isinstance(node.args[0], fx.Node)
        called = node.op == "call_module" and plain and _idle(whole.get_submodule(str(node.target)))
        function = node.op == "call_function" and node.target in _DROPOUTS and _probability(node) == 0
        if function or (called and not _between(whole, str(node.target))):
            node.replace_all_uses_with(node.args[0])
            whole.graph.erase_node(node)
        elif called:
            idle = nn.Identity()
            idle.training = whole.get_submodule(str(node.target)).training
            put(whole, str(node.target), idle)
    used = {str(node.target) for node in whole.graph.nodes if node.op == "call_module"}
    for path, module in list(whole.named_modules()):
        if path and path not in used and _idle(module) and not _between(whole, path) and not module._modules:
            _delete(whole, path)


def _probability(node: fx.Node) -> Any:
    return node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)


def _between(whole: nn.Module, path: str) -> bool:
    """Whether other parts of a numbered container come after this one, whose numbers must stay what they are."""
    owner, _, name = path.rpartition(".")
    siblings = list(whole.get_submodule(owner)._modules.items())
    if not name.isdigit() or [n for n, _ in siblings] != [str(i) for i in range(len(siblings))]:
        return False
    return any(module is not None and not _idle(module) for _, module in siblings[int(name) + 1 :]) or len(siblings) == 1


def _delete(whole: nn.Module, path: str) -> None:
    owner, _, name = path.rpartition(".")
    del whole.get_submodule(owner)._modules[name]


def _read(whole: Whole) -> set[str]:
    """What the graph names."""
    found = {str(node.target) for node in whole.graph.nodes if node.op in ("get_attr", "call_module")}
    found |= {f"{path}." for path in found}
    for node in whole.graph.nodes:
        found |= {flag for flag, _ in node.meta["needed"]}
        if "region" in node.meta:
            found.add(node.meta["region"].flag)
    return found


def _without_empty(whole: Whole, path: str, module: nn.Module, read: set[str]) -> None:
    prefix = f"{path}." if path else ""
    numbered = list(module._modules)
    for name, child in list(module._modules.items()):
        if child is None:
            continue
        _without_empty(whole, f"{prefix}{name}", child, read)
        empty = not (child._modules or child._parameters or child._buffers) and type(child) is nn.Module
        named = any(target.startswith(f"{prefix}{name}.") for target in read) or f"{prefix}{name}" in read
        if empty and not named and (not name.isdigit() or name == numbered[-1]):
            del module._modules[name]
            numbered.remove(name)
