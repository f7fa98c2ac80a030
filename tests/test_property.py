"""Random networks, random plans: each must verify, keep its outputs' shapes, and survive being written.

40 networks by default, the same ones in every run; ``--fuzz 5000`` tries more.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from grammar import STEPS, Program, programs
from helpers import assert_equivalent, assert_same, named_tensors, run, tensors_of
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import fxprune
from fxprune import codegen
from fxprune.proofs.randomize import randomize

TOLERANCE = 1e-8
PARTS = 4  # of the random search, for as many processes

# Steps in which something other than a weight reads a removed channel: zeros in weights do not mask it.
READ_BY_PRODUCTS = {"attention", "fold"}

OPTIONS = st.fixed_dictionaries(
    {
        "ratio": st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]),
        "scope": st.sampled_from(["layer", "global"]),
        "attention": st.sampled_from(["head_dim", "heads", "both", "none"]),
        "round_to": st.sampled_from([1, 2]),
    }
)


def check(program: Program, ratio: float, scope: Any, attention: Any, round_to: int) -> bool:
    """Prune one random network and prove the result; False if the options leave nothing to remove."""
    torch.manual_seed(0)
    model = randomize(program.build(), 1).double().eval()
    inputs, others = ((program.inputs(batch)[0].double(),) for batch in (2, 3))
    options = {"scope": scope, "attention": attention, "round_to": round_to}
    try:
        slim = fxprune.prune(model, ratio, inputs, verify=False, **options)
    except fxprune.NothingToPrune:
        groups = fxprune.analyze(model, inputs, attention=attention).groups
        assert not any(g.status == "free" for g in groups), "something can be pruned"
        return False
    checks = fxprune.verify(model, slim, latency=False)
    assert checks.permutation_error is not None and checks.masked_error is not None
    assert checks.permutation_error <= TOLERANCE, f"permutation changes the output by {checks.permutation_error:.3g}"
    assert checks.masked_error <= TOLERANCE, f"slim and masked original differ by {checks.masked_error:.3g}"
    assert not slim.meta["fxprune"].frozen_by_rewrite, slim.meta["fxprune"].frozen_by_rewrite

    expected, found = run(model, others), run(slim, others)
    assert [t.shape for t in tensors_of(expected)] == [t.shape for t in tensors_of(found)]
    plan = slim.meta["fxprune"].plan
    before, after = named_tensors(model), named_tensors(slim)
    for name, axes in plan.kept.items():
        assert all(after[name].shape[axis] == len(kept) < before[name].shape[axis] for axis, kept in axes.items())
    if not plan.kept:
        assert_same(expected, found)
    elif round_to == 2:
        assert all(len(g.kept) * _multiplicity(model, inputs, attention, g.id) % 2 == 0 for g in plan.groups if g.removed)

    exact = all(g.exact for g in plan.groups if g.removed)
    if exact and not {name for name, _, _ in program.steps} & READ_BY_PRODUCTS:
        assert_equivalent(model, slim, others, plan.kept, tolerance=TOLERANCE)

    rebuilt = codegen.rebuild(slim)
    for inputs_ in (inputs, others):
        assert_same(run(slim, inputs_), run(rebuilt, inputs_))
    return True


def _multiplicity(model: torch.nn.Module, inputs: Any, attention: Any, group_id: str) -> int:
    group = fxprune.analyze(model, inputs, attention=attention).group(group_id)
    return group.multiplicity


@pytest.mark.parametrize("part", range(PARTS))
def test_random_networks(request: pytest.FixtureRequest, part: int) -> None:
    """See the module's docstring. A failure prints its program, which builds the network again."""

    @seed(part)
    @settings(
        max_examples=request.config.getoption("--fuzz") // PARTS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(programs(), OPTIONS)
    def sound(program: Program, options: dict[str, Any]) -> None:
        check(program, **options)

    sound()


@pytest.mark.parametrize("form", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3))])
@pytest.mark.parametrize("name", STEPS)
def test_each_step_alone(name: str, form: int) -> None:
    """Every piece between two convolutions, in several forms: what the random search starts from."""
    program = Program((("conv", 2, 0), (name, form, form), ("conv", 1, 0), ("act", 0, 0)))
    assert check(program, 0.5, "layer", "head_dim", 1)


FOUND = {
    "a group of channels, some of them written over": (("assign", 1, 0), ("grouped", 0, 0)),
    "two groups, written over in mirrored places": (("assign", 2, 0), ("grouped", 0, 0)),
    "groups of shuffled channels": (("permute", 0, 0), ("transposed", 0, 1)),
    "groups of which some are fixed": (("split", 4, 2), ("grouped", 0, 3), ("glu", 0, 0)),
    "groups of which one entry each is free": (("conv", 1, 2), ("pixels", 1, 2), ("transposed", 0, 1), ("split", 2, 0)),
}


@pytest.mark.parametrize("steps", FOUND.values(), ids=FOUND.keys())
def test_what_the_random_search_has_found(steps: Any) -> None:
    """Programs that were wrong once, at the options that showed it."""
    assert check(Program(steps), 0.1, "layer", "head_dim", 1)


def test_programs_run_and_print() -> None:
    """The text of a program builds the same network again."""

    @settings(
        max_examples=50,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(programs())
    def same(program: Program) -> None:
        again = eval(repr(program))
        torch.manual_seed(0)
        first = program.build().eval()
        torch.manual_seed(0)
        second = again.build().eval()
        assert_same(run(first, program.inputs(2)), run(second, program.inputs(2)))
        assert run(first, program.inputs(3))[0].isfinite().all()

    same()
