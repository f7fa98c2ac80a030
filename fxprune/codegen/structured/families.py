"""Which modules of a class are written as one: they differ in numbers, optional parts and parts that are handed in."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from fxprune.codegen.structured.signatures import forward_signature
from fxprune.codegen.structured.unify import Defaults, Mismatch, Unifier

__all__ = ["Families", "Instance", "Unified"]

# What differs; the statements of ``__init__`` without the call of the base class, that call, and the method.
Unified = tuple[Unifier, list[ast.stmt], ast.stmt, ast.FunctionDef]


@dataclass
class Instance:
    """A folded module.

    Attributes:
        base: the class that its class derives from, and what that is made with.
        init: what ``__init__`` assigns.
        forward: the method; None where the base class has it.
    """

    path: str
    base: str
    made_with: ast.Call
    init: list[ast.stmt]
    forward: ast.FunctionDef | None

    def texts(self) -> tuple[ast.stmt, ast.FunctionDef]:
        """Two statements that hold all that must be alike: the call of the base class, and the method."""
        call = ast.Expr(self.made_with)
        empty = ast.FunctionDef("none", forward_signature({}), [ast.Pass()], [])
        return call, self.forward or empty


class Families:
    """Finds the families of modules of one class.

    Args:
        defaults: the arguments of a class of the file by name.
    """

    def __init__(self, defaults: Defaults) -> None:
        self.defaults = defaults

    def of(self, instances: Sequence[Instance]) -> Iterator[tuple[list[Instance], Unified]]:
        """Each family with the text of its class; what only wraps a part, which differs each time, comes last."""
        found: list[list[Instance]] = []
        for instance in instances:
            known = next((family for family in found if self._unified([family[0], instance]) is not None), None)
            found.append([instance]) if known is None else known.append(instance)
        alike = [own for family in found for own in ([family] if self._unified(family) else [[one] for one in family])]
        lone = [f[0] for f in alike if len(f) == 1 and len(f[0].init) == 1 and f[0].forward is not None]
        wrappers: list[list[Instance]] = []
        for instance in lone:
            known = next((family for family in wrappers if self._unified([*family, instance], wrapping=True)), None)
            wrappers.append([instance]) if known is None else known.append(instance)
        for family in [*(family for family in alike if family[0] not in lone), *wrappers]:
            unified = self._unified(family, wrapping=True)
            assert unified is not None
            yield family, unified

    def _unified(self, family: Sequence[Instance], handed: Collection[str] = (), wrapping: bool = False) -> Unified | None:
        """One text for several instances; None where there is none.

        Args:
            handed: optional parts that instances hand to their class.
            wrapping: the class may have nothing of its own but a part that it is given.
        """
        if len({instance.base for instance in family}) > 1:
            return None
        unifier = Unifier(self.defaults, family[0].base, handed, shares=True)
        try:
            texts = [instance.texts() for instance in family]
            call = unifier.base_call([text[0] for text in texts])
            init = unifier.module_body([instance.init for instance in family])
            forward = unifier.method([text[1] for text in texts])
        except Mismatch:
            return None
        if unifier.parts and len(unifier.parts) * 2 > len(init) and not (wrapping and len(init) == 1):
            return None
        owners = [{site.owner for site in hole.sites} for hole in unifier.holes]
        # Parts whose numbers mean nothing where the part is missing. Handing one over may leave another with such numbers.
        own = {name for name in unifier.flags if {name} in owners}
        return self._unified(family, own.union(handed), wrapping) if own.difference(handed) else (unifier, init, call, forward)
