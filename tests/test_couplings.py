"""Every network of the table: what theory says of its channels."""

from __future__ import annotations

import itertools

import pytest
from helpers import Channels, assert_permutable, assert_same, named_tensors, parse, tensors_of
from networks import Network, network
from support.couplings import analyzed, each, inputs_of, model_of, run_and_put_back, seeded_run
from torch import nn

import fxprune
from fxprune.planning.document import document_of
from fxprune.planning.explain import explain

# -- the table itself --------------------------------------------------------------------------------------


@each
def test_network_is_sound(net: Network) -> None:
    """Its places exist, pairs are of equal length, and it runs in plain PyTorch."""
    model = model_of(net)
    tensors = named_tensors(model)

    def length(place: str) -> int:
        name, axis, cut = parse(place)
        return len(range(tensors[name].shape[axis])[cut])

    assert net.free
    assert all(length(place) for place in (*net.free, *net.frozen, *net.masked, *(net.inexact or ())))
    assert all(length(a) == length(b) > 0 for a, b in net.coupled)
    assert all(length(a) and length(b) for a, b in net.apart)
    for training in (True, False):
        for batch in (2, 3):
            assert all(t.isfinite().all() for t in tensors_of(seeded_run(model, inputs_of(net, batch), training)))


def test_network_names_are_unique() -> None:
    with pytest.raises(ValueError, match="two networks are called 'flip'"):
        network("flip")(nn.Identity)


# -- tracing -----------------------------------------------------------------------------------------------


@each
def test_trace_gives_the_same_bits(net: Network) -> None:
    """In both modes, at the traced batch size and at another."""
    model = model_of(net)
    traced = fxprune.trace(model, inputs_of(net))
    assert set(named_tensors(model)) <= set(named_tensors(traced))
    for training in (False, True):
        for batch in (2, 3):
            inputs = inputs_of(net, batch)
            runs = [run_and_put_back(each, inputs, training) for each in (model, traced)]
            assert_same(*runs)


# -- analysis ----------------------------------------------------------------------------------------------


@each
def test_facts(net: Network) -> None:
    model = model_of(net)
    channels = Channels(analyzed(net.id).groups, model)
    for place in net.free:
        assert all(channels.free(place)), f"{place} should be free: {channels.free(place)}"
    for place in net.frozen:
        assert not any(channels.free(place)), f"{place} should be frozen: {channels.free(place)}"
    for a, b in net.coupled:
        assert all(channels.at(a)) and channels.at(a) == channels.at(b), (
            f"{a} and {b} should be coupled: {channels.at(a)} and {channels.at(b)}"
        )
    for a, b in net.apart:
        shared = set().union(*channels.at(a)) & set().union(*channels.at(b))
        assert not shared, f"{a} and {b} should share no channel"
    if net.inexact is not None:
        expected = {group.id for place in net.inexact for group in channels.groups_at(place)}
        assert {g.id for g in channels.groups if g.status == "free" and not g.exact} == expected


@each
def test_groups_are_whole(net: Network) -> None:
    """Ids are unique, sizes agree, and no entry of a tensor is in two channels, but for groups that exclude each other."""
    model = model_of(net)
    analysis = analyzed(net.id)
    channels = Channels(analysis.groups, model)
    assert len({g.id for g in analysis.groups}) == len(analysis.groups)
    for group in analysis.groups:
        assert all(len(m.indices) == group.size for m in group.members)
        assert bool(group.reason) == (group.status != "free")
    for owner in (owner for owners in channels.owners.values() for owner in owners):
        free = [analysis.groups[number] for number, _ in owner if analysis.groups[number].status == "free"]
        for one, other in itertools.combinations(free, 2):
            assert other.id in analysis.exclusive[one.id]
    assert analysis.graph.number_of_nodes() > 0


@each
def test_permutation_changes_nothing(net: Network) -> None:
    """By hand: the groups of the analysis, permuted in the state of the original."""
    if net.placed:
        pytest.skip("channels of one group are told apart by their place: fxprune's own check covers it")
    model = model_of(net)
    for seed, group in enumerate(analyzed(net.id).groups):
        if group.status == "free":
            assert_permutable(model, group, inputs_of(net), seed)


@each
def test_why_names_what_decided(net: Network) -> None:
    """Of every free parameter that it is free; of one that is frozen on all its axes, that it is."""
    known = document_of(model_of(net), analyzed(net.id).cut(), {})
    free = {parse(place)[0] for place in (*net.free, *(a for pair in net.coupled for a in pair))}
    for place in net.free:
        assert explain(known, parse(place)[0], analyzed(net.id)).status == "free"
    for place in net.frozen:
        name, _, _ = parse(place)
        if name not in free:
            answer = explain(known, name, analyzed(net.id))
            assert answer.status == "frozen" and all(part[4] for part in answer.parts), str(answer)
    if net.blocked:
        answer = fxprune.why(model_of(net), "conv1", inputs_of(net))
        assert answer.status == "frozen" and net.blocked in str(answer), str(answer)
