"""What a repair did: a part of the report."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Repaired", "SiteRepair"]


@dataclass(frozen=True)
class SiteRepair:
    """One layer or batch norm of a repaired model, measured on images that were held back from the fit.

    Attributes:
        name: of the module, or of the weight of a layer that is no module.
        kind: ``"layer"`` or ``"norm"``.
        before, after: of a layer, the squared difference from the dense layer's output at the channels that are kept, as a
            share of that output's variance, with the weights that it had and has now; both run after repaired layers. Where
            the output is added to a residual stream, the difference is that of the sum, in units of the layer. Of a norm, the
            same of mean and deviation of what leaves it. None where it could not be measured.
        kept: why it is as it was; empty if it was repaired.
        rectified: of a layer, that it was fitted through the rectifier that follows: before and after are measured behind it.
    """

    name: str
    kind: str
    before: float | None
    after: float | None
    kept: str = ""
    rectified: bool = False


@dataclass
class Repaired:
    """What `fxprune.repair` did.

    Attributes:
        sites: layers and norms in the order of the graph.
        images: how many it learned from, and how many were held back.
        before, after: the squared difference of the model's output from the dense model's, as a share of that output's
            variance, on the images that were held back: of the model as it was, and as it is.
        kept: why the whole model is as it was; empty if it was repaired.
        left: what else sums over channels some of which went, and was not considered -> the reason.
        options: what it was asked for.
        seconds: it took.
    """

    sites: list[SiteRepair]
    images: tuple[int, int]
    before: float
    after: float
    kept: str = ""
    left: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def repaired(self) -> list[SiteRepair]:
        """The layers and norms that are not as they were."""
        return [] if self.kept else [site for site in self.sites if not site.kept]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "images": list(self.images)}

    def __str__(self) -> str:
        if self.kept:
            return f"not repaired: {self.kept}"
        layers, norms = (sum(site.kind == kind for site in self.repaired) for kind in ("layer", "norm"))
        return (
            f"repaired {layers} layers and {norms} norms from {self.images[0]} images in {self.seconds:.1f} s; "
            f"on {self.images[1]} others the output's error went from {self.before:.3g} to {self.after:.3g} of its variance"
        )
