"""One model, all checks, in a process of its own: the child of ``coverage.py``.

Each finished stage is written to a file at once as one JSON line, so that a process that is stopped for
time or memory still says how far it came.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from measure import count_macs, memory, reset_peak, shapes
from ours import check_fxprune
from peers import Peer, build_for_peer, prepare
from stages import Stages

from fxprune.inputs.sizes import infer_example_inputs


def main() -> None:
    """``one_model.py EVENTS SETTINGS``, the latter as JSON: tool, model, ratio, scope, attention."""
    events, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    stage = Stages(events)
    spec, ratio, scope = settings["model"], settings["ratio"], settings["scope"]
    if settings["tool"] == "fxprune":
        check_fxprune(spec, ratio, scope, settings["attention"], stage)
    else:
        check_peer(spec, ratio, scope, stage)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stage("done", lambda: {"done": True, "process_peak_mib": round(peak / 1024)})


def check_peer(spec: str, ratio: float, scope: str, stage: Stages) -> None:
    """Prune the same model with Torch-Pruning."""
    peer: Peer
    before: list[tuple[int, ...]] = []
    macs = params = 0

    def build() -> dict[str, Any]:
        nonlocal peer, macs, params, before
        torch.manual_seed(0)
        model = build_for_peer(spec)
        inputs = infer_example_inputs(model) or ()
        peer = prepare(spec, model, inputs)
        before = _shapes(peer)
        macs, params = count_macs(model, peer.inputs), sum(p.numel() for p in model.parameters())
        return {"parameters": params}

    def prune() -> dict[str, Any]:
        reset_peak()
        resident, _ = memory()
        start = time.perf_counter()
        peer.run(ratio, scope == "global")
        seconds = time.perf_counter() - start
        left = sum(p.numel() for p in peer.model.parameters())
        return {
            "seconds": round(seconds, 3),
            "peak_mib": round((memory()[1] - resident) / 2**20),
            "params": [params, left],
        }

    def shape() -> dict[str, Any]:
        found = _shapes(peer)
        if found != before:
            raise AssertionError(f"the pruned model gives {found[:3]}, the original {before[:3]}")
        return {"shape": True}

    def count() -> dict[str, Any]:
        return {"macs": [macs, count_macs(peer.model, peer.inputs)]}

    _ = stage("build", build) and stage("prune", prune) and stage("shape", shape) and stage("macs", count)


def _shapes(peer: Peer) -> list[tuple[int, ...]]:
    with torch.no_grad():
        return shapes(peer.model(*peer.inputs))


if __name__ == "__main__":
    main()
