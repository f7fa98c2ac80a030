"""`sensitivity`: how much of each group may go, by trying."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, get_args

import numpy as np
from torch import Tensor, nn

from fxprune.analysis.analysis import Analysis
from fxprune.analysis.groups import Group
from fxprune.criteria import resolve, score_groups
from fxprune.errors import InputError, NothingToPrune, PruneError, nearest, said, shown
from fxprune.inputs.acceptance import check_values
from fxprune.options import AttentionPolicy, Criterion, PruneOptions, check_flag, check_names, one_of, real, several
from fxprune.planning.document import document_of
from fxprune.planning.policies.ratio import LayerRatio
from fxprune.progress import track
from fxprune.proofs.verify import check_rewrite
from fxprune.recovery.finetune.checkpoint import digest
from fxprune.recovery.finetune.files import replaced
from fxprune.recovery.repair.ranked import ranked
from fxprune.recovery.repair.verb import checked_repair
from fxprune.recovery.repair.verb import repair as repair_slim
from fxprune.rewrite import Rewritten, rewrite, with_weights
from fxprune.state import deep_copy
from fxprune.studies.checkpoints import checkpoint_path, same_figure
from fxprune.studies.curves import Better, Curve, Point, Sensitivity
from fxprune.submodules.target import Target

__all__ = ["measured", "sensitivity"]

Evaluate = Callable[[nn.Module], Any]


def sensitivity(
    model: nn.Module,
    evaluate: Evaluate,
    example_inputs: Any = None,
    *,
    ratios: Iterable[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    better: Better = "higher",
    groups: str | Iterable[str] = "*",
    criterion: Criterion | None = None,
    repair: Iterable[Any] | None = None,
    ignore: Iterable[str] = (),
    attention: AttentionPolicy = "head_dim",
    data: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    batches: int | None = None,
    verify: bool = True,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Sensitivity:
    """Remove shares of each group of coupled channels alone, and say what that does to a figure of yours; `model` is untouched.

    Groups, not layers: layers that are added to one residual stream lose the same channels, or none, and are measured together.

    >>> found = sensitivity(net, lambda slim: -(slim(torch.ones(1, 8)) - net(torch.ones(1, 8))).abs().sum().item(), x)
    >>> [point.removed for point in found.curve("0.weight").points], found.dense
    ([2, 5, 8, 12, 15], 0.0)

    Args:
        model, example_inputs, ignore, attention, data, loss, batches: as in `fxprune.prune`.
        evaluate: a function of a model, which gives one number: accuracy on some images, say. It gets copies, in the model's
            mode.
        ratios: of a group's channels that go, the least important ones first.
        better: ``"higher"`` (accuracies) or ``"lower"`` (losses).
        groups: ids, or names or globs of layers or tensors: those that are measured.
        criterion: ranks the channels of a group; None: as in `prune`.
        repair: unlabelled images; then each model is measured as it is cut, and again after a `fxprune.repair` from them.
        verify: prove each model that is measured.
        seed: of random choices.
        checkpoint: JSON file that is replaced whole after each measurement. Where it is there already, with the same arguments,
            what it holds is not measured again; in the end it is what `Sensitivity.from_json` reads.
        progress: show a progress bar.

    Returns:
        The curves; ``str()`` of them is a table. As a `criterion` of `fxprune.plan` and `prune` they are predicted losses.

    Raises:
        InputError: an argument is out of range or names nothing, `evaluate` fails or gives no finite number, or the checkpoint
            is damaged or of another measurement.
        TraceError, NothingToPrune, NotEquivalent: as `prune`.
        PruneError: the disk refuses.
    """
    if not callable(evaluate):
        raise InputError(f"evaluate must be a function of a model that gives one number, not {shown(evaluate)}")
    one_of("better", better, get_args(Better))
    names, verify, progress = check_names(groups, "groups"), check_flag(verify, "verify"), check_flag(progress, "progress")
    by = ranked(criterion, data, checked_repair(repair, ()))
    for argument, given in (("repair", by.images), ("data", data)):
        if isinstance(given, Iterator):
            raise InputError(f"{argument} is read many times: give a list, a tensor or a loader, not an iterator")
    options = PruneOptions(0.5, by.criterion, "layer", ignore, 1.0, 1, attention, seed)
    shares, made = _checked_ratios(ratios), resolve(by.criterion, options.seed)
    file = _File(checkpoint)
    target = Target.of(model, (), example_inputs)
    check_values(model, "measure where the weights are")
    analysis = target.analyze(options.attention, options.ignore)
    wanted = _matching(analysis, names)
    own = deep_copy(model)
    scores = score_groups(made, own, analysis, None, data=by.data, loss=loss, batches=batches)
    asked = {
        "ratios": list(shares),
        "better": better,
        "groups": list(names),
        "criterion": options.criterion_name,
        "ignore": list(options.ignore),
        "attention": options.attention,
        "seed": options.seed,
        "repair": repair is not None,
    }
    empty = Sensitivity(
        type(model).__name__, str(digest(model)), asked, measured(evaluate, deep_copy(model), "the whole model"), ()
    )
    found = file.begin(empty)
    trying = _Trying(own, analysis, evaluate, by.images, verify, seed)
    for group in track(wanted, "measuring", shown=progress or None):
        order = tuple(np.argsort(scores[group.id], kind="stable").tolist())
        for count in _counts(group, shares, options):
            found = file.keep(trying(found, group, order, count))
    if not found.curves:
        raise NothingToPrune(analysis.nothing({**found.skipped}))
    return found


@dataclass(frozen=True)
class _Trying:
    """Measures one cut."""

    model: nn.Module
    analysis: Analysis
    evaluate: Evaluate
    images: Any
    verify: bool
    seed: int

    def __call__(self, found: Sensitivity, group: Group, order: tuple[int, ...], count: int) -> Sensitivity:
        """The curves with one point more; the same if they have it, or if the group cannot be rewritten."""
        mine = next((c for c in found.curves if c.group == group.id), Curve(group.id, group.size, order))
        if group.id in found.skipped or any(p.removed == count for p in mine.points):
            return found
        try:
            rewritten = rewrite(self.analysis, {group.id: np.sort(np.array(order[:count]))})
        except NothingToPrune as error:
            return replace(found, skipped={**found.skipped, group.id: str(error)})
        point = self._point(rewritten, f"without {count} channels of {group.id!r}", count)
        points = tuple(sorted((*mine.points, point), key=lambda p: p.removed))
        others = [c for c in found.curves if c.group != group.id]
        place = [g.id for g in self.analysis.free].index
        curves = sorted([*others, replace(mine, points=points)], key=lambda c: place(c.group))
        return replace(found, curves=tuple(curves))

    def _point(self, rewritten: Rewritten, what: str, count: int) -> Point:
        slim, cut = with_weights(rewritten, self.model), rewritten.cut
        if self.verify:
            check_rewrite(cut, self.model, slim)
        if self.images is not None:
            plan = document_of(self.model, cut, PruneOptions(0.5, attention=self.analysis.attention).to_json())
            plan.options["ignore"] = list(self.analysis.ignore)
            slim.meta["fxprune"] = rewritten.report(plan, {})
        value, repaired = measured(self.evaluate, deep_copy(slim), f"the model {what}"), None
        if self.images is not None:
            better = repair_slim(slim, self.model, self.images, seed=self.seed)
            repaired = measured(self.evaluate, better, f"the repaired model {what}")
        return Point(count, value, repaired, cut.macs, cut.params)


class _File:
    """The checkpoint; without a path it does nothing.

    Raises:
        InputError: the path is none of a file.
    """

    def __init__(self, path: Any) -> None:
        self.path = checkpoint_path(path)

    def begin(self, empty: Sensitivity) -> Sensitivity:
        """What is measured already.

        Raises:
            InputError: it is damaged, or of something else.
        """
        if self.path is None or not self.path.exists():
            return empty
        name = str(self.path)
        try:
            found = Sensitivity.from_json(self.path.read_text(encoding="utf-8"))
        except (OSError, UnicodeError, InputError) as error:
            why = f"holds no measurement that could go on ({said(error)})"
            raise InputError(f"{name!r} {why}: remove it, or name another") from error
        if (found.model, found.digest) != (empty.model, empty.digest):
            raise InputError(f"{name!r} was measured on another model, or on other weights: remove it, or name another")
        if found.options != empty.options:
            wrong = next(n for n in {**empty.options, **found.options} if found.options.get(n) != empty.options.get(n))
            raise InputError(f"{name!r} was measured with another {wrong}: remove it, or name another")
        same_figure(empty.dense, found.dense, repr(name))
        return found

    def keep(self, found: Sensitivity) -> Sensitivity:
        """Write what is measured, and give it back.

        Raises:
            PruneError: the disk refuses.
        """
        if self.path is not None and found.curves:
            replaced(self.path, lambda where: where.write_text(found.to_json(), encoding="utf-8"))
        return found


def measured(evaluate: Evaluate, model: nn.Module, what: str) -> float:
    """What a user's function gives for a model.

    Raises:
        InputError: it fails, or gives no finite number.
    """
    try:
        given = evaluate(model)
        number = real(
            given.detach().item() if isinstance(given, Tensor) else given.item() if isinstance(given, np.ndarray) else given
        )
    except PruneError:
        raise
    except Exception as error:
        raise InputError(f"evaluate failed on {what}: {type(error).__name__}: {said(error)}") from error
    if number is None or not np.isfinite(number):
        raise InputError(f"evaluate must give one finite number, and gave {shown(given)} for {what}")
    return float(number) + 0.0  # no -0


def _checked_ratios(ratios: Any) -> tuple[float, ...]:
    given = [*several(ratios, "ratios")]
    found = [real(ratio) for ratio in given]
    if not found or any(ratio is None or not 0 < ratio < 1 for ratio in found):
        raise InputError(f"ratios must be fractions between 0 and 1, at least one, not {shown(given)}")
    return tuple(sorted({float(ratio) for ratio in found if ratio is not None}))


def _counts(group: Group, ratios: Iterable[float], options: PruneOptions) -> list[int]:
    """How many channels go by each ratio, as a ratio by layer takes them; each number once."""
    policies = (LayerRatio(replace(options, ratio=ratio)) for ratio in ratios)
    return sorted({policy.within(group, policy.wanted([group])[group.id]) for policy in policies} - {0})


def _matching(analysis: Analysis, patterns: Iterable[str]) -> list[Group]:
    """
    Raises:
        InputError: a pattern matches no group.
    """
    if not analysis.free:
        raise NothingToPrune(analysis.nothing())
    names: Mapping[str, list[str]] = {g.id: [g.id, *_layers(g)] for g in analysis.free}
    picked: set[str] = set()
    for pattern in patterns:
        hits = {name for name, known in names.items() if any(fnmatchcase(each, pattern) for each in known)}
        if not hits:
            known = [each for layers in names.values() for each in layers]
            raise InputError(f"groups: {shown(pattern)} matches none that may be pruned{nearest(pattern, known)}")
        picked |= hits
    return [g for g in analysis.free if g.id in picked]


def _layers(group: Group) -> list[str]:
    producers = [m.name for m in group.members if m.role == "producer"] or [m.name for m in group.members]
    return [*producers, *(name.rpartition(".")[0] for name in producers)]
