"""What the arguments of a class are called: as the model's own code calls them, or after what they are arguments of in it."""

from __future__ import annotations

import ast
import builtins
import keyword
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fxprune.codegen.names import Names
from fxprune.codegen.structured.plain import is_layer, is_shared
from fxprune.codegen.structured.unify import SETTINGS, Hole, Site, Unifier

__all__ = ["Argument", "arguments_of"]

INPUTS = ("in_channels", "in_features")
OUTPUTS = ("out_channels", "out_features")


@dataclass
class Argument:
    """An argument of a class.

    Attributes:
        kind: its annotation.
        values: one for each instance; None where the instance has no use for it.
        default: of an argument that may be left out.
    """

    name: str
    kind: str
    values: list[ast.expr | None]
    default: ast.expr | None = None


def arguments_of(
    unifier: Unifier, taken: set[str], names: Names, word: Callable[[Site], str]
) -> tuple[list[Argument], dict[str, str], list[str]]:
    """The arguments, the name of each hole, and which of them forward reads as attributes.

    Args:
        taken: names that attributes have already.
        word: what the model's own code calls the number at a place, or an empty text.
    """
    known: tuple[Sequence[Any], ...] = (
        *(h.values for h in unifier.holes),
        *unifier.parts.values(),
        *unifier.flags.values(),
        *unifier.handed.values(),
    )
    count = len(known[0]) if known else 0
    used: set[str] = {"self"}
    renamed: dict[str, str] = {}
    arguments: list[Argument] = []
    kept: list[str] = []
    for name in (*unifier.handed, *unifier.flags):  # first, so that they bear the names of the parts that they are about
        renamed[f"?{name}"] = _free(name, used, names)
        used.add(renamed[f"?{name}"])
    own_words = _own_words(unifier.holes, word, names)
    for number, hole in enumerate(unifier.holes):
        stored = any(site.method for site in hole.sites)
        wanted = own_words.get(number) or _wanted(hole, unifier.holes, unifier.order)
        owner = hole.sites[0].owner
        if wanted in used and owner.isidentifier() and not owner.startswith(wanted) and not wanted.startswith(owner):
            wanted = f"{owner}_{wanted}"
        wanted = "size" if stored and wanted in taken else wanted
        name = _free(wanted, used | (taken if stored else set()), names)
        used.add(name)
        renamed[f"?{number}"] = name
        kept += [name] if stored else []
        values: list[ast.expr | None] = [*hole.values]
        default = _usual(hole) if hole.default is None else hole.default
        arguments.append(Argument(name, _kind(values), _filled(values, default), default))
    for name, parts in unifier.parts.items():
        own = _free(name, used, names)
        used.add(own)
        renamed[f"?{name}"] = own
        arguments.append(Argument(own, "nn.Module", list(parts)))
    for name, parts in unifier.handed.items():
        given = [ast.Constant(None) if part is None else part for part in parts]
        arguments.append(Argument(renamed[f"?{name}"], "nn.Module | None", [*given], ast.Constant(None)))
    for name, flags in unifier.flags.items():
        arguments.append(Argument(renamed[f"?{name}"], "bool", [ast.Constant(flag) for flag in flags], ast.Constant(False)))
    assert all(len(argument.values) == count for argument in arguments)
    arguments.sort(key=lambda argument: argument.default is not None)
    return arguments, renamed, kept


def _usual(hole: Hole) -> ast.expr | None:
    """The value of a setting (no width) that most instances share."""
    setting = any(site.argument in SETTINGS or site.argument == "layer" for site in hole.sites) or hole.key()[0] in _SWITCHES
    if not setting or len(hole.values) < LEAST or any(value is None or isinstance(value, ast.List) for value in hole.values):
        return None
    counts = Counter(hole.key())
    most, count = counts.most_common(1)[0]
    return hole.values[hole.key().index(most)] if count * 3 >= len(hole.values) * 2 else None


LEAST = 3  # instances of a class of which one setting is the usual one
_SWITCHES = {ast.dump(ast.Constant(flag)) for flag in (True, False)}


def _own_words(holes: Sequence[Hole], word: Callable[[Site], str], names: Names) -> dict[int, str]:
    """Number of a hole -> its word: that of most of its places, unless another hole has it at as many."""
    said = [[*filter(None, map(word, hole.sites))] for hole in holes]
    counts = [*map(Counter, said)]
    found: dict[int, str] = {}
    for number, own in enumerate(counts):
        first = [(said[0][0], own[said[0][0]])] if not number and said[0] else []  # what comes in, before what goes out
        for candidate, count in (*first, *own.most_common()):
            rivals = (other[candidate] for other in counts if other is not own)
            if count > max(rivals, default=0) and _usable(candidate, names):
                found[number] = candidate
                break
    return found


def _usable(word: str, names: Names) -> bool:
    """Whether an argument may bear a name: it hides no table, no helper and no variable of a comprehension."""
    hides = word.isupper() or word == "attach" or re.fullmatch(r"\w|n\d+", word)
    return word.isidentifier() and not hides and not names.reserved(word)


def _filled(values: list[ast.expr | None], default: ast.expr | None) -> list[ast.expr | None]:
    """Instances that have no use for an argument give its default, or any value."""
    known = next(value for value in values if value is not None)
    return [(known if default is None else default) if value is None else value for value in values]


def _wanted(hole: Hole, holes: Sequence[Hole], order: Sequence[str]) -> str:
    words = [str(site.argument) for site in hole.sites if not site.method]
    if not words:  # of forward alone
        given = [str(site.argument) for site in hole.sites if isinstance(site.argument, str) and len(site.argument) > 1]
        whole = all(value is None or _one_kind(value) == "int" for value in hole.values)
        rows = any(isinstance(value, ast.List) for value in hole.values)
        return given[0] if given else "sizes" if rows else "size" if whole else "value"
    if any(isinstance(value, ast.List) for value in hole.values):
        return "widths"
    if words[0] == "layer":
        return hole.sites[0].owner or "layer"
    first = hole is holes[0]
    if first and words[0] in INPUTS:
        return words[0]
    outputs = [(site, w) for site, w in zip(hole.sites, map(_word, hole.sites), strict=True) if w in OUTPUTS]
    if outputs:
        site, word = outputs[-1]
        inner = any(w in INPUTS for w in words)
        rivals = [h for h in holes if h is not hole and any(_word(s) in OUTPUTS for s in h.sites)]
        alone = not any(any(_word(s) in INPUTS for s in h.sites) for h in rivals if h is not holes[0])
        if not inner:
            return word if hole is _last(holes, order) else f"{site.owner}_{word.partition('_')[2]}"
        if alone:
            return f"hidden_{word.partition('_')[2]}"
        return f"{outputs[0][0].owner}_{word.partition('_')[2]}"
    if words[0] in ("num_features", "num_channels"):
        return "channels"
    if words[0] == "normalized_shape":
        return "features"
    if words[0] in INPUTS:
        return f"{hole.sites[0].owner}_{words[0]}"
    return words[0] if words[0].isidentifier() else hole.sites[0].owner or "size"


def _last(holes: Sequence[Hole], order: Sequence[str]) -> Hole | None:
    """The hole that is the output of the last attribute that has widths, unless it is also an input."""
    ends = [(site, hole) for hole in holes for site in hole.sites if _word(site) in INPUTS + OUTPUTS]
    last = max((order.index(site.owner) if site.owner in order else -1 for site, _ in ends), default=-1)
    found = [hole for site, hole in ends if _word(site) in OUTPUTS and (last == -1 or site.owner == order[last])]
    return None if not found or any(_word(site) in INPUTS for site in found[-1].sites) else found[-1]


def _word(site: object) -> str:
    return "" if getattr(site, "method", False) else str(getattr(site, "argument", ""))


def _free(wanted: str, used: set[str], names: Names) -> str:
    wanted = wanted if wanted.isidentifier() and not keyword.iskeyword(wanted) else "size"
    candidate, number = wanted, 1
    while candidate in used or names.reserved(candidate) or hasattr(builtins, candidate):
        number += 1
        candidate = f"{wanted}_{number}"
    return candidate


def _kind(values: Sequence[ast.expr | None]) -> str:
    kinds = dict.fromkeys(_one_kind(value) for value in values if value is not None)
    if set(kinds) == {"int", "float"}:
        return "float"
    return " | ".join(sorted(kinds))


def _one_kind(value: ast.expr) -> str:
    if is_layer(value):
        return "type[nn.Module]"
    if is_shared(value):
        return "nn.Module"
    if isinstance(value, ast.UnaryOp):
        return _one_kind(value.operand)
    if isinstance(value, ast.Constant):
        return "None" if value.value is None else type(value.value).__name__
    if isinstance(value, ast.Tuple):
        return f"tuple[{', '.join(_one_kind(v) for v in value.elts)}]"
    assert isinstance(value, ast.List)
    return f"list[{' | '.join(dict.fromkeys(_one_kind(v) for v in value.elts))}]"
