"""Other methods that compute what a module's forward does, in other words: exporters and deployment put them in its place
(``module.forward = module.forward_split``), and no call of the model shows them.

A method whose name says that it is a forward, with the parameters of the forward, is one where both give the same on the
original model, in both modes. Where that of the slim copy no longer does, it gets the code that the forward has there.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Collection, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import nn

from fxprune import nested
from fxprune.inputs.examples import own_copy
from fxprune.proofs.errors import relative_error
from fxprune.proofs.randomize import randomize
from fxprune.shrinking.generated import GeneratedForward
from fxprune.shrinking.listening import Listening
from fxprune.shrinking.sized_code import SizedMethod, tree_of, with_expressions
from fxprune.state import deep_copy
from fxprune.tracing.untouched import seed_all, twin_of

__all__ = ["follow"]

_SAME = 1e-5  # relative

Calls = dict[str, tuple[Any, Any]]


def follow(model: nn.Module, twin: nn.Module, copy: nn.Module, called: Collection[str], inputs: Any) -> dict[str, list[str]]:
    """Give methods of a slim copy that no longer compute what the forward of their module does its code.

    Args:
        model: the original.
        twin: the copy over random weights, which is run; it gets the methods, too.
        called: names of modules whose forward runs.
        inputs: of the model.

    Returns:
        Module -> the methods that were set.
    """
    named = {name: methods for name in called if (methods := _candidates(model.get_submodule(name)))}
    if not named:
        return {}
    apart = _disagreeing(deep_copy(twin).eval(), named, inputs)
    if not apart:
        return {}
    original = randomize(twin_of(model, clone=True), 0)
    others = _disagreeing(original.eval(), apart, inputs)
    with contextlib.suppress(Exception):  # a batch of one is not for every batch norm
        for name, found in _disagreeing(original.train(), apart, inputs).items():
            others.setdefault(name, []).extend(found)
    apart = {name: [m for m in found if m not in others.get(name, ())] for name, found in apart.items()}
    made: dict[str, list[str]] = {}
    for name, methods in apart.items():
        for method in methods:
            if all(_put(module.get_submodule(name), method) for module in (copy, twin)):
                made.setdefault(name, []).append(method)
    return made


def _candidates(module: nn.Module) -> list[str]:
    """Methods that take what the forward takes."""
    kind = type(module)
    forward = _parameters(kind.forward)
    found = {n for k in kind.__mro__ if k is not nn.Module for n, v in vars(k).items() if isinstance(v, FunctionType)}
    return sorted(n for n in found if "forward" in n and n != "forward" and _parameters(getattr(kind, n)) == forward)


def _parameters(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _disagreeing(model: nn.Module, methods: Mapping[str, list[str]], inputs: Any) -> dict[str, list[str]]:
    """Methods that give something else than the forward of their module when the model runs, or fail."""
    apart: dict[str, list[str]] = {}

    def around(name: str, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        given = own_copy((args, kwargs))
        seed_all(0)
        wanted = forward(*args, **kwargs)
        for method in methods[name]:
            again = own_copy(given)
            seed_all(0)
            try:
                same = _alike(getattr(module, method)(*again[0], **again[1]), wanted)
            except Exception:  # of code that this copy cannot run
                same = False
            if not same and method not in apart.setdefault(name, []):
                apart[name].append(method)
        return wanted

    args, named = own_copy(inputs)
    with torch.no_grad(), Listening({n: model.get_submodule(n) for n in methods}, around):
        model(*args, **named)
    return {name: found for name, found in apart.items() if found}


def _alike(found: Any, wanted: Any) -> bool:
    here, there = list(nested.tensors(found)), list(nested.tensors(wanted))
    return (
        len(here) == len(there)
        and all(a.shape == b.shape and a.dtype == b.dtype for a, b in zip(here, there, strict=True))
        and all(relative_error(a, b) <= _SAME for a, b in zip(here, there, strict=True) if a.is_floating_point())
        and all(torch.equal(a, b) for a, b in zip(here, there, strict=True) if not a.is_floating_point())
    )


def _put(module: nn.Module, method: str) -> bool:
    """Have a method run the code of the forward; whether that can be."""
    forward = module.__dict__.get("forward")
    if isinstance(forward, (SizedMethod, GeneratedForward)):
        module.__dict__[method] = forward
        return True
    kind = next(k for k in type(module).__mro__ if "forward" in vars(k))
    tree = tree_of(kind, "forward")
    if tree is None:
        return False
    module.__dict__[method] = SizedMethod(module, with_expressions(tree, {}), (kind.__module__, kind.__qualname__, "forward"))
    return True
