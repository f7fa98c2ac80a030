"""Statistics of a model at work: one pass over data, for any number of criteria, in memory that does not grow with it.

>>> criteria = [resolve("hrank"), resolve("taylor")]                # doctest: +SKIP
>>> gather(model, analyze(model), criteria, loader, batches=5)      # doctest: +SKIP
>>> scores = criteria[0](group, tensors)                            # doctest: +SKIP

The words of this package:

* An *observer* looks at a model at work and remembers sums; `contract` says what it offers. Criteria are observers.
* A *hook* is a kind of place in any network where an observer may look: after activations, say.
* A *spot* is such a place for one group of one network: a node, and the axis and entries of its value that the group's
  channels occupy there. `Occupancy` knows the entries at every node; `Spots` finds the spots of a hook.
* *Maps* are what there is to see of one batch at one spot; *gradients*, of one batch's loss for the weights.
* The `Lookout` shows the maps of each spot to all observers that look there.
* The *store* keeps sums in slots: one for each observer and spot, or for each observer and member.
"""

from __future__ import annotations

from fxprune.statistics.gathering import gather
from fxprune.statistics.maps import Maps
from fxprune.statistics.running import Statistics

__all__ = ["Maps", "Statistics", "gather"]
