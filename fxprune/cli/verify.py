"""``fxprune verify``: a model pruned, and the result proved."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from fxprune.cli import options as given
from fxprune.cli.input import build, example_inputs
from fxprune.cli.output import Steps, print_json, show_account, show_cost, show_errors
from fxprune.options import PruneOptions, check_attention

__all__ = ["verify"]


def verify(
    model: given.Model,
    ratio: Annotated[
        float | None,
        typer.Option(help="Fraction in (0, 1) of the prunable channels to remove.", show_default="0.5, without a budget"),
    ] = None,
    macs: given.Macs = None,
    params: given.Params = None,
    memory: given.Memory = None,
    scope: given.Scope = "global",
    criterion: given.Criterion = "l2",
    ignore: given.Ignore = None,
    max_ratio: given.MaxRatio = 0.95,
    round_to: given.RoundTo = 1,
    min_width: given.MinWidth = 1,
    attention: given.AttentionOption = given.Attention.HEAD_DIM,
    seed: given.Seed = 0,
    checkpoint: given.Weights = None,
    input_size: given.InputSize = None,
    submodule: given.Submodule = None,
    exact_norms: given.ExactNorms = False,
    as_json: given.Json = False,
) -> None:
    """Prune MODEL with every parameter randomised, prove the result against the original, measure both."""
    from fxprune import api
    from fxprune.proofs.randomize import randomize

    budgets = (macs, params, memory)
    if ratio is None and not any(amount is not None for amount in budgets):
        ratio = 0.5
    kind = check_attention(attention.value)
    chosen = PruneOptions(
        ratio,
        criterion,
        scope,
        ignore or (),
        max_ratio,
        round_to,
        kind,
        seed,
        exact_norms=exact_norms,
        macs=macs,
        params=params,
        memory=memory,
        min_width=min_width,
    )
    with Steps(as_json, total=3) as step:
        net = step("building the model", lambda: build(model, checkpoint, seed))
        inputs = example_inputs(net, input_size)
        net = randomize(net, seed)
        options = given.keywords(chosen) | {"example_inputs": inputs, "submodules": submodule or ()}
        slim = step("pruning", lambda: api.prune(net, verify=False, **options))
        checks = step("verifying", lambda: api.verify(net, slim, None if submodule else inputs, seed=seed))
    if as_json:
        account = slim.meta["fxprune"].plan.account
        asked = {"ratio": ratio} if account is None else {"ratio": None, "account": account.to_dict()}
        print_json({"model": slim.meta["fxprune"].model, **asked, **checks.to_dict()})
    else:
        console = Console()
        show_cost(console, checks.macs, checks.params, "pruned", checks.latency)
        show_account(console, slim.meta["fxprune"].plan.account)
        show_errors(console, checks)
    if not checks.passed:
        raise typer.Exit(1)
