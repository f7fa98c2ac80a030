"""What goes together must go together at every size that the model takes, not at the example's alone."""

from __future__ import annotations

import pytest
import torch

import fxprune
from fxprune.proofs.randomize import randomize
from tests.kinds import ALL, Case, sampled
from tests.kinds.sizes import Sized

CASES = [
    pytest.param(case, id=f"{kind}-{case.name}")
    for kind, case in ALL
    if kind in ("mixing", "order", "sizes") and not (case.refused or case.kept)
]


@pytest.mark.parametrize("case", sampled(CASES, 5))
def test_a_slim_model_is_right_at_other_sizes(case: Case) -> None:
    torch.manual_seed(0)
    model = randomize(case.make())
    slim = fxprune.prune(model, 0.5, case.inputs(case.batches[0]))
    for batch in case.batches[1:]:
        try:
            slim(*case.inputs(batch))
        except AssertionError:  # it was recorded for the other size, and says so
            continue
        assert fxprune.verify(model, slim, case.inputs(batch), latency=False).passed, batch


def test_a_stride_that_is_read_keeps_the_axes_within_it() -> None:
    model = Sized(lambda h: h * h.stride()[0] ** -0.5)
    with pytest.raises(fxprune.NothingToPrune, match="a stride over it is read"):
        fxprune.prune(model, 0.5, torch.randn(2, 3, 8, 8))
