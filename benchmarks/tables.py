"""The documents' tables, made from the JSON results and from nothing else.

    python benchmarks/tables.py            write them between the marks in README.md and docs/
    python benchmarks/tables.py --check    exit with 1 where a document says anything else

A mark is `<!-- bench:NAME -->` … `<!-- /bench -->`, NAME that of a file in `results/`.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

__all__ = ["render"]

_HERE = Path(__file__).resolve().parent
_MARKS = re.compile(r"(<!-- bench:(?P<name>[\w-]+) -->\n).*?(<!-- /bench -->)", re.DOTALL)
_CONTAINERS = {
    "muse-xml": "MUSE XML",
    "wfdb": "WFDB",
}

Result = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    documents = [_HERE.parent / "README.md", *sorted((_HERE.parent / "docs").glob("*.md"))]
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a document is not up to date")
    parser.add_argument("--document", type=Path, nargs="+", default=documents)
    parser.add_argument("--results", type=Path, default=_HERE / "results")
    args = parser.parse_args()
    old = {document: document.read_text("utf-8") for document in args.document}
    new = {
        document: _MARKS.sub(lambda mark: f"{mark[1]}{_from_file(args.results, mark['name'])}\n{mark[3]}", text)
        for document, text in old.items()
    }
    stale = [document for document in old if new[document] != old[document]]
    if args.check and stale:
        named = ", ".join(map(str, stale))
        sys.exit(f"{named}: tables other than those of {args.results}; run benchmarks/tables.py")
    for document in stale:
        document.write_text(new[document], "utf-8")


def render(result: Result) -> str:
    """The table of a result, in Markdown, and a line that says where it comes from."""
    machine, versions = result["machine"], result["versions"]
    instructions = f" with {known}" if (known := machine.get("instructions")) else ""
    where = f"{machine['cpu']}{instructions}, {machine['cores']} cores, {result['date'][:10]}"
    where += f", ecgbatch {versions['ecgbatch']}"
    how = {"paper_estimate": "computed, not measured", "transfer": where}.get(result["benchmark"])
    how = how or f"{where}, medians of {_rounds(result)}"
    return f"{_TABLES[result['benchmark']](result)}\n\n`{result['command']}` · {how}"


def _from_file(results: Path, name: str) -> str:
    path = results / f"{name}.json"
    try:
        return render(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        sys.exit(f"{path}: no such result, but a document has a table of it; run benchmarks/{name}.py --out {path}")


def _rounds(result: Result) -> str:
    n = result["settings"]["rounds"]
    return f"{n} rounds" if n > 1 else "1 round"


def _decode(result: Result) -> str:
    containers = result["containers"]
    plain = result["settings"]["plain"]
    rates = _table(
        (
            "files in the page cache to batch rows, one core",
            "ecgbatch",
            "plain script",
            "ratio",
            "with hash and quality",
        ),
        (
            (
                f"{_CONTAINERS[name]}, {found['n_bytes'] / 1000:.0f} kB",
                f"**{_number(found['ecg_per_s'])} ECG/s**",
                f"{_number(found['plain_ecg_per_s'])} ({plain[name]})",
                f"{found['ratio']['median']:.1f}",
                f"{_number(found['feed_ecg_per_s'])} ECG/s",
            )
            for name, found in containers.items()
        ),
    )
    stages = dict.fromkeys(stage for found in containers.values() for stage in found["stages"])
    heads = [head for name in containers for head in (f"{_CONTAINERS[name]}, µs", "share of limit")]
    rows = ((stage, *_stage_cells(containers.values(), stage)) for stage in stages)
    return f"{rates}\n\n{_packs(result)}\n\n{_table(('stage', *heads), rows)}"


def _packs(result: Result) -> str:
    head = ("packs in the page cache to batch rows, one core", "kB an ECG", "ECG/s", "with hash and quality", "packed")
    rows = (
        (
            f"of {_CONTAINERS[name.split()[0]]}, compression {name.split()[1]}",
            f"{found['n_bytes'] / 1000:.0f}",
            f"**{_number(found['ecg_per_s'])}**",
            _number(found["feed_ecg_per_s"]),
            f"{_spaced(round(found['packed_ecg_per_s']))} ECG/s",
        )
        for name, found in result["packs"].items()
    )
    return _table(head, rows)


def _stage_cells(containers: Iterable[Result], stage: str) -> Iterable[str]:
    for found in containers:
        times = found["stages"].get(stage)
        yield f"{times['us']['median']:.1f}" if times else "–"
        yield f"{times['share']['median']:.0%}" if times and "share" in times else "–"


def _engine(result: Result) -> str:
    head = (f"engine alone, {result['gflop_per_ecg']:.2f} GFLOP an ECG", "ECG/s", "GOP/s", "of the matrix product")
    rows = []
    for precision, found in result["precisions"].items():
        rows += [
            (
                f"{precision}, batch {batch}, {at_batch['n_streams']} streams",
                _number(at_batch["ecg_per_s"]),
                _number(at_batch["gop_per_s"]),
                f"{at_batch['share']['median']:.0%}",
            )
            for batch, at_batch in found["batches"].items()
        ]
        rows.append((f"{precision} matrix product, 2048³", "–", _number(found["product_gop_per_s"]), "100%"))
    spent = [
        f"{precision}: " + ", ".join(f"{kind} {share:.0%}" for kind, share in found["time_by_kind"].items())
        for precision, found in result["precisions"].items()
    ]
    return f"{_table(head, rows)}\n\nWhere the time goes, by layer and precision. {'; '.join(spent)}."


def _end_to_end(result: Result) -> str:
    rates, whole = result["ecg_per_s"], result["whole_command_s"]
    files = f"{_spaced(result['settings']['n'])} ECGs, {_CONTAINERS[result['settings']['container']]}"
    head = (files, "ECG/s", "of its engine", "times plain eager", "times fp32", "whole command")
    rows = (
        (
            _subject(name, result["settings"]),
            _number(rate),
            *(
                _range(result["ratios"][name][to]) if to in result["ratios"].get(name, {}) else "–"
                for to in ("engine", "eager", "fp32 files")
            ),
            f"{whole[name]['median']:.1f} s" if name in whole else "–",
        )
        for name, rate in rates.items()
    )
    return _table(head, rows)


def _subject(name: str, settings: Result) -> str:
    precision, _, kind = name.partition(" ")
    plain = {"eager": "PyTorch eager", "compile": "torch.compile", "onnxruntime": "ONNX Runtime, fp32"}
    match kind:
        case "files" | "pack":
            return f"**ecgbatch score, {precision}**, from {'the files' if kind == 'files' else 'a pack of them'}"
        case "engine":
            return f"the {precision} engine alone, fed from memory"
    return f"plain script, {plain[name]}, DataLoader with {settings['plain_workers']} processes"


def _memory(result: Result) -> str:
    return _table(
        ("entries", "peak resident memory", "growth while scoring", "planned a second", "ECG/s"),
        (
            (
                _spaced(int(n)),
                f"{found['peak_mib']['median']:.0f} MiB",
                f"{found['growth_mib']['median']:+.0f} MiB",
                _number(found["planned_per_s"]),
                _number(found["ecg_per_s"]),
            )
            for n, found in result["archives"].items()
        ),
    )


def _train_memory(result: Result) -> str:
    return _table(
        ("ECGs", "peak resident memory", "growth from second quarter to last", "time"),
        (
            (
                _spaced(int(n)),
                f"{found['peak_mib']['median']:.0f} MiB",
                f"{found['growth_mib']['median']:+.0f} MiB",
                f"{found['seconds']['median']:.0f} s",
            )
            for n, found in result["packs"].items()
        ),
    )


def _dali(result: Result) -> str:
    names = {**_CONTAINERS, "pack": "a pack"}
    n = result["settings"]["workers"]
    threads = f"{n} thread{'s' if n > 1 else ''} each"
    rows = [(f"files to batches, {names[name]}", found) for name, found in result["feeds"].items()]
    rows.append(("records in memory to batches", result["input"]))
    rates = _table(
        (f"on a CPU, {threads}", "host feed", "DALI feed", "DALI to host"),
        (
            (
                name,
                f"{_number(found['host_ecg_per_s'])} ECG/s",
                f"{_number(found['dali_ecg_per_s'])} ECG/s",
                _range(found["ratio"]),
            )
            for name, found in rows
        ),
    )
    return f"{rates}\n\nBase64 and check sums of a MUSE file: {result['base64_us']['median']:.0f} µs on one core."


def _workers(result: Result) -> str:
    names = {**_CONTAINERS, "pack": "a pack of them"}
    n = result["settings"]["workers"]
    rates = _table(
        ("files in the page cache to batches", "1 worker", f"{n} threads", f"{n} processes", "threads", "processes"),
        (
            (
                names[name],
                *(f"{_number(found['ecg_per_s'][kind])} ECG/s" for kind in ("one", "threads", "processes")),
                *(f"{_range(found['to_one'][kind])} times one" for kind in ("threads", "processes")),
            )
            for name, found in result["feeds"].items()
        ),
    )
    return f"{rates}\n\nThe first batch of {n} processes comes after {result['start_s']['processes']['median']:.1f} s."


def _containers(result: Result) -> str:
    return _table(
        ("container", "leads, rate, length", "file", "ECG/s on one core"),
        (
            (
                f"{found['format']}, {found['origin']}",
                f"{found['n_leads']} × {found['fs_hz']:g} Hz × {found['seconds']:.3g} s",
                f"{found['n_bytes'] / 1000:.0f} kB",
                _number(found["ecg_per_s"]),
            )
            for found in result["containers"]
        ),
    )


def _mixed(result: Result) -> str:
    counts, places = result["counts"], result["places"]
    in_place = ", ".join(f"{_spaced(n)} {place}" for place, n in places.items())
    rows = (
        ("in", in_place),
        ("containers", ", ".join(f"{name} {_spaced(n)}" for name, n in result["formats"].items())),
        ("scored", _spaced(counts["scored"])),
        ("rejected", f"{_spaced(counts['rejected'])}, each for the reason that was planted"),
        ("peak resident memory", f"{result['peak_mib']['median']:.0f} MiB"),
        ("time", f"{result['seconds']:.0f} s, {_number(result['ecg_per_s'])} ECG/s"),
    )
    return _table((f"{_spaced(counts['entries'])} ECGs", "in one run"), rows)


def _networks(result: Result) -> str:
    precisions = [name for name in ("fp32", "int8") if all(name in found for found in result["networks"].values())]
    head = (
        "network",
        "GFLOP",
        "parameters",
        "macro AUC, choosing side (95 %)",
        "less the first (95 %)",
        "of each training",
    )
    rows = (
        (
            found["what"],
            f"{found['gflop_per_ecg']:.2f}",
            f"{found['n_parameters'] / 1e6:.2f} M",
            _interval(found["macro_auc"]),
            _interval(found["gain"], sign="+") if at else "–",
            " ".join(f"{auc:.3f}" for auc in found["macro_auc_by_seed"]),
            *(_number(found[name]) for name in precisions),
            f"{found['n_held']} · {found['int8_auc_change']:+.4f}",
        )
        for at, found in enumerate(result["networks"].values())
    )
    last = "first training in int8: layers left in fp32 · change of macro AUC"
    return _table((*head, *(f"{name}, ECG/s" for name in precisions), last), rows)


def _transfer(result: Result) -> str:
    head = ("AUC (95 %)", "positive patients to train on", "fine-tuned", "from scratch", "difference", "linear probe")
    rows = (
        (
            f"{found['label']}, {found['n_records']} ECGs{_cut(found['seconds'])}, {found['n_positive']} positive",
            f"about {found['n_positive_training']}, all" if n is None else str(n),
            *(
                _interval(arms[arm], sign="+" if " - " in arm else "") if arm in arms else "–"
                for arm in ("finetune", "scratch", "finetune - scratch", "probe")
            ),
        )
        for found in result["comparisons"]
        for n, arms in _by_positives(found).items()
    )
    return _table(head, rows)


def _cut(seconds: float | None) -> str:
    return "" if seconds is None else f" cut to {seconds:g} s"


def _by_positives(found: Result) -> dict[int | None, dict[str, Result]]:
    """The AUC of each arm and difference, by growing numbers of positives to train on."""
    by_number: dict[int | None, dict[str, Result]] = {}
    for row in found["figures"]:
        by_number.setdefault(row["n_positives"], {})[row["arm"]] = row["auc"]
    return by_number


def _gpu_pieces(result: Result) -> str:
    kernel, graph, network = (result[name] for name in ("kernel", "graph", "network"))
    share = kernel["bytes_per_s"] / kernel["copy_bytes_per_s"]
    pieces = [
        ("kernel that makes model input", f"{kernel['ecg_per_s'] / 1e6:.2f} million", f"{share:.0%} of a copy's bytes"),
        ("DALI graph, from host memory", f"{graph['ecg_per_s'] / 1e6:.2f} million", "–")
        if "ecg_per_s" in graph
        else ("DALI graph", "–", graph["why_not"]),
    ]
    gflop = network["gflop_per_ecg"]
    for row in network["rates"]:
        share = row["ecg_per_s"] * gflop * 1e9 / network["products"][row["precision"]]
        what = f"network, PyTorch {row['runtime']}, {row['precision']}, batch {row['batch']}"
        pieces.append((what, f"{row['ecg_per_s'] / 1e6:.3f} million", f"{share:.0%} of a product's operations"))
    return _table((f"one {result['gpu']}", "ECG/s", "of what the device does at best"), pieces)


def _interval(figure: Result, *, sign: str = "") -> str:
    return f"{figure['value']:{sign}.3f} ({figure['low']:{sign}.3f} to {figure['high']:{sign}.3f})"


def _paper_estimate(result: Result) -> str:
    rows = (
        (
            f"**{stage['name']}**" if name == result["binding"] else stage["name"],
            f"{stage['cost'] / stage['per']:.3g} {stage['unit']}",
            f"{stage['peak'] / stage['per_peak']:.4g} {stage['unit_peak']}",
            f"{stage['ecg_per_s'] / 1e6:.2f} million",
        )
        for name, stage in result["stages"].items()
    )
    table = _table((f"one {result['settings']['gpu']}, at most", "an ECG", "peak", "ECG/s"), rows)
    binding = result["stages"][result["binding"]]["name"]
    core, cores = _spaced(round(result["decode_ecg_per_s"])), _spaced(round(result["decoding_cores"]))
    return (
        f"{table}\n\nIn {result['settings']['precision']}, {binding}, binds the GPU; before it, the host does. One "
        f"core of our machine reads and decodes {core} ECG/s of MUSE XML: at its bound a GPU would take what {cores} "
        f"of them give, and {result['read_gb_per_s']:.0f} GB/s of files."
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(head)
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, rule, *rows))


def _number(spread: Result) -> str:
    value = spread["median"]
    return _spaced(round(value)) if value >= 100 else f"{value:.1f}"


def _range(spread: Result) -> str:
    return f"{spread['median']:.2f} ({spread['min']:.2f}–{spread['max']:.2f})"


def _spaced(n: int) -> str:
    return f"{n:,}".replace(",", " ")


_TABLES: Mapping[str, Callable[[Result], str]] = MappingProxyType(
    {
        "containers": _containers,
        "dali": _dali,
        "decode": _decode,
        "engine": _engine,
        "gpu_pieces": _gpu_pieces,
        "end_to_end": _end_to_end,
        "memory": _memory,
        "mixed": _mixed,
        "networks": _networks,
        "paper_estimate": _paper_estimate,
        "train_memory": _train_memory,
        "transfer": _transfer,
        "workers": _workers,
    }
)


if __name__ == "__main__":
    main()
