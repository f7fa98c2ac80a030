"""Everything that is asked of one model of a library, as stages: what the child of `library_nest.py` does."""

from __future__ import annotations

import copy
import signal
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import zoo
from library_onnx import CLOSE, onnx_findings
from measure import first_line, tensors
from ours import free_share
from stages import Stages
from torch import nn
from zoo.base import Inputs, call

import fxprune
from fxprune.planning.report import report_of
from fxprune.proofs.errors import relative_error
from fxprune.proofs.randomize import randomize

__all__ = ["Trial", "try_model"]

OTHER_BATCH = 3
PATIENCE = 20  # seconds for Torch-Pruning, which follows some models for ever


def try_model(job: dict[str, Any], events: Path) -> None:
    """Prune one model and try the result; write down each stage."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    stage, trial = Stages(events), Trial(job)
    if stage("build", trial.build):
        if stage("prune", trial.prune):
            for work in (
                trial.certificate,
                trial.other_batch,
                trial.reload,
                trial.free,
                *([trial.onnx] if trial.entry.onnx else []),
            ):
                stage(work.__name__, work)
        if job.get("peer"):
            stage("peer", trial.peer)
    stage("done", lambda: {"done": True})


class Trial:
    """One model on its way; each method is a stage, and gives what it found."""

    model: nn.Module
    slim: Any
    inputs: Inputs

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.entry = job, zoo.entries(job["library"])[job["model"]]

    def build(self) -> dict[str, Any]:
        """Make the model with random weights, and run it: what fails here is no matter of pruning."""
        torch.manual_seed(0)
        self.model = self.entry.make().eval()
        self.inputs = self.entry.inputs(self.job["batch"])
        with torch.no_grad():
            call(copy.deepcopy(self.model), self.inputs)
        return {"parameters": sum(p.numel() for p in self.model.parameters())}

    def prune(self) -> dict[str, Any]:
        """Prune with the default options but for the scope."""
        start = time.perf_counter()
        self.slim = fxprune.prune(self.model, self.job["ratio"], self.inputs, scope=self.job["scope"], verify=False)
        seconds = time.perf_counter() - start
        report = report_of(self.slim)
        assert report is not None
        frozen: dict[str, int] = {}
        for group in report.plan.groups:
            if group.status == "frozen":
                frozen[group.reason] = frozen.get(group.reason, 0) + group.size
        most = sorted(frozen.items(), key=lambda item: -item[1])[:3]
        return {
            "seconds": round(seconds, 3),
            "macs": [report.macs_before, report.macs_after],
            "params": [report.params_before, report.params_after],
            "frozen": [[count, reason[:300]] for reason, count in most],
            "refused": [reason[:300] for reason in list(report.frozen_by_rewrite.values())[:3]],
        }

    def certificate(self) -> dict[str, Any]:
        """Fidelity to the user's model, masked equivalence, permutation invariance."""
        checks = fxprune.verify(self.model, self.slim, self.inputs, latency=False)
        return {"certificate": checks.passed, "checks": {k: v for k, v in checks.to_dict().items() if k != "latency"}}

    def other_batch(self) -> dict[str, Any]:
        """The recording beside the user's own model at another batch size, and the slim model at that size.

        The recording alone has the channels of the model, so that it is what can be compared with it value by value: random
        weights, both in evaluation.
        """
        own = randomize(copy.deepcopy(self.model)).eval()
        recorded = fxprune.trace(own, self.inputs)
        torch.manual_seed(1)
        other = self.entry.inputs(OTHER_BATCH)
        with torch.no_grad():
            expected, found = call(own, other), call(recorded, other)
            call(self.slim, other)
        error = relative_error(tensors(found), tensors(expected))
        if error > CLOSE:
            raise AssertionError(f"at batch {OTHER_BATCH} the recording differs from the model by {error:.1e}")
        return {"other_batch": True, "other_batch_error": error}

    def reload(self) -> dict[str, Any]:
        """Saved, and run in a fresh process without fxprune."""
        from fxprune.codegen import check_round_trip

        with tempfile.TemporaryDirectory() as folder:
            check_round_trip(self.slim, Path(folder) / "slim.py", self.inputs)
        return {"reload": True}

    def free(self) -> dict[str, Any]:
        """Share of the parameters in channels that may go."""
        analysis = fxprune.analyze(self.model, self.inputs)
        return {
            "free_share": round(free_share(analysis, self.model), 4),
            "unknown_ops": sorted(map(str, analysis.traced.mode.unknown)),
        }

    def onnx(self) -> dict[str, Any]:
        """The slim model in ONNX Runtime, and the dense one where that differs."""
        assert isinstance(self.inputs, tuple)
        return onnx_findings(self.slim.eval(), copy.deepcopy(self.model).eval(), self.inputs)

    def peer(self) -> dict[str, Any]:
        """The same model by Torch-Pruning."""
        from library_peer import prune_with_peer

        def stop(*_: object) -> None:
            raise TimeoutError(f"more than {PATIENCE} s")

        torch.manual_seed(0)
        signal.signal(signal.SIGALRM, stop)
        signal.alarm(PATIENCE)
        try:
            return {"peer": prune_with_peer(self.entry, self.job["ratio"], self.job["batch"], self.job["scope"])}
        except Exception as error:  # what it cannot do is a result, too
            return {"peer": {"error": first_line(error)}}
        finally:
            signal.alarm(0)
