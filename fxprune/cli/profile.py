"""``fxprune profile``: how long slim models of a model take on this machine, measured once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fxprune.cli import options as given
from fxprune.cli.input import build, timed_inputs
from fxprune.cli.output import Steps, note, print_json
from fxprune.options import check_attention
from fxprune.progress import Bar

if TYPE_CHECKING:
    from torch import nn

    from fxprune.profiling.table import LatencyTable

__all__ = ["profile", "profiled"]


def profile(
    model: given.Model,
    engine: given.Engine = "eager",
    device: given.Device = None,
    threads: given.Threads = None,
    samples: Annotated[int | None, typer.Option(help="Slim models that are measured.", show_default="24, or as before")] = None,
    batch: given.Batch = 1,
    attention: given.AttentionOption = given.Attention.HEAD_DIM,
    ignore: given.Ignore = None,
    input_size: given.InputSize = None,
    submodule: given.Submodule = None,
    seed: given.Seed = 0,
    cache: Annotated[Path | None, typer.Option(help="Folder of the tables.", show_default="the user's cache")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the table to this file, too.", show_default=False)] = None,
    as_json: given.Json = False,
) -> None:
    """Measure how long slim models of MODEL take on this device, so that `prune --latency` meets a budget of time.

    Killed, it goes on where it was.
    """
    with Steps(as_json, total=2) as step:
        net = step("building the model", lambda: build(model, None, seed))
        options: dict[str, Any] = {"attention": check_attention(attention.value), "ignore": ignore or ()}
        options |= {"submodules": submodule or (), "cache": cache, "samples": samples, "seed": seed}
        options |= {"engine": engine, "device": device, "threads": threads}
        table = step("measuring", lambda: profiled(net, timed_inputs(net, input_size, batch), options))
        if out is not None:
            table.save(out)
    if as_json:
        print_json(table.to_dict())
        return
    typer.echo(str(table))
    for path in filter(None, (table.path, out)):
        Console().print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)


def profiled(net: nn.Module, inputs: Any, options: dict[str, Any]) -> LatencyTable:
    """The table, with a bar on stderr where that is a terminal; how long it will take is said in any case."""
    from fxprune.profiling.verb import profile as measure

    with Bar("measuring") as bar:

        def told(sentence: str, done: int, total: int) -> None:
            if not sentence.startswith("design"):
                note(sentence)
            bar.reach(done, total)

        return measure(net, inputs, told=told, **options)
