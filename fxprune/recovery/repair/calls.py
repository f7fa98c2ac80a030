"""What a node computes with weights of its own: a convolution, a linear layer, or a product with a matrix of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from fxprune.labels.table import key_of
from fxprune.recovery.repair.patches import CONVOLUTIONS, TRANSPOSED
from fxprune.state import named_tensors

__all__ = ["Call", "call_of", "input_among"]

_MODULES = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)
_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_FUNCTIONS: dict[str, tuple[tuple[str, ...], type[nn.Module] | None]] = {
    "linear": (("input", "weight", "bias"), None),
    "matmul": (("input", "weight"), None),
    "mm": (("input", "weight"), None),
    "addmm": (("bias", "input", "weight"), None),
    **{f"conv{n}d": (_CONVOLUTION, kind) for n, kind in enumerate(CONVOLUTIONS, start=1)},
    **{f"conv_transpose{n}d": (_TRANSPOSED, kind) for n, kind in enumerate(TRANSPOSED, start=1)},
}


@dataclass(frozen=True, eq=False)
class Call:
    """Weights and settings of a node.

    Attributes:
        name: of the module, or of the weight of a function.
        weight, bias: tensors of the model.
        convolution: a module with the settings; None of a product of matrices.
        turned: the weight is ``[inputs, outputs]``, not ``[outputs, inputs]``.
        at: the place of the input among the node's arguments.
    """

    name: str
    weight: Tensor
    bias: Tensor | None
    convolution: nn.Module | None
    turned: bool = False
    at: int = 0

    def like(self, other: Call) -> bool:
        """Whether both do the same with their input."""
        own, its = ((c.convolution, c.turned) for c in (self, other))
        same = own[0] is its[0] or (own[0] is not None and its[0] is not None and repr(own[0]) == repr(its[0]))
        return same and own[1] == its[1] and self.weight is other.weight and self.bias is other.bias


def call_of(slim: fx.GraphModule, node: fx.Node) -> Call | None:
    """What a node computes; None where its weights are no tensors of the model, its settings are computed, or it is another
    operation."""
    if node.op == "call_module":
        module: Any = slim.get_submodule(str(node.target))
        kind = next((kind for kind in _MODULES if type(module).forward is kind.forward), None)
        if kind is None:
            return None
        return Call(str(node.target), module.weight, module.bias, None if kind is nn.Linear else module)
    name = key_of(node.op, node.target).partition("::")[2]
    if name not in _FUNCTIONS:
        return None
    names, convolution = _FUNCTIONS[name]
    given = dict(zip(names, node.args, strict=False)) | {_name(key): value for key, value in node.kwargs.items()}
    tensors = named_tensors(slim)
    weight, bias = (_read(given.pop(key, None), tensors) for key in ("weight", "bias"))
    source = given.pop("input", None)
    if weight is None or bias is _COMPUTED or weight is _COMPUTED or not isinstance(source, fx.Node):
        return None
    matrix = convolution is None
    if any(isinstance(v, fx.Node) for v in _flat(given.values())) or (matrix and (given or weight.dim() != 2)):
        return None
    settings = None if convolution is None else _settings(convolution, weight, given)
    if bias is not None and bias.shape != (_outputs(settings, weight, turned=name != "linear"),):
        return None
    target = str(next(a for a in (*node.args, *node.kwargs.values()) if _read(a, tensors) is weight).target)  # type: ignore[union-attr]
    at = names.index("input")
    return Call(target, weight, bias, settings, turned=matrix and name != "linear", at=at)


def input_among(kwargs: Mapping[str, Any]) -> Any:
    """The input of a layer among arguments by name; None if it is not there."""
    return next((kwargs[name] for name in ("input", "mat1", "self") if name in kwargs), None)


_COMPUTED: Any = object()


def _name(key: str) -> str:
    """What products of matrices call their arguments."""
    return {"mat1": "input", "mat2": "weight", "other": "weight", "self": "input"}.get(key, key)


def _read(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The parameter of the model that an argument is; None where there is none."""
    if value is None:
        return None
    found = tensors.get(str(value.target)) if isinstance(value, fx.Node) and value.op == "get_attr" else None
    return found if isinstance(found, nn.Parameter) else _COMPUTED


def _outputs(convolution: Any, weight: Tensor, turned: bool) -> int:
    return int(convolution.out_channels if convolution is not None else weight.shape[1 if turned else 0])


def _flat(values: Any) -> list[Any]:
    return [part for v in values for part in (v if isinstance(v, (list, tuple)) else [v])]


def _settings(kind: type[nn.Module], weight: Tensor, given: dict[str, Any]) -> nn.Module:
    """The layer that a function computes, without weights."""
    groups, (first, second, *kernel) = given.get("groups", 1), weight.shape
    channels = (first, second * groups) if kind in TRANSPOSED else (second * groups, first)
    plain = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
    return kind(*channels, tuple(kernel), **plain, bias=False, device="meta")
