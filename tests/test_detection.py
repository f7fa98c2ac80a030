"""torchvision's detectors, which cannot be recorded whole: pruned in backbone and heads, they run from image to boxes."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from helpers import error, masked_copy, parameters_of, run, to_double
from torch import Tensor, nn
from torchvision.models import detection, get_model, list_models
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d

import fxprune
from fxprune.proofs.randomize import randomize

SIDE = 128


class Stages(nn.Sequential):
    """Three stages of a plain convolutional network, with the frozen batch norm of pretrained detectors."""

    def __init__(self, widths: tuple[int, ...] = (16, 24, 32)) -> None:
        stages, last = [], 3
        for width in widths:
            first = nn.Conv2d(last, width, 3, stride=2, padding=1, bias=False)
            stages += [nn.Sequential(first, FrozenBatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))]
            last = width
        super().__init__(*stages)


def small_backbone() -> nn.Module:
    return BackboneWithFPN(Stages(), {"0": "0", "1": "1", "2": "2"}, [16, 24, 32], 16)


def small_faster_rcnn() -> nn.Module:
    sizes = ((8,), (16,), (32,), (64,))
    return detection.FasterRCNN(
        small_backbone(),
        min_size=64,
        max_size=64,
        rpn_anchor_generator=detection.rpn.AnchorGenerator(sizes, ((1.0,),) * 4),
        rpn_post_nms_top_n_test=20,
        rpn_post_nms_top_n_train=20,
        box_head=detection.faster_rcnn.TwoMLPHead(16 * 7 * 7, 24),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(24, 3),
        box_score_thresh=0.0,
        box_detections_per_img=5,
    )


def small_retinanet() -> nn.Module:
    anchors = detection.rpn.AnchorGenerator(((8,), (16,), (32,), (64,)), ((1.0,),) * 4)
    return detection.RetinaNet(small_backbone(), 3, min_size=64, max_size=64, anchor_generator=anchors, topk_candidates=20)


def small_ssd() -> nn.Module:
    backbone = small_backbone()
    backbone.out_channels = [16] * 4  # type: ignore[assignment]
    return detection.ssd.SSD(backbone, detection.anchor_utils.DefaultBoxGenerator([[2]] * 4), (64, 64), 3, topk_candidates=20)


def images(side: int = SIDE) -> list[Tensor]:
    return [torch.rand(3, side, side), torch.rand(3, side - 8, side)]


def targets(name: str, side: int = SIDE) -> list[dict[str, Tensor]]:
    """Two objects in each of two images, with masks or key points where the model wants them."""
    target: dict[str, Any] = {
        "boxes": torch.tensor([[4.0, 6.0, side - 20.0, side - 12.0], [10.0, 10.0, 40.0, 44.0]]),
        "labels": torch.tensor([1, 1]),
    }
    if name.startswith("mask"):
        target["masks"] = torch.randint(0, 2, (2, side, side), dtype=torch.uint8)
    if name.startswith("keypoint"):
        target["keypoints"] = torch.tensor([20.0, 30.0, 1.0]).expand(2, 17, 3).clone()
    return [target, copy.deepcopy(target)]


def assert_detects_as_masked(model: nn.Module, slim: nn.Module, inputs: list[Tensor], also: Sequence[str] = ()) -> None:
    """Boxes, scores and all else are those of the original with the removed channels zeroed where they are read."""
    masked = masked_copy(model, slim.meta["fxprune"].plan.kept, also).double()
    expected, found = (run(m, (to_double(inputs),)) for m in (masked, copy.deepcopy(slim).double()))
    assert all(len(image["boxes"]) for image in expected)
    assert error(expected, found) < 1e-6


def assert_trains(slim: nn.Module, inputs: list[Tensor], wanted: list[dict[str, Tensor]]) -> None:
    """One step of training on labelled images reaches every parameter."""
    slim.train()
    losses = slim(inputs, wanted)
    assert all(math.isfinite(loss.item()) for loss in losses.values())
    sum(losses.values()).backward()
    assert [n for n, p in slim.named_parameters() if p.requires_grad and p.grad is None] == []
    torch.optim.SGD(slim.parameters(), lr=1e-4).step()
    assert all(p.isfinite().all() for p in slim.parameters())


@pytest.mark.parametrize(
    ("build", "names"),
    [(small_faster_rcnn, ["backbone", "rpn.head", "roi_heads.box_head"]), (small_retinanet, ["backbone", "head"])],
    ids=["Faster R-CNN", "RetinaNet"],
)
def test_a_small_detector(build: Any, names: list[str]) -> None:
    model = randomize(build())
    slim = fxprune.prune(model, 0.5, (images(64),), submodules=names)
    assert type(slim) is type(model)
    assert slim.backbone.out_channels == 16
    assert parameters_of(slim) < 0.7 * parameters_of(model)
    assert_detects_as_masked(model, slim, images(64))
    assert_trains(slim, images(64), targets("", 64))


def test_inner_channels_of_a_pyramid_are_free_and_its_outputs_stay() -> None:
    plan = fxprune.plan(small_faster_rcnn(), 0.5, (images(64),), submodules=["backbone"])
    inner = fxprune.why(plan, "backbone.fpn.inner_blocks.0.0")
    assert inner.status == "pruned"
    assert "backbone.fpn.inner_blocks.2.0.weight (axis 0, producer)" in inner.coupled  # the lateral sums make them one
    assert fxprune.why(plan, "backbone.fpn.layer_blocks.0.0").status == "frozen"


def test_the_error_for_a_whole_detector_names_its_parts() -> None:
    with pytest.raises(fxprune.TraceError, match=r"'backbone'.*'rpn.head'"):
        fxprune.prune(small_faster_rcnn(), 0.5, (images(64),))


SMALL: dict[str, Any] = {"min_size": SIDE, "max_size": 160}
FEW = {
    "rpn_post_nms_top_n_test": 30,
    "rpn_post_nms_top_n_train": 30,
    "box_score_thresh": 0.0,
    "box_detections_per_img": 5,
}
HEADS = {
    "fasterrcnn": (["rpn.head", "roi_heads.box_head"], SMALL | FEW),
    "maskrcnn": (["rpn.head", "roi_heads.box_head", "roi_heads.mask_head"], SMALL | FEW),
    "keypointrcnn": (["rpn.head", "roi_heads.box_head", "roi_heads.keypoint_head"], SMALL | FEW),
    "retinanet": (["head"], SMALL | {"score_thresh": 0.0}),
    "fcos": (["head"], SMALL | {"score_thresh": 0.0}),
    "ssd300": ([], {}),  # its heads are one layer each: their channels are the rest's
    "ssdlite320": (["head"], {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models(module=detection))
def test_every_detector_of_torchvision(name: str) -> None:
    heads, options = HEADS[name.partition("_")[0]]
    model = get_model(name, weights=None, weights_backbone=None, **options)
    slim = fxprune.prune(model, 0.5, (images(),), scope="layer", submodules=["backbone", *heads])
    report = slim.meta["fxprune"]
    print(f"{name}: {report}; largest error {report.checks.masked_error:.1e}")
    assert report.macs_after < 0.6 * report.macs_before
    assert report.params_after < 0.7 * report.params_before
    assert_detects_as_masked(model, slim, images())
    assert_trains(slim, images(), targets(name))


@pytest.mark.slow
@pytest.mark.parametrize("build", [small_faster_rcnn, small_retinanet, small_ssd], ids=["Faster R-CNN", "RetinaNet", "SSD"])
def test_a_small_detector_whole(build: Any) -> None:
    """In its own class, training included, with the channels between its parts."""
    model = randomize(build())
    slim = fxprune.prune(model, 0.5, (images(64), targets("", 64)), form="module")
    report = slim.meta["fxprune"]
    assert type(slim) is type(model) and report.checks.passed
    assert {"the example", "the example in training", "a longer list"} <= set(report.own_class.errors)
    assert parameters_of(slim) < 0.6 * parameters_of(model)
    pyramid = "backbone.fpn.layer_blocks.0.0.weight"  # whose outputs submodules= keeps whole
    assert any(g.status == "free" and (pyramid, 0, "producer") in g.members for g in report.plan.groups)
    assert_detects_as_masked(model, slim, images(64))
    assert_trains(slim, images(64), targets("", 64))


# A map that is divided by the norm over its channels: zero where they are made, since nobody reads them one by one.
NORMALIZED = {"ssd300_vgg16": ["backbone.features.21.weight:0", "backbone.features.21.bias:0"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "ssd300_vgg16", "ssdlite320_mobilenet_v3_large"]
)
def test_a_detector_of_torchvision_whole(name: str) -> None:
    heads = HEADS[name.partition("_")[0]][1]
    model = get_model(name, weights=None, weights_backbone=None, **heads)
    slim = fxprune.prune(model, 0.5, (images(), targets(name)), form="module")
    report = slim.meta["fxprune"]
    print(f"{name}: {report}")
    assert report.macs_after < 0.6 * report.macs_before
    assert_detects_as_masked(model, slim, images(), NORMALIZED.get(name, ()))
    assert_trains(slim, images(), targets(name))
