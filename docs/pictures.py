"""Draw the picture of coupled channels that README and the first page show, from what fxprune finds in a small network.

    python docs/pictures.py [FILE]

Every layer is a box: the channels that it reads on the left, those that it makes on the right. Channels of one colour are
one group: what goes from one of its columns goes from all of them. The network and the ratio are below; which channels
share a colour, and which go, is read from `fxprune.analyze` and `fxprune.plan`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

import fxprune

FILE = Path(__file__).parent / "pages" / "images" / "coupled.svg"
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")  # told apart by colour-blind readers, too
FIXED = "#9a9a9a"
INK = "#222222"
SIDE = 0.3  # of a channel's square
WIDTH = 1.25  # of a layer's box
TITLE = "Channels of one colour are one group: what goes from one layer goes from all of them"
STEP = 1.85  # from one column of boxes to the next


class Net(nn.Module):
    """A residual block, two branches that are concatenated, and a classifier: ``[N, 3, H, W] -> [N, 4]``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.one = nn.Conv2d(6, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 6, 3, padding=1)
        self.left = nn.Conv2d(6, 4, 1)
        self.right = nn.Conv2d(6, 5, 3, padding=1)
        self.head = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.two(self.one(x).relu())
        x = torch.cat([self.left(x), self.right(x)], 1)
        return self.head(x.mean((2, 3)))


@dataclass
class Box:
    """A layer, or the addition or concatenation of what several layers made; `reads` are the boxes before it."""

    name: str
    layer: bool
    reads: list[str]
    depth: int = 0
    x: float = 0.0
    y: float = 0.0
    columns: dict[int, list[tuple[str, bool]]] = field(default_factory=dict)  # axis of the weight -> (colour, stays)

    @property
    def height(self) -> float:
        return SIDE * max((len(c) for c in self.columns.values()), default=1) + 0.75


def main(arguments: list[str]) -> None:
    """Draw the picture into the file that is named, or into the pages."""
    torch.manual_seed(0)
    model, example = Net(), torch.zeros(2, 3, 16, 16)
    file = Path(arguments[0]) if arguments else FILE
    draw(model, example, 0.4, file)
    print(f"wrote {file}")


def draw(model: nn.Module, example: Tensor, ratio: float, file: Path) -> None:
    """Draw a model that fits on a page: coupled channels coloured by group, those that go crossed out."""
    import matplotlib
    from matplotlib.figure import Figure

    plan = fxprune.plan(model, ratio, example, scope="layer")
    groups = [g for g in fxprune.analyze(model, example).groups if g.status == "free"]
    boxes = boxes_of(fxprune.trace(model, example).graph)
    for group, color in zip(groups, COLORS, strict=False):
        kept = set(plan.group(group.id).kept)
        for member in group.members:
            layer, _, kind = member.name.rpartition(".")
            if kind == "weight" and layer in boxes:
                column = boxes[layer].columns.setdefault(member.axis, [(FIXED, True)] * size(model, member.name, member.axis))
                for channel, entries in enumerate(member.indices.tolist()):
                    for entry in entries:
                        column[entry] = (color, channel in kept)
    for box in boxes.values():
        for axis in (0, 1) if box.layer else ():
            box.columns.setdefault(axis, [(FIXED, True)] * size(model, f"{box.name}.weight", axis))
    place(boxes)
    with matplotlib.rc_context({"svg.hashsalt": "fxprune", "font.family": "DejaVu Sans"}):
        figure = Figure(facecolor="white")
        paint(figure, boxes, [(color, caption(group)) for group, color in zip(groups, COLORS, strict=False)])
        metadata = {"Date": None} if file.suffix == ".svg" else {}
        figure.savefig(file, metadata=metadata, dpi=110)


def size(model: nn.Module, name: str, axis: int) -> int:
    """Entries along an axis of a parameter."""
    return int(model.get_parameter(name).shape[axis])


def boxes_of(graph: fx.Graph) -> dict[str, Box]:
    """The layers, additions and concatenations of a graph, in its order; what lies between them is left out."""
    boxes: dict[str, Box] = {}
    before: dict[fx.Node, list[str]] = {}
    for node in graph.nodes:
        reads = list(dict.fromkeys(name for n in node.all_input_nodes for name in before[n]))
        before[node] = reads
        if node.op == "call_module" or node.name.startswith(("add", "cat")):
            layer = node.op == "call_module"
            name = str(node.target) if layer else node.name
            boxes[name] = Box(name, layer, reads, 1 + max((boxes[r].depth for r in reads), default=-1))
            before[node] = [name]
    return boxes


def place(boxes: dict[str, Box]) -> None:
    """Columns by depth; boxes of one depth one above the other, around the middle."""
    left = 0.0
    for depth in range(1 + max(b.depth for b in boxes.values())):
        column = [b for b in boxes.values() if b.depth == depth]
        total = sum(b.height for b in column) + 0.35 * (len(column) - 1)
        top = total / 2
        for box in column:
            box.x, box.y = left, top - box.height / 2
            top -= box.height + 0.35
        following = [b for b in boxes.values() if b.depth == depth + 1]
        joint = not all(b.layer for b in (*column, *following))
        left += STEP - 0.3 if joint else STEP


def caption(group: Any) -> str:
    """``6 channels: made by stem, two; read by one, left, right``."""
    made = [m.name.rpartition(".")[0] for m in group.members if m.role == "producer"]
    read = [m.name.rpartition(".")[0] for m in group.members if m.role == "consumer"]
    return f"{group.size} channels: made by {' and '.join(made)}, read by {', '.join(read)}"


# -- painting ------------------------------------------------------------------------------------------------------------


def paint(figure: Any, boxes: dict[str, Box], captions: list[tuple[str, str]]) -> None:
    """Boxes, what joins them, and what the colours mean; the figure gets the size of what is drawn."""
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_aspect("equal")
    for box in boxes.values():
        for name in box.reads:
            arrow(axes, boxes[name], box, boxes)
    for box in boxes.values():
        paint_layer(axes, box) if box.layer else paint_joint(axes, box)
    first, last = min(boxes.values(), key=lambda b: b.depth), max(boxes.values(), key=lambda b: b.depth)
    left, right = first.x - WIDTH / 2, last.x + WIDTH / 2
    low = min(b.y - b.height / 2 for b in boxes.values()) - 0.6
    high = max(b.y + b.height / 2 for b in boxes.values()) + 0.35
    axes.text(left, high, TITLE, va="center", fontsize=11.5, color=INK, weight="bold")
    axes.text(first.x, first.y - first.height / 2 - 0.22, "reads | makes", ha="center", va="center", fontsize=9, color=INK)
    legend(axes, captions, left, low, right)
    bottom = low - 0.45 * len(captions)
    axes.set_xlim(left - 0.35, right + 0.35)
    axes.set_ylim(bottom, high + 0.4)
    figure.set_size_inches(0.72 * (right - left + 0.7), 0.72 * (high + 0.4 - bottom))


def paint_layer(axes: Any, box: Box) -> None:
    """A box with a column of squares on either side."""
    from matplotlib.patches import FancyBboxPatch

    left, bottom = box.x - WIDTH / 2, box.y - box.height / 2
    shape = FancyBboxPatch((left, bottom), WIDTH, box.height, "round,pad=0,rounding_size=0.12", fc="#f4f4f4", ec=INK, lw=1.1)
    axes.add_patch(shape)
    axes.text(box.x, box.y + box.height / 2 - 0.28, box.name, ha="center", va="center", fontsize=11, color=INK, weight="bold")
    for axis, x in ((1, left + 0.12), (0, left + WIDTH - 0.12 - SIDE)):
        column = box.columns[axis]
        top = box.y - 0.22 + SIDE * len(column) / 2
        for number, (color, stays) in enumerate(column):
            square(axes, x, top - SIDE * (number + 1), color, stays)


def square(axes: Any, x: float, y: float, color: str, stays: bool) -> None:
    """One channel: filled if it stays, empty and crossed out if it goes."""
    from matplotlib.patches import Rectangle

    inset, side = 0.03, SIDE - 0.06
    face = color if stays else "white"
    axes.add_patch(Rectangle((x + inset, y + inset), side, side, facecolor=face, edgecolor=color, linewidth=1.2))
    if not stays:
        for start, end in ((y + inset, y + inset + side), (y + inset + side, y + inset)):
            axes.plot([x + inset, x + inset + side], [start, end], color=color, linewidth=1.2, solid_capstyle="butt")


def paint_joint(axes: Any, box: Box) -> None:
    """A small circle: ``+``, or the word of a concatenation."""
    from matplotlib.patches import Circle

    word = "+" if box.name.startswith("add") else "cat"
    axes.add_patch(Circle((box.x, box.y), 0.3, facecolor="white", edgecolor=INK, linewidth=1.1, zorder=3))
    axes.text(box.x, box.y, word, ha="center", va="center_baseline", fontsize=15 if word == "+" else 10, color=INK, zorder=4)


def arrow(axes: Any, start: Box, end: Box, boxes: dict[str, Box]) -> None:
    """An arrow between neighbours; a wide curve over what lies between others."""
    from matplotlib.patches import FancyArrowPatch

    style: dict[str, Any] = {
        "arrowstyle": "-|>",
        "mutation_scale": 12,
        "color": INK,
        "linewidth": 1.2,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    tail = (start.x + (WIDTH / 2 if start.layer else 0.3), start.y)
    head = (end.x - (WIDTH / 2 if end.layer else 0.3), end.y)
    if end.depth - start.depth > 1:
        between = [b for b in boxes.values() if start.depth < b.depth < end.depth]
        high = max(b.y + b.height / 2 for b in between) + 0.3
        points = [(start.x + 0.35, start.y + start.height / 2), (start.x + 0.35, high), (end.x, high)]
        axes.plot(*zip(*points, strict=True), color=INK, linewidth=1.2, solid_joinstyle="round")
        tail, head = points[-1], (end.x, end.y + 0.3)
    axes.add_patch(FancyArrowPatch(tail, head, **style))


def legend(axes: Any, captions: list[tuple[str, str]], left: float, top: float, right: float) -> None:
    """A line for each group, and what full, crossed and grey squares mean."""
    middle = right - 4.6
    for number, (color, text) in enumerate(captions):
        y = top - 0.45 * number
        square(axes, left, y - SIDE / 2, color, True)
        axes.text(left + 0.45, y, text, va="center", fontsize=9.6, color=INK)
    rest = [(COLORS[0], True, "a channel that stays"), (COLORS[0], False, "one that goes, wherever made or read")]
    rest.append((FIXED, True, "the model's input and output: never touched"))
    for number, (color, stays, text) in enumerate(rest):
        y = top - 0.45 * number
        square(axes, middle, y - SIDE / 2, color, stays)
        axes.text(middle + 0.45, y, text, va="center", fontsize=9.6, color=INK)


if __name__ == "__main__":
    main(sys.argv[1:])
