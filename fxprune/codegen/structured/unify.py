"""One text for several that differ in numbers: what differs becomes a name, to which each text gives a value.

self.conv = nn.Conv2d(8, 6, 1)                                self.conv = nn.Conv2d(8, a, 1, stride=b)
self.conv = nn.Conv2d(8, 7, 1, stride=2)        ->            a: 6, 7        b: 1, 2
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fxprune.codegen.structured.assigned import Mismatch, aligned, is_absent
from fxprune.codegen.structured.layers import layer_defaults, name_at
from fxprune.codegen.structured.named_numbers import word_of
from fxprune.codegen.structured.plain import SHARED, alike, is_plain, is_shared

__all__ = ["SETTINGS", "Hole", "Mismatch", "Site", "Unifier"]

# The arguments of a class of the file in their order, with their defaults; None for a class that it does not know.
Defaults = Callable[[str], "dict[str, ast.expr | None] | None"]


@dataclass(frozen=True)
class Site:
    """Where a number stands.

    Attributes:
        owner: the attribute that is assigned there, or an empty text.
        call: what is called with it, or an empty text.
        argument: its name among the arguments of the call, or its place.
        method: it stands in forward.
        part: what is made by the call, by its name below self.
        word: what the model's own code calls the number, if it stands in forward.
    """

    owner: str = ""
    call: str = ""
    argument: str | int = ""
    method: bool = False
    part: str = ""
    word: str = ""


@dataclass
class Hole:
    """A number that differs from text to text.

    Attributes:
        values: one for each text; None where a text has no such place.
        sites: where it stands.
        default: of a keyword argument of a layer, at all of its sites.
        before: the default that it had before the last site was found.
    """

    values: list[ast.expr | None]
    sites: list[Site] = field(default_factory=list)
    default: ast.expr | None = None
    before: ast.expr | None = None

    def key(self) -> list[str | None]:
        return [None if value is None else ast.dump(value) for value in self.values]


MISSING = "_missing"  # what a text has for a part that only others have


class Unifier:
    """Makes one text of several, and collects the holes.

    Args:
        defaults: the arguments of a class of the file by name.
        handed: parts that only some texts have, and that those hand to the class.
        shares: modules that are made elsewhere are arguments, whether or not they are the same in all texts.
    """

    def __init__(self, defaults: Defaults, base: str = "nn.Module", handed: Collection[str] = (), shares: bool = False) -> None:
        self.holes: list[Hole] = []
        self.parts: dict[str, list[ast.expr | None]] = {}
        self.flags: dict[str, list[bool]] = {}
        self.order: list[str] = []  # of the attributes
        self.handed: dict[str, list[ast.expr | None]] = {name: [] for name in handed}
        self.defaults, self.base, self.shares = defaults, base, shares

    def base_call(self, calls: Sequence[ast.stmt]) -> ast.stmt:
        """The call of the base class."""
        return self.one(calls, Site())  # type: ignore[return-value]

    def method(self, methods: Sequence[ast.FunctionDef]) -> ast.FunctionDef:
        """The method forward."""
        return self.one(methods, Site(method=True))  # type: ignore[return-value]

    def module_body(self, bodies: Sequence[Sequence[ast.stmt]]) -> list[ast.stmt]:
        """The statements of ``__init__``; a part that only some texts have is there on a condition.

        Raises:
            Mismatch: they differ in more than numbers and parts.
        """
        found: list[ast.stmt] = []
        for name, statements in aligned(bodies).items():
            if all(s is not None and is_absent(s) for s in statements):
                found.append(ast.Assign([statements[0].targets[0]], _identity()))  # type: ignore[union-attr]
                continue
            self.order.append(name)
            values = [None if s is None else s.value for s in statements]  # type: ignore[attr-defined]
            if not name or name.startswith(("setattr ", "local ")):
                if any(s is None for s in statements):
                    raise Mismatch
                found.append(self.one(statements, Site()))  # type: ignore[arg-type]
                continue
            first = next(s for s in statements if s is not None)
            if name in self.handed:
                self.handed[name] = values
                found.append(ast.Assign([first.targets[0]], _given(name)))  # type: ignore[attr-defined]
                continue
            value = self._part(name, values)
            if name in self.parts:
                self.parts[name] = [_identity() if v is None else v for v in values]
            elif any(s is None for s in statements):
                self.flags[name] = [s is not None for s in statements]
                value = ast.IfExp(ast.Name(f"?{name}"), value, _identity())
            found.append(ast.Assign([first.targets[0]], value))  # type: ignore[attr-defined]
        return found

    def _part(self, name: str, values: Sequence[ast.expr | None]) -> ast.expr:
        """What is assigned to an attribute; where it differs in more than numbers, an argument stands for it."""
        before = [Hole([*hole.values], [*hole.sites], hole.default, hole.before) for hole in self.holes], {**self.parts}
        try:
            return self.one(values, Site(owner=name, part=name))  # type: ignore[return-value]
        except Mismatch:
            self.holes, self.parts = before
            if not all(value is None or isinstance(value, ast.Call) for value in values):
                raise
            self.parts[name] = list(values)
            return ast.Name(f"?{name}")

    def hole(self, values: Sequence[ast.expr | None], site: Site, default: ast.expr | None = None) -> ast.expr:
        """A name that stands for these values."""
        words = {word_of(value) for value in values if value is not None} if site.method else set()
        site = replace(site, word=words.pop() if len(words) == 1 else "")
        new = Hole(list(values), [site], default)
        for number, known in enumerate(self.holes):
            if _same_kind(known.sites[0], site) and _agree(known, new):
                known.values = [b if a is None else a for a, b in zip(known.values, new.values, strict=True)]
                known.sites.append(site)
                known.before, known.default = known.default, None
                return ast.Name(f"?{number}")
        self.holes.append(new)
        return ast.Name(f"?{len(self.holes) - 1}")

    def one(self, nodes: Sequence[ast.AST | None], site: Site) -> ast.AST:
        """The text for several; None among them stands for one that lacks the part.

        Raises:
            Mismatch: they differ in more than numbers.
        """
        given = [node for node in nodes if node is not None]
        first = given[0]
        shown = ast.dump(first)
        if all(ast.dump(node) == shown for node in given[1:]) and not (self.shares and not site.method and SHARED in shown):
            return copy.deepcopy(first)
        rows = all(isinstance(node, ast.Tuple) for node in given) and len({len(n.elts) for n in given}) == 1  # type: ignore[attr-defined]
        value = site.method and any(map(is_shared, given))  # a variable of forward that only looks so
        if not rows and not value and all(isinstance(node, ast.expr) and is_plain(node) for node in given):
            if not alike(given):  # type: ignore[arg-type]
                raise Mismatch
            return self.hole(nodes, site)  # type: ignore[arg-type]
        if any(type(node) is not type(first) for node in given):
            raise Mismatch
        if isinstance(first, ast.Call):
            return self._call(nodes, site)
        if isinstance(first, ast.Assign) and isinstance(first.targets[0], ast.Attribute) and not site.method:
            site = Site(owner=first.targets[0].attr, part=first.targets[0].attr)
        if isinstance(first, ast.FunctionDef) and first.name == "forward":
            site = Site(method=True)
        made = copy.copy(first)
        for name in first._fields:
            setattr(made, name, self._field([None if n is None else getattr(n, name) for n in nodes], nodes, site))
        return made

    def _field(self, values: Sequence[object], nodes: Sequence[ast.AST | None], site: Site) -> object:
        given = [value for value, node in zip(values, nodes, strict=True) if node is not None]
        first = given[0]
        if isinstance(first, list):
            if len({len(value) for value in given}) > 1:  # type: ignore[arg-type]
                raise Mismatch
            found = []
            for i in range(len(first)):
                inner = _inside(site, i) if site.call == "nn.ModuleList" else site
                found.append(self._field([None if v is None else v[i] for v in values], nodes, inner))  # type: ignore[index]
            return found
        if isinstance(first, ast.AST):
            if any(not isinstance(value, ast.AST) for value in given):
                raise Mismatch
            return self.one(values, site)  # type: ignore[arg-type]
        if any(value != first or type(value) is not type(first) for value in given):
            raise Mismatch
        return first

    def _call(self, nodes: Sequence[ast.AST | None], site: Site) -> ast.Call:
        calls: list[Any] = list(nodes)
        given = [call for call in calls if call is not None]
        first, name = given[0], ast.unparse(given[0].func)
        name = self.base if name == "super().__init__" else name
        if len({len(call.args) for call in given}) > 1:
            raise Mismatch
        called = replace(site, call="", argument="layer")
        function = self.one([None if call is None else call.func for call in calls], called)
        args = []
        for place in range(len(first.args)):
            own = self.defaults(name)
            argument = [*own][place] if own and place < len(own) else name_at(name, place)
            inner = replace(site, call=name, argument=argument)
            inner = _inside(inner, place) if name == "nn.Sequential" else inner
            args.append(self.one([None if call is None else call.args[place] for call in calls], inner))
        words = {word.arg: None for call in given for word in call.keywords}
        keywords = []
        for word in words:
            if word is None:
                raise Mismatch
            default = self._default(name, word)
            values = [None if call is None else _keyword(call, word, default) for call in calls]
            inner = replace(site, call=name, argument=word)
            made = self.one(values, inner)
            if isinstance(made, ast.Name) and made.id.startswith("?") and default is not None:
                hole = self.holes[int(made.id[1:])]
                shared = hole.before is not None and ast.dump(hole.before) == ast.dump(default)
                if hole.sites[-1] == inner and (len(hole.sites) == 1 or shared):
                    hole.default = default
            keywords.append(ast.keyword(word, made))  # type: ignore[call-overload]
        return ast.Call(function, args, keywords)  # type: ignore[arg-type]

    def _default(self, call: str, word: str) -> ast.expr | None:
        own = self.defaults(call)
        if own is not None:
            return own.get(word)
        return layer_defaults(call).get(word)


def _inside(site: Site, number: int) -> Site:
    return replace(site, part=f"{site.part}.{number}".lstrip("."))


def _given(name: str) -> ast.expr:
    """``nn.Identity() if part is None else part``."""
    missing = ast.Compare(ast.Name(f"?{name}"), [ast.Is()], [ast.Constant(None)])
    return ast.IfExp(missing, _identity(), ast.Name(f"?{name}"))


def _identity() -> ast.expr:
    return ast.parse("nn.Identity()", mode="eval").body


def _keyword(call: ast.Call, word: str, default: ast.expr | None) -> ast.expr:
    for keyword in call.keywords:
        if keyword.arg == word:
            return keyword.value
    if default is None:
        raise Mismatch
    return default


SETTINGS = frozenset({"stride", "padding", "dilation", "kernel_size", "eps", "p", "bias", "groups", "output_padding"})


def _same_kind(a: Site, b: Site) -> bool:
    """Whether one name may stand for the numbers of two places."""
    if a.argument in SETTINGS or b.argument in SETTINGS:
        return a.argument == b.argument or "groups" in (a.argument, b.argument)
    return True


def _agree(a: Hole, b: Hole) -> bool:
    """Whether two holes have the same values wherever both have one, and that is somewhere that tells."""
    both = [(x, y) for x, y in zip(a.key(), b.key(), strict=True) if x is not None and y is not None]
    if not both or any(x != y for x, y in both):
        return False
    whole = all(value is not None for value in a.values) or all(value is not None for value in b.values)
    return whole or len({x for x, _ in both}) > 1
