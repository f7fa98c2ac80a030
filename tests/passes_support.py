"""Runs one pass of the rewrite, and prints the model before and after it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import fx, nn

import fxprune
from fxprune.passes.base import Context, Pass, run_passes
from fxprune.passes.registry import pass_of, pipeline
from fxprune.rewrite import on_meta
from fxprune.tracing.graphs.module import build

__all__ = ["assert_rewrites", "forward_of", "leaves_of", "prepared", "tensors_of"]

Gone = Mapping[str, Sequence[int]]


def prepared(model: nn.Module, inputs: tuple[Any, ...], gone: Gone, before: str) -> tuple[fx.GraphModule, Context]:
    """A traced model on the meta device after all passes that run before the pass `before`."""
    analysis = fxprune.analyze(model, inputs)
    constants = dict(analysis.traced.constants)
    module, origin = build(analysis.traced, analysis.traced.skeleton, on_meta(constants))
    context = Context(analysis.cut(gone), origin, constants)
    steps: list[Pass] = []
    for step in pipeline("shapes", [before]):
        if step.name == before:
            break
        steps.append(step)
    return run_passes(module, steps, context), context


def assert_rewrites(
    name: str,
    model: nn.Module,
    inputs: tuple[Any, ...],
    gone: Gone,
    change: tuple[str, str],
    counters: Mapping[str, int],
    show: Callable[[fx.GraphModule], str],
) -> None:
    """The pass turns what is shown from the first text into the second, and counts so much."""
    module, context = prepared(model, inputs, gone, name)
    assert show(module) == textwrap.dedent(change[0]).strip()
    run_passes(module, [pass_of(name)], context)
    assert show(module) == textwrap.dedent(change[1]).strip()
    assert {k: n for k, n in context.counters[name].items() if n} == dict(counters)


def forward_of(module: fx.GraphModule) -> str:
    """The body of forward, without the names that it frees."""
    module.recompile()
    lines = module.code.strip().splitlines()[1:]
    return "\n".join(line.partition(";  ")[0].strip() for line in lines)


def tensors_of(module: nn.Module) -> str:
    """``name: [shape]`` of every parameter and buffer that has axes."""
    found = (*module.named_parameters(), *module.named_buffers())
    return "\n".join(f"{name}: {list(t.shape)}" for name, t in found if t.dim())


def leaves_of(module: nn.Module) -> str:
    """``name: settings`` of every module that the graph calls."""
    return "\n".join(f"{name}: {part}" for name, part in module.named_modules() if name and not list(part.children()))
