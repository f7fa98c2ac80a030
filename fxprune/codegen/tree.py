"""The module tree of a graph as source: constructor calls in ``__init__`` and paths to reach each module."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch
from torch import nn

from fxprune.codegen.leaves import Written, leaf
from fxprune.codegen.literals import keywords, literal, quoted
from fxprune.codegen.names import Names, is_name
from fxprune.codegen.values import called_by

__all__ = ["Tree"]


class Tree:
    """Source of the modules of `slim`.

    Called modules are constructor calls of torch.nn classes. What only holds others becomes an
    ``nn.ModuleList``, ``nn.ModuleDict``, ``nn.ParameterList`` or the file's own ``Block``, so that every
    state_dict key is the original's.

    Args:
        twin: a module with what the base class of the model's class gives it.

    Attributes:
        helpers: names of the helper definitions that the tree uses: ``"Block"``, ``"attach"``.
        read: every dotted attribute that the graph reads.
    """

    def __init__(self, slim: torch.fx.GraphModule, names: Names, twin: nn.Module | None = None) -> None:
        self.slim = slim
        self.names = names
        self.helpers: set[str] = set()
        self.called = {path for node in slim.graph.nodes for path in called_by(node)}
        self.read = {str(node.target) for node in slim.graph.nodes if node.op == "get_attr"}
        self.modal = self._modal()
        self.kinds: dict[str, str] = {}
        self.parts = self._parts("", slim, twin)

    @property
    def base(self) -> str:
        """The base class: ``nn.ModuleList`` if the root's children are numbered (a traced nn.Sequential)."""
        return "nn.ModuleList" if _numbered(list(self.slim._modules)) else "nn.Module"

    def init_lines(self) -> list[str]:
        """Return the body of ``__init__``, but for what is said about parts of parts."""
        children = [self.parts[name] for name in self.slim._modules] if self.base == "nn.ModuleList" else []
        lines = [f"super().__init__({_many(children) if children else ''})"]
        lines += self.assignments(self.slim._modules if children else ())
        return [f"        {line}" for line in lines]

    def assignments(self, without: Container[str] = ()) -> list[str]:
        """Return the statements of ``__init__`` that make the parts, each on one line."""
        return [
            f"self.{name} = {text}" if is_name(name) else f"setattr(self, {quoted(name)}, {text})"
            for name, text in self.parts.items()
            if name not in without
        ]

    def access(self, path: str, root: str = "self") -> str:
        """Return the expression for the module, parameter or buffer at a dotted `path`."""
        module: Any = self.slim
        text, at = root, ""
        for name in path.split(".") if path else []:
            text = self._step(text, at, module, name)
            module, at = getattr(module, name), f"{at}.{name}".lstrip(".")
        return text

    def mode_lines(self) -> list[str]:
        """Return the statements of ``load`` that bring every module into the mode that it was saved in."""
        lines = [] if self.slim.training else ["    model.eval()"]
        return lines + self._mode_lines("", self.slim, self.slim.training)

    def _step(self, text: str, at: str, module: nn.Module, name: str) -> str:
        kind = self._kind(at, module)
        if kind in ("nn.ModuleList", "nn.Sequential", "nn.ParameterList") and name.isdigit():
            return f"{text}[{name}]"
        if kind == "nn.ModuleDict":
            return f"{text}[{quoted(name)}]"
        return f"{text}.{name}" if is_name(name) else f"getattr({text}, {quoted(name)})"

    def _kind(self, path: str, module: nn.Module) -> str:
        """Return the class that stands for `module` in the file; every access below it asks."""
        if path not in self.kinds:
            self.kinds[path] = self._kind_of(path, module)
        return self.kinds[path]

    def _kind_of(self, path: str, module: nn.Module) -> str:
        children, tensors = list(module._modules), self._tensors(path, module)
        if not path:
            return self.base
        if path in self.called:
            return "nn.Sequential" if isinstance(module, nn.Sequential) else ""
        if children and not tensors:
            if _numbered(children):
                return "nn.Sequential" if type(module) is nn.Sequential else "nn.ModuleList"
            return "nn.ModuleDict" if all(map(str.isdigit, children)) else "Block"
        parameters = tensors and all(isinstance(tensor, nn.Parameter) for tensor in tensors.values())
        return "nn.ParameterList" if parameters and not children and _numbered(list(tensors)) else "Block"

    def _tensors(self, path: str, module: nn.Module) -> dict[str, torch.Tensor | None]:
        """Return own parameters, buffers, and plain tensor attributes that the graph reads, in that order."""
        prefix = f"{path}." if path else ""
        plain = {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, torch.Tensor) and f"{prefix}{name}" in self.read
        }
        return {**module._parameters, **module._buffers, **plain}

    def _parts(self, path: str, module: nn.Module, twin: nn.Module | None) -> dict[str, str]:
        """Return name -> expression of the parts of `module` that its fresh instance `twin` does not have."""
        parts = {}
        for name, tensor in self._tensors(path, module).items():
            if tensor is None and twin is None:
                continue
            text = self._tensor(module, name, tensor)
            fresh = twin is not None and name in {**twin._parameters, **twin._buffers}
            if not fresh or text != self._tensor(twin, name, getattr(twin, name)):  # type: ignore[arg-type]
                parts[name] = text
        for name, child in module._modules.items():
            if child is not None and (twin is None or twin._modules.get(name) is None):
                parts[name] = self._module(f"{path}.{name}".lstrip("."), child)
        return parts

    def _module(self, path: str, module: nn.Module) -> str:
        """Return the expression that makes the module at `path` with everything in it."""
        if path in self.called or isinstance(module, Written):
            made = leaf(module, path, self.names)
            extra = self._parts(path, module, made.twin)
            if not extra:
                return made.call
            self.helpers.add("attach")
            return f"attach({', '.join([made.call, *keywords(extra)])})"
        kind, parts = self._kind(path, module), self._parts(path, module, None)
        if kind in ("nn.ModuleList", "nn.ParameterList"):
            return f"{kind}({_many(list(parts.values()))})"
        if kind == "nn.Sequential":
            return f"{kind}({', '.join(parts.values())})"
        if kind == "nn.ModuleDict":
            return f"{kind}({{{', '.join(f'{quoted(name)}: {text}' for name, text in parts.items())}}})"
        self.helpers.add("Block")
        return f"Block({', '.join(keywords(parts))})"

    def _tensor(self, module: nn.Module, name: str, tensor: torch.Tensor | None) -> str:
        if tensor is None:
            return "None"
        size = ", ".join(map(str, tensor.shape)) if tensor.dim() else "()"
        dtype = "" if tensor.dtype == torch.float32 else f", dtype={literal(tensor.dtype, self.names)}"
        if isinstance(tensor, nn.Parameter):
            fixed = "" if tensor.is_floating_point() or tensor.is_complex() else ", requires_grad=False"
            return f"nn.Parameter(torch.zeros({size}{dtype}){fixed})"
        transient = name not in module._buffers or name in module._non_persistent_buffers_set
        return f"nn.Buffer(torch.zeros({size}{dtype}){', persistent=False' if transient else ''})"

    def _tie_lines(self) -> list[str]:
        """Return assignments that make parts which are one object one object again."""
        return [f"        {self._assign(copy, self.access(original))}  # tied" for copy, original in self._ties()]

    def _ties(self) -> list[tuple[str, str]]:
        """Return the names of parts which are one object: another name, and the first one."""
        first: dict[int, str] = {}
        tied: list[tuple[str, str]] = []
        for path, module in self.slim.named_modules(remove_duplicate=False):
            if any(path.startswith(f"{copy}.") for copy, _ in tied):
                continue  # part of a module that is tied as a whole
            original = first.setdefault(id(module), path)
            if original != path:
                if any(True for _ in (*module.parameters(), *module.buffers())):
                    tied.append((path, original))
                continue
            for name, tensor in self._tensors(path, module).items():
                full = f"{path}.{name}".lstrip(".")
                if tensor is not None and first.setdefault(id(tensor), full) != full:
                    tied.append((full, first[id(tensor)]))
        return tied

    def _assign(self, path: str, value: str) -> str:
        target = self.access(path)
        owner, _, name = path.rpartition(".")
        if target.startswith("getattr("):
            return f"setattr({self.access(owner)}, {quoted(name)}, {value})"
        return f"{target} = {value}"

    def _frozen_lines(self, path: str, module: nn.Module) -> list[str]:
        """Return calls that freeze the parameters that do not require gradients, whole modules at a time."""
        trainable = {id(p): p for p in module.parameters() if p.is_floating_point() or p.is_complex()}
        if all(parameter.requires_grad for parameter in trainable.values()):
            return []
        if not any(parameter.requires_grad for parameter in trainable.values()):
            return [f"        {self.access(path)}.requires_grad_(False)"]
        own = [
            f"        {self.access(f'{path}.{name}'.lstrip('.'))}.requires_grad_(False)"
            for name, p in module._parameters.items()
            if p is not None and id(p) in trainable and not p.requires_grad
        ]
        for name, child in module.named_children():
            own += self._frozen_lines(f"{path}.{name}".lstrip("."), child)
        return own

    def _modal(self) -> set[str]:
        """Return paths of the modules whose mode matters: called, part of a called one, or asked for it."""
        modal = {"", *self.called}
        for path, _ in self.slim.named_modules(remove_duplicate=False):  # owners come before their parts
            owner = path.rpartition(".")[0]
            if (owner and owner in modal) or f"{path}.training" in self.read:
                modal.add(path)
        return modal

    def _mode_lines(self, path: str, module: nn.Module, inherited: bool) -> list[str]:
        """Return statements for the modules below `path` whose mode differs from the `inherited` one.

        Containers whose mode nobody reads are left out: fx makes them anew, always in training mode.
        """
        flags = {m.training for name, m in module.named_modules(prefix=path) if name in self.modal}
        if flags <= {inherited}:
            return []
        here = self.access(path, "model")
        if len(flags) == 1:
            return [f"    {here}.train({not inherited})"]
        own = path in self.modal and module.training != inherited
        lines = [f"    {here}.training = {module.training}"] if own else []
        for name, child in module.named_children():
            lines += self._mode_lines(f"{path}.{name}".lstrip("."), child, inherited)
        return lines


def _numbered(names: list[str]) -> bool:
    return bool(names) and names == [str(index) for index in range(len(names))]


def _many(texts: list[str]) -> str:
    """Return a list display of module expressions, as a comprehension if all are alike."""
    if len(texts) > 1 and len(set(texts)) == 1:
        return f"[{texts[0]} for _ in range({len(texts)})]"
    return f"[{', '.join(texts)}]"
