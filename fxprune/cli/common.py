"""What every command of `fxprune` has: ``--config`` and ``--quiet``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from fxprune import progress
from fxprune.cli.config import read_table, values_of

__all__ = ["everywhere", "keys_of", "wants_json"]

wants_json: ContextVar[bool] = ContextVar("wants_json", default=False)  # what the command that runs was asked for

_ANNOTATIONS: dict[str, dict[str, Any]] = {}  # by command, by parameter


def everywhere(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options that all have."""
    # Not by get_type_hints: where the default is None, Python 3.10 puts Optional around what Annotated says.
    own = [*inspect.signature(command, eval_str=True).parameters.values()]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    more = [inspect.Parameter("quiet", kind, default=False, annotation=_Quiet)]
    more.append(inspect.Parameter("config", kind, default=None, annotation=_Config))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        wants_json.set(given["as_json"])
        given.pop("config")
        with progress.hush(given.pop("quiet")):
            command(**given)

    del run.__wrapped__  # else the signature is looked for there
    run.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*own, *more)}
    _ANNOTATIONS[command.__name__] = run.__annotations__
    return run


def _configure(ctx: typer.Context, path: Path | None) -> Path | None:
    """What the file says becomes the defaults of this call.

    Raises:
        InputError: see `fxprune.cli.config`.
    """
    if path is None or ctx.resilient_parsing:
        return path
    name, commands = str(ctx.info_name), cast(Any, ctx.find_root().command).commands
    kinds = keys_of(name, ctx.command.params)
    ctx.default_map = values_of(read_table(path, name, commands), kinds, f"{path}, [{name}]")
    return path


def keys_of(command: str, parameters: Iterable[Any]) -> dict[str, tuple[str, Any]]:
    """The keys of a command's table: for each, name and annotation of the parameter."""
    annotations, found = _ANNOTATIONS[command], dict[str, tuple[str, Any]]()
    for parameter in parameters:
        name = str(parameter.name)
        if name in annotations and name != "config":
            long = [option for option in parameter.opts if option.startswith("--")] or [name]
            found |= {option.removeprefix("--"): (name, annotations[name]) for option in long}
    return found


_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes.")]
_Config = Annotated[
    Path | None,
    typer.Option(
        help="TOML file with a table of options for each command; what is given here wins.",
        callback=_configure,
        is_eager=True,
        show_default=False,
    ),
]
