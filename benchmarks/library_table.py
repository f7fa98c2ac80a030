"""Results of the libraries benchmark as a Markdown table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from library_onnx import onnx_mark, onnx_note

__all__ = ["passed", "write_tables"]

Row = dict[str, Any]
_HEAD = ("model", "s", "MACs", "params", "free", "certificate", "batch", "reload", "ONNX", "TP", "TP MACs", "TP s")
_LEGEND = """\
- *s*: seconds of `prune(verify=False)` on one thread, with recording and analysis.
- *MACs*, *params*: what goes. *free*: share of the parameters' entries that lie in a channel that may go.
- *certificate*: `fxprune.verify` passed: the recording does what the user's own model does, the slim model what the masked
  original does, and permuted channels change nothing.
- *batch*: at a batch of three (recorded: two) the recording equals the user's own model, and the slim model runs.
- *reload*: saved, run in a fresh process without fxprune, same output.
- *ONNX*: exported and run by ONNX Runtime within 1e-4 (ultralytics only). `as the dense model`: not within, and the dense
  model exported the same way is not either. `unoptimized`: within without the runtime's optimizations alone (they round
  otherwise, and scores that are equal but for rounding are then sorted otherwise).
- *TP*: Torch-Pruning as its README says (MagnitudePruner, the layers that make the outputs ignored); `ok`: it runs and gives
  the output shapes of the original (its values are not checked). It has 20 s a model.
"""


def passed(row: Row) -> bool:
    """Whether a model was pruned with a certificate."""
    return bool(row.get("certificate"))


def write_tables(rows: list[Row], out: Path, environment: Mapping[str, str]) -> list[str]:
    """Write ``libraries.md``; return the summary lines."""
    rows = [row for row in rows if not _unmade(row)]
    sections: dict[str, list[Row]] = {}
    for row in rows:
        sections.setdefault(row["library"], []).append(row)
    summary = [_summary("all", rows), *(_summary(name, found) for name, found in sections.items())] if rows else []
    settings = sorted({f"ratio {r['ratio']:g}, scope {r['scope']}, example of batch {r['batch']}" for r in rows})
    text = ["# Libraries\n", ", ".join(f"{k} {v}" for k, v in environment.items()) + "\n", *settings, ""]
    text += [*(f"- {line}" for line in summary), ""]
    for name, found in sections.items():
        text += [f"## {name}\n", _table(found), *_notes(found)]
    text.append(_LEGEND)
    (out / "libraries.md").write_text("\n".join(text))
    (out / "libraries.json").write_text(json.dumps({"environment": dict(environment), "summary": summary}, indent=1) + "\n")
    return summary


def _unmade(row: Row) -> bool:
    """Whether the model itself could not be made or run here, which says nothing of pruning."""
    return any(stage in row.get("errors", {}) for stage in ("build", "import"))


def _summary(name: str, rows: list[Row]) -> str:
    good = [row for row in rows if passed(row)]
    line = f"{name}: {len(good)} of {len(rows)} pruned with a certificate ({len(good) / len(rows):.0%})"
    cuts = [_share(row["macs"]) for row in good if row["macs"][0]]
    line += f"; MACs down by {median(cuts):.0%} (median)" if cuts else ""
    shares = [row["free_share"] for row in good if "free_share" in row]
    line += f"; {median(shares):.0%} of parameters free (median)" if shares else ""
    for stage in ("other_batch", "reload", "onnx"):
        tried = [row for row in good if stage in row or stage in row.get("errors", {})]
        line += f"; {stage.replace('_', ' ')} {sum(bool(row.get(stage)) for row in tried)} of {len(tried)}" if tried else ""
    theirs = [row["peer"] for row in rows if isinstance(row.get("peer"), dict)]
    line += f"; Torch-Pruning {sum('macs' in peer for peer in theirs)} of {len(theirs)}" if theirs else ""
    died = sum("died" in text for row in rows for text in row.get("errors", {}).values())
    return line + (f"; {died} ended the interpreter" if died else "")


def _table(rows: list[Row]) -> str:
    lines = ["| " + " | ".join(_HEAD) + " |", "|---" + "|---:" * (len(_HEAD) - 1) + "|"]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> list[str]:
    found = row.get("peer")
    peer: Row = found if isinstance(found, dict) else {}
    return [
        row["model"] if passed(row) else f"**{row['model']}**",
        f"{row['seconds']:.2f}" if "seconds" in row else "",
        _cut(row.get("macs")),
        _cut(row.get("params")),
        f"{row['free_share']:.0%}" if "free_share" in row else "",
        *(_mark(row, name) for name in ("certificate", "other_batch", "reload")),
        onnx_mark(row) if "onnx" in row else _mark(row, "onnx"),
        "ok" if "macs" in peer else "error" if peer else "",
        _cut(peer.get("macs")),
        f"{peer['seconds']:.2f}" if "seconds" in peer else "",
    ]


def _mark(row: Row, name: str) -> str:
    if name in row:
        return "✓" if row[name] else "✗"
    return "✗" if name in row.get("errors", {}) else ""


def _share(counts: list[int]) -> float:
    return 1 - counts[1] / counts[0] if counts[0] else 0.0


def _cut(counts: list[int] | None) -> str:
    return f"-{_share(counts):.0%}" if counts else ""


def _notes(rows: list[Row]) -> Iterable[str]:
    """What failed, what was refused, and what stays where the fewest channels may go."""
    for row in rows:
        notes = [f"{stage}: {text}" for stage, text in row.get("errors", {}).items()]
        if row.get("certificate") is False:
            notes.append(f"not proved: {row.get('checks')}")
        notes += filter(None, [onnx_note(row)])
        notes += [f"refused: {reason}" for reason in row.get("refused", [])]
        if "macs" in row and _share(row["macs"]) < 0.5:
            notes += [f"{count} channels frozen: {reason}" for count, reason in row.get("frozen", [])]
        notes += [f"no rule for {', '.join(row['unknown_ops'])}"] if row.get("unknown_ops") else []
        for note in notes:
            yield f"- {row['model']}: {note}".replace("|", "\\|").replace("<", "&lt;")
    yield ""
