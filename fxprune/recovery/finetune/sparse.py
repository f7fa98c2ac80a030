"""The sparse learning that a user's function gives for the model that is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fxprune.errors import InputError, shown

if TYPE_CHECKING:
    from fxprune.recovery.sparsity.base import Sparsity

__all__ = ["checked_sparsity"]


def checked_sparsity(given: Any) -> Sparsity:
    """
    Raises:
        InputError: this is no method of sparse learning.
    """
    from fxprune.recovery.sparsity.base import Sparsity  # whose neighbours import this package

    if not isinstance(given, Sparsity):
        raise InputError(
            f"sparsity must be a function of the model that gives a method of fxprune.sparsity, not {shown(given)}: as "
            "sparsity=lambda model: fxprune.sparsity.GroupPenalty(model, example_inputs)"
        )
    return given
