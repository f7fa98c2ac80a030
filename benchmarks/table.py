"""Results of the coverage benchmark as JSON and as a Markdown table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import lists

__all__ = ["passed", "write_tables"]

Row = dict[str, Any]
LOWEST = 10  # models whose frozen channels the table explains
ENOUGH = 0.4  # share of MACs below which it explains them too
MUST = ("traced", "shape", "batch", "round_trip", "backward")
_HEAD = (
    *("model", "params", "free", "MACs", "params after", "fidelity", "permutation", "masked"),
    *("shape", "batch", "size", "train", "reload", "s", "MiB", "TP", "TP MACs", "TP s"),
)
_LEGEND = """\
- *params*: of the original, in millions. *free*: share of the parameters' entries that lie in a channel
  that may go.
- *MACs*, *params after*: what goes.
- *fidelity*: the recording, made on a batch of one, against the original itself: outputs, gradients and buffers, in
  evaluation and in training under one seed, on other batches and, where the original takes them, other resolutions;
  largest relative difference, and in how many checks. An asterisk: the recording asserts a size that the original's
  Python branches on.
- *permutation*, *masked*: relative errors with every parameter randomised, in float32; where that is
  above 1e-4, a second number: in float64.
- *shape*: the output shapes of the original. *batch*: the same at another batch size. *size*: at another
  resolution (n/a where the original takes one only; *asserts*: the original's Python branches on the size,
  and the slim model says that it was traced for the other branch; not needed to pass).
- *train*: backward and a step of the optimiser. *reload*: saved, run in a fresh process without fxprune,
  same output.
- *s*, *MiB*: time of `prune(verify=False)` on one thread, and its peak memory above the loaded model.
- *TP*: Torch-Pruning, as its own examples run it; `ok`: it runs, with the output shapes of the original
  (its values are not checked).
"""


def passed(row: Row) -> bool:
    """Whether a model does everything that is asked (Torch-Pruning: runs and gives the same output shape)."""
    if row.get("errors"):
        return False
    if row["tool"] != "fxprune":
        return bool(row.get("shape"))
    return all(row.get(name) for name in MUST) and verified(row)


def verified(row: Row) -> bool:
    """Both errors are rounding: within 1e-4 in float32, or, where not, within 1e-9 in float64."""
    return bool(row.get("verified") or row.get("float64", {}).get("verified"))


def write_tables(rows: list[Row], out: Path, environment: Mapping[str, str]) -> list[str]:
    """Write ``coverage.json`` and ``coverage.md``; return the summary lines."""
    peers = {(r["model"], r["scope"], r["ratio"]): r for r in rows if r["tool"] != "fxprune"}
    sections: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows:
        if row["tool"] == "fxprune":
            sections.setdefault((row["scope"], row["attention"], row["ratio"]), []).append(row)
    text = ["# Coverage\n", ", ".join(f"{k} {v}" for k, v in environment.items()) + "\n"]
    summary: list[str] = []
    for (scope, attention, ratio), found in sorted(sections.items()):
        found.sort(key=lambda r: (lists.belongs(r["model"]), r["model"]))
        title = f"ratio {ratio:g}, scope {scope}, attention {attention}"
        pairs = [(row, peers.get((row["model"], scope, ratio))) for row in found]
        lines = [f"{title}: {line}" for line in _summaries(pairs)]
        summary += lines
        text += [f"## {title[0].upper()}{title[1:]}\n", *(f"- {line}" for line in lines), ""]
        text += [_table(pairs), _failures(pairs), _least_free(found)]
    text.append(_LEGEND)
    (out / "coverage.md").write_text("\n".join(text) + "\n")
    document = {"environment": dict(environment), "summary": summary, "rows": rows}
    (out / "coverage.json").write_text(json.dumps(document, indent=1) + "\n")
    return summary


def _summaries(pairs: list[tuple[Row, Row | None]]) -> Iterable[str]:
    """One line for each list of models."""
    named: dict[str, list[tuple[Row, Row | None]]] = {}
    for row, peer in pairs:
        named.setdefault(lists.belongs(row["model"]), []).append((row, peer))
    for name, found in named.items():
        ours = [row for row, _ in found]
        good = [row for row in ours if passed(row)]
        only64 = sum(not row.get("verified") for row in good)
        line = f"{name}: {len(good)} of {len(ours)} pass"
        line += f" ({only64} of them by their errors in float64)" if only64 else ""
        shares = [row["free_share"] for row in ours if "free_share" in row]
        line += f"; {mean(shares):.1%} of parameters free on average" if shares else ""
        cuts = [1 - row["macs"][1] / row["macs"][0] for row in ours if row.get("macs", [0])[0]]
        line += f"; MACs down by {mean(cuts):.0%} on average" if cuts else ""
        theirs = [peer for _, peer in found if peer is not None]
        line += f"; Torch-Pruning: {sum(map(passed, theirs))} of {len(theirs)} run" if theirs else ""
        yield line
        yield from _beside(name, found)


def _beside(name: str, pairs: list[tuple[Row, Row | None]]) -> Iterable[str]:
    """MACs removed where both tools run."""
    both = [(row, peer) for row, peer in pairs if peer is not None and passed(row) and passed(peer) and "macs" in peer]
    if not both:
        return
    cuts = [(_share(row, "macs"), _share(peer, "macs"), row["model"]) for row, peer in both]
    ours, theirs = mean(c[0] for c in cuts), mean(c[1] for c in cuts)
    behind = [f"{model} ({a:.0%} against {b:.0%})" for a, b, model in cuts if a < b - 0.01]
    line = f"{name}, the {len(both)} that both run: MACs down by {ours:.0%}, with Torch-Pruning by {theirs:.0%}"
    yield line + (f"; it removes more of {', '.join(behind)}" if behind else "; it removes more of none")


def _table(pairs: list[tuple[Row, Row | None]]) -> str:
    lines = ["| " + " | ".join(_HEAD) + " |", "|---" + "|---:" * (len(_HEAD) - 1) + "|"]
    lines += ["| " + " | ".join(_cells(row, peer)) + " |" for row, peer in pairs]
    return "\n".join(lines) + "\n"


def _cells(row: Row, peer: Row | None) -> list[str]:
    return [
        row["model"] if passed(row) else f"**{row['model']}**",
        f"{row['parameters'] / 1e6:.1f}" if "parameters" in row else "",
        f"{row['free_share']:.1%}" if "free_share" in row else "",
        _cut(row, "macs"),
        _cut(row, "params"),
        _fidelity(row),
        _error(row, "permutation_error"),
        _error(row, "masked_error"),
        *(_mark(row, name) for name in ("shape", "batch", "resolution", "backward", "round_trip")),
        _number(row, "seconds"),
        _number(row, "peak_mib"),
        "" if peer is None else "ok" if passed(peer) else _word(peer),
        "" if peer is None or not passed(peer) else _cut(peer, "macs"),
        "" if peer is None or not passed(peer) else _number(peer, "seconds"),
    ]


def _cut(row: Row, name: str) -> str:
    return f"-{_share(row, name):.0%}" if row.get(name, (0, 0))[0] else ""


def _share(row: Row, name: str) -> float:
    """Share of the MACs or parameters that went."""
    before, after = row[name]
    return 1 - after / before if before else 0.0


def _error(row: Row, name: str) -> str:
    exact = row.get("float64", {}).get(name)
    texts = [f"{e:.0e}" for e in (row.get(name), exact) if e is not None]
    return ", ".join(texts)


def _fidelity(row: Row) -> str:
    """The largest difference, and in how many checks; with an asterisk where the recording refuses one."""
    if "fidelity_error" not in row:
        return ""
    star = "\\*" if row["fidelity_refused"] else ""
    return f"{row['fidelity_error']:.0e} ({len(row['fidelity_checks'])}{star})"


def _mark(row: Row, name: str) -> str:
    if name in row:
        if row[name] is False and "traced for inputs where" in row.get(f"{name}_error", ""):
            return "asserts"
        return {True: "✓", False: "✗", None: "n/a"}[row[name]]
    return "✗" if name in row.get("errors", {}) else ""


def _number(row: Row, name: str) -> str:
    return f"{row[name]:.3g}" if name in row else ""


def _word(row: Row) -> str:
    text = " ".join(row.get("errors", {}).values())
    return next((word for word in ("timeout", "memory") if text.startswith(word)), "error")


def _failures(pairs: list[tuple[Row, Row | None]]) -> str:
    """What went wrong, stage by stage."""
    lines = []
    for row in (r for pair in pairs for r in pair if r is not None and not passed(r)):
        errors = row.get("errors") or {"verify": "errors above rounding"}
        name = f"{row['tool']} {row['model']}"
        lines += [f"- {name}, {stage}: {_escaped(text)}" for stage, text in errors.items()]
    return "\n".join(["### What failed\n", *lines]) + "\n" if lines else ""


def _least_free(rows: list[Row]) -> str:
    """The models with the smallest shares of free parameters, and those that lose the fewest MACs, with what is frozen."""
    lowest = sorted((r for r in rows if "free_share" in r), key=lambda r: r["free_share"])[:LOWEST]
    little = [r for r in rows if "macs" in r and _share(r, "macs") < ENOUGH and r not in lowest]
    lines = [f"### The {len(lowest)} lowest shares of free parameters, and who loses less than {ENOUGH:.0%} of its MACs\n"]
    for row in (*lowest, *little):
        reasons = [f"{entry['channels']} x {_escaped(entry['reason'])}" for entry in row.get("frozen", [])]
        whole = [f"{e['name']} ({e['entries'] / row['parameters']:.1%}{_because(e)})" for e in row.get("fixed_parameters", [])]
        cut = f"MACs {_cut(row, 'macs')}" if "macs" in row else "not pruned"
        lines.append(f"- {row['model']}: {row['free_share']:.1%} free, {cut}; channels frozen: {'; '.join(reasons) or 'none'}")
        if whole:
            lines[-1] += f"; most of what stays is in {', '.join(whole)}"
    return "\n".join(lines) + "\n" if lowest else ""


def _because(entry: Row) -> str:
    return f": {_escaped(entry['reason'])}" if entry["reason"] else ""


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
