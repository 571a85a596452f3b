"""From a bundle to an engine that can be trusted: graph, compiled engine, parity gate, cache."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from ecgbatch import admission, engine_cache, files, parity, progress
from ecgbatch.bundle import VARIANTS, Bundle
from ecgbatch.errors import EngineError, UsageError
from ecgbatch.parity import LIMITS, Parity
from ecgbatch.runtimes import BATCH, Engine, is_gpu

if TYPE_CHECKING:
    from ecgbatch.train.int8_ecgs import Calibration
    from ecgbatch.train.quantise import Choice

__all__ = ["Order", "build", "quantised"]

_SHARES = (0.7, 0.5, 0.3)
"""Of the limits, what a graph must keep on the ECGs that it is calibrated on, so that others keep the limits; where
they do not, the next share."""
Finish = Callable[[Path], Path]
"""Of an int8 graph, the one that the device takes."""
_NAMED = 8
"""Layers at most that a line names; each profile of an engine has its own."""
_NEARBY = np.linspace(-0.3, 0.3, 13)
"""Log odds between a model's thresholds and those that calls are counted at: at a threshold itself there are few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to be built."""

    device: str = "auto"
    precision: str = "auto"
    calibrate: Sequence[str] = ()
    """Sources of real ECGs; an int8 graph is made of them, and every precision is verified on some."""
    labels: Path | None = None
    """What is known of those ECGs, where they do not bring it along."""
    out: Path | None = None
    """Where the bundle with the new graph is written."""

    def __post_init__(self) -> None:
        if self.labels is not None and not self.calibrate:
            raise UsageError("--labels without --calibrate, expected the ECGs that the labels are of")


def build(bundle: Bundle, order: Order, *, say: Callable[[str], None] = lambda _: None) -> Path:
    """Make the engine, verify it, and keep it; the folder of the engine, or of the bundle that was written.

    Raises:
        UsageError: the order makes no sense for this bundle.
        EngineError: the engine cannot be had, or is not within its limits.
    """
    if bundle.parent is not None:
        raise UsageError(f"model {bundle.name!r}: a head, expected the model it is on; build {bundle.parent.name!r}")
    precision = _precision_on_gpu(order) if is_gpu(order.device) else _precision(bundle, order)
    _require_out(bundle, order.out, precision)
    engine_cache.require_writable()
    try:
        ecgs = _calibration(bundle, order, say)
        make = _on_gpu if is_gpu(order.device) else _on_cpu
        return make(bundle, precision, order, ecgs, say)
    except OSError as err:
        raise EngineError(f"model {bundle.name!r} in {precision}: cannot be built: {files.cause(err)}") from err


def _require_out(bundle: Bundle, out: Path | None, precision: str) -> None:
    """Nothing, where a bundle of that precision can be written to `out`: better known before minutes are spent."""
    if out is None:
        return
    if precision not in VARIANTS:
        raise UsageError(f"--out with {precision}, expected {' or '.join(VARIANTS)}: a bundle holds its fp32 graph")
    if out.exists() and not out.samefile(bundle.folder):
        raise UsageError(f"{out}: is there already, expected a new folder, or that of the bundle itself")


def _calibration(bundle: Bundle, order: Order, say: Callable[[str], None]) -> "Calibration | None":
    if not order.calibrate:
        return None
    from ecgbatch.train import int8_ecgs

    ecgs = int8_ecgs.read(list(order.calibrate), bundle, labels_path=order.labels)
    say(f"{len(ecgs.x)} ECGs to calibrate on, {len(ecgs.verified)} others to verify")
    return ecgs


def _precision(bundle: Bundle, order: Order) -> str:
    match order.precision:
        case "auto":
            return "int8" if order.calibrate or "int8" in bundle.parity else "fp32"
        case "fp32" | "int8":
            return order.precision
    raise UsageError(f"precision {order.precision!r} on cpu, expected 'auto', 'fp32' or 'int8'")


def _precision_on_gpu(order: Order) -> str:
    from ecgbatch.runtimes import on_gpu

    if order.precision not in ("auto", *on_gpu.PRECISIONS):
        known = ", ".join(on_gpu.PRECISIONS)
        raise UsageError(f"precision {order.precision!r} on {order.device}, expected 'auto' or one of {known}")
    if order.out is not None:
        raise UsageError(f"--out on {order.device}, expected --device cpu: a graph for a bundle is made there")
    if order.precision == "int8" and not order.calibrate:
        told = "TensorRT takes another graph than ships, and how far that is from the model is not known"
        raise UsageError(f"--precision int8 on {order.device}, expected --calibrate SOURCE: {told}")
    return "fp16" if order.precision == "auto" else order.precision


def _as_it_is(graph: Path) -> Path:
    return graph


def _signed(graph: Path) -> Path:
    """The int8 graph for TensorRT, beside it: without uint8, which its documentation does not know."""
    from ecgbatch.train import quantise

    out = graph.with_name(f"signed.{graph.name}")
    quantise.write_signed(graph, out)
    return out


def _graphs(
    bundle: Bundle,
    precision: str,
    ecgs: "Calibration | None",
    scratch: Path,
    say: Callable[[str], None],
    *,
    finished: Finish,
) -> Iterator[Path]:
    """Files of the network in that precision: the bundle's own, or one of ECGs to calibrate on, ever nearer."""
    if precision == "fp32":
        yield bundle.folder / "model.onnx"
    elif ecgs is not None:
        out = scratch / VARIANTS["int8"]
        made = quantised(bundle, ecgs.x, out, finished)
        say(_held(next(made)))
        yield finished(out)
        with suppress(EngineError):  # where no graph keeps so little, the table of the last one says more
            for choice in made:
                say(_held(choice))
                yield finished(out)
    elif "int8" in bundle.parity:
        yield bundle.folder / VARIANTS["int8"]
    else:
        told = "ships no int8 graph, expected ECGs to make one; give --calibrate SOURCE"
        raise UsageError(f"model {bundle.name!r}: {told}")


def _held(choice: "Choice") -> str:
    held = ", ".join(name.removesuffix(".weight") for name in choice.held) or "none"
    return f"held back in fp32: {held} · range clips {choice.clipped:g} · logits off by {choice.error:.3f}"


def quantised(bundle: Bundle, x: np.ndarray, out: Path, finished: Finish = _as_it_is) -> Iterator["Choice"]:
    """Write the int8 graph of a bundle to `out`, its ranges those of model input x (record, lead, time).

    On x it keeps, once it is finished, a share of the limits: of `_SHARES` the first, then each of the others in the
    place of the last.

    Raises:
        EngineError: it is not within its limits, whatever is held back.
    """
    from ecgbatch.runtimes import cpu
    from ecgbatch.train import quantise

    def logits(graph: Path) -> np.ndarray:
        taken = graph if graph == source else finished(graph)
        return cpu.load(bundle, batch=BATCH, precision="int8", graph=taken)(x)[0]

    source = bundle.folder / "model.onnx"
    expected, limits = bundle.probabilities(logits(source)), LIMITS["int8"]

    def keeps(share: float, told: np.ndarray) -> bool:
        found = bundle.probabilities(told)
        return (
            np.abs(found - expected).max() <= share * limits.worst_probability
            and _flip_share_nearby(bundle, expected, found) <= share * limits.flip_share
        )

    yield from quantise.choices(source, out, x, logits, [partial(keeps, share) for share in _SHARES])


def _flip_share_nearby(bundle: Bundle, expected: np.ndarray, found: np.ndarray) -> float:
    """Share of calls that flip, on average over thresholds near the model's own: it varies less from ECGs to ECGs."""
    thresholds = np.array([label.threshold for label in bundle.labels])
    raised = thresholds * np.exp(_NEARBY)[:, None]
    nearby = raised / (1 - thresholds + raised)  # (threshold, label)
    return float(np.mean([((found >= limit) != (expected >= limit)).mean() for limit in nearby]))


def _on_cpu(
    bundle: Bundle, precision: str, order: Order, ecgs: "Calibration | None", say: Callable[[str], None]
) -> Path:
    """Make the graph, compile, verify, measure and keep; what is written to `out` is kept as the engine of that."""
    from ecgbatch.runtimes import cpu, sweep

    name = VARIANTS.get(precision, "model.onnx")
    with TemporaryDirectory() as scratch:
        graph, found = _trusted(bundle, precision, ecgs, Path(scratch), say)
        profile = sweep.fastest(bundle, precision, graph)
        faster = "" if precision == "fp32" else f", {profile.ecg_per_s / profile.ecg_per_s_fp32:.2f} times fp32"
        rate = f"{profile.ecg_per_s:.0f} ECG/s in batches of {profile.batch} on {profile.n_streams} streams"
        say(f"cpu openvino {precision}: {rate}{faster}")
        made = bundle
        if order.out is not None:
            from ecgbatch.train import variant

            told = found if ecgs is not None else bundle.parity[precision]  # of the same graph, on more ECGs
            made = variant.add(bundle, precision, graph, told, order.out)
        kept = engine_cache.keep(
            cpu.facts(made, precision),
            lambda folder: shutil.copyfile(graph, folder / name),
            {"parity": asdict(found), "profile": asdict(profile)},
        )
    return kept.folder if order.out is None else made.folder


def _trusted(
    bundle: Bundle,
    precision: str,
    ecgs: "Calibration | None",
    scratch: Path,
    say: Callable[[str], None],
    *,
    finished: Finish = _as_it_is,
) -> tuple[Path, Parity]:
    """A graph whose engine is within its limits, and how near it is to the model.

    Raises:
        EngineError: none is.
    """
    from ecgbatch.runtimes import cpu

    reference = admission.admitted(cpu.load(bundle, batch=BATCH))
    for graph in _graphs(bundle, precision, ecgs, scratch, say, finished=finished):
        engine = cpu.load(bundle, batch=BATCH, precision=precision, graph=graph)
        found = _verified(reference, engine, ecgs)
        say(found.table(precision))
        if found.keeps(LIMITS[precision]):
            break
    parity.require(found, precision, where=f"model {bundle.name!r} on {engine}")
    return graph, found


def _on_gpu(
    bundle: Bundle, precision: str, order: Order, ecgs: "Calibration | None", say: Callable[[str], None]
) -> Path:
    """Compile, verify, measure and keep, for one GPU."""
    from ecgbatch.runtimes import cpu, on_gpu

    reference = admission.admitted(cpu.load(bundle, batch=BATCH))

    def verify(engine: Engine) -> Parity:
        found = _verified(reference, engine, ecgs)
        say(found.table(precision))
        parity.require(found, precision, where=f"model {bundle.name!r} on {engine}")
        return found

    with TemporaryDirectory() as scratch, progress.building(f"{bundle.name} {precision}") as observe:
        kept = on_gpu.keep(
            bundle,
            _gpu_graph(bundle, precision, ecgs, Path(scratch), say),
            order.device,
            precision,
            verify=verify,
            observe=observe,
        )
    say(f"{kept.told['ecg_per_s']:.0f} ECG/s{_layers_told(precision, kept.told['left_in_float32'])}")
    return kept.path("")


def _layers_told(precision: str, layers: Sequence[str] | None) -> str:
    """What is said of the layers that are left in float32; in that precision nothing, for all are."""
    if precision == "fp32":
        return ""
    if layers is None:
        return " · TensorRT does not tell which layers are left in float32"
    more = f" and {len(layers) - _NAMED} more" if len(layers) > _NAMED else ""
    return f" · layers left in float32: {', '.join(layers[:_NAMED]) or 'none'}{more}"


def _gpu_graph(
    bundle: Bundle, precision: str, ecgs: "Calibration | None", scratch: Path, say: Callable[[str], None]
) -> Path:
    """The graph as TensorRT takes it: precision written into it; one in int8 is within its limits on a CPU.

    Raises:
        EngineError: there is none.
    """
    match precision:
        case "fp16" | "bf16":
            from ecgbatch.train import half

            out = scratch / f"model.{precision}.gpu.onnx"
            half.write_half(bundle.folder / "model.onnx", out, precision=precision)
            return out
        case "int8":
            return _trusted(bundle, precision, ecgs, scratch, say, finished=_signed)[0]
    return bundle.folder / "model.onnx"


def _verified(reference: Engine, engine: Engine, ecgs: "Calibration | None") -> Parity:
    """Parity with what the model said of the reference ECGs, and of those at hand to verify with says here in fp32."""
    bundle = engine.bundle
    x, expected = admission.reference(bundle)
    found = bundle.probabilities(engine(x)[0])
    if ecgs is None:  # of so few ECGs, made up at that, a share of calls tells nothing
        return replace(_compared(bundle, expected, found), flip_share=None)
    before, after = (bundle.probabilities(each(ecgs.verified)[0]) for each in (reference, engine))
    compared = _compared(bundle, np.concatenate([expected, before]), np.concatenate([found, after]))
    if ecgs.targets is None:
        return compared
    return replace(compared, auc_change=_auc_change(bundle, ecgs.targets, before, after))


def _compared(bundle: Bundle, expected: np.ndarray, found: np.ndarray) -> Parity:
    return parity.compared(expected, found, [label.threshold for label in bundle.labels], auc_change={})


def _auc_change(bundle: Bundle, targets: np.ndarray, expected: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """By label, of those that have enough positives and a negative; every one that the macro AUC is the mean of."""
    from ecgbatch.train import metrics

    change = {}
    for at, code in enumerate(bundle.codes):
        known = ~np.isnan(targets[:, at])
        truth = targets[known, at]
        if metrics.JUDGED <= truth.sum() < len(truth):
            before, after = (metrics.auc(truth, scores[known, at]) for scores in (expected, found))
            change[code] = round(after - before, 6)
    return change
