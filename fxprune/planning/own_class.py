"""What a model in the user's own classes is made of: a part of the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["OwnClass"]


@dataclass
class OwnClass:
    """What `fxprune.shrink` did beside slicing tensors and resizing the layers of torch.nn.

    Attributes:
        settings: module -> the numbers among its attributes that were set, ``{attribute: (before, after)}``.
        kept_true: module -> numbers that its code does not need, but others read: ``num_features``, ``in_channels``.
        config: numbers of what the model was built from (``model.config``), ``{field: (before, after)}``: from it alone the
            class makes this architecture. Empty where layers differ, or where there is no such object.
        config_left: why it is empty, where there is such an object.
        folded: attention whose code names no scale -> the tensors into whose rows the factor went that keeps it.
        rescaled: attention whose code names the scale of its wider heads by an attribute -> that attribute, which has the scale
            of its narrower ones now, since a model that is made of `config` would: the factor went into rows of `folded`, too.
        sized: modules whose own code has numbers of this model in the place of some expressions -> ``{expression: number}``.
        alternatives: modules -> other methods that computed what its forward does, and run its code now, since theirs no longer
            does: exporters put them in its place.
        generated: modules that run generated code, since their own cannot follow -> why.
        errors: of each call that was compared with the GraphModule, the relative difference of outputs, gradients and buffers.
        tolerance: below which it is rounding.
    """

    settings: dict[str, dict[str, tuple[Any, Any]]] = field(default_factory=dict)
    kept_true: dict[str, dict[str, tuple[Any, Any]]] = field(default_factory=dict)
    config: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    config_left: str = ""
    folded: dict[str, list[str]] = field(default_factory=dict)
    rescaled: dict[str, dict[str, tuple[Any, Any]]] = field(default_factory=dict)
    sized: dict[str, dict[str, Any]] = field(default_factory=dict)
    alternatives: dict[str, list[str]] = field(default_factory=dict)
    generated: dict[str, str] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    tolerance: float = 0.0

    @property
    def error(self) -> float:
        """The largest of the errors."""
        return max(self.errors.values(), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    def __str__(self) -> str:
        numbers = sum(map(len, self.settings.values()))
        text = f"own class: {numbers} numbers set in {len(self.settings)} modules"
        if self.config:
            text += f", {len(self.config)} in its configuration"
        if self.folded:
            text += f", scales of {len(self.folded)} attentions folded"
        if self.sized:
            text += f", sizes written into the code of {len(self.sized)} modules"
        if self.generated:
            text += f", generated code in {', '.join(name or 'the model itself' for name in self.generated)}"
        return f"{text}; equal to {self.error:.0e} in {len(self.errors)} calls" if self.errors else text
