"""What an engine is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import fx

from fxprune.inputs.examples import own_copy

__all__ = ["Engine", "Inputs", "Parts", "Run", "called"]

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
Run = Callable[[], Any]  # one forward
Parts = Callable[[int], np.ndarray]  # so many forwards: seconds ``[forwards, segments]``


@dataclass(frozen=True)
class Engine:
    """Runs models on one device.

    Attributes:
        device: where.
        threads: of the processor, for one operation.
        clock: gives seconds.
        setup: seconds that preparing a model takes, about, beside running it.
    """

    device: torch.device
    threads: int
    clock: Callable[[], float] = field(default=time.perf_counter, compare=False)

    name: ClassVar[str]
    setup: ClassVar[float] = 0.5
    own_parts: ClassVar[bool] = True  # else `parts` are those of another engine, and their sums are fitted kind by kind

    def check(self) -> None:
        """
        Raises:
            InputError: something that the engine needs is missing.
        """

    def versions(self) -> dict[str, str]:
        """Of what decides how fast it runs."""
        return {"torch": torch.__version__}

    def prepared(self, module: fx.GraphModule, inputs: Inputs) -> Run:
        """A forward in evaluation, without gradients, on these inputs."""
        raise NotImplementedError

    def parts(self, module: fx.GraphModule, inputs: Inputs, places: Mapping[str, int], count: int) -> Parts | None:
        """Forwards of which the seconds of each segment are measured; None where the engine cannot tell.

        Args:
            places: node name -> segment.
            count: of the segments.
        """
        return None

    def wait(self) -> None:
        """Until the device has done what it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, run: Run) -> float:
        """Of one forward."""
        self.wait()
        start = self.clock()
        run()
        self.wait()
        return self.clock() - start


def called(module: Callable[..., Any], inputs: Inputs) -> Run:
    """A call of a module without gradients; inputs that it may write into are its own each time."""

    def run() -> Any:
        with torch.no_grad():
            args, named = own_copy(inputs)
            return module(*args, **named)

    return run
