"""From plain runs of a model to its coupled channels, in the form that a recorded graph has for the rest of the package."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune import nested
from fxprune.analysis.analysis import Analysis, group_channels
from fxprune.errors import InputError, PruneError, said
from fxprune.options import AttentionPolicy
from fxprune.proofs.errors import relative_error
from fxprune.proofs.randomize import randomize
from fxprune.shrinking.watched.attention import with_plain_attention
from fxprune.shrinking.watched.calls import Example, Session, run
from fxprune.shrinking.watched.labels import Diverged, Heard, Watching, label_calls
from fxprune.shrinking.watched.operators import Decisions
from fxprune.tracing.places import line_of_error
from fxprune.tracing.skeleton import Names
from fxprune.tracing.tracer import Traced
from fxprune.tracing.untouched import twin_of

__all__ = ["Watched", "analysis_of", "labels_on_path", "random_session", "twin", "unread_parameters", "watch"]

_TRIES = 8  # of random inputs, to use all of the model
_FLIPS = 4  # lines of code that ask for a truth value, whose other branches run, too


@dataclass(eq=False)
class Watched:
    """A model that was watched.

    Attributes:
        model: it, or a copy over its tensors whose attention runs in plain operations.
        analysis: its groups; its graph is a list of operators, which nobody runs.
        sessions: what was run on the user's weights.
        layers: layer of torch.nn -> axes of its first input and of its output.
        notes: what was not seen, in sentences.
    """

    model: nn.Module
    example: Example
    analysis: Analysis
    sessions: list[Session]
    layers: dict[str, tuple[Any, Any]]
    notes: list[str] = field(default_factory=list)


def twin(model: nn.Module, example: Example, *, own: bool = True) -> nn.Module:
    """A copy of a model in the precision of the runs: with its own weights, or random ones."""
    made = twin_of(model, example.dtype, clone=True)
    return made if own else randomize(made)


def watch(
    model: nn.Module, example: Example, attention: AttentionPolicy = "head_dim", ignore: Iterable[str] = (), why: str = ""
) -> Watched:
    """Run a model under labels: in evaluation twice in a row, on its own weights and on random ones, where code asks a
    tensor for a truth value also with the other answer, and in training, where it takes the example.

    Args:
        why: it could not be recorded.

    Raises:
        InputError: it fails on the example inputs.
    """
    model = with_plain_attention(model, example)
    copy = twin(model, example)
    mode, decisions = Watching(copy), Decisions()
    mode.decisions = decisions
    label_calls(mode, copy)
    inputs = example.values(0)
    once = Session("the example", ((inputs, False),))
    try:
        returned = _run(copy, mode, once)
        counted, terms = len(mode.seen), len(mode.macs)
        again = _run(copy, mode, once)
    except Exception as error:
        given = "the example inputs" if example.has_values else "random inputs of the example's shapes"
        raise InputError(
            f"{type(model).__name__} cannot be watched while it runs on {given} ({line_of_error(error)}): "
            f"{type(error).__name__}: {said(error)}; give example_inputs with values that it takes"
            + (f" (it was watched since no graph can hold it: {why})" if why else "")
        ) from error
    _check_returned(model, returned)
    del mode.macs[terms:]  # one call is what is counted
    # What a call leaves for the next one shows in that.
    alike = [s.func for s in mode.seen[:counted]] == [s.func for s in mode.seen[counted:]]
    alike = alike and relative_error(again, returned) == 0
    sessions, notes = [once if alike else replace(once, inputs=2 * once.inputs)], []
    asked = dict.fromkeys(decisions.places)
    for place in list(asked)[:_FLIPS]:
        other = once.flip(decisions.places.index(place), place)
        if _tried(copy, mode, other):
            sessions.append(other)
    if len(asked) > _FLIPS:
        notes.append(f"{len(asked)} lines of code branch on values, of which {_FLIPS} were tried both ways")
    notes += _training(copy, mode, inputs, sessions)
    del mode.macs[terms:]
    sessions += _more(copy, mode, example, own=True)
    randomize(copy)
    sessions += _more(copy, mode, example, own=False, least=1)
    del mode.macs[terms:]
    if unread := unread_parameters(mode.names, mode.order):
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        raise InputError(
            f"no run of {type(model).__name__} that was watched uses {unread[0]!r}{more}, so that what goes with it is not "
            "known: give example_inputs that use it (for training, with what that needs), or take it out of the model"
        )
    traced = _as_traced(copy, mode, example, counted, len(mode.seen))
    analysis = group_channels(traced, attention, tuple(ignore), type(model).__name__)
    return Watched(model, example, analysis, sessions, mode.layers, notes)


def _check_returned(model: nn.Module, returned: list[Any]) -> None:
    """
    Raises:
        InputError: what a call returns computes more when it is read, of which a run shows nothing.
    """
    for leaf in nested.leaves(returned):
        if isinstance(leaf, Iterator) or (callable(leaf) and not isinstance(leaf, type)):
            raise InputError(
                f"{type(model).__name__} returns a {type(leaf).__name__}, whose tensors are not seen before somebody reads it: "
                "return a list or a tuple"
            )


def random_session(example: Example, own: bool, seed: int) -> Session:
    """Random inputs of the example's shapes, of several amplitudes."""
    inputs = nested.map(
        lambda v: v * (1, 4)[seed % 2] if isinstance(v, Tensor) and v.is_floating_point() else v,
        example.random(example.shapes, seed),
    )
    return Session(f"random inputs {seed}", ((inputs, False),), own=own, seed=seed)


def _more(copy: nn.Module, mode: Watching, example: Example, own: bool, least: int = 0) -> list[Session]:
    """Sessions that use parameters which none did before; `least` are run in any case."""
    found = []
    for seed in range(2, 2 + _TRIES):
        if seed - 2 >= least and not unread_parameters(mode.names, mode.order):
            break
        before, session = len(mode.order), random_session(example, own, seed)
        if _tried(copy, mode, session) and len(mode.order) > before:
            found.append(session)
    return found


def unread_parameters(names: Names, read: Container[str]) -> list[str]:
    """Parameters that no operator reads."""
    return [n for n, t in names.tensors.items() if isinstance(t, nn.Parameter) and n not in read]


def _run(copy: nn.Module, mode: Watching, session: Session) -> list[Any]:
    with mode:
        return run(copy, session, mode.leaves)


def _tried(copy: nn.Module, mode: Watching, session: Session) -> bool:
    """Whether the model took the calls; the labels that they showed until they failed count, too."""
    mode.decisions, before = Decisions(session.flipped), dict(mode.order)
    try:
        _run(copy, mode, session)
    except PruneError:
        raise
    except Exception:  # whatever a model raises on an input or a branch that it does not take
        mode.order = before
        return False
    return True


def _training(copy: nn.Module, mode: Watching, inputs: Any, sessions: list[Session]) -> list[str]:
    """Watch a call in training; else say why it was not."""
    mode.decisions = Decisions()
    session, before = Session("the example in training", ((inputs, True),)), dict(mode.order)
    try:
        _run(copy, mode, session)
    except Exception as error:
        mode.order = before
        return [
            f"training was not watched, since the model does not take the example there ({type(error).__name__}: "
            f"{said(error)[:120]}): its groups are those of evaluation"
        ]
    sessions.append(session)
    return []


def labels_on_path(model: nn.Module, session: Session, path: list[Heard]) -> tuple[Watching, Diverged | None]:
    """The labels of a dense model on the path that a slim one took; where it left it, those until there."""
    mode = Watching(model, path)
    label_calls(mode, model)
    try:
        _run(model, mode, session)
    except Diverged as error:
        return mode, error
    except Exception as error:
        return mode, Diverged(len(mode.seen), f"the dense model fails there: {type(error).__name__}: {said(error)}")
    if len(mode.seen) < len(path):
        return mode, Diverged(len(mode.seen), f"the slim model runs {path[len(mode.seen)].func}, the dense one nothing more")
    return mode, None


def analysis_of(mode: Watching, model: nn.Module, example: Example, like: Analysis) -> Analysis:
    """The groups that the labels of another run give."""
    return group_channels(_as_traced(model, mode, example, 0, len(mode.seen)), like.attention, like.ignore, like.model_name)


def _as_traced(model: nn.Module, mode: Watching, example: Example, counted: int, used: int) -> Traced:
    """The operators as a list that has the form of a graph: those after the first `counted` are not of evaluation."""
    graph, axes = fx.Graph(), dict[fx.Node, Any]()
    for name in mode.order:
        graph.create_node("get_attr", name)
    for number, seen in enumerate(mode.seen):
        node = graph.create_node("call_function", seen.func, (), {}, seen.node)
        assert node.name == seen.node, f"{node.name} is the name of {seen.node}"
        if number >= counted:
            node.meta["mode"] = "training"  # for who counts: another call
        axes[node] = tuple(seen.axes)

    shapes = example.shapes
    traced = Traced(graph, model, mode, {}, axes, {}, {}, shapes, shapes, mode.names)
    traced.device = torch.device(example.device).type
    return traced
