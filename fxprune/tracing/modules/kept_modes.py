"""Modes that a model's own train() and eval() give its parts, where these are not the mode asked for: frozen norms, say."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from fxprune.state import named_parts, set_modes

__all__ = ["KeptModes", "following", "kept_modes"]

# mode asked for -> name of a part that gets the other -> that other
KeptModes = dict[bool, dict[str, bool]]


def kept_modes(model: nn.Module) -> KeptModes:
    """What `model.train()` and `model.eval()` do; empty where every part follows. The model's mode stays what it is."""
    parts = named_parts(model)
    if not any(_overrides(part) for _, part in parts):
        return {}
    before = [(part, part.training) for _, part in parts]
    found: KeptModes = {}
    for mode in (True, False):
        model.train() if mode else model.eval()
        found[mode] = {name: part.training for name, part in parts if part.training is not mode}
        set_modes(before)
    return found if any(found.values()) else {}


def _overrides(module: nn.Module) -> bool:
    kind = type(module)
    own = kind.train is not nn.Module.train or kind.eval is not nn.Module.eval
    return own or "train" in module.__dict__ or "eval" in module.__dict__


def following(flags: Iterable[str], model: nn.Module) -> frozenset[str]:
    """Of the names of ``training`` flags those that differ between the modes of the model."""
    flags = frozenset(flags)
    kept = kept_modes(model) if flags else {}
    fixed = kept.get(True, {}).keys() ^ kept.get(False, {}).keys()
    return frozenset(flag for flag in flags if flag.rpartition(".")[0] not in fixed)
