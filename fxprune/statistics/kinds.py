"""What kind of operation a node is: does it make values, normalise them, map them one by one, or only move them?"""

from __future__ import annotations

from collections.abc import Container
from typing import Literal

from torch import fx, nn

from fxprune.tracing.modes import select_mode
from fxprune.tracing.tracer import Traced

__all__ = ["Kind", "is_sum", "kind_of"]

Kind = Literal["layer", "norm", "pointwise", "layout", "other"]

_NORM_MODULES = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.CrossMapLRN2d,
    *([nn.RMSNorm] if hasattr(nn, "RMSNorm") else []),
)
_NORMS = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm"}
_SUMS = {"add", "iadd", "sub", "isub", "radd", "rsub"}
_POINTWISE = _SUMS | frozenset(
    """
    mul imul truediv itruediv div neg pow abs sqrt rsqrt square exp log log1p clamp clip clamp_min clamp_max maximum minimum
    sigmoid tanh erf sin cos where relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardtanh hardswish
    hardsigmoid hardshrink softshrink tanhshrink threshold softplus softsign logsigmoid dropout dropout1d dropout2d
    dropout3d alpha_dropout feature_alpha_dropout float half bfloat16 to type_as lerp addcmul addcdiv nan_to_num
    """.split()
)
_LAYOUT = frozenset(
    """
    permute transpose swapaxes swapdims movedim moveaxis t mT T contiguous clone detach view reshape flatten unflatten
    squeeze unsqueeze expand expand_as roll view_as reshape_as
    """.split()
)


def kind_of(node: fx.Node, traced: Traced, layers: Container[str]) -> Kind:
    """The kind of a node of ``traced.graph``; `layers` names the nodes that multiply matrices. Embeddings are layers too."""
    if node.op == "call_module":
        name = str(node.target)
        module = traced.skeleton.get_submodule(name)
        kind = traced.lowered.get(name, type(module))
        if issubclass(kind, _NORM_MODULES):
            return "norm"
        if issubclass(kind, (nn.Identity, nn.modules.dropout._DropoutNd)):
            return "pointwise"
        if kind.__module__ == "torch.nn.modules.activation" and not issubclass(kind, _NOT_POINTWISE):
            return "pointwise"
        if issubclass(kind, (nn.Embedding, nn.EmbeddingBag)):
            return "layer"
    elif node.op in ("call_function", "call_method"):
        if node.target is select_mode:
            return "layout"
        name = str(getattr(node.target, "__name__", node.target)).rstrip("_")
        if name in _NORMS:
            return "norm"
        if name in _POINTWISE:
            return "pointwise"
        if name in _LAYOUT:
            return "layout"
    return "layer" if node.name in layers else "other"


_NOT_POINTWISE = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.Softmin, nn.LogSoftmax, nn.GLU)


def is_sum(node: fx.Node) -> bool:
    """Whether a node adds (or subtracts) two values."""
    return str(getattr(node.target, "__name__", node.target)).rstrip("_") in _SUMS and len(node.all_input_nodes) > 1
