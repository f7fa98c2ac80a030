"""What is recorded is what the user's own model computes: kind by kind, in both modes, outputs, gradients, buffers, batches."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune import nested
from fxprune.proofs.errors import relative_error
from fxprune.proofs.randomize import randomize
from fxprune.tracing.untouched import seed_all
from tests.kinds import ALL, Case, sampled

RUN = [pytest.param(case, id=f"{kind}-{case.name}") for kind, case in ALL if not case.refused]
REFUSED = [pytest.param(case, id=f"{kind}-{case.name}") for kind, case in ALL if case.refused]


def _model(case: Case) -> nn.Module:
    seed_all(0)
    return randomize(case.make())


def _inputs(case: Case, batch: int) -> tuple[Any, ...]:
    seed_all(batch)
    return case.inputs(batch)


def _step(model: nn.Module, inputs: tuple[Any, ...], training: bool) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Output, gradients of the parameters, and buffers after one run under one seed."""
    model.train(training)
    model.zero_grad()
    seed_all(7)
    output = model(*inputs)
    total = sum(t.float().pow(2).sum() for t in nested.tensors(output) if t.requires_grad)
    if isinstance(total, torch.Tensor):
        total.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return output, gradients, {n: b.clone() for n, b in model.named_buffers()}


def _form(value: Any) -> Any:
    """Classes, keys and plain values of an output."""
    if nested.form_of(value) == "leaf":
        return type(value) if isinstance(value, torch.Tensor) else value
    return type(value), [(key, _form(part)) for key, part in nested.entries(value).items()]


@pytest.mark.parametrize("case", sampled(RUN, 4))
def test_the_recording_does_what_the_model_does(case: Case) -> None:
    model = _model(case)
    recorded = fxprune.trace(model, _inputs(case, case.batches[0]))
    for mode in case.modes:
        for batch in case.batches:
            own, twin = _model(case), copy.deepcopy(recorded)  # made anew: a deepcopy shares what its functions close over
            expected, gradients, buffers = _step(own, _inputs(case, batch), mode == "training")
            found, found_gradients, found_buffers = _step(twin, _inputs(case, batch), mode == "training")
            place = f"{mode}, batch {batch}"
            assert relative_error(found, expected) < 1e-5, place
            assert _form(found) == _form(expected), place
            dtypes = [t.dtype for t in nested.tensors(found)], [t.dtype for t in nested.tensors(expected)]
            assert dtypes[0] == dtypes[1], place
            assert set(found_gradients) == set(gradients), place
            for name, gradient in gradients.items():
                assert relative_error(found_gradients[name], gradient) < 1e-4, f"gradient of {name}, {place}"
            for name, buffer in found_buffers.items():
                assert relative_error(buffer, buffers.get(name, buffer)) < 1e-5, f"buffer {name}, {place}"


@pytest.mark.parametrize("case", sampled(RUN, 12))
def test_it_is_pruned_with_a_certificate_and_left_alone(case: Case) -> None:
    model = _model(case)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    flags = {n: m.training for n, m in model.named_modules()}
    if case.kept:
        with pytest.raises(fxprune.NothingToPrune, match=case.kept):
            fxprune.prune(model, 0.5, _inputs(case, case.batches[0]))
        return
    slim = fxprune.prune(model, 0.5, _inputs(case, case.batches[0]))
    assert fxprune.verify(model, slim, latency=False).passed
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"prune or verify changed {name}"
    assert flags == {n: m.training for n, m in model.named_modules()}
    assert slim.meta["fxprune"].params_after < slim.meta["fxprune"].params_before
    for batch in case.batches:
        slim(*_inputs(case, batch))


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_recorded_is_refused_by_name(case: Case) -> None:
    with pytest.raises(fxprune.PruneError, match=case.refused):
        fxprune.prune(_model(case), 0.5, _inputs(case, case.batches[0]))
