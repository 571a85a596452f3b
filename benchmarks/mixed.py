"""Whether a mixed archive is scored whole: ten containers, loose, packed and in an S3 store, some of them damaged.

    python benchmarks/mixed.py --out benchmarks/results/mixed.json

`ecgbatch synth` writes the archive and says what must become of each ECG; a share of a second archive lies in a real S3
server on this machine (moto's, in a process of its own). One `ecgbatch score` command takes both. Every record must
then be where it belongs, each damaged one a reject for the reason that was planted. Resident memory is watched.
"""

import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, perf_counter, sleep
from typing import Any

import polars as pl
import tables
from measurement import arguments, spread, write
from watch import watched

from ecgbatch import synth
from ecgbatch.synth import Written

TARGET_MIB = 1536
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_BUCKET = "archive"


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--n", type=int, default=100_000, help="ECGs in all")
    parser.add_argument("--in-store", type=float, default=0.03, help="share of them in S3, which keeps them in memory")
    parser.add_argument("--packed", type=float, default=0.3, help="share of the other folders that are one file each")
    parser.add_argument("--damaged", type=float, default=0.01, help="share of ECGs that must be rejects")
    parser.add_argument("--model", default="foundation", help="bundle to score with")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where archive and run are made (default: a temporary folder)")
    args = parser.parse_args()
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
    n_far = round(args.n * args.in_store)
    with TemporaryDirectory(dir=args.folder) as work, _store() as environment:
        near, far, run = Path(work) / "archive", Path(work) / "far", Path(work) / "run"
        options: dict[str, Any] = {"formats": synth.FORMATS, "damaged": args.damaged}
        truth = synth.write_archive(near, args.n - n_far, seed=args.seed, packed=args.packed, **options)
        truth_far = synth.write_archive(far, n_far, seed=args.seed + 1, **options)
        _fill(far, environment)
        sources = [str(near), f"s3://{_BUCKET}"]
        command = [sys.executable, "-P", "-m", "ecgbatch.cli", "score", *sources, "--out", str(run)]
        readings, peak_mib = watched([*command, "--model", args.model], expected=3, environment=environment)
        facts = json.loads((run / "run.json").read_text("utf-8"))
        found = _reconciled(run, facts, [truth, truth_far])
    measured = {
        **found,
        "places": _places(truth, n_far),
        "peak_mib": spread([peak_mib]),
        "seconds": facts["invocation"]["seconds"],
        "ecg_per_s": spread([facts["invocation"]["ecg_per_s"]]),
        "rss_mib": readings[:: -(-len(readings) // 100)],
        "target_mib": TARGET_MIB,
    }
    settings = {name: getattr(args, name) for name in ("n", "in_store", "packed", "damaged", "model", "seed", "rounds")}
    print(tables.render(write(args.out, "mixed", settings, measured)))


def _reconciled(run: Path, facts: dict[str, Any], truths: Sequence[Sequence[Written]]) -> dict[str, Any]:
    """The tally by container and by reason, after every single record has been found where it belongs."""
    scores = pl.read_parquet(run / "scores" / "*.parquet", columns=["record_id", "format"])
    rejects = pl.read_parquet(run / "rejects" / "*.parquet", columns=["record_id", "reason"])
    expected = {f"{source}/{ecg.record_id}": ecg.expected for source, truth in enumerate(truths) for ecg in truth}
    reasons = dict(rejects.iter_rows())
    became = dict.fromkeys(scores["record_id"]) | reasons
    wrong = [name for name in expected.keys() | became.keys() if became.get(name, "") != expected.get(name, "")]
    counts = facts["counts"]
    n_all = scores.height + rejects.height
    if wrong or not n_all == len(expected) == counts["entries"] == counts["scored"] + counts["rejected"]:
        raise SystemExit(f"{len(wrong)} of {len(expected)} records are not what they must be, {sorted(wrong)[:5]}")
    return {
        "counts": {name: counts[name] for name in ("entries", "scored", "rejected")},
        "formats": dict(sorted(Counter(scores["format"]).items())),
        "reasons": dict(sorted(Counter(reasons.values()).items())),
    }


def _places(truth: Sequence[Written], n_far: int) -> dict[str, int]:
    packs = Counter(ecg.record_id.partition("#")[0].rpartition(".")[2] for ecg in truth if "#" in ecg.record_id)
    return {
        "loose": len(truth) - packs.total(),
        ".zip": packs["zip"],
        ".tar.gz": packs["gz"],
        ".hdf5": packs["hdf5"],
        "S3": n_far,
    }


@contextmanager
def _store() -> Iterator[dict[str, str]]:
    """The environment in which an S3 server of its own answers."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _await(port)
        yield os.environ | _CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    finally:
        process.kill()
        process.wait()


def _await(port: int) -> None:
    deadline = monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if monotonic() > deadline:
                raise
            sleep(0.05)


def _fill(folder: Path, environment: dict[str, str]) -> None:
    """Put a folder's files into the store under their own paths."""
    import boto3

    os.environ.update(environment)
    client = boto3.client("s3")
    client.create_bucket(Bucket=_BUCKET)
    files = [path for path in folder.rglob("*") if path.is_file()]
    started = perf_counter()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda path: client.upload_file(str(path), _BUCKET, str(path.relative_to(folder))), files))
    print(f"{len(files)} files put into the store in {perf_counter() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
