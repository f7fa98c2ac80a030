"""Where an iteration stands, in a folder: one safetensors file that says all, and files for people beside it.

``iteration.safetensors`` is replaced whole after every change, so that a process that is killed at any moment leaves the state
before it or after it. ``plan-N.json``, ``plan.json`` and ``journal.jsonl`` follow from it, and are written again when a run
goes on. Nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fxprune.errors import InputError, said, shown
from fxprune.inputs.paths import folder_of
from fxprune.planning.plan import Plan
from fxprune.profiling.table import table_of
from fxprune.recovery.finetune.files import replaced

__all__ = ["Folder", "State"]

_KEY = "fxprune.iterate"
_VERSION = 3
_DOCUMENT = ("step", "stage", "branches", "effects", "held", "timing", "reports", "history", "trained")
_STAGES = ("begun", "pruned", "trained", "released")


@dataclass
class State:
    """Where an iteration stands.

    Attributes:
        step: that was done last, from 1.
        stage: of it: ``"pruned"``, to be trained; ``"trained"``, to be given to the user; ``"released"``, done with.
        weights: of the slim model.
        scores: of all channels of each free group of the original, the last that each has had.
        went: of each channel, the step in which it went; 0 while it is there.
        branches: of each residual branch that went, the step in which it did.
        effects: of each branch, what the output loses with it, where that was measured.
        held: groups that the rewrite could not shrink further -> the reason.
        timing: under a budget of latency, the table, and by what its times are multiplied.
        reports: parts of the slim model's report: ``repair`` and ``finetuning``.
        history: what was done, in order.
        trained: whether others than a repair have changed the weights since the channels were scored.
    """

    step: int = 0
    stage: str = "begun"
    weights: dict[str, Tensor] = field(default_factory=dict)
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    went: dict[str, np.ndarray] = field(default_factory=dict)
    branches: dict[str, int] = field(default_factory=dict)
    effects: dict[str, float] | None = None
    held: dict[str, str] = field(default_factory=dict)
    timing: dict[str, Any] | None = None
    reports: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    trained: bool = False

    def gone(self, step: int) -> dict[str, np.ndarray]:
        """Channels that went up to a step, by group; a branch that went is one channel, as `Analysis.cut` takes it."""
        found = {name: np.flatnonzero((steps > 0) & (steps <= step)) for name, steps in self.went.items()}
        branches = {name: np.zeros(1, np.int64) for name, when in self.branches.items() if when <= step}
        return {name: channels for name, channels in found.items() if len(channels)} | branches

    def take(self, gone: Mapping[str, np.ndarray], step: int) -> None:
        """Note what is gone after a step, of which some went before."""
        for name, channels in gone.items():
            if name not in self.went:
                self.branches.setdefault(name, step)
                continue
            fresh = np.isin(np.arange(len(self.went[name])), channels) & (self.went[name] == 0)
            self.went[name][fresh] = step


class Folder:
    """The files of an iteration; without a folder, none.

    Args:
        key: all that the result depends on, as JSON.

    Raises:
        InputError: the folder is none.
    """

    def __init__(self, folder: Any, key: Mapping[str, Any]) -> None:
        self.path, self._key = folder_of("folder", folder), dict(key)

    @property
    def file(self) -> Path | None:
        """The file that says all."""
        return None if self.path is None else self.path / "iteration.safetensors"

    def repair(self, step: int) -> Path | None:
        """The checkpoint of the repair of a step."""
        return None if self.path is None else self.path / f"repair-{step}.safetensors"

    def forget_repairs(self, step: int) -> None:
        """Remove the checkpoints of repairs up to a step, which are done."""
        for number in range(1, step + 1):
            if (file := self.repair(number)) is not None:
                file.unlink(missing_ok=True)

    def read(self) -> State:
        """Where the iteration stands; at the beginning without a file.

        Raises:
            InputError: the file is damaged, or of another iteration.
        """
        if self.file is None or not self.file.exists():
            return State()
        try:
            state, key = _read(self.file)
        except Exception as error:  # of SafetensorError, KeyError and more, by where the file is damaged
            raise InputError(
                f"{str(self.file)!r} is no readable state of an iteration ({type(error).__name__}: {said(error)}): "
                "remove it to begin anew"
            ) from error
        for what, value in self._key.items():
            if key.get(what) != value:
                raise InputError(
                    f"{str(self.path)!r} holds an iteration with another {what}: remove it, or name another folder"
                )
        return state

    def keep(self, state: State, plan: Plan, last: bool) -> None:
        """Write where the iteration stands.

        Raises:
            PruneError: the disk refuses.
        """
        if self.file is None:
            return
        flat = {f"weights.{name}": t.detach().cpu().contiguous().clone() for name, t in state.weights.items()}
        for part, arrays in (("scores", state.scores), ("went", state.went)):
            flat |= {f"{part}.{name}": torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
        document = {name: getattr(state, name) for name in _DOCUMENT}
        text = json.dumps({"version": _VERSION, "key": self._key, **document})
        replaced(self.file, lambda where: save_file(flat, where, metadata={_KEY: text}))
        self.show(state, plan, last)

    def show(self, state: State, plan: Plan, last: bool) -> None:
        """Write what people read, which follows from the state.

        Raises:
            PruneError: the disk refuses.
        """
        if self.path is None:
            return
        text, names = plan.to_json(), [f"plan-{state.step}.json", *(["plan.json"] if last else [])]
        lines = "".join(json.dumps(entry) + "\n" for entry in state.history)
        for name, content in [*((name, text) for name in names), ("journal.jsonl", lines)]:
            _write(self.path / name, content)


def _write(path: Path, text: str) -> None:
    replaced(path, lambda where: where.write_text(text, encoding="utf-8"))


def _read(file: Path) -> tuple[State, dict[str, Any]]:
    parts: dict[str, dict[str, Any]] = {"weights": {}, "scores": {}, "went": {}}
    with safe_open(file, "pt") as stored:
        document = json.loads((stored.metadata() or {})[_KEY])
        for name in stored.keys():  # noqa: SIM118  # not a mapping
            part, _, rest = name.partition(".")
            parts[part][rest] = stored.get_tensor(name).clone()  # where PyTorch would lay it
    if document.pop("version") != _VERSION:
        raise ValueError(f"it is not of version {_VERSION}")
    key = dict(document.pop("key"))
    scores, went = ({name: t.numpy() for name, t in parts[part].items()} for part in ("scores", "went"))
    state = State(weights=parts["weights"], scores=scores, went=went, **document)
    if state.timing is not None:
        table_of(state.timing["table"])
    if type(state.step) is not int or state.step < 1 or state.stage not in _STAGES[1:]:
        raise ValueError(f"step {shown(state.step)}, stage {shown(state.stage)}")
    return state, key
