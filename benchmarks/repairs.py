"""What is a repair worth, and the ranking before it? Repairs of several kinds after cuts by several rankings, at equal MACs.

    python benchmarks/repairs.py --data FOLDER --weights resnet20.safetensors vgg16bn.safetensors

Accuracy before any training. All kinds but ``none`` set the batch norms as `fxprune.repair` does, so what differs is the fit of
the layers:

* ``norms``: none;
* ``scaling``: one factor a channel, by least squares on what the slim layers read (Luo et al., "ThiNet", ICCV 2017, section
  3.2);
* ``merging``: channels that went as a linear map of those that are kept, in the dense model, neither centred nor with a bias,
  folded into the weights (as GRAIL does: Gram matrix and ridge; no code of theirs was run);
* ``affine``: as an affine function of those that are kept, centred, its constant folded into the bias (as CORP does with
  hidden units, arXiv 2602.05243 and github.com/BOX-LEO/CORP; its part for queries and keys is left out, as these networks have
  none; no code of theirs was run);
* ``layers``: `fxprune.repair` without residual streams and rectifiers;
* ``streams``: without rectifiers; ``whole``: as it is.

Test images of the first half are for choosing, those of the second for what is said. FOLDER is that of `criteria.py`. Rows are
appended to ``repairs.jsonl`` as they come, and what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from criteria_accuracy import EXAMPLE, accuracy, gone_for
from criteria_data import Batches, Cifar, batches, load_network
from measure import code_hash, environment
from torch import Tensor, nn

import fxprune
from fxprune import criteria
from fxprune.options import PruneOptions
from fxprune.planning.document import document_of
from fxprune.planning.repaired import SiteRepair
from fxprune.recovery.repair.chunks import chunks_of, held_back
from fxprune.recovery.repair.layers import Layer
from fxprune.recovery.repair.pair import Pair
from fxprune.recovery.repair.repairing import Repairing, Settings
from fxprune.state import sliced

__all__ = ["KINDS", "Affine", "Merging", "Scaling", "main", "table"]

Row = dict[str, Any]
_LEAST = 1e-3  # ridge of `affine`


class Norms(Repairing):
    """Layers stay as they are."""

    def _layer(self, site: Layer) -> SiteRepair:
        return SiteRepair(site.name, "layer", None, None, "not asked for")


class Scaling(Repairing):
    """One factor a channel: ``min_s sum (y - sum_c s_c z_c)^2`` over outputs, ``z_c`` what channel c adds."""

    def _layer(self, site: Layer) -> SiteRepair:
        matrix = site.matrix().double()
        channels = site.weight.shape[1]
        gram, product = torch.zeros(channels, channels).double(), torch.zeros(channels).double()
        for rows in self._rows(site, matrix):
            if not held_back(rows.chunk):
                z = torch.einsum(
                    "ncd,cdo->noc", rows.x[:, 0].unflatten(1, (channels, -1)), matrix[0].unflatten(0, (channels, -1))
                )
                z = z - z.mean(0) if site.normed else z
                y = rows.wanted[:, 0] - (0 if site.bias is None else site.bias.detach().double())
                y = y - y.mean(0) if site.normed else y
                gram, product = gram + torch.einsum("noc,nok->ck", z, z), product + torch.einsum("noc,no->c", z, y)
        ridge = self.settings.ridge * gram.diagonal().mean()
        factors = torch.linalg.solve(gram + ridge * torch.eye(channels), product + ridge)  # towards 1
        with torch.no_grad():
            site.weight.mul_(factors.to(site.weight).view(1, -1, *[1] * (site.weight.dim() - 2)))
        return SiteRepair(site.name, "layer", None, None)


class Merging(Repairing):
    """Inputs that went as a map of those that are kept, ``G_ak (G_kk + ridge I)^-1`` with ``G`` of the dense model's inputs."""

    def _layer(self, site: Layer) -> SiteRepair:
        _, _, gram = self._seen(site)
        whole, keep, _ = self._whole(site)
        inner = gram[keep][:, keep]
        ridge = self.settings.ridge * inner.diagonal().mean() * torch.eye(len(keep))
        merge = torch.linalg.solve(inner + ridge, gram[keep])  # [kept, all]
        with torch.no_grad():
            site.weight.copy_(torch.einsum("oc...,kc->ok...", whole, merge))
        return SiteRepair(site.name, "layer", None, None)

    def _seen(self, site: Layer) -> tuple[int, Tensor, Tensor]:
        """Of the dense layer's inputs at all positions: how many, their sum and the sum of their products."""
        count, total, gram = 0, torch.zeros(()), torch.zeros(())
        for chunk in range(len(self._images)):
            x = site.input_of(*self._dense.arguments(chunk, site.node))
            self._slim.arguments(chunk, site.node)
            if not held_back(chunk):
                rows = (x if site.convolution is None else x.movedim(1, -1)).flatten(0, -2).double()
                count, total, gram = count + len(rows), total + rows.sum(0), gram + rows.T @ rows
        return count, total, gram

    def _whole(self, site: Layer) -> tuple[Tensor, Tensor, Tensor]:
        """The dense weights of the outputs that are kept, and the inputs that stay and that go."""
        name = f"{site.name}.weight"
        kept = self.pair.cut.tensors[name]
        whole = sliced(self.pair._tensors[name].detach(), {axis: k for axis, k in kept.items() if axis == 0}).double()
        gone = torch.ones(whole.shape[1], dtype=torch.bool)
        gone[kept[1]] = False
        return whole, torch.from_numpy(kept[1]), gone.nonzero().flatten()


class Affine(Merging):
    """Inputs that went as an affine function of those that are kept, ``x_P = B x_S + c``, of the dense model's inputs::

        B = C_PS (C_SS + l I)^-1    c = mean_P - B mean_S    W_S <- W_S + W_P B    b <- b + W_P c

    with ``C`` their covariance and ``l`` by oracle approximating shrinkage (Chen et al., "Shrinkage Algorithms for MMSE
    Covariance Estimation", IEEE TSP 58(10), 2010, equation 23), at least 0.001. Of a convolution the taps of ``W_P c`` add up,
    as if there were no padding; where there is no bias, the norm that follows takes the mean.
    """

    def _layer(self, site: Layer) -> SiteRepair:
        count, total, gram = self._seen(site)
        whole, keep, gone = self._whole(site)
        mean = total / count
        covariance = gram / count - torch.outer(mean, mean)
        inner = covariance[keep][:, keep]
        ridge = max(_LEAST, float(_shrinkage(inner, count) * inner.diagonal().mean()))
        b = torch.linalg.solve(inner + ridge * torch.eye(len(keep)), covariance[keep][:, gone]).T  # [gone, kept]
        c = mean[gone] - b @ mean[keep]
        lost = whole[:, gone]
        with torch.no_grad():
            site.weight.copy_(whole[:, keep] + torch.einsum("op...,pk->ok...", lost, b))
            if site.bias is not None:
                site.bias.add_(torch.einsum("op...,p->o...", lost, c).reshape(len(lost), -1).sum(1).to(site.bias))
        return SiteRepair(site.name, "layer", None, None)


def _shrinkage(covariance: Tensor, count: int) -> float:
    """Share of the mean variance that is mixed into a covariance ``[p, p]`` of `count` rows."""
    p = len(covariance)
    squares, trace = float(covariance.square().sum()), float(covariance.trace())
    above, below = (1 - 2 / p) * squares + trace**2, (count + 1 - 2 / p) * (squares - trace**2 / p)
    return min(1.0, above / below) if below > 0 else 1.0


KINDS: dict[str, Any] = {
    "none": None,
    "norms": Norms,
    "scaling": Scaling,
    "merging": Merging,
    "affine": Affine,
    "layers": Repairing,
    "streams": Repairing,
    "whole": Repairing,
}
_SETTINGS = {"streams": Settings(rectify=0), "whole": Settings()}


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, write ``repairs.json`` and ``repairs.md``."""
    options = _options(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "repairs.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    data, code = Cifar(options.data), code_hash(Path(__file__).parents[1])
    images = data("train", options.images)
    test = data("test", options.test)
    half = options.test // 2
    halves = tuple(batches(test[0][part], test[1][part]) for part in (slice(half), slice(half, None)))
    for file in options.weights:
        network, model = load_network(file)
        head = {"network": network, "images": options.images, "test": options.test}
        dense = {**head, "criterion": "", "cut": 0.0, "repair": "dense"}
        if not any(dense.items() <= row.items() for row in rows):
            rows.append({**dense, **_accuracies(model, halves), "code": code})
            _append(log, rows[-1])
        for criterion in options.criteria:
            scores = partial(_scores, model, criterion, batches(*images))
            for row in _measured(model, {**head, "criterion": criterion}, scores, images[0], (halves, options, rows)):
                rows.append({**row, "code": code})
                _append(log, rows[-1])
    (options.out / "repairs.json").write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")
    (options.out / "repairs.md").write_text("\n".join(table(rows)))
    print(f"wrote {options.out / 'repairs.md'}")


def _append(log: Path, row: Row) -> None:
    with log.open("a") as lines:
        lines.write(json.dumps(row) + "\n")


def _scores(model: nn.Module, name: str, data: Batches) -> tuple[Any, dict[str, Any]]:
    analysis = fxprune.analyze(model, torch.zeros(EXAMPLE))
    made: Any = criteria.resolve(name)
    given = {"data": data} if getattr(made, "needs_data", False) else {}
    return analysis, criteria.score_groups(made, model, analysis, **given)


def _measured(model: nn.Module, head: Row, scored: Any, images: Tensor, rest: tuple[Any, Any, list[Row]]) -> Iterator[Row]:
    halves, options, rows = rest
    found: Any = None
    for cut in options.cuts:
        slim: Any = None
        for kind in options.kinds:
            row = {**head, "cut": cut, "repair": kind}
            if any(row.items() <= r.items() for r in rows):
                continue
            found = found or scored()
            if slim is None:
                plan = document_of(model, found[0].cut(gone_for(*found, cut)), PruneOptions(0.5).to_json())
                slim = fxprune.apply(model, plan, verify=False).eval()
            start = time.process_time()
            made, error = _repaired(slim, model, images, kind)
            yield {**row, "seconds": round(time.process_time() - start, 1), "error": error, **_accuracies(made, halves)}


def _repaired(slim: Any, model: nn.Module, images: Tensor, kind: str) -> tuple[nn.Module, float | None]:
    """The repaired model, and the error of its output on images held back, as a share of its variance."""
    if KINDS[kind] is None:
        return slim, None
    pair = Pair.of(slim, model)
    work = KINDS[kind](pair, _SETTINGS.get(kind, Settings(rectify=0, streams=False)))
    work.read(chunks_of(images, [str(n.target) for n in pair.dense.graph.nodes if n.op == "placeholder"], pair.device))
    for site in work.sites:
        work(site)
    return pair.result().eval(), work.output_errors()[1]


def _accuracies(model: nn.Module, halves: tuple[Batches, ...]) -> dict[str, float]:
    return {"chosen_on": accuracy(model, halves[0]), "reported_on": accuracy(model, halves[1])}


def table(rows: list[Row]) -> Iterator[str]:
    """Markdown: a table a network and cut, a row a ranking, a column a repair."""
    yield "# Repairs, and the rankings before them\n"
    yield (
        "Accuracy in per cent, before any training, of CIFAR-10 (JPEG q75) networks after a global ranking took the same share "
        "of the MACs, on the second half of the test images; in brackets on the first. `benchmarks/repairs.py` says what "
        "the repairs are.\n"
    )
    kinds = [kind for kind in KINDS if any(r["repair"] == kind for r in rows)]
    for network, cut in dict.fromkeys((r["network"], r["cut"]) for r in rows if r["cut"]):
        own = [r for r in rows if (r["network"], r["cut"]) == (network, cut)]
        dense = next(r for r in rows if r["network"] == network and r["repair"] == "dense")
        yield f"## {network}, {cut:.0%} fewer MACs\n"
        half = own[0]["test"] // 2
        noise = 100 * (dense["reported_on"] * (1 - dense["reported_on"]) / half) ** 0.5
        seen = f"{own[0]['images']} training images; twice {half} test images (one deviation {noise:.1f})"
        yield f"Dense {_cell(dense)}. {seen}.\n"
        lines = [["ranking", *kinds, "seconds of `whole`"], ["---"] * (len(kinds) + 2)]
        for criterion in dict.fromkeys(r["criterion"] for r in own):
            mine = {r["repair"]: r for r in own if r["criterion"] == criterion}
            seconds = str(mine["whole"]["seconds"]) if "whole" in mine else ""
            lines.append([f"`{criterion}`", *(_cell(mine[k]) if k in mine else "" for k in kinds), seconds])
        yield "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _cell(row: Row) -> str:
    return f"{100 * row['reported_on']:.1f} ({100 * row['chosen_on']:.1f})"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="CIFAR-10 as JPEG: see criteria.py")
    parser.add_argument("--weights", nargs="+", type=Path, required=True, metavar="FILE", help="safetensors")
    parser.add_argument("--criteria", nargs="+", default=["l2", "surgeon"], choices=criteria.names(), metavar="NAME")
    parser.add_argument("--kinds", nargs="+", default=[*KINDS], choices=[*KINDS])
    parser.add_argument("--cuts", nargs="+", type=float, default=[0.5, 0.3], help="shares of the MACs to remove")
    parser.add_argument("--images", type=int, default=640, help="unlabelled training images")
    parser.add_argument("--test", type=int, default=2000, help="test images")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
