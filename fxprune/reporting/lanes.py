"""The groups of a model as a drawing: each a bar from the first layer that makes its channels to the last that reads them.

Layers stand in columns, in the order in which channels flow; groups that exist at the same time lie in lanes above each
other; a line leads, at a layer's column, from each group that it reads to each that it makes. A residual stream is a long bar,
the inside of a block a short one between two layers: what is coupled is seen at once, where a drawing of nodes and springs
would be a ball of wool. Long rows are broken like lines of text, so that a model of a thousand groups is a page, not a ribbon.
The drawing depends on the plan alone.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fxprune.planning.plan import GroupPlan

__all__ = ["Layer", "drawing", "layers_of"]

_COLUMN, _LANE, _BAR, _PAD, _GAP = 92.0, 44.0, 18.0, 13.0, 30.0  # units of the drawing, which are pixels at scale 1
_ASPECT = 1.9  # width over height that rows are broken for
_LETTER = 5.9  # of the width of a bar's name


@dataclass
class Layer:
    """A tensor that reads or makes channels: a weight, an embedding.

    Attributes:
        name: of the tensor.
        reads, makes: numbers of the groups.
    """

    name: str
    reads: list[int] = field(default_factory=list)
    makes: list[int] = field(default_factory=list)


def layers_of(groups: Sequence[GroupPlan]) -> list[Layer]:
    """In the order in which channels flow: groups come in that of their first layer; a layer that makes a group which other
    layers made before comes right behind the one that it reads."""
    found: dict[str, Layer] = {}
    for number, group in enumerate(groups):
        ends = [member for member in group.members if member[2] in ("producer", "consumer")]
        for name, _, role in ends or group.members[:1] or [(group.id, 0, "producer")]:
            layer = found.setdefault(name, Layer(name))
            side = layer.reads if role == "consumer" else layer.makes
            if number not in side:
                side.append(number)

    def place(layer: Layer) -> tuple[int, bool]:
        last = max(*layer.reads, *layer.makes, -1, -1)
        return last, last not in layer.makes

    return sorted(found.values(), key=place)


def drawing(groups: Sequence[GroupPlan]) -> dict[str, Any]:
    """Bars, lines and the size of it all.

    Returns:
        ``width`` and ``height``; ``bars``: of each group its pieces ``[x, y, width]``, one a row, with the text that fits
        the first; ``lines``: ``[reads, makes, layer, path]`` each.
    """
    layers = layers_of(groups)
    spans = _spans(layers, len(groups))
    lanes = _lanes(spans)
    rows = _rows(spans, lanes, len(layers))
    bars = []
    for number, (start, end) in enumerate(spans):
        pieces = [_piece(row, start, end, lanes[number]) for row in rows if row.first <= end and start <= row.last]
        width = max(piece[2] for piece in pieces)
        largest = next(index for index, piece in enumerate(pieces) if piece[2] == width)
        bars.append({"pieces": pieces, "text": _fitted(groups[number].id, width), "text_in": largest})
    lines = [
        [source, target, layer.name, _line(rows, spans, lanes, (column, source, target))]
        for column, layer in enumerate(layers)
        for source in layer.reads
        for target in layer.makes
    ]
    width = max((row.width for row in rows), default=0.0)
    height = rows[-1].top + rows[-1].height if rows else 0.0
    return {"width": width, "height": height, "bar": _BAR, "bars": bars, "lines": lines}


@dataclass
class _Row:
    """Columns from `first` to `last`, and where each lane that is used in them lies."""

    first: int
    last: int
    top: float = 0.0
    lanes: list[int] = field(default_factory=list)

    def x(self, column: float) -> float:
        return (column - self.first + 0.5) * _COLUMN

    def y(self, lane: int) -> float:
        return self.top + _GAP / 2 + bisect_left(self.lanes, lane) * _LANE + _LANE - _BAR

    @property
    def width(self) -> float:
        return (self.last - self.first + 1) * _COLUMN

    @property
    def height(self) -> float:
        return _GAP + len(self.lanes) * _LANE


def _spans(layers: Sequence[Layer], count: int) -> list[tuple[int, int]]:
    """First and last column of each group."""
    found: list[list[int]] = [[] for _ in range(count)]
    for column, layer in enumerate(layers):
        for number in (*layer.reads, *layer.makes):
            found[number].append(column)
    return [(min(columns), max(columns)) for columns in found]


def _lanes(spans: Sequence[tuple[int, int]]) -> list[int]:
    """The lane of each group, the longest first: in one lane they touch at most at a layer that leads from one to the next."""
    taken: list[list[tuple[int, int]]] = []
    found = [0] * len(spans)
    for number in sorted(range(len(spans)), key=lambda n: (spans[n][0] - spans[n][1], n)):
        span = spans[number]
        lane = next((i for i, others in enumerate(taken) if _fits(span, others)), len(taken))
        if lane == len(taken):
            taken.append([])
        insort(taken[lane], span)
        found[number] = lane
    return found


def _fits(span: tuple[int, int], others: list[tuple[int, int]]) -> bool:
    at = bisect_left(others, span)
    before = others[at - 1] if at else None
    after = others[at] if at < len(others) else None
    points = span[0] == span[1]  # a bar of one column needs it for itself
    if before is not None and (before[1] > span[0] or (before[1] == span[0] and (points or before[0] == before[1]))):
        return False
    return after is None or not (span[1] > after[0] or (span[1] == after[0] and (points or after[0] == after[1])))


def _rows(spans: Sequence[tuple[int, int]], lanes: Sequence[int], columns: int) -> list[_Row]:
    """Rows of equally many columns, so that the page is about `_ASPECT` times as wide as it is high."""
    if not columns:
        return []
    deep = max(lanes, default=0) + 1
    each = max(6, math.ceil(math.sqrt(columns * (_GAP + deep * _LANE) * _ASPECT / _COLUMN)))
    each = math.ceil(columns / max(1, math.ceil(columns / each)))
    rows, top = [], 0.0
    for first in range(0, columns, each):
        row = _Row(first, min(first + each, columns) - 1, top)
        used = {lane for (start, end), lane in zip(spans, lanes, strict=True) if start <= row.last and row.first <= end}
        row.lanes = sorted(used)
        rows.append(row)
        top += row.height
    return rows


def _piece(row: _Row, start: int, end: int, lane: int) -> list[float]:
    """The part of a bar in a row: between its layers, or to the edge where it goes on."""
    left = row.x(start) + _PAD if start >= row.first else 0.0
    right = row.x(end) - _PAD if end <= row.last else row.width
    if right - left < 2 * _PAD:  # it begins and ends at one layer, or right at the edge
        middle = row.x(start) if start == end else (left + right) / 2
        left, right = middle - 2 * _PAD, middle + 2 * _PAD
    return [round(max(left, 0.0), 1), round(row.y(lane), 1), round(right - max(left, 0.0), 1)]


def _line(rows: Sequence[_Row], spans: Sequence[tuple[int, int]], lanes: Sequence[int], ends: tuple[int, int, int]) -> str:
    """A path from the group that is read to the one that is made, at a layer's column; with a tip."""
    column, source, target = ends
    row = next(row for row in rows if row.first <= column <= row.last)
    x0, x1 = (_side(row.x(column), column, spans[number]) for number in (source, target))
    y0, y1 = (row.y(lanes[number]) + _BAR / 2 for number in (source, target))
    if x0 == x1 and y0 != y1:  # straight from bar to bar
        away = _BAR / 2 if y1 > y0 else -_BAR / 2
        return _path((x0, y0 + away), (x1, y1 - away))
    return _path((x0, y0), (x1, y1))


def _side(middle: float, column: int, span: tuple[int, int]) -> float:
    """Where a line meets a bar: at its end, if it ends at this layer, and else in the layer's column."""
    start, end = span
    if start == end:
        return middle
    return middle + _PAD if start == column else middle - _PAD if end == column else middle


def _path(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x0, y0), (x1, y1) = start, end
    bend = (x1 - x0) / 2 if x1 > x0 else 0.0
    return f"M{x0:.1f} {y0:.1f}C{x0 + bend:.1f} {y0:.1f} {x1 - bend:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"


def _fitted(name: str, width: float) -> str:
    """The end of a name, which tells it from its neighbours, as far as it fits."""
    name = name.removesuffix(".weight")
    most = max(3, int(width / _LETTER))
    return name if len(name) <= most else "…" + name[len(name) - most + 1 :].lstrip(".")
