"""Random networks with a user's code around them: recorded right, or refused by a sentence; never a foreign exception.

Small by default; ``--fuzz 5000`` tries more.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from typing import Any

import pytest
import torch
from grammar.base import Program
from grammar.wrapping import WRAPS, UserCode, user_codes
from helpers import fingerprint
from hypothesis import HealthCheck, given, seed, settings
from torch import nn

import fxprune
from fxprune import nested
from fxprune.proofs.errors import relative_error
from fxprune.proofs.randomize import randomize

SHARE = 6  # of --fuzz: networks with code around them take longer


def build(code: UserCode) -> nn.Module:
    torch.manual_seed(0)
    return randomize(code.build(), 1)


def outcome(model: nn.Module, inputs: Any, training: bool) -> tuple[Any, dict[str, Any]]:
    """Output and gradients of one call under one seed."""
    model.train(training)
    torch.manual_seed(3)
    random.seed(3)
    output = model(*(v.clone() if isinstance(v, torch.Tensor) else v for v in inputs))
    total = sum(t.float().square().sum() for t in nested.tensors(output) if t.requires_grad)
    if isinstance(total, torch.Tensor):
        total.backward()
    return output, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def compare(code: UserCode, training: bool, batch: int) -> None:
    """The recording does what a model built anew does; what either of them refuses is none of this."""
    inputs = code.inputs(batch)
    recorded = fxprune.trace(build(code), code.inputs(2))
    try:
        output, gradients = outcome(build(code), inputs, training)
    except Exception:  # the user's own code
        return
    try:
        found, found_gradients = outcome(recorded, inputs, training)
    except (AssertionError, fxprune.PruneError):
        return
    place = f"{'training' if training else 'evaluation'}, batch {batch}"
    assert type(found) is type(output), place
    assert relative_error(found, output) < 1e-4, place
    assert found_gradients.keys() == gradients.keys(), place
    floor = max((float(g.abs().max()) for g in gradients.values()), default=1.0)
    for name, gradient in gradients.items():
        assert float((found_gradients[name] - gradient).abs().max()) <= 1e-3 * floor, f"gradient of {name}, {place}"


def check(code: UserCode) -> str:
    """Record, compare, prune, verify; how that ended: "pruned", or the class of the error that refused it."""
    model = build(code)
    try:
        build(code).eval()(*code.inputs(2))
    except Exception:
        return "does not run"
    before = fingerprint(model)
    try:
        slim = fxprune.prune(model, 0.5, code.inputs(2))
        ended = "pruned"
        assert fxprune.verify(model, slim, latency=False).passed
        for training, batch in ((False, 2), (False, 3), (True, 2)):
            compare(code, training, batch)
        with contextlib.suppress(AssertionError):
            slim.eval()(*code.inputs(3))
    except fxprune.PruneError as error:
        assert "bug in fxprune" not in str(error), error
        assert len(str(error)) > 20
        ended = type(error).__name__
    assert fingerprint(model) == before
    return ended


def test_random_user_code(request: pytest.FixtureRequest) -> None:
    """See the module's docstring. A failure prints its code, which builds the network again."""
    ends: Counter[str] = Counter()

    @seed(1)
    @settings(
        max_examples=request.config.getoption("--fuzz") // SHARE,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(user_codes())
    def sound(code: UserCode) -> None:
        ends[check(code)] += 1

    sound()
    assert ends["pruned"] > 0, ends


@pytest.mark.parametrize("form", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 6))])
@pytest.mark.parametrize("name", WRAPS)
def test_each_wrap_alone(name: str, form: int) -> None:
    """Each thing that users do, in its forms, around a convolution."""
    program = Program((("conv", 2, 0), ("act", 0, 0), ("conv", 1, 0)))
    assert check(UserCode(program, ((name, 1, form),))) != "does not run"
