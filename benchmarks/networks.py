"""Which network is worth its operations: candidates of one cost, trained alike, and how fast the engine runs them.

    python benchmarks/networks.py ptbxl.parquet --work networks --out benchmarks/results/networks.json

Every candidate sees the same ECGs in the same order and is judged on the side that chooses (fold 8 of PTB-XL), never on
the one that reports. A training leaves its checkpoint in `--work` and is gone on with; rates are measured afterwards,
in turns.
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
from torch import Tensor, nn

from ecgbatch.bundle import Bundle, find
from ecgbatch.network import Block, Network, gflop_per_ecg
from ecgbatch.runtimes import cpu
from ecgbatch.train import device, export, figures, metrics, pretrain, sources
from ecgbatch.train.stream import Inputs, Stream
from ecgbatch.train.training import Recipe, Training, predict

BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network to compare."""

    what: str
    arguments: Mapping[str, Any]
    """Of `Network`, which gives it its stem, pooling and head."""
    block: Callable[[int, int, int, int], nn.Module] | None = None
    """In place of a residual block: channels in and out, stride, and the place in the stage."""

    def build(self, **arguments: Any) -> Network:
        """The network with random weights."""
        network = Network(**arguments)
        if self.block is not None:
            stages = zip(arguments["widths"], arguments["widths"][1:], arguments["depths"], strict=False)
            network.stages = nn.Sequential(
                *(
                    self.block(n_in if at == 0 else n_out, n_out, 2 if at == 0 else 1, at)
                    for n_in, n_out, depth in stages
                    for at in range(depth)
                )
            )
        return network


class ConvNext(nn.Module):
    """A long convolution within each channel, then two between channels, beside a shortcut (Liu et al., 2022)."""

    def __init__(self, n_in: int, n_out: int, stride: int, _: int) -> None:
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

    def __init__(self, n_in: int, n_out: int, stride: int, _: int) -> None:
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


def _dilated(n_in: int, n_out: int, stride: int, at: int) -> nn.Module:
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
    "squeezed": Candidate(
        what="residual, squeeze-and-excitation in late stages",
        arguments=_shape((32, 64, 96, 128, 160), (2, 2, 2, 1), 2),
    ),
    "residual": Candidate(what="residual", arguments=_shape((32, 64, 96, 128, 160), (2, 2, 2, 1), 0)),
    "wide": Candidate(
        what="the first, wider, its stem dividing the rate by 4",
        arguments=_shape((48, 96, 136, 200), (2, 2, 2), 2, stem_kernel=31, stem_stride=4),
    ),
    "inception": Candidate(
        what="inception", arguments=_shape((32, 96, 152, 200, 256), (2, 2, 2, 1), 0), block=Inception
    ),
    "convnext": Candidate(what="ConvNeXt", arguments=_shape((32, 80, 112, 152, 184), (2, 2, 2, 1), 0), block=ConvNext),
    "dilated": Candidate(
        what="residual, dilated, squeeze-and-excitation in all stages",
        arguments=_shape((32, 56, 80, 112, 136), (2, 2, 2, 4), 0),
        block=_dilated,
    ),
}


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("data", type=Path, help="labelled ECGs, such as PTB-XL's")
    parser.add_argument("--work", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--candidate", choices=CANDIDATES, nargs="+", default=list(CANDIDATES))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement of a rate")
    parser.add_argument("--train-only", action="store_true", help="leave the rates for a quiet machine")
    args = parser.parse_args()
    recipe = Recipe(epochs=args.epochs, batch=64, seed=args.seed)
    networks, judged = _trained(args.data, args.work, recipe, args.candidate)
    if args.train_only:
        return
    rates = _rates(networks, args.seconds, args.rounds)
    measured = {name: {"what": CANDIDATES[name].what, **judged[name], **rates[name]} for name in networks}
    settings = {name: getattr(args, name) for name in ("candidate", "epochs", "seed", "seconds", "rounds")}
    print(tables.render(write(args.out, "networks", settings, {"networks": measured})))


def _trained(
    data: Path, work: Path, recipe: Recipe, names: Sequence[str]
) -> tuple[dict[str, Network], dict[str, dict[str, Any]]]:
    """Each candidate with its best weights, and what these say of the choosing side."""
    base = find("foundation").input
    parts, spec = pretrain.prepared(sources.read([data]), base.leads, None, recipe.seed, pretrain.N_POSITIVES)
    train, choose = (Inputs(parts.of(side), spec) for side in ("train", "choose"))
    stream = Stream(train, batch=recipe.batch, seed=recipe.seed)
    recipe = replace(recipe, data_sha256=parts.cohort.sha256, split_sha256=parts.sha256)
    weight = figures.resamples(choose.cohort.patients)
    networks, judged, first = {}, {}, None
    for name in names:
        training = _training(CANDIDATES[name], recipe, stream, choose, work / name)
        networks[name] = training.best_network()
        logits = predict(networks[name], choose.each(choose.blocks))[0]
        draws = _macro(choose.cohort.targets, logits, weight)
        first = draws if first is None else first
        judged[name] = {
            "gflop_per_ecg": gflop_per_ecg(networks[name], n_leads=len(spec.leads), n_samples=spec.samples),
            "n_parameters": sum(weights.numel() for weights in networks[name].parameters()),
            "best_epoch": training.best_epoch,
            "macro_auc": _interval(draws),
            "gain": _interval(draws - first),
        }
        print(name, judged[name], flush=True)
    return networks, judged


def _training(candidate: Candidate, recipe: Recipe, stream: Stream, choose: Inputs, work: Path) -> Training:
    """The finished training of a candidate: gone on with from its checkpoint, or begun."""
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / "checkpoint.safetensors"
    targets = choose.cohort.targets
    arguments = {"n_leads": len(choose.spec.leads), "n_labels": targets.shape[1], **candidate.arguments}
    training = Training(arguments, recipe, fabric=device.chosen("auto").fabric(), build=candidate.build)
    if checkpoint.exists():
        training.resume(checkpoint)
    while not training.is_finished:
        training.run_epoch(stream, choose)
        training.save(checkpoint)
    return training


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


def _rates(networks: Mapping[str, Network], seconds: float, rounds: int) -> dict[str, dict[str, Any]]:
    """ECG/s of each network in the engine."""
    base = find("foundation")
    with TemporaryDirectory() as work:
        engines = {name: _engine(network, base, Path(work) / name) for name, network in networks.items()}
        x = records(base)
        subjects = {name: partial(ecg_per_s, engine, x, seconds=seconds) for name, engine in engines.items()}
        for subject in subjects.values():
            subject()
        values = interleaved(subjects, rounds)
    return {name: {"fp32": spread(rates)} for name, rates in values.items()}


def _engine(network: Network, base: Bundle, folder: Path) -> cpu.CpuEngine:
    folder.mkdir()
    export.write_onnx(folder / "model.onnx", network, n_leads=len(base.input.leads), n_samples=base.input.samples)
    return cpu.load(replace(base, folder=folder), batch=BATCH)


if __name__ == "__main__":
    main()
