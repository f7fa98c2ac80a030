"""The classes of a structured file: one for all calls of modules of one class that differ only in numbers and parts."""

from __future__ import annotations

import ast
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from fxprune.codegen.leaves import leaf
from fxprune.codegen.names import Names
from fxprune.codegen.records import Records
from fxprune.codegen.structured.arguments import Argument, arguments_of
from fxprune.codegen.structured.chains import is_sequence
from fxprune.codegen.structured.compress import compressed, keyed
from fxprune.codegen.structured.families import Families, Instance, Unified
from fxprune.codegen.structured.optional_parts import complete_parts
from fxprune.codegen.structured.parts import Part, Text
from fxprune.codegen.structured.shared import Handing
from fxprune.codegen.structured.signatures import constructor, forward_signature, init_signature
from fxprune.codegen.structured.simplify import Whole
from fxprune.codegen.structured.unify import Site
from fxprune.codegen.values import is_growing

__all__ = ["HOLDER", "Classes"]

HOLDER = "Parts"  # the class of what only holds others


@dataclass
class _Class:
    name: str
    arguments: list[Argument] = field(default_factory=list)


class Classes:
    """Writes the folded modules of a model.

    Attributes:
        definitions: the classes, each after those that it uses.
        made: folded module -> the constructor call that makes it.
    """

    def __init__(self, whole: Whole, folded: Mapping[str, fx.Graph], names: Names, records: Records, model: str) -> None:
        self.whole, self.folded, self.names, self.records = whole, folded, names, records
        self.kinds: dict[str, str] = whole.meta.get("classes", {})
        self.words: dict[str, dict[str, str]] = whole.meta.get("words", {})
        self.definitions: list[ast.ClassDef] = []
        self.made: dict[str, ast.expr] = {}
        self.helpers: set[str] = set()
        self.known: dict[str, _Class] = {}
        self.inner = {path: f"_made({number})" for number, path in enumerate(folded) if path}
        self.order = [path for path in folded if path]
        self.counts = Counter(self.kinds.get(path) for path in self.order)
        self.model = model
        self.families = Families(self._defaults)
        own = {path for path in folded if not _numbered(self._module(path)) and not (path and self._plain(path))}
        self.handing = Handing(whole, folded, self.inner, own, names)
        self.inner |= self.handing.inner
        self.helpers |= self.handing.helpers

    def write_all(self) -> None:
        """Write all classes."""
        for group in self._groups():
            plain = [path for path in group if self._plain(path)]
            if len(plain) < len(group):  # one class serves all better than a class and nn.Sequential
                plain = [path for path in plain if self.kinds.get(path) == "Sequential"]
            for path in plain:
                self.made[path] = self._sequential(path)
            rest = [path for path in group if path not in plain]
            complete_parts([(self.folded[path], self._module(path)) for path in rest])
            self._write([self._instance(path) for path in rest])
        self._write([self._instance("")])

    def children(self, path: str) -> list[str]:
        """Folded modules directly below a module."""
        below = [p for p in self.order if p != path and p.startswith(f"{path}." if path else "")]
        made = self.handing.makes(path)
        return [p for p in below if p in made or not any(p.startswith(f"{q}.") for q in below)]

    def expression(self, node: ast.AST) -> Any:
        """Put constructor calls in the place of what stands for them."""
        return compressed(_Filled(self).visit(node), self._defaults)

    def _module(self, path: str) -> nn.Module:
        return self.whole.get_submodule(path)

    def _plain(self, path: str) -> bool:
        """Whether a module is written as an nn.Sequential: it was one, or is the only one of its class and has one part."""
        module, kind = self._module(path), self.kinds.get(path)
        single = len(module._modules) == 1 and self.counts[kind] == 1
        return (kind == "Sequential" or single) and is_sequence(self.folded[path], module)

    def _groups(self) -> list[list[str]]:
        """Modules of one class each, after those whose classes they need; by height where classes need each other."""
        kinds = {path: f"class {self.kinds.get(path, 'Part')}" for path in self.order}
        mixed = {kinds[path] for path in self.order if not self._plain(path)} - {"class Sequential"}
        keys = {p: p if self._plain(p) and kinds[p] not in mixed else kinds[p] for p in self.order}
        children = {path: self.children(path) for path in self.order}
        height: dict[str, int] = {}
        for path in sorted(self.order, key=lambda p: -p.count(".")):
            height[path] = 1 + max((height[c] for c in children[path]), default=0)
        remaining = dict.fromkeys(self.order)
        groups: list[list[str]] = []
        while remaining:
            needs: dict[str, set[str]] = {}
            for path in remaining:
                found = needs.setdefault(keys[path], set())
                found.update(keys[c] for c in children[path] if c in remaining)
            ready = sorted(key for key, found in needs.items() if not found)
            if ready:
                chosen = [[p for p in remaining if keys[p] == key] for key in ready]
            else:  # of a circle, those that need nothing more
                lowest = min(height[p] for p in remaining)
                chosen = [[p for p in remaining if height[p] == lowest and keys[p] == k] for k in sorted(needs)]
            for group in filter(None, chosen):
                groups.append(group)
                for path in group:
                    del remaining[path]
        return groups

    def _sequential(self, path: str) -> ast.expr:
        part = Part(self._module(path), path, self.folded[path], self.inner)
        text = Text(part, self.names, self.records)
        self.helpers |= text.tree.helpers
        parts = {name: ast.parse(shown, mode="eval").body for name, shown in text.tree.parts.items()}
        function = ast.parse("nn.Sequential", mode="eval").body
        arguments = list(parts.values())
        if list(parts) != [str(i) for i in range(len(parts))]:
            pairs = [ast.Tuple([ast.Constant(name), value], ast.Load()) for name, value in parts.items()]
            ordered = ast.Call(ast.Name(self.names.use("OrderedDict")), [ast.List(pairs, ast.Load())], [])  # type: ignore[arg-type]
            arguments = [ordered]
        made = self.expression(ast.Call(function, arguments, []))
        return made

    def _instance(self, path: str) -> Instance:
        module, graph = self._module(path), self.folded[path]
        numbered = _numbered(module)
        sequence = numbered and is_sequence(graph, module)
        own = any(node.op == "call_module" and not node.target for node in graph.nodes)
        made = leaf(module, path, self.names) if own else None
        part = Part(module, path, graph, self.inner)
        text = Text(part, self.names, self.records, made.twin if made else None)
        self.helpers |= text.tree.helpers
        init = [self.expression(statement) for statement in text.init]
        base, made_with = "nn.Module", _expression("super().__init__()")
        if made is not None:
            call = _expression(made.call)
            base = ast.unparse(call.func)
            made_with.args, made_with.keywords = call.args, call.keywords
        elif numbered:
            base = "nn.Sequential" if sequence else "nn.ModuleList"
            shown = ", ".join(text.tree.parts.values())
            call = self.expression(_expression(f"{base}({shown})" if sequence else f"{base}([{shown}])"))
            made_with.args, init = call.args, []
        elif path not in self.handing.owned and (loop := self._grown(part, text)) is not None:
            base, made_with.args, init = "nn.ModuleDict", [loop], []
        init = self.handing.resolved(path, init, self.expression)
        forward = None
        if not sequence:
            forward = ast.FunctionDef("forward", forward_signature(text.arguments), text.written_body(), [], ast.Name("Any"))
        return Instance(path, base, made_with, init, forward)

    def _grown(self, part: Part, text: Text) -> ast.DictComp | None:
        """The numbered parts that a growing list goes through, in a loop over a table, if the module holds nothing else."""
        own = any(is_growing(node) and not node.target.container for node in part.graph.nodes)
        if not own or [*text.tree.parts] != [*part._modules]:
            return None
        parts = [self.expression(_expression(shown)) for shown in text.tree.parts.values()]
        return keyed([*part._modules], parts)

    def _write(self, instances: Sequence[Instance]) -> None:
        """One class for as many instances as are alike."""
        for family, unified in self.families.of(instances):
            self._define(family, unified)

    def _define(self, family: Sequence[Instance], unified: Unified) -> None:
        unifier, init, call, forward = unified
        path = family[0].path
        name = self._class_name(self.kinds.get(path, "Part")) if path else self.model
        module = self._module(family[0].path)
        taken = {*module._modules, *module._parameters, *module._buffers, *dir(nn.Module), "training"}
        arguments, renamed, kept = arguments_of(unifier, taken, self.names, lambda site: self._word(family, site))
        self.known[name] = _Class(name, arguments)
        renaming = _Renamed(renamed, inside=False)
        body: list[ast.stmt] = [renaming.visit(call)]
        body += [ast.parse(f"self.{attribute} = {attribute}").body[0] for attribute in kept]
        body += [renaming.visit(statement) for statement in init]
        made = ast.FunctionDef("__init__", init_signature(arguments), body, [], ast.Constant(None))
        methods: list[ast.stmt] = [made]
        if family[0].forward is not None:
            methods.append(_Renamed(renamed, inside=True).visit(forward))
        base = ast.parse(family[0].base, mode="eval").body
        self.definitions.append(ast.ClassDef(name, [base], [], methods, []))
        for number, instance in enumerate(family):
            self.made[instance.path] = constructor(name, arguments, number)

    def _word(self, family: Sequence[Instance], site: Site) -> str:
        """What the code of the model calls the number at a place of some instances, if it has one name for it."""
        if site.method:
            return site.word
        parts = (f"{instance.path}.{site.part or 'super()'}".lstrip(".") for instance in family)
        found = {self.words.get(part, {}).get(str(site.argument), "") for part in parts} - {""}
        return found.pop() if len(found) == 1 else ""

    def _class_name(self, kind: str) -> str:
        kind = kind if kind.isidentifier() else "Part"
        numbered = (f"{kind}{'_' if kind[-1].isdigit() else ''}{number}" for number in itertools.count(2))
        return self.names.declare(next(n for n in itertools.chain([kind], numbered) if not self.names.reserved(n)))

    def _defaults(self, call: str) -> dict[str, ast.expr | None] | None:
        known = self.known.get(call)
        return None if known is None else {argument.name: argument.default for argument in known.arguments}


def _numbered(module: nn.Module) -> bool:
    """Whether a module holds parts alone, whose names are numbers."""
    return bool(module._modules) and list(module._modules) == [str(i) for i in range(len(module._modules))]


def _expression(text: str) -> Any:
    return ast.parse(text, mode="eval").body


class _Filled(ast.NodeTransformer):
    """Puts constructor calls in the place of what stands for them."""

    def __init__(self, classes: Classes) -> None:
        self.classes = classes

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(HOLDER) if node.id == "Block" else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "_made":
            number: int = node.args[0].value  # type: ignore[attr-defined]
            return self.classes.made[self.classes.order[number]]
        return self.generic_visit(node)


class _Renamed(ast.NodeTransformer):
    """Gives holes their names: those of arguments in ``__init__``, of attributes inside forward."""

    def __init__(self, names: Mapping[str, str], inside: bool) -> None:
        self.names, self.inside = names, inside

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if not node.id.startswith("?"):
            return node
        name = self.names[node.id]
        return ast.Attribute(ast.Name("self"), name, ast.Load()) if self.inside else ast.Name(name)
