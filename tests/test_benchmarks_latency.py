"""What the benchmark of latency makes of its rows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import latency
import multiples


def plan_row(error: float, engine: str = "eager") -> dict[str, Any]:
    return {"part": "plans", "model": "m", "engine": engine, "number": 0, "error": error, "share_error": error / 2}


def target_row(slim: float, saliency: float) -> dict[str, Any]:
    others = [{"share": s, "saliency": s, "scores": s, "macs": s, "seconds": [1.0, s]} for s in (0.4, 0.6, 1.2)]
    row = {"part": "targets", "model": "m", "engine": "eager", "target": 0.5, "step": 8, "seconds": [1.0, slim], "share": slim}
    return {
        **row,
        "met": slim / 0.5,
        "saliency": saliency,
        "scores": 0.9,
        "by_macs": others,
        "beside": latency._at(others, slim),
    }


def test_plans_within_ten_per_cent_are_counted() -> None:
    lines = list(latency.table([plan_row(0.02), plan_row(-0.2), plan_row(0.09), plan_row(0.5, "onnxruntime")]))
    assert "| m | eager | 3 | 2 (67%) | 9.0% | 17.8% | 20.0% | 3 (100%) |" in lines
    assert "| all | onnxruntime | 1 | 0 (0%) | 50.0% | 50.0% | 50.0% | 0 (0%) |" in lines


def test_at_equal_time_plans_under_macs_are_interpolated() -> None:
    beside = latency._at([{"share": s, "saliency": 2 * s, "scores": s, "macs": s} for s in (0.2, 0.4, 0.8)], 0.5)
    assert beside is not None and beside["saliency"] == pytest.approx(1.0) and beside["macs"] == pytest.approx(0.5)
    assert latency._at([{"share": 0.4}], 0.5) is None


def test_targets_say_what_is_met_better_and_slower() -> None:
    text = "\n".join(
        latency.table([target_row(0.52, 0.6), target_row(0.58, 0.4), {"part": "targets", "model": "m", "error": "no"}])
    )
    assert "1 of 2 are measured within 10 %" in text and "in 1 of 2" in text and "2 of 8 slim models are slower" in text
    assert text.splitlines()[2] == "1 rows failed: m, no"


def test_random_plans_have_scores_that_stay() -> None:
    class Group:
        id, size = "conv.weight", 5

    assert (latency.drawn(Group(), None) == latency.drawn(Group(), None)).all() and len(latency.drawn(Group(), None)) == 5


def test_multiples_say_where_half_of_the_work_is_not_faster() -> None:
    row = {
        "model": "m",
        "engine": "e",
        "dense": 0.01,
        "saliency": [0.9, 0.8],
        "shares": {"1": [1.1, 1.3, 1.2], "8": [0.6, 0.5, 0.7]},
    }
    text = "\n".join(multiples.table([row, {"model": "n", "engine": "e", "error": "why"}], {"processor": "p"}))
    assert "| m | e | 10.00 | **1.20 (1.10 to 1.30)**, 90.0% | 0.60 (0.50 to 0.70), 80.0% |" in text
    assert "e, median over 1 networks by multiple: 1: 1.20 (1 not faster), 8: 0.60 (0 not faster)." in text
    assert "n, e: why" in text and "processor p." in text
