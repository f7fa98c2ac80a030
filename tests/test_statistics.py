"""The pass over data: where it looks, what it is given, and that its sums add up."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import fxprune
from fxprune import criteria
from fxprune.criteria.apoz import APoZ
from fxprune.errors import InputError
from fxprune.statistics import Statistics, gather
from fxprune.statistics.maps import maps_of
from fxprune.statistics.site import Site
from fxprune.statistics.sites import Sites

SOME = ["apoz", "gap_entropy", "aura_mi", "taylor", "wanda", "hrank", "aura_mi_layer", "hessian"]


class Block(nn.Module):
    """A residual network with norms, a gate, pooling, and a branch that differs between modes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.pool = nn.MaxPool2d(2)
        self.conv1, self.norm1 = nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.squeeze, self.excite = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)
        self.head, self.drop = nn.Linear(6, 3), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.norm0(self.stem(x)).relu())
        x = (x + self.norm2(self.conv2(self.norm1(self.conv1(x)).relu_()))).relu()
        gate = self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        x = (x * gate).mean((2, 3))
        if self.training:
            x = self.drop(x)
        return self.head(x)


def model() -> Block:
    net = Block()
    with torch.no_grad():
        for norm in (net.norm0, net.norm1, net.norm2):
            norm.bias.normal_()
    return net


def batches(sizes: tuple[int, ...] = (4, 3, 5), seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, 3, 8, 8, generator=generator), torch.randint(0, 3, (n,), generator=generator)) for n in sizes]


def scores(made: Any, net: nn.Module, analysis: Any) -> Tensor:
    tensors = dict(net.named_parameters()) | dict(net.named_buffers())
    return torch.cat([made(group, tensors) for group in analysis.free])


def all_scores(net: nn.Module, data: Any, names: list[str] = SOME, **options: Any) -> list[Tensor]:
    analysis = fxprune.analyze(net, torch.randn(2, 3, 8, 8))
    made = [criteria.resolve(n) for n in names]
    gather(net, analysis, made, data, **options)  # type: ignore[arg-type]
    return [scores(m, net, analysis) for m in made]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for name, a, b in zip(SOME, found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-8), name


# -- where it looks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hook", "stem", "inner"),
    [
        ("activation", ["relu", "mul"], ["relu_"]),
        ("norm", ["norm0", "norm2", "excite"], ["norm1"]),
        ("sum", ["add"], ["relu_"]),
        ("consumer", ["conv1", "squeeze", "head"], ["conv2"]),
    ],
)
def test_sites(hook: Any, stem: list[str], inner: list[str]) -> None:
    analysis = fxprune.analyze(model(), torch.randn(2, 3, 8, 8))
    found = Sites(analysis).of(hook)
    assert [s.node for s in found["stem.weight"]] == stem
    assert [s.node for s in found["conv1.weight"]] == inner


def test_sites_show_the_activations_of_the_original() -> None:
    net = model().eval()
    seen: dict[str, Tensor] = {}
    hook = net.conv2.register_forward_pre_hook(lambda m, args: seen.__setitem__("inner", args[0].clone()))
    images = batches()[0][0]
    net(images)
    hook.remove()

    class Watch(APoZ):
        def observe(self, maps: Any) -> dict[str, Tensor]:
            if maps.site.group == "conv1.weight":
                seen["found"] = maps.values.clone()
            return super().observe(maps)

    analysis = fxprune.analyze(net, images)
    gather(net, analysis, [Watch()], [images])
    assert torch.allclose(seen["found"][:, :, 0], seen["inner"], atol=1e-6)


def test_every_group_of_common_layouts_has_a_site() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.token = nn.Conv2d(3, 8, 2, stride=2), nn.Parameter(torch.zeros(1, 1, 8))
            self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
            self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
            q, k, v = self.qkv(self.norm(x)).reshape(x.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
            y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
            x = x + self.out(y)
            return self.head((x + self.down(nn.functional.gelu(self.up(x))))[:, 0])

    net = Tokens()
    analysis = fxprune.analyze(net, torch.randn(2, 3, 8, 8))
    assert len(analysis.free) >= 3
    assert all(Sites(analysis).of("activation").values())
    for found in all_scores(net, batches()):
        assert torch.isfinite(found).all()


# -- maps ------------------------------------------------------------------------------------------------------------------


def site(dim: int, entries: list[list[int]], copies: tuple[int, ...] = ()) -> Site:
    return Site("g", "n", "n", dim, np.array(entries), copies)


def test_maps_of_images_tokens_vectors_and_windows() -> None:
    channels = [[0], [1], [2]]
    image = torch.randn(2, 3, 4, 5)
    assert torch.equal(maps_of(image, site(1, channels), 2)[:, :, 0], image)
    last = torch.randn(2, 4, 5, 3)
    assert torch.equal(maps_of(last, site(3, channels), 2)[:, :, 0], last.permute(0, 3, 1, 2))
    tokens = torch.randn(2, 17, 3)  # a class token and 4 x 4 patches
    assert torch.equal(maps_of(tokens, site(2, channels), 2)[:, :, 0], tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4)))
    assert maps_of(torch.randn(2, 15, 3), site(2, channels), 2).shape == (2, 3, 1, 1, 15)  # too far from a square
    assert maps_of(torch.randn(2, 3, 16), site(1, channels), 2).shape == (2, 3, 1, 1, 16)  # a signal, not tokens
    assert maps_of(torch.randn(2, 3), site(1, channels), 2).shape == (2, 3, 1, 1, 1)
    windows = torch.randn(6, 4, 3)  # 2 images of 3 windows
    found = maps_of(windows, site(2, channels), 2)
    assert found.shape == (2, 3, 3, 2, 2)
    assert torch.equal(found[1, :, 2], windows[5].T.unflatten(1, (2, 2)))
    video = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(maps_of(video, site(1, channels), 2), video)
    first = torch.randn(15, 2, 3)  # sequence first
    assert torch.equal(maps_of(first, site(2, channels), 2)[:, :, 0, 0], first.permute(1, 2, 0))


def test_entries_of_a_channel_are_copies() -> None:
    value = torch.randn(2, 6, 4, 4)
    found = maps_of(value, site(1, [[0, 3], [1, 4], [5, 2]]), 2)
    assert found.shape == (2, 3, 2, 4, 4) and torch.equal(found[:, 2, 0], value[:, 5])
    heads = torch.randn(2, 3, 9, 4)
    found = maps_of(heads, site(3, [[0], [1], [2], [3]], (1,)), 2)
    assert found.shape == (2, 4, 3, 3, 3) and torch.equal(found[1, 2, 0].ravel(), heads[1, 0, :, 2])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused(bad: float) -> None:
    data = batches()
    data[1][0][0, 0, 0, 0] = bad
    with pytest.raises(InputError, match="not finite"):
        all_scores(model(), data, ["apoz"])


# -- what it is given ------------------------------------------------------------------------------------------------------


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


# -- sums ------------------------------------------------------------------------------------------------------------------


def test_the_split_into_batches_does_not_matter() -> None:
    net, (whole,) = model(), batches((12,))
    parts = [(whole[0][:5], whole[1][:5]), (whole[0][5:6], whole[1][5:6]), (whole[0][6:], whole[1][6:])]
    names = [n for n in SOME if n != "taylor"]  # the gradient of a batch's mean loss is that of the batch
    for a, b in zip(all_scores(net, parts, names), all_scores(net, [whole], names), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-8)


def test_one_pass_for_many_criteria_equals_one_each() -> None:
    net, data = model(), batches()
    assert_close(all_scores(net, data), [all_scores(net, data, [n])[0] for n in SOME])


def test_memory_does_not_grow_with_images() -> None:
    net = model()
    analysis = fxprune.analyze(net, torch.randn(2, 3, 8, 8))
    made = [criteria.resolve(n) for n in SOME]
    statistics = Statistics(net, analysis, made)  # type: ignore[arg-type]
    statistics.update(batches((4,)))
    before = {k: v.shape for k, v in statistics.state_dict().items()}
    statistics.update(batches((6, 6, 6)))
    assert {k: v.shape for k, v in statistics.state_dict().items()} == before
    assert int(statistics.state_dict()["images"]) == 22


def test_a_pass_resumes_from_a_file(tmp_path: Any) -> None:
    net, data = model(), batches((4, 3, 5))
    analysis = fxprune.analyze(net, torch.randn(2, 3, 8, 8))
    one = Statistics(net, analysis, [criteria.resolve(n) for n in SOME], calibration=4)  # type: ignore[misc]
    one.update(data[:1])
    save_file(one.state_dict(), tmp_path / "state.safetensors")
    made = [criteria.resolve(n) for n in SOME]
    two = Statistics(net, analysis, made)  # type: ignore[arg-type]
    two.load_state_dict(load_file(tmp_path / "state.safetensors"))
    two.update(data[1:])
    two.finish()
    assert_close([scores(m, net, analysis) for m in made], all_scores(net, data, calibration=4))


def test_states_of_shares_add_up() -> None:
    net, data = model(), batches((4, 3, 5))
    analysis = fxprune.analyze(net, torch.randn(2, 3, 8, 8))

    def fresh() -> tuple[list[Any], Statistics]:
        made = [criteria.resolve(n) for n in SOME]
        return made, Statistics(net, analysis, made, calibration=4)  # type: ignore[arg-type]

    made, first = fresh()
    first.update(data[:1])
    _, second = fresh()
    second.store.ranges = dict(first.store.ranges)
    second.update(data[1:])
    first.merge(second.state_dict())
    first.finish()
    assert_close([scores(m, net, analysis) for m in made], all_scores(net, data, calibration=4))
    _, alone = fresh()
    alone.update(data[1:])
    with pytest.raises(InputError, match="calibrated on different data"):
        first.merge(alone.state_dict())
    other = Statistics(net, analysis, [criteria.resolve("apoz")])  # type: ignore[list-item]
    other.update(data)
    with pytest.raises(InputError, match="other criteria"):
        first.merge(other.state_dict())
    with pytest.raises(InputError, match="damaged"):
        first.load_state_dict({"images": torch.tensor(1), "nonsense": torch.zeros(1)})


# -- the model stays as it is ----------------------------------------------------------------------------------------------


def test_the_model_is_left_alone() -> None:
    net = model().train()
    before = copy.deepcopy(net.state_dict())
    all_scores(net, batches())
    assert net.training and net.norm1.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_evaluation_is_observed_whatever_the_mode() -> None:
    net, data = model(), batches()
    assert_close(all_scores(net.train(), data), all_scores(net.eval(), data))


def test_autocast_changes_scores_a_little() -> None:
    net, data = model(), batches()
    exact, rough = (all_scores(net, data, ["wanda", "taylor"], autocast=a) for a in (None, torch.bfloat16))
    for a, b in zip(exact, rough, strict=True):
        assert torch.allclose(a, b, rtol=0.2, atol=0.05) and not torch.equal(a, b)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_scores() -> None:
    net, data = model(), batches()
    expected = all_scores(net, data)
    for a, b in zip(all_scores(copy.deepcopy(net).cuda(), data), expected, strict=True):
        assert torch.allclose(a.cpu(), b, rtol=1e-2, atol=1e-3)


# -- several processes -----------------------------------------------------------------------------------------------------


def share(rank: int, world: int, port: int, folder: str) -> None:
    import os

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    found = all_scores(model(), batches((4, 4, 4, 4))[rank::world], calibration=8)
    torch.distributed.destroy_process_group()
    save_file({str(i): s for i, s in enumerate(found)}, f"{folder}/{rank}.safetensors")


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Any) -> None:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(share, (2, port, str(tmp_path)), nprocs=2)
    torch.manual_seed(0)
    expected = all_scores(model(), batches((4, 4, 4, 4)), calibration=8)
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")
        assert_close([found[str(i)] for i in range(len(SOME))], expected)
