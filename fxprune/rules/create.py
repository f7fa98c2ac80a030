"""Tensors made in forward: a constant fill has no content, so its channels follow what it meets."""

from __future__ import annotations

from fxprune.labels.call import Call
from fxprune.labels.store import Axis
from fxprune.labels.table import rule


@rule("zeros ones full empty rand randn new_zeros new_ones new_full new_empty empty_strided new_empty_strided")
def fill(call: Call) -> None:
    """zeros: -> [a]; a size that the graph names is free"""
    call.set([call.mode.sized(call.store, call.out.shape, d) for d in range(call.out.dim())])


@rule("arange linspace logspace eye scalar_tensor tril_indices triu_indices randperm randint hann_window range")
def content(call: Call) -> None:
    """arange: -> [a]; fixed

    Entries differ by place; sizes that follow the input are told from the arguments of the graph node.
    """
    for out in call.outputs:
        call.set([Axis(int(size), None, not call.mode.is_literal(int(size))) for size in out.shape], out)


@rule(
    "_assert_async _assert_scalar sym_constrain_range _local_scalar_dense item is_nonzero equal _assert_tensor_metadata "
    "is_same_size _has_compatible_shallow_copy_type set_ requires_grad"
)
def nothing(call: Call) -> None:
    """item: [a] -> nothing

    Operators that make no tensor.
    """
