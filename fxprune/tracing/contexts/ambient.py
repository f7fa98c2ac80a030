"""What forward asks of its caller's state (``torch.is_grad_enabled()``): the answer must not decide what is recorded."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from fxprune.errors import PruneError, TraceError
from fxprune.tracing.contexts.regions import region_of
from fxprune.tracing.skeleton import new_mode

if TYPE_CHECKING:
    from fxprune.tracing.recorder import Recorder

__all__ = ["settle_questions"]


def settle_questions(recorder: Recorder, record: Callable[[Recorder], fx.Graph]) -> None:
    """Where model code asked whether gradients or autocast are on: record it with the other answer, too, and compare.

    A path that differs under the caller's autocast is left out: the graph asserts that its caller is not in one.

    Args:
        recorder: has just recorded the forward.
        record: records it again, with another recorder.

    Raises:
        TraceError: without gradients the model takes another path.
    """
    for what, place in recorder.contexts.asked.items():
        answers = recorder.contexts.caller | {what: not recorder.contexts.caller[what]}
        if _same_graph(recorder.graph, _graph_under(recorder, record, answers)):
            continue
        if what == "gradients":
            raise TraceError(
                f"the model's path depends on whether its caller has gradients on (torch.is_grad_enabled(), {place}), which a "
                "graph cannot follow: let self.training decide it"
            )
        _assert_no_autocast(recorder)


def _graph_under(recorder: Recorder, record: Callable[[Recorder], fx.Graph], answers: dict[str, bool]) -> fx.Graph | None:
    other = type(recorder)(recorder.skeleton, new_mode(recorder.skeleton), recorder.proxy_class)
    other.contexts.caller = answers
    try:
        return record(other)
    except PruneError:
        raise
    except Exception:  # the model's own words against such a caller
        return None


def _same_graph(a: fx.Graph, b: fx.Graph | None) -> bool:
    """Whether two graphs say the same node by node."""
    if b is None or len(a.nodes) != len(b.nodes):
        return False
    twins = dict(zip(b.nodes, a.nodes, strict=True))
    return all(_same_node(x, y, twins) for y, x in twins.items())


def _same_node(a: fx.Node, b: fx.Node, twins: dict[fx.Node, fx.Node]) -> bool:
    if (a.op, a.target, region_of(a)) != (b.op, b.target, region_of(b)):
        return False
    return bool((a.args, a.kwargs) == fx.node.map_arg((b.args, b.kwargs), twins.__getitem__))


def _assert_no_autocast(recorder: Recorder) -> None:
    graph, device = recorder.graph, recorder.skeleton.device
    first = next((n for n in graph.nodes if n.op != "placeholder"), None)
    with graph.inserting_before(first):
        asked = graph.call_function(torch.is_autocast_enabled, (device,))
        held = graph.call_function(operator.not_, (asked,))
        made: tuple[tuple[fx.Node, Any], ...] = (
            (asked, False),
            (held, True),
            (graph.call_function(torch._assert, (held, "traced for callers outside torch.autocast")), None),
        )
    for node, value in made:
        node.meta.update(scope="", source="")
        recorder.values[node] = value
