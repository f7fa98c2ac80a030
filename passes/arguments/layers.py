"""Layers called as functions, whose arguments say what torch.nn modules remember."""

from __future__ import annotations

from fxprune.passes.arguments.site import Site, repair
from fxprune.passes.base import Mismatch
from fxprune.passes.resize_leaves import groups_left


@repair("layer_norm rms_norm")
def normalized_shape(site: Site) -> int:
    shape = site.argument(1, "normalized_shape")
    return site.put(1, "normalized_shape", tuple(site.cut.size(a) for a in site.inputs[-len(shape) :]))


@repair("group_norm")
def num_groups(site: Site) -> int:
    groups = site.argument(1, "num_groups")
    left = groups_left(site.context, site.inputs[1], groups)
    return site.put(1, "num_groups", left) if left != groups else 0


@repair("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
def conv_groups(site: Site) -> int:
    given = site.argument(6, "groups", 1)
    groups = site.value(given)
    if groups == 1:
        return 0
    weight = site.argument(1, "weight")
    channels = site.inputs[1 - site.values[weight].dim()]  # before as many axes as the kernel has
    left = groups_left(site.context, channels, groups)
    if left == groups:
        return 0
    if given is not groups:
        raise Mismatch("the groups of a convolution follow the batch: none can go", site.cut.groups_at([channels]))
    return site.put(6, "groups", left)


@repair("scaled_dot_product_attention")
def attention_scale(site: Site) -> int:
    """The slim heads compute what the masked original's do: with the scale of the original head_dim."""
    if site.argument(6, "scale") is not None or site.cut.kept(site.inputs[-1]) is None:
        return 0
    site.node.update_kwarg("scale", site.inputs[-1].size ** -0.5)
    return 1
