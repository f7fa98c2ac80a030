"""The benchmark of deployment: each way of running a model is compared, and the table says what does not run."""

from __future__ import annotations

import deployment
import torch
from torch import nn


def test_a_way_is_compared_or_its_error_is_said() -> None:
    model, x = nn.Linear(3, 2), torch.ones(2, 3)
    assert deployment.tried(deployment.CHECKS["deepcopy"], model, x) == 0
    assert deployment.tried(lambda m, x: m(x) * 2, model, x) > 0.1
    assert str(deployment.tried(lambda m, x: m(x.T), model, x)).startswith("RuntimeError: ")
    row = {"model": "a:8", "dense": dict.fromkeys(deployment.CHECKS, 1e-6), "slim": {"pickle": "TypeError: no"}}
    text = deployment.table([row])
    assert "| a:8 | dense | 1e-06 |" in text and "- a:8, slim, pickle: TypeError: no" in text
