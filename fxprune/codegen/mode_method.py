"""``train()`` of a generated model whose original leaves some parts in a mode of their own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from fxprune.codegen.tree import Tree

__all__ = ["train_method"]


def train_method(tree: Tree) -> list[str]:
    """The lines of the method; none where every part follows."""
    modes = tree.slim.meta.get("modes", {})
    blocks = {mode: _lines("", tree.slim, kept, tree) for mode, kept in modes.items()}
    if not any(blocks.values()):
        return []
    lines = ["", "    def train(self, mode: bool = True) -> nn.Module:", "        super().train(mode)"]
    for mode, test in ((True, "mode"), (False, "not mode")):
        if blocks.get(mode):
            lines += [f"        if {test}:", *(f"            {line}" for line in blocks[mode])]
    return [*lines, "        return self"]


def _lines(path: str, module: nn.Module, kept: Mapping[str, bool], tree: Tree) -> list[str]:
    """Statements for the modules from `path` on whose mode is `kept`, whole modules at a time."""
    names = [name for name, _ in module.named_modules(prefix=path) if name in tree.modal]
    flags = {kept.get(name) for name in names}
    if flags <= {None}:
        return []
    if len(flags) == 1:
        call = "super()" if not path else tree.access(path)
        return [f"{call}.train({flags.pop()})"]
    lines = [f"{tree.access(path)}.training = {kept[path]}"] if path in kept and path in tree.modal else []
    for name, child in module.named_children():
        lines += _lines(f"{path}.{name}".lstrip("."), child, kept, tree)
    return lines
