"""`over_parameterize` and `fold`: convolutions with a second factor while they are trained, as passes."""

from __future__ import annotations

from numbers import Integral
from typing import Any, TypeVar

from torch import Tensor, nn

from fxprune.errors import InputError, shown
from fxprune.inputs.acceptance import check_model
from fxprune.options import check_seed
from fxprune.passes.base import Pass
from fxprune.passes.do_conv import layers_of, sites_of
from fxprune.passes.fold_factors import FoldFactors
from fxprune.passes.over_parameterize import OverParameterize
from fxprune.state import deep_copy, named_tensors

__all__ = ["fold", "folded_tensors", "over_parameterize", "with_factors"]

Module = TypeVar("Module", bound=nn.Module)
_META = "over_parameterized"


def over_parameterize(model: Module, *, d_mul: int | None = None, seed: int = 0) -> Module:
    """Return a copy of a model whose convolutions have a second factor to train: DO-Conv. It computes what the model does.

    The kernel of a convolution of more than one place becomes ``K[o, i, m] = sum_s (D_id + D)[i, m, s] W[o, i, s]``, with the
    weight as ``W``, the identity ``D_id`` and ``D = 0``: Cao et al., "DO-Conv: Depthwise Over-parameterized Convolutional
    Layer", IEEE Transactions on Image Processing 31, 2022; see `fxprune.passes.do_conv`. Train the copy, in a loop of your own
    or by `finetune`, then `fold` it: parameters and MACs are those of the plain model again. ``finetune(...,
    overparameterize="do_conv")`` does all three.

    >>> import fxprune
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1))
    >>> wide = fxprune.over_parameterize(model)
    >>> {name: tuple(p.shape) for name, p in wide[0].named_parameters()}
    {'W': (4, 3, 9), 'D': (3, 9, 9), 'bias': (4,)}
    >>> wide.meta["over_parameterized"]
    {'layers': {'0': 9}, 'left': {'1': 'its kernel has one place, and needs no second factor'}}
    >>> images = torch.randn(1, 3, 8, 8)
    >>> torch.equal(wide(images), model(images)), torch.equal(fxprune.fold(wide)(images), wide(images))
    (True, True)

    Args:
        model: what `prune` gave, or any model with convolutions: of one to three dimensions, grouped, depthwise, dilated,
            transposed, shared. What stays plain is in ``meta["over_parameterized"]["left"]``, with the reason: kernels of one
            place, weights that are tied, frozen, computed or read elsewhere, convolutions that are no layers of torch.nn.
        d_mul: second size of the factors, at least the places of each kernel, and these where it is not given.
        seed: of the entries of ``W`` that a larger one adds.

    Raises:
        InputError: no convolution can be over-parameterised, or `d_mul` is too small.
    """
    check_model(model)
    if d_mul is not None and (isinstance(d_mul, bool) or not isinstance(d_mul, Integral) or int(d_mul) < 1):
        raise InputError(f"d_mul must be a whole number of at least 1, or None, not {shown(d_mul)}")
    made = deep_copy(model)
    said = with_factors(made, None if d_mul is None else int(d_mul), check_seed(seed))
    made.meta = {**getattr(model, "meta", {}), _META: said}  # type: ignore[assignment]
    return made


def fold(model: Module) -> Module:
    """Return a copy of an over-parameterised model with plain convolutions, whose kernels are those that it computes.

    Names, parameters and MACs are those of the model that `over_parameterize` got, and so is what ``meta`` holds.

    >>> import fxprune
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3))
    >>> plain = fxprune.fold(fxprune.over_parameterize(model))
    >>> all(map(torch.equal, plain.state_dict().values(), model.state_dict().values()))
    True

    Args:
        model: what `over_parameterize` gave, trained or not; one without such layers is copied.

    Raises:
        InputError: this is no model.
    """
    check_model(model)
    made = deep_copy(model)
    _run(FoldFactors(), made)
    if hasattr(model, "meta"):
        made.meta = {key: value for key, value in model.meta.items() if key != _META}  # type: ignore[union-attr,assignment,operator]
    return made


def with_factors(model: nn.Module, d_mul: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Over-parameterise a model in place; which layers (with their `d_mul`), and which stayed plain, and why.

    Raises:
        InputError: as `over_parameterize`.
    """
    left = sites_of(model)[1]
    _run(OverParameterize(d_mul, seed), model)
    return {"layers": {name: layer.d_mul for name, layer in layers_of(model).items()}, "left": left}


def folded_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors that a model would have once folded, by name; the model stays as it is."""
    found = named_tensors(model, once=True)
    for name, layer in layers_of(model).items():
        prefix = f"{name}." if name else ""
        del found[f"{prefix}W"], found[f"{prefix}D"]
        found[f"{prefix}weight"] = layer.weight.detach()
    return found


def _run(step: Pass, model: nn.Module) -> None:
    """A pass, in place."""
    step.requires(model, None)  # type: ignore[arg-type]
    step.run(model, None)  # type: ignore[arg-type]
    step.ensures(model, None)  # type: ignore[arg-type]
