"""Torch-Pruning 1.6.1, run the way its own timm and torchvision examples run it.

What those examples do (``examples/timm_models/prune_timm_models.py`` and
``examples/torchvision_models/torchvision_pruning.py``) and is done here: batch 1; all parameters
trainable; timm's attention unfused (``TIMM_FUSED_ATTN=0`` in the environment), its `Attention`
registered in `num_heads`, and `round_to` 8; torchvision's nn.MultiheadAttention registered as channel
groups, and `hidden_dim` of its VisionTransformer corrected afterwards; no auxiliary heads; RAFT's update
block, correlation and mask predictor ignored.

Two things are done in its favour. Layers with as many outputs as the model has classes are ignored for
every model (the examples name some of them). The widths that timm's `Attention` stores are corrected
only where it was registered (the timm example fails on other attention classes at that point).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ENVIRONMENT", "Peer", "build_for_peer", "installed", "prepare"]

ENVIRONMENT = {"TIMM_FUSED_ATTN": "0"}  # read by timm when it is imported


def installed() -> bool:
    """Whether torch_pruning can be imported."""
    from importlib.util import find_spec

    return find_spec("torch_pruning") is not None


@dataclass
class Peer:
    """A model and the options under which Torch-Pruning prunes it.

    `run` is what is timed: dependency graph, importance, one step.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    ignored: list[nn.Module]
    heads: dict[nn.Module, int] = field(default_factory=dict)
    channel_groups: dict[nn.Module, int] = field(default_factory=dict)
    round_to: int | None = None

    def run(self, ratio: float, global_ranking: bool) -> nn.Module:
        """Prune the model in place, and return it."""
        import torch_pruning as tp

        # Its defaults for these three are dicts shared between calls: always pass new ones.
        pruner = tp.pruner.BasePruner(
            self.model,
            self.inputs[0] if len(self.inputs) == 1 else list(self.inputs),
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=global_ranking,
            pruning_ratio=ratio,
            iterative_steps=1,
            ignored_layers=self.ignored,
            round_to=self.round_to,
            num_heads=self.heads,
            in_channel_groups={},
            out_channel_groups=dict(self.channel_groups),
        )
        for group in pruner.step(interactive=True):
            group.prune()
        self._correct_widths()
        return self.model

    def _correct_widths(self) -> None:
        """What the examples set by hand after pruning."""
        module: Any
        for module in self.model.modules():
            qkv: Any = getattr(module, "qkv", None)
            if isinstance(qkv, nn.Linear) and qkv in self.heads:
                module.num_heads = self.heads[qkv]
                module.head_dim = qkv.out_features // (3 * self.heads[qkv])
                module.attn_dim = module.num_heads * module.head_dim
        vit: Any = self.model
        if _is_torchvision_vit(vit):
            vit.hidden_dim = vit.conv_proj.out_channels


def build_for_peer(spec: str) -> nn.Module:
    """The model as the examples build it: no auxiliary heads (torchvision)."""
    from fxprune.inputs.models import load_model

    kind, _, name = spec.partition(":")
    if kind == "torchvision" and name in ("googlenet", "inception_v3"):
        from torchvision.models import get_model

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model: nn.Module = get_model(name, weights=None, aux_logits=False, init_weights=True)
        return model
    return load_model(spec)


def prepare(spec: str, model: nn.Module, inputs: Sequence[Tensor]) -> Peer:
    """Settle the options for one model; `inputs` are example inputs of any batch size."""
    kind, _, name = spec.partition(":")
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.randn(1, *x.shape[1:], generator=generator) for x in inputs)
    peer = Peer(model, inputs, _classifiers(model))
    if kind == "timm":
        from timm.layers.attention import Attention

        peer.round_to = 8
        peer.heads = {m.qkv: m.num_heads for m in model.modules() if isinstance(m, Attention)}
    elif _is_torchvision_vit(model):
        attention = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
        peer.channel_groups = {m: m.num_heads for m in attention}
    elif name.startswith("raft"):
        peer.ignored += [model.get_submodule(n) for n in ("corr_block", "update_block")]
        mask: Any = getattr(model, "mask_predictor", None)
        peer.ignored += [mask] if isinstance(mask, nn.Module) else []
    return peer


def _classifiers(model: nn.Module) -> list[nn.Module]:
    """Layers with as many outputs as the model has classes, and timm's classifier."""
    classes = getattr(model, "num_classes", None)
    if not isinstance(classes, int) or classes <= 0:
        layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Conv3d))]
        classes = _width(layers[-1]) if layers else -1
    found = [m for m in model.modules() if _width(m) == classes]
    get_classifier = getattr(model, "get_classifier", None)
    head = get_classifier() if callable(get_classifier) else None
    if isinstance(head, nn.Module) and not any(head is m for m in found):
        found.append(head)
    return found


def _width(module: nn.Module) -> int:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, (nn.Conv2d, nn.Conv3d)) else -1


def _is_torchvision_vit(model: nn.Module) -> bool:
    return type(model).__module__ == "torchvision.models.vision_transformer"
