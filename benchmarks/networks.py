"""Which network is worth its operations: candidates of one cost, trained alike, and how fast the engine runs them.

    python benchmarks/networks.py ptbxl.parquet --work networks --out benchmarks/results/networks.json

Every candidate sees the same ECGs in the same order and is judged on the side that chooses (fold 8 of PTB-XL), never on
the one that reports; with several seeds, by the mean over their trainings. A training leaves its checkpoint in `--work`
and is gone on with, and at its end its weights and what they say: so it may run on another machine than the rates,
which are measured afterwards, in turns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tables
import torch
from engine import ecg_per_s, records
from measurement import arguments, interleaved, spread, write
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ecgbatch import building
from ecgbatch.bundle import Bundle, InputSpec, find
from ecgbatch.network import Block, Network, gflop_per_ecg
from ecgbatch.runtimes import cpu
from ecgbatch.train import device, export, figures, metrics, pretrain, sources
from ecgbatch.train.cohort import Cohort
from ecgbatch.train.split import Split
from ecgbatch.train.stream import Inputs, Stream
from ecgbatch.train.training import Recipe, Training, predict

BATCH = 32
N_CALIBRATED = 256
"""Training ECGs that the ranges of int8 are measured on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network to compare."""

    what: str
    arguments: Mapping[str, Any]
    """Of `Network`, which gives it its stem, pooling and head."""
    block: Callable[[int, int, int, int, bool], nn.Module] | None = None
    """In place of a residual block: channels in and out, stride, place in the stage, whether it weighs its channels."""

    def build(self, **arguments: Any) -> Network:
        """The network with random weights."""
        network = Network(**arguments)
        if self.block is not None:
            widths, *others = (arguments[name] for name in ("widths", "depths", "squeezed"))
            network.stages = nn.Sequential(
                *(
                    self.block(n_in if at == 0 else n_out, n_out, 2 if at == 0 else 1, at, is_squeezed)
                    for n_in, n_out, depth, is_squeezed in zip(widths, widths[1:], *others, strict=False)
                    for at in range(depth)
                )
            )
        return network


class ConvNext(nn.Module):
    """A long convolution within each channel, then two between channels, beside a shortcut (Liu et al., 2022)."""

    def __init__(self, n_in: int, n_out: int, stride: int, *_: int) -> None:
        super().__init__()
        self.down = _normalised(n_in, n_out, kernel=3, stride=stride) if stride > 1 else nn.Identity()
        self.within = _normalised(n_out, n_out, kernel=15, groups=n_out)
        self.between = nn.Sequential(nn.Conv2d(n_out, 4 * n_out, 1), nn.GELU(), nn.Conv2d(4 * n_out, n_out, 1))
        self.scale = nn.Parameter(torch.full((n_out, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return x + self.scale * self.between(self.within(x))


class Inception(nn.Module):
    """Convolutions of three lengths and a maximum side by side, beside a shortcut (Ismail Fawaz et al., 2020)."""

    def __init__(self, n_in: int, n_out: int, stride: int, *_: int) -> None:
        super().__init__()
        n = n_out // 4
        self.narrow = _normalised(n_in, n, kernel=1)
        self.branches = nn.ModuleList(_normalised(n, n, kernel=kernel, stride=stride) for kernel in (9, 19, 39))
        self.largest = nn.Sequential(nn.MaxPool2d((1, 3), (1, stride), padding=(0, 1)), _normalised(n_in, n, kernel=1))
        self.shortcut = _normalised(n_in, n_out, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        narrow = torch.relu(self.narrow(x))
        parts = [*(branch(narrow) for branch in self.branches), self.largest(x)]
        return torch.relu(torch.cat(parts, 1) + self.shortcut(x))


def _strided(n_in: int, n_out: int, stride: int, _: int, is_squeezed: bool) -> nn.Module:
    """A residual block whose shortcut is a strided convolution: in int8 it becomes one with the sum that follows."""
    block = Block(n_in, n_out, kernel=7, stride=stride, is_squeezed=is_squeezed)
    if stride > 1:
        block.shortcut = _normalised(n_in, n_out, kernel=3, stride=stride)
    return block


def _dilated(n_in: int, n_out: int, stride: int, at: int, _: bool) -> nn.Module:
    """A residual block whose convolutions reach twice as far as those of the block before it in its stage."""
    block = Block(n_in, n_out, kernel=7, stride=stride, is_squeezed=True)
    for convolution in (block.first[0], block.second[0]):
        if convolution.stride == (1, 1):
            convolution.dilation, convolution.padding = (1, 2**at), (0, 3 * 2**at)
    return block


def _normalised(n_in: int, n_out: int, *, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    padding = (0, kernel // 2)
    convolution = nn.Conv2d(n_in, n_out, (1, kernel), (1, stride), padding, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(n_out))


def _shape(widths: Sequence[int], depths: Sequence[int], squeezed: Sequence[int], **other: Any) -> dict[str, Any]:
    """Arguments of `Network`; the last `squeezed` stages weigh their channels."""
    return {
        "widths": list(widths),
        "depths": list(depths),
        "squeezed": [at >= len(depths) - squeezed for at in range(len(depths))],
        "kernel": 7,
        "stem_kernel": 15,
        "dropout": 0.3,
        **other,
    }


CANDIDATES: Mapping[str, Candidate] = {
    "deep": Candidate(
        what="residual, four stages, squeeze-and-excitation in the last two",
        arguments=_shape((32, 64, 96, 128, 160), (2, 2, 2, 1), 2),
    ),
    "wide": Candidate(
        what="the same, three wider stages behind a stem that divides the rate by 4",
        arguments=_shape((48, 96, 136, 200), (2, 2, 2), 2, stem_kernel=31, stem_stride=4),
    ),
    "strided": Candidate(
        what="three stages, stem of 15, its shortcuts strided convolutions in place of averages",
        arguments=_shape((64, 96, 128, 192), (2, 2, 2), 2, stem_stride=4),
        block=_strided,
    ),
    "plain": Candidate(
        what="the last without squeeze-and-excitation",
        arguments=_shape((64, 96, 128, 192), (2, 2, 2), 0, stem_stride=4),
        block=_strided,
    ),
    "inception": Candidate(
        what="inception", arguments=_shape((32, 96, 152, 200, 256), (2, 2, 2, 1), 0), block=Inception
    ),
    "convnext": Candidate(what="ConvNeXt", arguments=_shape((32, 80, 112, 152, 184), (2, 2, 2, 1), 0), block=ConvNext),
    "dilated": Candidate(
        what="residual, dilated, squeeze-and-excitation in all stages",
        arguments=_shape((32, 56, 80, 112, 128), (2, 2, 2, 4), 0),
        block=_dilated,
    ),
}


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("data", type=Path, help="labelled ECGs, such as PTB-XL's")
    parser.add_argument("--work", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--candidate", choices=CANDIDATES, nargs="+", default=list(CANDIDATES))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement of a rate")
    parser.add_argument("--train-only", action="store_true", help="leave the rates for a quiet machine")
    args = parser.parse_args()
    base = find("foundation")
    cohort = sources.read([args.data])
    parts, spec = pretrain.prepared(cohort, base.input.leads, None, args.seed[0], pretrain.N_POSITIVES)
    recipes = [
        Recipe(epochs=args.epochs, batch=64, seed=seed, data_sha256=parts.cohort.sha256, split_sha256=parts.sha256)
        for seed in args.seed
    ]
    ended = {name: _trained(CANDIDATES[name], parts, spec, recipes, args.work / name) for name in args.candidate}
    if args.train_only:
        return
    base = replace(base, input=spec)
    judged = _judged(ended, parts.of("choose"))
    networks = {name: each[0].network for name, each in ended.items() if each[0].network is not None}
    if missing := set(ended) - set(networks):
        raise SystemExit(
            f"{min(missing)}: no weights of seed {args.seed[0]} in {args.work}, expected them for the rates"
        )
    with TemporaryDirectory() as scratch:
        made = {name: _engines(network, base, parts, Path(scratch) / name) for name, network in networks.items()}
        engines = {name: compiled for name, (compiled, _) in made.items()}
        rates = _rates(engines, records(base), seconds=args.seconds, rounds=args.rounds)
    measured = {
        name: {
            "what": CANDIDATES[name].what,
            **_size(network, spec),
            **judged[name],
            **made[name][1],
            **rates[name],
        }
        for name, network in networks.items()
    }
    settings = {name: getattr(args, name) for name in ("candidate", "epochs", "seed", "seconds", "rounds")}
    print(tables.render(write(args.out, "networks", settings, {"networks": measured})))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ended:
    """A training at its end."""

    network: Network | None
    """With its best weights, where they are at hand: rates are measured of the first training alone."""
    logits: np.ndarray
    """What they say of the choosing side: (record, label)."""
    best_epoch: int


def _trained(candidate: Candidate, parts: Split, spec: InputSpec, recipes: Sequence[Recipe], work: Path) -> list[Ended]:
    """The training of a candidate by each recipe: what is in `work`, or gone on with from there, or begun."""
    arguments = {"n_leads": len(spec.leads), "n_labels": len(parts.cohort.codes), **candidate.arguments}
    return [
        _ended(candidate, arguments, parts, spec, recipe, work / f"{recipe.epochs}-{recipe.seed}-{parts.sha256[:8]}")
        for recipe in recipes
    ]


def _ended(
    candidate: Candidate, arguments: Mapping[str, Any], parts: Split, spec: InputSpec, recipe: Recipe, work: Path
) -> Ended:
    work.mkdir(parents=True, exist_ok=True)
    weights, said = work / "weights.safetensors", work / "said.npz"
    if not said.exists():
        choose = Inputs(parts.of("choose"), spec)
        training = _training(candidate, arguments, recipe, Inputs(parts.of("train"), spec), choose, work)
        save_file(training.best_network().state_dict(), weights)
        logits = predict(training.best_network(), choose.each(choose.blocks))[0]
        np.savez(said, logits=logits, best_epoch=training.best_epoch)
    network = None
    if weights.exists():
        network = candidate.build(**arguments).eval()
        network.load_state_dict(load_file(weights))
    with np.load(said) as found:
        return Ended(network=network, logits=found["logits"], best_epoch=int(found["best_epoch"]))


def _training(
    candidate: Candidate, arguments: Mapping[str, Any], recipe: Recipe, train: Inputs, choose: Inputs, work: Path
) -> Training:
    checkpoint = work / "checkpoint.safetensors"
    stream = Stream(train, batch=recipe.batch, seed=recipe.seed)
    training = Training(arguments, recipe, fabric=device.chosen("auto").fabric(), build=candidate.build)
    if checkpoint.exists():
        training.resume(checkpoint)
    while not training.is_finished:
        training.run_epoch(stream, choose)
        training.save(checkpoint)
        print(work, training.history[-1], flush=True)
    return training


def _judged(ended: Mapping[str, Sequence[Ended]], choose: Cohort) -> dict[str, dict[str, Any]]:
    """The macro AUC of each candidate, of the same draws of patients, and its difference from the first one's."""
    weight = figures.resamples(choose.patients)
    draws = {name: [_macro(choose.targets, one.logits, weight) for one in each] for name, each in ended.items()}
    mean = {name: np.mean(each, axis=0) for name, each in draws.items()}
    first = next(iter(mean.values()))
    return {
        name: {
            "best_epochs": [one.best_epoch for one in ended[name]],
            "macro_auc": _interval(mean[name]),
            "gain": _interval(mean[name] - first),
            "macro_auc_by_seed": [float(each[0]) for each in draws[name]],
        }
        for name in ended
    }


def _size(network: Network, spec: InputSpec) -> dict[str, float]:
    return {
        "gflop_per_ecg": gflop_per_ecg(network, n_leads=len(spec.leads), n_samples=spec.samples),
        "n_parameters": sum(weights.numel() for weights in network.parameters()),
    }


def _macro(targets: np.ndarray, logits: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(1 + draw,): the mean AUC of the labels with enough positives."""
    judged = np.flatnonzero(np.nansum(targets, axis=0) >= metrics.JUDGED)
    known = ~np.isnan(targets)
    return figures.mean(
        [figures.auc(targets[of, at] > 0, logits[of, at], weight[:, of]) for at in judged for of in (known[:, at],)]
    )


def _interval(draws: np.ndarray) -> dict[str, float]:
    found = figures.figure(draws)
    return {"value": found.value, "low": found.low, "high": found.high}


def _engines(
    network: Network, base: Bundle, parts: Split, folder: Path
) -> tuple[dict[str, cpu.CpuEngine], dict[str, Any]]:
    """The network compiled in each precision; what int8 held back, and how far it moves the choosing side's AUC."""
    train, choose = (Inputs(parts.of(side), base.input) for side in ("train", "choose"))
    folder.mkdir()
    export.write_onnx(folder / "model.onnx", network, n_leads=len(base.input.leads), n_samples=base.input.samples)
    bundle = replace(base, name=folder.name, folder=folder, labels=pretrain.calibrated(parts, choose, network))
    drawn = np.random.default_rng(1).permutation(len(train.cohort))[:N_CALIBRATED]
    made = next(building.quantised(bundle, train.of(np.sort(drawn)), folder / "model.int8.onnx"))
    engines = {
        "fp32": cpu.load(bundle, batch=BATCH),
        "int8": cpu.load(bundle, batch=BATCH, precision="int8", graph=folder / "model.int8.onnx"),
    }
    x, targets = choose.of(np.arange(len(choose.cohort))), choose.cohort.targets
    auc = {precision: metrics.macro_auc(targets, engine(x)[0]) for precision, engine in engines.items()}
    return engines, {"n_held": len(made.held), "int8_auc_change": auc["int8"] - auc["fp32"]}


def _rates(
    engines: Mapping[str, Mapping[str, cpu.CpuEngine]], x: np.ndarray, *, seconds: float, rounds: int
) -> dict[str, dict[str, Any]]:
    """ECG/s of each network in each precision, all in turns."""
    subjects = {
        (name, precision): partial(ecg_per_s, engine, x, seconds=seconds)
        for name, compiled in engines.items()
        for precision, engine in compiled.items()
    }
    for subject in subjects.values():
        subject()
    values = interleaved(subjects, rounds)
    return {name: {precision: spread(values[name, precision]) for precision in engines[name]} for name in engines}


if __name__ == "__main__":
    main()
