"""What the attention policies remove."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import assert_equivalent, assert_same, error, run, tensors_of
from networks import NETWORKS, Network
from support.couplings import inputs_of, model_of

import fxprune
from fxprune import codegen
from tests.kinds import sampled

ATTENTION = [net for net in NETWORKS.values() if "attention" in net.id.lower() or net.id in ("SDPA", "fused qkv")]


@pytest.mark.parametrize("policy", ["head_dim", "heads", "both", "none"])
@pytest.mark.parametrize("net", sampled([pytest.param(net, id=net.id) for net in ATTENTION]))
def test_attention_policies(net: Network, policy: str) -> None:
    model = model_of(net)
    slim = fxprune.prune(model, 0.5, inputs_of(net), scope="layer", attention=policy)
    checks = fxprune.verify(model, slim, latency=False)
    assert checks.passed and not slim.meta["fxprune"].frozen_by_rewrite
    expected, found = run(model, inputs_of(net, 3)), run(slim, inputs_of(net, 3))
    assert error(expected, expected) == 0 and [t.shape for t in tensors_of(expected)] == [t.shape for t in tensors_of(found)]
    kept = slim.meta["fxprune"].plan.kept
    if all(g.exact or not g.removed for g in slim.meta["fxprune"].plan.groups):
        assert_equivalent(model, slim, inputs_of(net, 3), kept, net.masked)
    assert_same(run(slim, inputs_of(net)), run(codegen.rebuild(slim), inputs_of(net)))


@pytest.mark.parametrize(
    ("policy", "kept"),
    [("head_dim", [0, 1, 4, 5, 8, 9]), ("heads", 4), ("both", 2), ("none", 12)],
    ids=["head_dim", "heads", "both", "none"],
)
def test_attention_policy_decides_what_goes(policy: str, kept: Any) -> None:
    """3 heads of 4: half of each head, two of three heads, both, or nothing."""
    net = NETWORKS["fused qkv"]
    model = model_of(net)
    with torch.no_grad():  # in each head the first two of q, k and v weigh most, and the first head most of all
        size = torch.tensor([4.0, 3.0, 1.0, 1.0]).repeat(9) + torch.tensor([3.0, 0.0, 0.0]).repeat_interleave(4).repeat(3)
        model.qkv.weight.copy_(size[:, None].expand_as(model.qkv.weight))
    plan = fxprune.plan(model, 0.5, inputs_of(net), scope="layer", attention=policy)
    found = plan.kept.get("qkv.weight", {}).get(0, list(range(36)))
    if isinstance(kept, list):
        assert found == [12 * part + i for part in range(3) for i in kept]
    else:
        assert len(found) == 3 * kept
