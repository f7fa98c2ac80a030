"""What kind of operation a node is: does it make values, normalise them, map them one by one, or only move them?"""

from __future__ import annotations

from collections.abc import Container
from typing import Literal

from torch import fx

from fxprune.labels.table import key_of, known, of_layer, register
from fxprune.tracing.graphs.modes import select_mode
from fxprune.tracing.tracer import Traced

__all__ = ["Kind", "is_sum", "kind_of"]

Kind = Literal["layer", "norm", "pointwise", "layout", "other"]

# Functions and methods of torch, operators of Python (``x += y`` is iadd), and layers; in-place forms are of the same kind.
_SUMS = "add sub python::add python::sub python::iadd python::isub"
_KINDS: dict[Kind, str] = {
    "norm": """
        batch_norm layer_norm group_norm instance_norm rms_norm local_response_norm
        nn::_NormBase nn::LayerNorm nn::GroupNorm nn::LocalResponseNorm nn::CrossMapLRN2d nn::RMSNorm
    """,
    "pointwise": f"""
        {_SUMS} python::mul python::imul python::truediv python::itruediv python::neg python::pow python::abs
        mul div true_divide neg pow abs sqrt rsqrt square exp log log1p clamp clip clamp_min clamp_max maximum minimum
        sigmoid tanh erf sin cos where relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardtanh hardswish
        hardsigmoid hardshrink softshrink tanhshrink threshold softplus softsign logsigmoid dropout dropout1d dropout2d
        dropout3d alpha_dropout feature_alpha_dropout float half bfloat16 to type_as lerp addcmul addcdiv nan_to_num
        nn::Identity nn::_DropoutNd
        nn::CELU nn::ELU nn::GELU nn::Hardshrink nn::Hardsigmoid nn::Hardswish nn::Hardtanh nn::LeakyReLU nn::LogSigmoid
        nn::Mish nn::PReLU nn::RReLU nn::ReLU nn::SELU nn::SiLU nn::Sigmoid nn::Softplus nn::Softshrink nn::Softsign
        nn::Tanh nn::Tanhshrink nn::Threshold
    """,
    "layout": """
        permute transpose swapaxes swapdims movedim moveaxis t mT T contiguous clone detach view reshape flatten unflatten
        squeeze unsqueeze expand expand_as roll view_as reshape_as
    """,
    "layer": "nn::Embedding nn::EmbeddingBag",
}
for _kind, _names in _KINDS.items():
    register("kind", [_names], _kind)


def kind_of(node: fx.Node, traced: Traced, layers: Container[str]) -> Kind:
    """The kind of a node of ``traced.graph``; `layers` names the nodes that multiply matrices. Embeddings are layers too."""
    found: Kind | None = None
    if node.op == "call_module":
        name = str(node.target)
        found = of_layer(traced.lowered.get(name, type(traced.skeleton.get_submodule(name))), "kind")
    elif node.target is select_mode:
        return "layout"
    else:
        entry = known(_key(node))
        found = None if entry is None else entry.kind  # type: ignore[assignment]  # what _KINDS says
    return found or ("layer" if node.name in layers else "other")


def is_sum(node: fx.Node) -> bool:
    """Whether a node adds (or subtracts) two values."""
    return _key(node) in _SUM_KEYS and len(node.all_input_nodes) > 1


def _key(node: fx.Node) -> str:
    return key_of(node.op, node.target).rstrip("_")


_SUM_KEYS = frozenset(name if "::" in name else f"aten::{name}" for name in _SUMS.split())
