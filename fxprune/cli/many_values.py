"""Options of the command line that take several values in a row: ``--criteria l1 l2 fpgm``."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from typer.core import TyperCommand

__all__ = ["ManyValues", "repeated"]


class ManyValues(TyperCommand):
    """A command whose repeatable options also take several values after one name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        names = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        return super().parse_args(ctx, list(repeated(args, names)))


def repeated(args: Sequence[str], names: Collection[str]) -> Iterator[str]:
    """Write the name before each of the values that follow it; commas part values too.

    The values end at the next option, and at a MODEL, which has a colon in it.

    >>> list(repeated(["timm:resnet50", "--criteria", "l1", "l2,fpgm", "--json"], {"--criteria"}))
    ['timm:resnet50', '--criteria', 'l1', '--criteria', 'l2', '--criteria', 'fpgm', '--json']
    """
    name = None
    for arg, following in zip(args, [*args[1:], "-"], strict=True):
        if name is not None and _is_value(arg):
            for value in filter(None, arg.split(",")):
                yield from (name, value)
            continue
        name = arg if arg in names else None
        if name is None or not _is_value(following):  # a name without a value: the parser complains
            yield arg


def _is_value(arg: str) -> bool:
    return not arg.startswith("-") and ":" not in arg
