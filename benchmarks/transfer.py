"""What fine-tuning gained over training from scratch: the figures of finished comparisons, for the documents.

    ecgbatch train compare brugada.parquet --label brugada=1 --against 0 --out cmp-brugada --positives 5,20,all
    python benchmarks/transfer.py cmp-brugada --out benchmarks/results/transfer.json

Nothing is measured here: `figures.json` of each folder is taken as `train compare` wrote it.
"""

import json
from pathlib import Path

import tables
from measurement import arguments, write


def main() -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("folder", type=Path, nargs="+", help="folder of train compare")
    args = parser.parse_args()
    found = [json.loads((folder / "figures.json").read_text("utf-8")) for folder in args.folder]
    print(tables.render(write(args.out, "transfer", {}, {"comparisons": found})))


if __name__ == "__main__":
    main()
