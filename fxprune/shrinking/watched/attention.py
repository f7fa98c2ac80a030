"""`nn.MultiheadAttention` in plain operations: its own code tests that all sizes are those which it was made with, and takes
queries, keys and values apart by number; in these, heads and their width may change.

A model whose attention computes the same in plain operations is watched with them, and the slim model keeps them as the forward
of its attention. What runs past that forward (fused kernels of encoder layers, which read the weights) is switched off there.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fxprune.shrinking.stand_in import StandIn
from fxprune.shrinking.watched.calls import Example, Session, run
from fxprune.shrinking.watched.lockstep import same_results
from fxprune.state import named_parts, shallow_copy
from fxprune.tracing.modules.attention import multihead_attention
from fxprune.tracing.modules.lowering import lowered_forward
from fxprune.tracing.untouched import twin_of

__all__ = ["PlainAttention", "settle_attention", "with_plain_attention"]


class PlainAttention(StandIn):
    """Stands for the forward of an `nn.MultiheadAttention`, in its ``__dict__``; copied and pickled with the module.

    Attributes:
        part: the module; ``num_heads`` and ``head_dim`` of it count.
    """

    part: nn.MultiheadAttention

    def __init__(self, part: nn.MultiheadAttention) -> None:
        self.part = part

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return multihead_attention(self.part, *args, **kwargs)


def with_plain_attention(model: nn.Module, example: Example) -> nn.Module:
    """A copy over the same tensors whose attention runs in plain operations; `model` itself where it has none, or where these
    compute something else on the example, in evaluation or in training.
    """
    parts = [n for n, p in named_parts(model, once=True) if "forward" not in p.__dict__ and _is_attention(p)]
    if not parts:
        return model
    made = shallow_copy(model)
    for name in parts:
        part: Any = made.get_submodule(name)
        part.__dict__ |= {"forward": PlainAttention(part), "attention_scale": part.head_dim**-0.5}  # whatever heads keep
        _without_fused_kernels(part)
    for _, module in named_parts(made, once=True):
        if module.__dict__.get("use_nested_tensor") is True:
            module.__dict__["use_nested_tensor"] = False
    return made if all(_alike(model, made, example, mode) for mode in (False, True)) else model


def _is_attention(part: nn.Module) -> bool:
    return lowered_forward(part) is multihead_attention


def _without_fused_kernels(part: nn.Module) -> None:
    """Encoder layers call a fused kernel, and not the forward of their attention, unless a part of them has a hook."""
    part.register_forward_pre_hook(_nothing)


def _nothing(module: nn.Module, args: Any) -> None:
    """A hook that is copied and pickled."""


def _alike(model: nn.Module, made: nn.Module, example: Example, training: bool) -> bool:
    session = Session("", ((example.values(0), training),))

    def results(one: nn.Module) -> list[Any]:
        try:
            return run(twin_of(one, example.dtype, clone=True), session)
        except Exception as error:  # whatever a model raises, as on training without targets
            return [type(error).__name__]

    return not same_results(results(model), results(made))


def settle_attention(slim: nn.Module) -> None:
    """Set what attention in plain operations says of its sizes: those of its tensors."""
    for _, part in named_parts(slim, once=True):
        if not isinstance(part.__dict__.get("forward"), PlainAttention) or not isinstance(part, nn.MultiheadAttention):
            continue
        apart = (part.q_proj_weight, part.k_proj_weight, part.v_proj_weight)
        weights: Any = apart if part.in_proj_weight is None else (part.in_proj_weight,) * 3
        part.embed_dim, part.kdim, part.vdim = (weight.shape[1] for weight in weights)
