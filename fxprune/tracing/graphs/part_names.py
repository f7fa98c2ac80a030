"""Names of modules, parameters and buffers in the code of a graph, where torch.fx would write ``self.class`` or ``self.ﬁ``."""

from __future__ import annotations

import keyword
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from torch import fx
from torch.fx.graph import _format_target

from fxprune.errors import TraceError

__all__ = ["check_names", "is_plain", "with_names", "written"]


@lru_cache(maxsize=4096)
def is_plain(target: str) -> bool:
    """Whether torch.fx writes a dotted name so that Python reads it as that name."""
    return all(
        not name.isidentifier() or not (keyword.iskeyword(name) or unicodedata.normalize("NFKC", name) != name)
        for name in target.split(".")
    )


def check_names(graph: fx.Graph) -> None:
    """
    Raises:
        TraceError: a part or an input has a name that other code, which torch.fx writes without a quote, could run as code.
    """
    for node in graph.nodes:
        target = str(node.target)
        if node.op in ("call_module", "get_attr") and not _quoted_as_it_is(target):
            raise TraceError(
                f"the model has a part named {target!r}, which torch.fx writes into code as it is, between double quotes: "
                "rename it (no quotes, backslashes and line breaks)"
            )
        if node.op == "placeholder" and (not target.isidentifier() or keyword.iskeyword(target)):
            raise TraceError(f"the model is called with an input named {target!r}, which no function of Python could take")


@lru_cache(maxsize=4096)
def _quoted_as_it_is(target: str) -> bool:
    return not any(c in '"\\' or (c != "\t" and unicodedata.category(c) == "Cc") or c in "\u2028\u2029" for c in target)


def with_names(body: list[str], nodes: Iterable[fx.Node], root: str) -> list[str]:
    """The lines of a graph's code, with parts reached by ``getattr`` where their names are not `is_plain`.

    Args:
        root: how the code calls the module.
    """
    odd = {n.name: str(n.target) for n in nodes if n.op in ("call_module", "get_attr") and not is_plain(str(n.target))}
    lines = []
    for line in body:
        name = line.partition(" = ")[0].partition(":")[0].strip()
        if name in odd:
            target = odd[name]
            line = line.replace(_format_target(root, target), written(root, target), 1)
        lines.append(line)
    return lines


def written(root: str, target: str) -> str:
    """How code reaches what a dotted name stands for, whatever its parts are called."""
    for name in target.split("."):
        root = f"{root}.{name}" if name.isidentifier() and is_plain(name) else f"getattr({root}, {name!r})"
    return root
