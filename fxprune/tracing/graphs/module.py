"""From a traced graph to a GraphModule over the original's module tree and names."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from fxprune.errors import TraceError
from fxprune.state import named_parts
from fxprune.tracing.graphs.guarded_code import guard_modes
from fxprune.tracing.graphs.pickled import restored, stored
from fxprune.tracing.modules.hooks import hooked, without_hooks
from fxprune.tracing.modules.kept_modes import KeptModes, kept_modes
from fxprune.tracing.modules.lowering import plain_leaf, pure_leaf
from fxprune.tracing.patching import unpatched
from fxprune.tracing.skeleton import Names
from fxprune.tracing.tracer import Traced
from fxprune.tracing.values.objects import Make

__all__ = ["Recorded", "build"]


class Recorded(fx.GraphModule):
    """A GraphModule that is pickled as what it is, and made anew from that.

    ``meta["modes"]`` says which parts train() and eval() of the original leave in another mode than they are asked for,
    ``meta["classes"]`` what the classes of its modules are called, by name, ``meta["words"]`` what its code calls their
    arguments, and ``meta["example"]`` holds the inputs that it was recorded with, on the meta device: by position and by name.
    """

    def train(self, mode: bool = True) -> Any:
        """Set the mode of all parts as the original's own train() and eval() do."""
        super().train(mode)
        kept: KeptModes = self.__dict__.get("meta", {}).get("modes", {})
        for name, flag in kept.get(mode, {}).items():
            self.get_submodule(name).training = flag
        return self

    def recompile(self) -> Any:
        """Make the code of the graph, in which functions go by the names that they have while no model is recorded."""
        equal: dict[Make, Make] = {}  # of which PyTorch 2.6 wants one
        for node in self._graph.nodes:
            if isinstance(node.target, Make):
                node.target = equal.setdefault(node.target, node.target)
        with unpatched():
            return super().recompile()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """As of any GraphModule, but with the whole tree of modules: PyTorch leaves out names that its graph does not call."""
        made = super().__deepcopy__(memo)
        for held in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            made.__dict__[held] = copy.deepcopy(self.__dict__[held], memo)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        kind = next(c for c in type(self).__mro__ if c.__name__ != "GraphModuleImpl" and c.__module__.startswith("fxprune."))
        return restored, (kind, type(self).__name__, *stored(self))


def build(traced: Traced, source: nn.Module, constants: Mapping[str, Tensor]) -> tuple[fx.GraphModule, dict[fx.Node, fx.Node]]:
    """A GraphModule with the tensors of `source` (the model, or its skeleton), and ``new node -> traced node``.

    Leaf modules are copies, so that their settings can change; their tensors are still those of `source`. The module has no
    code yet: its graph can be interpreted and rewritten; `recompile` makes it run.
    """
    graph = fx.Graph()
    table: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(traced.graph, table)
    last = next(n for n in traced.graph.nodes if n.op == "output")
    table[last] = graph.output(output)
    table[last].meta = dict(last.meta)
    for new, old in ((new, old) for old, new in table.items()):
        new.meta.pop("place", None)  # which neither a copy nor a file could hold
        if isinstance(traced.values.get(old), (tuple, list)):
            new.meta["val"] = traced.values[old]  # tells code generation how many there are to unpack
    guard_modes(graph)
    root = _rebuild(traced, source)
    for name, value in constants.items():
        root.register_buffer(name, value, persistent=False)
    for name in (*root._modules, *root._parameters, *root._buffers):
        if name in _TAKEN:
            raise TraceError(f"the model has a part named {name!r}, a name that torch.fx.GraphModule uses itself: rename it")
    # GraphModule copies only what its graph names, into bare containers: the tree made here keeps order, ties and modes.
    module = Recorded(nn.Module(), fx.Graph(), type(source).__name__)
    module._graph = graph  # not by `module.graph = graph`, which compiles
    graph.owning_module = module
    module._modules, module._parameters, module._buffers = root._modules, root._parameters, root._buffers
    module._non_persistent_buffers_set = root._non_persistent_buffers_set
    module.training = source.training
    module.meta["classes"] = {name: type(part).__name__ for name, part in named_parts(source)}
    module.meta["example"] = traced.example
    if modes := kept_modes(traced.skeleton):
        there = dict(named_parts(module))
        module.meta["modes"] = {mode: {n: f for n, f in kept.items() if n in there} for mode, kept in modes.items()}
    return module, {new: old for old, new in table.items()}


_TAKEN = {n for n in dir(fx.GraphModule) if not n.startswith("__") and n not in dir(nn.Module)} | {"graph", "code", "meta"}


def _rebuild(traced: Traced, source: nn.Module) -> nn.Module:
    names = traced.names if source is traced.skeleton else Names(source)
    leaves = {id(names.modules[str(n.target)]): str(n.target) for n in traced.graph.nodes if n.op == "call_module"}
    wanted = {id(names.all_tensors[n]) for n in traced.used if n in names.all_tensors}
    made: dict[int, nn.Module | None] = {}

    def visit(module: nn.Module) -> nn.Module | None:
        if id(module) in made:
            return made[id(module)]
        name = leaves.get(id(module))
        if name is None:
            new = nn.Module()
        elif name in traced.lowered:
            new = pure_leaf(module, traced.lowered[name])
        else:
            new = _shallow(module)
        leaf = name is not None  # whose code asks for tensors that are None
        parameters = {k: p for k, p in module._parameters.items() if (leaf if p is None else id(p) in wanted)}
        buffers = {k: b for k, b in module._buffers.items() if (leaf if b is None else id(b) in wanted)}
        children = {k: visit(m) for k, m in module._modules.items() if m is not None}
        new.__dict__.update(  # by far faster than attribute by attribute
            _modules={k: m for k, m in children.items() if m is not None},
            _parameters=parameters,
            _buffers=buffers,
            _non_persistent_buffers_set={k for k in module._non_persistent_buffers_set if k in buffers},
            training=module.training,
        )
        empty = name is None and not (new._modules or new._parameters or new._buffers)
        made[id(module)] = None if empty else new
        return made[id(module)]

    root = visit(source) or nn.Module()
    # A flag `self.training` of a module that holds nothing else still needs its module.
    for node in traced.graph.nodes:
        if node.op == "get_attr" and str(node.target).endswith(".training"):
            _ensure(root, source, str(node.target).rpartition(".")[0])
    return root


def _shallow(module: nn.Module) -> nn.Module:
    """`copy.copy` of a layer, several times as fast where the layer has no say in it."""
    kind = type(module)
    if hooked(module) or "forward" in module.__dict__ or without_hooks(module):
        return plain_leaf(module)
    if kind.__setstate__ is not nn.Module.__setstate__ or hasattr(kind, "__copy__"):
        return copy.copy(module)
    new = kind.__new__(kind)
    new.__dict__.update(module.__dict__)
    return new


def _ensure(root: nn.Module, source: nn.Module, path: str) -> None:
    here, there = root, source
    for part in path.split("."):
        there = there.get_submodule(part)
        if part not in here._modules:
            here._modules[part] = nn.Module()
            here._modules[part].training = there.training  # type: ignore[union-attr]
        here = here.get_submodule(part)
