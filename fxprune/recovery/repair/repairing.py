"""The loop of a repair: one layer or norm after the other, each on what the repaired ones before it give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fxprune import nested
from fxprune.inputs.batches import Batch
from fxprune.inputs.examples import own_copy
from fxprune.planning.repaired import SiteRepair
from fxprune.recovery.repair.chunks import held_back
from fxprune.recovery.repair.layers import Layer, Norm, Site, sites_of
from fxprune.recovery.repair.left import left_of
from fxprune.recovery.repair.moments import Change, Moments, Rows, widened
from fxprune.recovery.repair.norms import NormMode, Running, Spread, distance, matched
from fxprune.recovery.repair.pair import Pair
from fxprune.recovery.repair.patches import drawn, outputs_at, patches_at, positions
from fxprune.recovery.repair.rectified import Rectifier
from fxprune.recovery.repair.shelf import Shelf
from fxprune.recovery.repair.tails import Tail, tail_of
from fxprune.recovery.repair.walking import Walk
from fxprune.recovery.repair.wide import Wide

__all__ = ["Repairing", "Settings"]

_WIDEST = 8192  # inputs of a layer whose Gram matrix is made
_SAME = 1e-10  # an error that is rounding
_ALIKE = "it does what the dense one does"
_WORSE = "images that were held back are not better off"
_TOGETHER = "it was fitted together with the layer before it"
_STRANGE = "its values are not finite, or of other sizes than those that were recorded"


@dataclass(frozen=True)
class Settings:
    """See `fxprune.repair`.

    Attributes:
        streams: layers make up for the error of what they are added to.
        rectify: so many steps go through a rectifier that follows.
    """

    positions: int = 48
    ridge: float = 1e-3
    norms: NormMode = "match"
    seed: int = 0
    memory: float = 2**31
    streams: bool = True
    rectify: int = 5
    amp: torch.dtype | None = None


class Repairing:
    """A repair of ``pair.slim`` in place.

    Attributes:
        sites: layers and norms that are looked at.
        left: what else lost inputs -> why it is not.
        generator: of the positions.
    """

    def __init__(self, pair: Pair, settings: Settings) -> None:
        self.pair, self.settings = pair, settings
        self._shelf = Shelf(settings.memory)
        self._dense, self._slim = self._walks()
        names = self._names = pair.names(self._dense.nodes, self._slim.nodes)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self._fitted: set[str] = set()  # norms whose mean was fitted with the layer before them
        self._images: list[int] = []
        self.sites = [site for site in sites_of(pair.slim, names, self._slim.nodes) if self._wanted(site)]
        self.left = left_of(pair, self._dense.nodes, self.sites, settings.norms != "keep")
        self._again = any(isinstance(site, Layer) and len(site.nodes) > 1 for site in self.sites)

    def _walks(self) -> tuple[Walk, Walk]:
        return Walk(self.pair.dense, self._shelf, self.settings.amp), Walk(self.pair.slim, self._shelf, self.settings.amp)

    def _wanted(self, site: Site) -> bool:
        if isinstance(site, Layer):
            return any(self.pair.loses_inputs(node, site.call.at) for node in site.nodes)
        return self.settings.norms != "keep"

    @property
    def images(self) -> tuple[int, int]:
        """How many are learned from, and how many are held back."""
        held = sum(n for chunk, n in enumerate(self._images) if held_back(chunk))
        return sum(self._images) - held, held

    def read(self, chunks: Iterable[Batch]) -> None:
        """Take the images in, and see what the slim model makes of those that are held back."""
        unrepaired = Walk(self.pair.slim, self._shelf, self.settings.amp)
        for chunk, batch in enumerate(chunks):
            for walk in (self._dense, self._slim):
                walk.start(chunk, batch.inputs)
            if self._again:
                self._shelf.put(("inputs", chunk), {self._dense.last: own_copy(batch.inputs)})
            if held_back(chunk):
                unrepaired.start(chunk, batch.inputs)
                self._shelf.put((self, chunk), {unrepaired.last: unrepaired.output(chunk)})
            self._images.append(batch.images)

    def go_on(self, done: Sequence[SiteRepair]) -> None:
        """What is remembered of the first sites, whose weights are what they should be."""
        for site, found in zip(self.sites, done, strict=False):
            if isinstance(site, Layer) and found.rectified and (norm := self._tail(site).norm) is not None:
                self._fitted.add(norm.node)

    def __call__(self, site: Site) -> SiteRepair:
        """Repair one layer or norm; they come in the order of the graph."""
        return self._layer(site) if isinstance(site, Layer) else self._norm(site)

    def output_errors(self) -> tuple[float, float]:
        """Of the model's output on the images that were held back, as a share of its variance: of the slim model as it was,
        and as it is. Once all sites are done."""
        wrong, total, square, count = [0.0, 0.0], 0.0, 0.0, 0
        for chunk in range(len(self._images)):
            if not held_back(chunk):
                continue
            (was,) = self._shelf.take((self, chunk)).values()
            dense, *slims = (nested.tensors(v) for v in (self._dense.output(chunk), was, self._slim.output(chunk)))
            for number, d in enumerate(dense):
                if d.is_floating_point():
                    d = widened(d)
                    total, square, count = total + float(d.sum()), square + float(d.square().sum()), count + d.numel()
                    wrong = [w + float((d - widened(s[number])).square().sum()) for w, s in zip(wrong, slims, strict=True)]
        spread = square - total**2 / max(count, 1)
        before, after = (w / spread if spread > 0 else w for w in wrong)
        return before, after

    # -- layers --------------------------------------------------------------------------------------------------------

    def _layer(self, site: Layer) -> SiteRepair:
        if site.why:
            return SiteRepair(site.name, "layer", None, None, site.why)
        matrix = widened(site.matrix())
        wide = matrix.shape[1] > _WIDEST
        if wide and len(site.nodes) > 1:
            return SiteRepair(site.name, "layer", None, None, f"it runs several times and has more than {_WIDEST} inputs")
        state = self.generator.get_state()

        def again() -> Iterator[Rows]:
            self.generator.set_state(state)
            return self._rows(site, matrix)

        fit, held = self._wide(site, matrix) if wide else self._moments(site, matrix)
        if not (fit.finite and held.finite):
            return SiteRepair(site.name, "layer", None, None, _STRANGE)
        spread = max(held.spread, 1e-300)
        before = held.error(None)
        if isinstance(fit, Moments) and before / spread > _SAME and (found := self._rectified(site, matrix, fit, again)):
            return found
        change = None if before / spread <= _SAME else fit.solve(self.settings.ridge)
        after = before if change is None else held.error(change)
        if change is None or not after < before:
            why = _ALIKE if before / spread <= _SAME else _WORSE
            return SiteRepair(site.name, "layer", before / spread, before / spread, why)
        self._write(site, matrix, change)
        return SiteRepair(site.name, "layer", before / spread, after / spread)

    def _normed(self, site: Layer) -> bool:
        return site.normed and self.settings.norms != "keep"

    def _moments(self, site: Layer, matrix: Tensor) -> tuple[Moments, Moments]:
        fit, held = (Moments(site.bias is not None, self._normed(site)) for _ in range(2))
        for rows in self._rows(site, matrix):
            (held if held_back(rows.chunk) else fit).add(rows.x, rows.rest, rows.wanted)
        return fit, held

    def _rectified(self, site: Layer, matrix: Tensor, fit: Moments, again: Callable[[], Iterator[Rows]]) -> SiteRepair | None:
        """Fit a layer through the rectifier that follows; None where there is none, or it is no gain on images held back."""
        tail = self._tail(site)
        if tail.bounds is None or not self.settings.rectify:
            return None
        slope, _ = tail.line(matrix)
        rectifier = Rectifier(slope.view(matrix.shape[0], -1), tail.bounds)
        change = rectifier.fit(again, fit, self.settings.ridge, self.settings.rectify)
        before, after = (0.0, 0.0) if change is None else rectifier.errors(again, change)
        if change is None or not after < before:
            return None
        self._write(site, matrix, change, tail.norm)
        self._fitted |= set() if tail.norm is None else {tail.norm.node}
        return SiteRepair(site.name, "layer", before, after, rectified=True)

    def _tail(self, site: Layer) -> Tail:
        """What follows a layer that runs once, and can be fitted with it: a norm that is matched, or none."""
        if len(site.nodes) > 1:
            return Tail()
        tail = tail_of(self.pair.dense, self.pair.slim, self._names, site.node)
        if not self.settings.streams and tail.other is not None:
            return replace(tail, other=None, bounds=None)
        matched = tail.norm is None or (self.settings.norms == "match" and tail.norm.node in {s.node for s in self.sites})
        return tail if matched else replace(tail, bounds=None)

    def _wide(self, site: Layer, matrix: Tensor) -> tuple[Wide, Wide]:
        """The same of a layer whose Gram matrix is too large: its rows are cut out anew as often as they are needed."""
        cuts: dict[bool, list[tuple[Callable[[], Tensor], Tensor]]] = {False: [], True: []}
        spreads = {False: Spread(), True: Spread()}
        for found in self._rows(site, matrix):
            cuts[held_back(found.chunk)].append((found.cut, found.rest))
            spreads[held_back(found.chunk)].add(found.wanted.flatten(1))

        def rows(held: bool) -> Iterator[tuple[Tensor, Tensor]]:
            yield from ((cut(), r) for cut, r in cuts[held])

        given = site.bias is not None, self._normed(site)
        fit, held = (Wide(partial(rows, held), spreads[held].total, *given) for held in (False, True))
        return fit, held

    def _rows(self, site: Layer, matrix: Tensor) -> Iterator[Rows]:
        """The rows of each chunk, or several times some where the layer runs several times."""
        several, groups, tail = len(site.nodes) > 1, matrix.shape[0], self._tail(site)
        dense, slim = self._ahead() if several else (self._dense, self._slim)
        bias = 0 if site.bias is None else widened(site.bias.detach()).reshape(groups, -1)
        for chunk, images in enumerate(self._images):
            for node in site.nodes:
                y = self.pair.kept_of(node, dense.value(chunk, node))
                if y is None:
                    continue
                sizes = positions(site.convolution, y)
                chosen = drawn(sizes, self.settings.positions * images, self.generator)
                cut = partial(self._cut, site, slim, (chunk, node), sizes, chosen)
                wanted = widened(outputs_at(site.convolution, y, chosen))
                other = tail.line(wanted)[1].expand_as(wanted)
                if tail.other is not None and (both := self._others(tail.other, chunk, y)) is not None:
                    theirs, own = (widened(outputs_at(site.convolution, v, chosen)) for v in both)
                    wanted, other = wanted + tail.lack(theirs - own), other + own
                wanted, other, x = wanted.unflatten(1, (groups, -1)), other.unflatten(1, (groups, -1)), cut()
                rest = wanted - torch.einsum("ngd,gdo->ngo", x, matrix) - bias
                yield Rows(chunk, cut, x, rest, wanted, other)
        if several:
            for walk in (dense, slim):
                self._shelf.drop(walk)

    def _cut(self, site: Layer, slim: Walk, where: tuple[int, str], sizes: tuple[int, ...], chosen: Tensor) -> Tensor:
        return widened(patches_at(site.convolution, site.input_of(*slim.arguments(*where)), sizes, chosen))

    def _ahead(self) -> tuple[Walk, Walk]:
        """New walks from the start, which see the later calls of a layer, with the weights that it has now."""
        dense, slim = self._walks()
        for chunk in range(len(self._images)):
            env = self._shelf.take(("inputs", chunk))
            for walk in (dense, slim):
                walk.start(chunk, env[self._dense.last])
            self._shelf.put(("inputs", chunk), env)
        return dense, slim

    def _others(self, names: tuple[str, str], chunk: int, y: Tensor) -> tuple[Tensor, Tensor] | None:
        """What `y` is added to, in the dense model and the slim; None where they are not of its shape."""
        theirs, own = names
        dense = self.pair.kept_of(theirs, self._dense.ahead(chunk, theirs))
        slim = self._slim.ahead(chunk, own)
        return (dense, slim) if dense is not None and dense.shape == slim.shape == y.shape else None

    def _write(self, site: Layer, matrix: Tensor, change: Change, norm: Norm | None = None) -> None:
        """The weights, and the bias: of a layer without one, the mean that `norm` takes away moves instead."""
        with torch.no_grad():
            site.weight.copy_(site.as_weight(matrix + change.weight))
            if change.bias is not None and site.bias is not None:
                site.bias.add_(change.bias.flatten().to(site.bias))
            elif change.bias is not None:
                assert norm is not None
                norm.module.running_mean.sub_(change.bias.flatten().to(norm.module.running_mean))  # type: ignore[union-attr]

    # -- norms ---------------------------------------------------------------------------------------------------------

    def _norm(self, site: Norm) -> SiteRepair:
        norm, spreads = site.module, [Spread() for _ in range(4)]
        source = str(self._dense.nodes[site.node].all_input_nodes[0].name)
        for chunk in range(len(self._images)):
            for number, walk in enumerate((self._dense, self._slim)):
                args, kwargs = walk.arguments(chunk, site.node)
                x = args[0] if args else kwargs["input"]
                x = self.pair.kept_of(source, x) if walk is self._dense else x
                if x is not None:
                    spreads[2 * held_back(chunk) + number].add(x)
        if not all(spread.finite for spread in spreads):
            return SiteRepair(site.name, "norm", None, None, _STRANGE)
        before: Running = (norm.running_mean.double(), norm.running_var.double())  # type: ignore[union-attr]
        running: Running = tuple(self.pair.kept_tensor(f"{site.name}.running_{what}").double() for what in ("mean", "var"))  # type: ignore[assignment]
        new = matched(spreads[0], spreads[1], running, norm.eps, self.settings.norms)
        measure: Callable[[Any], float] = lambda with_: distance(norm, spreads[2], spreads[3], running, with_)  # noqa: E731
        together = site.node in self._fitted
        if together or measure(before) <= _SAME or not measure(new) < measure(before):
            why = _TOGETHER if together else _ALIKE if measure(before) <= _SAME else _WORSE
            return SiteRepair(site.name, "norm", measure(before), measure(before), why)
        with torch.no_grad():
            norm.running_mean.copy_(new[0])  # type: ignore[union-attr]
            norm.running_var.copy_(new[1])  # type: ignore[union-attr]
        return SiteRepair(site.name, "norm", measure(before), measure(new))
