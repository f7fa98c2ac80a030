"""Pipelines in the order of the papers: score, cut by a preset, repair or not, fine-tune (with DO-Conv, and plainly), fold.

    python benchmarks/pipelines.py --data FOLDER --weights vgg16bn.safetensors resnet56.safetensors --train 2500 --epochs 3

``sfm``: feature-map entropy, a preset of HRankPlus, DO-Conv beside plain training (Liu et al.). ``early``: these scores after
a tenth of a training and at its end, on a ResNet that is trained here. ``aura``: spatial aura entropy and mutual information
(Musat & Andonie). ``audio``: VGGish and DCASE21_Net (Singh & Plumbley), trained here on sounds that are made here
(`sounds.py`). Random with five seeds beside the last two. FOLDER is that of `criteria.py`. Rows are appended to
``pipelines.jsonl`` as they come, and what is there is not measured again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from criteria_data import Cifar, load_network
from measure import code_hash, environment
from models import PRESETS
from pipeline_table import table
from pipeline_work import Row, Subject, agreement, of_file, of_scratch, of_sounds

__all__ = ["main"]

HERE = Path(__file__).parent
PARTS = ("sfm", "early", "aura", "audio")
AURA = ["aura_mi", "aura_entropy", "hist_mi", "l1", "random"]
AUDIO = ["operator_norm", "operator_norm_compat", "aura_mi", "aura_entropy", "l1", "random"]
KEY = ("pipeline", "network", "preset", "criterion", "when", "repair", "training", "seed")
SETTINGS = ("images", "train", "epochs", "lr", "precision", "test", "clips", "dense_epochs")
Jobs = Iterator[tuple[Row, Callable[[], Row]]]


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing; write ``pipelines.json`` and ``pipelines.md``."""
    options = _options(arguments)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "pipelines.jsonl"
    rows = {_key(row): row for row in map(json.loads, log.read_text().splitlines() if log.exists() else [])}
    code = code_hash(HERE.parent)
    for head, measure in _jobs(options):
        if _key(head) not in rows:
            rows[_key(head)] = row = {**head, **measure(), "code": code}
            with log.open("a") as lines:
                lines.write(json.dumps(row) + "\n")
    found = [*rows.values()]
    document = {"environment": environment(("accelerate",)), "rows": found}
    (options.out / "pipelines.json").write_text(json.dumps(document, indent=1) + "\n")
    (options.out / "pipelines.md").write_text("\n".join(table(found)))
    print(f"wrote {options.out / 'pipelines.md'}")


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in (*KEY, *SETTINGS))


def _jobs(options: argparse.Namespace) -> Jobs:
    """What identifies a row, and what measures it. Networks are made when the first row needs them."""
    data = Cifar(options.data) if options.data else None
    shared = {name: getattr(options, name) for name in SETTINGS}
    on_images = {**shared, "clips": 0, "dense_epochs": None}
    on_sounds = {**shared, "train": 0, "test": options.heldout, "lr": 0.0}
    for part in options.parts:
        if part == "audio":
            for name, family in (("DCASE21_Net", "dcase21"), ("VGGish", "vggish")):
                subject = _once(partial(of_sounds, name, options))
                own = {"pipeline": part, "network": name, **on_sounds}
                yield from _rows(subject, own, _fitting(options, family), options.audio_criteria, options)
        elif data is None:
            continue
        elif part == "early":
            for seed in range(options.seeds):
                yield from _early(_once(partial(of_scratch, options.depth, seed, data, options)), seed, on_images, options)
        else:
            for file in options.weights:
                network, _ = load_network(file)
                subject = _once(partial(of_file, file, data, options))
                own = {"pipeline": part, "network": network, **on_images}
                names = ["sfm"] if part == "sfm" else options.aura_criteria
                yield from _rows(subject, own, _fitting(options, network.lower().replace("-", "")), names, options)


def _fitting(options: argparse.Namespace, family: str) -> list[str]:
    return [name for name in options.presets if family and name.startswith(f"{family}-")]


def _once(make: Callable[[], Subject]) -> Callable[[], Subject]:
    """`make`, whose result is kept."""
    kept: list[Subject] = []

    def get() -> Subject:
        if not kept:
            kept.append(make())
        return kept[0]

    return get


def _rows(subject: Callable[[], Subject], own: Row, presets: list[str], names: list[str], options: argparse.Namespace) -> Jobs:
    """Rows of all criteria and repairs; those of SFM's are trained, too, and those on sounds, plainly."""
    plain = {"epochs": 0, "train": 0, "lr": 0.0}
    empty = dict.fromkeys(KEY[2:], "")
    if presets:
        yield {**own, **empty, **plain, "seed": 0}, lambda: subject().dense()
    taught = {"sfm": options.trainings, "audio": [name for name in options.trainings if name == "plain"]}
    trainings = taught.get(own["pipeline"], [])
    for preset, name, repair in product(presets, names, options.repairs):
        runs = [("none", seed) for seed in range(options.drawn if name == "random" else 1)]
        if repair in options.train_after:  # seed by seed, so that what was stopped can be compared
            runs += [(training, seed) for seed in range(options.seeds) for training in trainings if training != "none"]
        for training, seed in runs:
            head = {**own, "preset": preset, "criterion": name, "when": "late", "repair": repair, "training": training}
            head |= {"seed": seed, **({} if training != "none" else plain)}
            yield head, partial(_measured, subject, PRESETS[preset].ratio, head)


def _measured(subject: Callable[[], Subject], ratio: Mapping[str, float], head: Row) -> Row:
    return subject().measured(ratio, head)


def _early(subject: Callable[[], Subject], seed: int, own: Row, options: argparse.Namespace) -> Jobs:
    """A network of seed `seed`: cut by scores of two stages of its training, repaired, and trained on."""
    ratio = {"layer*.conv1": 0.5}
    own = {**own, "pipeline": "early", "network": f"ResNet-{options.depth}", "seed": seed, "preset": "", "repair": ""}
    yield {**own, "criterion": "", "when": "", "training": ""}, lambda: subject().dense()
    own["preset"] = "inner widths halved"
    head = {**own, "criterion": "sfm", "when": "both", "training": ""}
    yield head, lambda: {"spearman": agreement(subject(), ratio, "sfm")}
    for (name, when), training in product([("sfm", "early"), ("sfm", "late"), ("random", "late")], ["none", "plain"]):
        head = {**own, "criterion": name, "when": when, "repair": "full", "training": training}
        yield head, partial(_measured, subject, ratio, head)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="CIFAR-10 as JPEG: see criteria.py; audio needs none")
    parser.add_argument("--weights", nargs="+", type=Path, default=[], metavar="FILE", help="safetensors")
    parser.add_argument("--parts", nargs="+", default=[*PARTS], choices=PARTS)
    default = ["vgg16bn-middle", "resnet56-middle", "dcase21-50", "dcase21-75", "vggish-50", "vggish-75"]
    parser.add_argument("--presets", nargs="+", default=default, choices=[*PRESETS], metavar="NAME")
    parser.add_argument("--aura-criteria", nargs="+", default=AURA, metavar="NAME")
    parser.add_argument("--audio-criteria", nargs="+", default=AUDIO, metavar="NAME")
    parser.add_argument("--repairs", nargs="+", default=["none", "full"], choices=["none", "norms", "full"])
    parser.add_argument("--trainings", nargs="+", default=["none", "plain", "do_conv"], choices=["none", "plain", "do_conv"])
    parser.add_argument("--train-after", nargs="+", default=["none", "full"], choices=["none", "norms", "full"])
    parser.add_argument("--seeds", type=int, default=3, help="of all that is trained")
    parser.add_argument("--drawn", type=int, default=5, help="seeds of random")
    parser.add_argument("--epochs", type=int, default=3, help="of the fine-tuning")
    parser.add_argument("--train", type=int, default=50_000, help="training images of an epoch")
    parser.add_argument("--lr", type=float, default=0.01, help="highest learning rate")
    parser.add_argument("--images", type=int, default=640, help="training images that criteria and repairs see")
    parser.add_argument("--test", type=int, default=10_000, help="test images")
    parser.add_argument("--clips", type=int, default=1000, help="sounds to train on")
    parser.add_argument("--heldout", type=int, default=1000, help="sounds to test on")
    parser.add_argument("--dense-epochs", type=int, default=20, help="of the networks that are trained on sounds")
    parser.add_argument("--depth", type=int, default=8, help="of the ResNet that is trained from scratch")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16", help="of the training")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "fxprune-pipelines", help="trained networks")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    if not options.data and options.parts != ["audio"]:
        parser.error("--data is missing: the folder of CIFAR-10 as JPEG; --parts audio needs none")
    return options


if __name__ == "__main__":
    main()
