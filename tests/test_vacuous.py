"""Weights that hide faults: it is said, and other weights are tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fxprune
from fxprune.proofs.masked import masked_error
from fxprune.proofs.randomize import randomize
from fxprune.proofs.verify import check_rewrite
from tests.networks.proved import Net


def nothing(model: Any) -> None:
    pass


def zero_head(model: Any) -> None:
    nn.init.zeros_(model.head.weight)
    nn.init.normal_(model.head.bias)


def all_equal(model: Any) -> None:
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)


def no_number(model: Any) -> None:
    nn.init.constant_(model.head.bias, float("nan"))


def zero_branch(model: Any) -> None:
    nn.init.zeros_(model.second.norm.weight)


HIDING: dict[str, tuple[Callable[[Any], None], str]] = {
    "a head of zeros": (zero_head, "does not depend on the channels that were removed"),
    "a head of zeros alone": (all_equal, "all entries of the output are equal"),
    "a head without numbers": (no_number, "no entry of the output is a finite number"),
    "a branch times zero": (zero_branch, "the weight second.norm.weight is zero"),
    "none": (nothing, ""),
}


@pytest.mark.parametrize("kind", HIDING)
def test_weights_that_hide_faults_are_said_and_random_ones_tried(kind: str) -> None:
    change, reason = HIDING[kind]
    model, x = randomize(Net()), torch.zeros(2, 3, 8, 8)
    change(model)
    checks = fxprune.prune(model, 0.5, x).meta["fxprune"].checks
    assert checks.passed and checks.fidelity.passed
    assert (reason in "; ".join(checks.fidelity.vacuous)) if reason else not checks.fidelity.vacuous
    assert ("evaluation, batch 2, random weights" in checks.fidelity.errors) is bool(reason)


def test_a_fault_behind_zeros_is_seen_on_random_weights() -> None:
    model = randomize(Net())
    zero_head(model)
    slim: Any = fxprune.prune(model, 0.5, torch.zeros(2, 3, 8, 8), scope="layer", verify=False)
    analysis = fxprune.analyze(model, torch.zeros(2, 3, 8, 8))
    cut = analysis.cut(slim.meta["fxprune"].plan.gone(analysis.free))
    assert check_rewrite(cut, model, slim).passed
    next(n for n in slim.graph.nodes if n.target == "relu").target = "sigmoid"
    slim.recompile()
    assert masked_error(cut, model, slim) < 1e-6
    with pytest.raises(fxprune.NotEquivalent):
        check_rewrite(cut, model, slim)
