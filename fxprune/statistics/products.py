"""Where queries meet keys: products of two activations whose softmax weighs values, and what is seen there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fxprune.labels.table import key_of
from fxprune.statistics.occupancy import Occupancy

__all__ = ["Product", "Products", "products_in", "products_of"]

_MATMUL = {"aten::matmul", "aten::bmm", "python::matmul"}
_TIMES = {"aten::mul", "python::mul", "python::imul"}
_BY = {"aten::div", "aten::true_divide", "python::truediv", "python::itruediv"}
_ADD = {"aten::add", "python::add", "python::iadd", "aten::sub", "python::sub", "python::isub", "aten::masked_fill"}
_SAME = {f"aten::{name}" for name in "to float half bfloat16 type_as contiguous clone view reshape squeeze unsqueeze".split()}
_DROPOUT = {"aten::dropout"}
_SDPA = "aten::scaled_dot_product_attention"


@dataclass(frozen=True, eq=False)
class Product:
    """Attention: ``softmax(scale * Q K^T + ...) V``, where channels of a group are what ``Q K^T`` sums over.

    Attributes:
        group: the group's id.
        node: name of the node that puts out the weighed values, after whose run one looks.
        sources: names of the nodes of queries, keys, values, and of the weights, or the mask if there is one, where `fused`.
        entries: int64 ``[channels, multiplicity]`` along the axis of the channels, of queries and of keys.
        keys_last: keys come transposed: ``[..., channels, keys]``.
        scale: of the products.
        fused: `node` is a call of ``scaled_dot_product_attention``.
        settings: of that call.
    """

    group: str
    node: str
    sources: tuple[str, ...]
    entries: tuple[np.ndarray, np.ndarray]
    keys_last: bool
    scale: float
    fused: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Products:
    """What is seen of one batch.

    Attributes:
        product: where.
        queries: float ``[images, heads, queries, channels, multiplicity]``, times the scale.
        keys: float ``[images, heads, keys, channels, multiplicity]``.
        weights: float ``[images, heads, queries, keys]``: those of the softmax.
        values: float ``[images, heads, keys, entries]``.
    """

    product: Product
    queries: Tensor
    keys: Tensor
    weights: Tensor
    values: Tensor


def products_in(occupancy: Occupancy) -> dict[str, list[Product]]:
    """``{group id: products in the order of the graph}``, for groups that queries and keys share.

    Found are calls of ``scaled_dot_product_attention``, and matrix products whose result is scaled by numbers, masked, or added
    to, then put through a softmax over its last axis, and multiplied by values.
    """
    found: dict[str, list[Product]] = {group.id: [] for group in occupancy.analysis.free}
    for node in occupancy.nodes:
        key = _key(node)
        made = _fused(occupancy, node) if key == _SDPA else _written_out(occupancy, node) if key in _MATMUL else []
        for product in made:
            found[product.group].append(product)
    return found


def _key(node: fx.Node) -> str:
    return key_of(node.op, node.target).rstrip("_")


def _argument(node: fx.Node, at: int, name: str, default: Any = None) -> Any:
    return node.args[at] if len(node.args) > at else node.kwargs.get(name, default)


def _shared(occupancy: Occupancy, query: Any, key: Any, axis: int) -> list[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """Groups on the last axis of the queries and on `axis`, from the end, of the keys, with their entries there."""
    if not (isinstance(query, fx.Node) and isinstance(key, fx.Node)):
        return []
    one, other = (occupancy.at.get(node, {}) for node in (query, key))
    dims = [_dims(occupancy, node) for node in (query, key)]
    return [
        (group, (one[group][1], other[group][1]))
        for group in one.keys() & other.keys()
        if one[group][0] == dims[0] - 1 and other[group][0] == dims[1] + axis and one[group][1].shape == other[group][1].shape
    ]


def _dims(occupancy: Occupancy, node: fx.Node) -> int:
    value = occupancy.analysis.traced.values.get(node)
    return value.dim() if isinstance(value, Tensor) else 0


def _fused(occupancy: Occupancy, node: fx.Node) -> list[Product]:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    given = {name: _argument(node, at, name) for at, name in enumerate(names)}
    query, key, value, mask = (given.pop(name) for name in names[:4])
    given.pop("dropout_p")
    if any(isinstance(v, fx.Node) for v in given.values()) or not isinstance(value, fx.Node):
        return []  # settled only while the model runs
    sources = (query, key, value, *([mask] if isinstance(mask, fx.Node) else []))
    return [
        Product(group, node.name, tuple(n.name for n in sources), entries, False, math.nan, True, given)
        for group, entries in _shared(occupancy, query, key, -1)
    ]


def _written_out(occupancy: Occupancy, node: fx.Node) -> list[Product]:
    query, key = (node.args[0], node.args[1]) if len(node.args) > 1 else (None, None)
    shared = _shared(occupancy, query, key, -2)
    end = _weighed(occupancy, node) if shared else None
    if end is None:
        return []
    last, scale = end
    sources = tuple(n.name for n in (query, key, last.args[1], last.args[0]) if isinstance(n, fx.Node))
    return [Product(group, last.name, sources, entries, True, scale) for group, entries in shared] if len(sources) == 4 else []


def _weighed(occupancy: Occupancy, start: fx.Node) -> tuple[fx.Node, float] | None:
    """The product with the values that follows a product of queries and keys, and the scale on the way there."""
    shape, node, scale, soft = _last_two(occupancy, start), start, 1.0, False
    while True:
        users = [n for n in node.users if isinstance(occupancy.analysis.traced.values.get(n), Tensor)]  # and no sizes
        if len(users) != 1:
            return None
        (user,) = users
        key = _key(user)
        first = bool(user.args) and user.args[0] is node
        if soft and key in _MATMUL and first and len(user.args) > 1:
            return user, scale
        if _last_two(occupancy, user) != shape:
            return None
        if not soft and _is_softmax(occupancy, user):
            soft = True
        elif not soft and key in _TIMES | _BY and len(user.args) > 1:
            other = user.args[1] if first else user.args[0] if key in _TIMES else None
            if not isinstance(other, (int, float)) or not other:
                return None
            scale = scale * other if key in _TIMES else scale / other
        elif (
            not (key in _SAME and first) and not (not soft and key in _ADD and first) and not (soft and _drops(occupancy, user))
        ):
            return None
        node = user


def _last_two(occupancy: Occupancy, node: fx.Node) -> tuple[int, ...]:
    value = occupancy.analysis.traced.values.get(node)
    return tuple(value.shape[-2:]) if isinstance(value, Tensor) else ()


def _layer(occupancy: Occupancy, node: fx.Node) -> nn.Module | None:
    return occupancy.analysis.traced.skeleton.get_submodule(str(node.target)) if node.op == "call_module" else None


def _is_softmax(occupancy: Occupancy, node: fx.Node) -> bool:
    layer = _layer(occupancy, node)
    if isinstance(layer, nn.Softmax):
        dim: Any = layer.dim
    elif _key(node) == "aten::softmax":
        dim = _argument(node, 1, "dim")
    else:
        return False
    return dim in (-1, _dims(occupancy, node) - 1)


def _drops(occupancy: Occupancy, node: fx.Node) -> bool:
    return isinstance(_layer(occupancy, node), (nn.Dropout, nn.Identity)) or _key(node) in _DROPOUT


def products_of(product: Product, *given: Tensor) -> Products | None:
    """Arrange the values of a product's sources; None where their shapes are not those of attention after all."""
    query, key, value = (_real(v) for v in given[:3])
    key = key.transpose(-1, -2) if product.keys_last else key
    if product.fused and product.settings.get("enable_gqa") and query.dim() > 2:
        key, value = (v.repeat_interleave(query.shape[-3] // v.shape[-3], -3) for v in (key, value))
    outer = query.shape[:-2]
    try:
        key, value = (v.expand(*outer, *v.shape[-2:]) for v in (key, value))
    except RuntimeError:
        return None
    scale = product.scale
    if product.fused:
        asked = product.settings.get("scale")
        scale = query.shape[-1] ** -0.5 if asked is None else float(asked)
        weights = _softmax(query @ key.transpose(-1, -2) * scale, product.settings, *given[3:])
    else:
        weights = _real(given[3])
    if weights.shape != (*outer, query.shape[-2], key.shape[-2]) or value.shape[-2] != key.shape[-2]:
        return None
    heads = outer[-1] if len(outer) > 1 else 1
    queries, keys = (
        v.index_select(-1, torch.from_numpy(at.ravel()).to(v.device))
        .unflatten(-1, at.shape)
        .reshape(-1, heads, v.shape[-2], *at.shape)
        for v, at in zip((query * scale, key), product.entries, strict=True)
    )
    weights, value = (v.reshape(-1, heads, *v.shape[-2:]) for v in (weights, value))
    return Products(product, queries, keys, weights, value)


def _real(value: Tensor) -> Tensor:
    value = value.detach()
    return value if value.dtype is torch.float64 else value.float()


def _softmax(logits: Tensor, settings: dict[str, Any], mask: Tensor | None = None) -> Tensor:
    """As ``scaled_dot_product_attention`` has it; a query that may look at nothing gets zeros."""
    if settings.get("is_causal"):
        logits = logits.masked_fill(logits.new_ones(logits.shape[-2:], dtype=torch.bool).tril().logical_not(), -math.inf)
    if mask is not None:
        logits = logits.masked_fill(mask.logical_not(), -math.inf) if mask.dtype is torch.bool else logits + mask
    return logits.softmax(-1).nan_to_num(0.0)
