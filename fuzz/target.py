"""A campaign against all that reads an entry, its kernels under sanitisers: `target.py NAME [libFuzzer's options]`."""

import sys

import atheris

with atheris.instrument_imports(include=["ecgbatch", "tarfile", "zipfile", "tomllib"]):
    from entries import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
