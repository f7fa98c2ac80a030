"""The pass over data: what it is given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.statistics import all_scores, assert_close, batches, model

from fxprune.errors import InputError


def test_tensors_pairs_and_mappings_are_batches() -> None:
    net, (first, *_) = model(), batches()
    expected = all_scores(net, [first], ["apoz"])[0]
    for batch in (first[0], [first[0]], list(first), {"x": first[0]}, {"x": first[0], "label": first[1]}):
        assert torch.equal(all_scores(net, [batch], ["apoz"])[0], expected)
    for batch in ({"x": first[0], "target": first[1]}, first):
        assert all_scores(net, [batch], ["aura_mi"])[0].shape == expected.shape


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([], "no batches"),
        ([{"y": torch.zeros(1)}], "has no 'x'"),
        ([(torch.zeros(1, 3, 8, 8), 1, 2)], "holds 3 inputs"),
        (["image"], "must be a tensor"),
        ([torch.zeros(0, 3, 8, 8)], "no images"),
        ([torch.zeros(1, 3, 8, 8)], "needs labels"),
        ([(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3))], "one class number"),
        ([(torch.zeros(1, 3, 8, 8), torch.tensor([-1]))], "one class number"),
    ],
)
def test_wrong_data_are_refused(data: list[Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        all_scores(model(), data, ["aura_mi"])


def test_a_criterion_that_reads_no_statistics_is_refused() -> None:
    with pytest.raises(InputError, match="score with it directly"):
        all_scores(model(), batches(), ["l1"])


def test_generators_and_loaders() -> None:
    net, data = model(), batches((4, 4, 4))

    def stream() -> Iterator[Any]:
        yield from data

    expected = all_scores(net, data)
    assert_close(all_scores(net, stream(), calibration=10), all_scores(net, data, calibration=10))
    dataset = torch.utils.data.TensorDataset(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]))
    assert_close(all_scores(net, torch.utils.data.DataLoader(dataset, 4)), expected)
    assert_close(all_scores(net, data, batches=2), all_scores(net, data[:2]))
    assert_close(all_scores(net, data, progress=True), expected)


def test_labels_beyond_the_classes_are_folded() -> None:
    net, data = model(), batches()
    folded = [(x, y + 3) for x, y in data]
    assert torch.equal(all_scores(net, folded, ["aura_mi"])[0], all_scores(net, data, ["aura_mi"])[0])
