"""Names of one generated file: its imports, its classes, and what its variables must not be called."""

from __future__ import annotations

import builtins
import keyword
import unicodedata

__all__ = ["Names", "is_name"]

# Name in the generated file -> (module, attribute of it); no attribute: the module itself.
IMPORTS = {
    "Any": ("typing", "Any"),
    "OrderedDict": ("collections", "OrderedDict"),
    "F": ("torch.nn.functional", ""),
    "NamedTuple": ("typing", "NamedTuple"),
    "Path": ("pathlib", "Path"),
    "SimpleNamespace": ("types", "SimpleNamespace"),
    "builtins": ("builtins", ""),
    "dataclass": ("dataclasses", "dataclass"),
    "json": ("json", ""),
    "math": ("math", ""),
    "nn": ("torch", "nn"),
    "operator": ("operator", ""),
    "torch": ("torch", ""),
}


class Names:
    """Global names of one generated file.

    Args:
        arguments: names of ``forward``'s arguments, which hide global names of the same spelling.
    """

    def __init__(self, arguments: set[str] | None = None) -> None:
        self.arguments = {"self", *(arguments or ())}
        self.used: set[str] = set()
        self.declared: set[str] = set()

    def use(self, name: str) -> str:
        """Return how the import or builtin `name` is written inside ``forward``; remember that it is used."""
        if name not in IMPORTS:
            return f"{self.use('builtins')}.{name}" if name in self.arguments else name
        self.used.add(name)
        return self._alias(name)

    def path(self, dotted: str) -> str:
        """Return a dotted public path as it is written inside ``forward``."""
        head, dot, rest = dotted.partition(".")
        return self.use(head) + dot + rest

    def declare(self, name: str) -> str:
        """Return a name for a class or function of the file: `name`, or a variation that is still unused."""
        name = name if name.isidentifier() else "Model"
        while self.reserved(name) or name in self.arguments:
            name += "_"
        self.declared.add(name)
        return name

    def reserved(self, name: str) -> bool:
        """Return True if no variable or class may be called `name`."""
        hidden = {self._alias(known) for known in IMPORTS}
        taken = name in IMPORTS or name in hidden or name in self.declared or name == "self"
        return taken or keyword.iskeyword(name) or hasattr(builtins, name)

    def imports(self, fixed: set[str]) -> list[str]:
        """Return the import lines: `fixed` under their own names, and what was used; torch comes last."""
        wanted = {(name, name) for name in fixed} | {(name, self._alias(name)) for name in self.used}
        modules: set[str] = set()
        members: dict[str, set[str]] = {}
        for name, written in wanted:
            module, attribute = IMPORTS[name]
            if attribute:
                members.setdefault(module, set()).add(_renamed(attribute, written))
            else:
                modules.add(_renamed(module, written))
        lines = [f"import {module}" for module in sorted(modules)]
        lines += [f"from {module} import {', '.join(sorted(members[module]))}" for module in sorted(members)]
        torch_lines = [line for line in lines if "torch" in line]
        return [line for line in lines if "torch" not in line] + [""] + torch_lines

    def _alias(self, name: str) -> str:
        while name in self.arguments:
            name += "_"
        return name


def _renamed(name: str, written: str) -> str:
    return name if name == written else f"{name} as {written}"


def is_name(name: str) -> bool:
    """Return True if ``value.name`` and ``call(name=...)`` work for `name`: no keyword, not mangled."""
    mangled = name.startswith("__") and not name.endswith("__")
    as_read = unicodedata.normalize("NFKC", name) == name  # Python reads names so
    return name.isidentifier() and not keyword.iskeyword(name) and not mangled and as_read
