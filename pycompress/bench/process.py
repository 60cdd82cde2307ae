"""The parent's side of a worker: it starts the process, asks, and says in words why there is no answer."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYCOMPRESS_NUM_THREADS")
# What may hold a BLAS back: no place in a comparison, unless all are held.
LIMITS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYCOMPRESS_ISA")


class PeerError(Exception):
    """A worker can't do what it was asked, in words for a report."""


class NotInstalledError(PeerError):
    """Its package is not there."""


def cores(threads: int) -> list[int]:
    """The CPUs for so many threads: the last that this process may use, since the first are where interrupts go.

    Raises ValueError where there are fewer.
    """
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < threads:
        raise ValueError(f"threads is {threads}, wanted at most {len(usable)}, the CPUs that this process may use")
    return usable[-threads:]


@contextmanager
def beside(taken: list[int]) -> Iterator[None]:
    """Keep this thread, and those that it starts, off these CPUs where there are others."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before - set(taken) or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Process:
    """A worker process; see pycompress.bench.worker for what can be asked.

    It is pinned to these CPUs, and told the number of threads, before it imports anything.
    """

    def __init__(
        self, name: str, cores: list[int], threads: int, isa: str | None, extra: Mapping[str, str], timeout: float
    ) -> None:
        self.name, self.timeout = name, timeout
        environment = {key: value for key, value in os.environ.items() if key not in LIMITS}
        environment |= {**dict.fromkeys(THREADS, str(threads)), **extra}
        command = [sys.executable, "-m", "pycompress.bench.worker", name, *([isa] if isa else [])]
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by end())
        self._buffer = b""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)  # a child has it from its parent
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, env=environment
            )
        finally:
            os.sched_setaffinity(0, before)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, do: str, **about: Any) -> dict[str, Any]:
        """The answer to a request. Raises PeerError; the process is ended where it does not answer in time."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **about}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise PeerError(self._death()) from None
        line = self._line()
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            self.end()
            raise PeerError(f"answered {line[:80]!r}, which is no JSON") from None
        if "missing" in answer:
            raise NotInstalledError(f"not installed ({answer['missing']})")
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def end(self) -> None:
        """Ask it to end, then make it."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):  # it is gone, with something unsent
                pipe.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        pipe, end = self._process.stdout.fileno(), time.monotonic() + self.timeout
        while b"\n" not in self._buffer:
            if not select.select([pipe], [], [], max(0, end - time.monotonic()))[0]:
                self._process.kill()
                self.end()
                raise PeerError(f"no answer within {self.timeout:g} s: ended")
            part = os.read(pipe, 1 << 16)
            if not part:
                raise PeerError(self._death())
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _death(self) -> str:
        """How it died, with the last line that it wrote to stderr."""
        try:
            code = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        how = f"crashed: {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        self._stderr.seek(0)
        last = self._stderr.read()[-4000:].decode(errors="replace").strip().rpartition("\n")[2]
        self.end()
        return f"{how}: {last[:200]}" if last else how
