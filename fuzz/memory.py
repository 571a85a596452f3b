"""Inputs of a corpus that take more memory than they justify, one a line: `memory.py TARGET FOLDER`."""

import sys
from pathlib import Path

from entries import TARGETS, most_bytes, peak_bytes

if __name__ == "__main__":
    target, folder = TARGETS[sys.argv[1]], Path(sys.argv[2])
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        peak = peak_bytes(target, data)
        if peak > most_bytes(len(data)):
            print(f"{path}: {peak} bytes for {len(data)}")
