"""The work on single layers, and where it is done: here, in other processes, or on a Dask cluster."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from .. import _machine
from ..io import Tensors, open_tensors
from ..recipe import Steps
from ..report import Layer
from .layers import Made, Samples, make
from .store import Journal, Store, digest_of, key_of

__all__ = ["Cluster", "Done", "Failed", "Here", "Processes", "Task", "Workers", "finish", "matrix", "named"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Task:
    """One tensor, taken through one recipe's steps; `way` counts those of a tensor. optional: others may do as well."""

    name: str
    way: int
    layer: str
    steps: Steps
    transposed: bool
    seed: int
    nbytes: int  # in the source
    optional: bool


@dataclass(frozen=True)
class Done:
    """The key of the finished piece, and what there is to say about it."""

    task: Task
    key: str
    layer: Layer


@dataclass(frozen=True)
class Failed:
    """Why an optional task could not be done."""

    task: Task
    why: str


class Workers(Protocol):
    def run(
        self, tasks: Sequence[Task], tensors: Tensors, calibration: Mapping[str, Any] | None, store: Store
    ) -> Iterator[Done | Failed]:
        """Each task done, in any order, its piece in the store. An error is raised with the tensor's name."""


def matrix(tensors: Mapping[str, Array], name: str, transposed: bool) -> NDArray[np.float32]:
    """A tensor as its layer's weight: float32, [N, K] also where it lies as [K, N]."""
    w = tensors[name]
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(w.T if transposed and w.ndim == 2 else w, np.float32)


class _Reader:
    """Weights and inputs of tasks. The last tensor is kept, since its other candidates come next."""

    def __init__(self, tensors: Mapping[str, Array], calibration: Mapping[str, Any] | None) -> None:
        self._tensors, self._calibration = tensors, calibration
        self._last: tuple[str, Array, Samples | None, str] | None = None

    def __call__(self, task: Task) -> tuple[Array, Samples | None, str]:
        """The weight, its inputs, and the key of the task."""
        if self._last is None or self._last[0] != task.name:
            self._last = None  # not two at a time
            w = matrix(self._tensors, task.name, task.transposed)
            samples = None
            if self._calibration is not None and task.name in self._calibration:
                # Of a depthwise convolution only the range of its inputs counts, whatever their shape.
                k = None if task.layer == "depthwise" else math.prod(w.shape[1:])
                samples = Samples.of(task.name, self._calibration[task.name], k)
            content = digest_of([w, *(samples.arrays() if samples is not None else ())])
            self._last = task.name, w, samples, content
        _, w, samples, content = self._last
        return w, samples, key_of(task.name, content, task.steps, task.layer, task.seed)


def _make(task: Task, w: Array, samples: Samples | None) -> Made:
    return named(task, lambda: make(w, task.steps, task.layer, samples, task.seed))


def named(task: Task, made: Callable[[], Made]) -> Made:
    """What `made` gives; an error says of which tensor it is."""
    try:
        return made()
    except (TypeError, ValueError, OverflowError) as error:
        raise type(error)(f"tensor {task.name!r}, {task.steps}: {error}") from None


def _record(task: Task, shape: tuple[int, ...], made: Made) -> Layer:
    return Layer(
        task.name,
        task.layer,
        shape,
        made.label,
        task.nbytes,
        made.weight.nbytes,
        made.error,
        made.error_of,
        x_qparams=made.x_qparams,
        note=made.note,
    )


def finish(task: Task, key: str, shape: tuple[int, ...], made: Callable[[], Made], store: Store) -> Done | Failed:
    """Make a task's weight and put it into the store. An error is raised, unless others may do as well."""
    try:
        done = made()
    except (ValueError, OverflowError) as error:
        if not task.optional:
            raise
        return Failed(task, str(error))
    layer = _record(task, shape, done)
    store.put(key, layer, done.weight)
    return Done(task, key, layer)


def _do(task: Task, read: _Reader, store: Store) -> Done | Failed:
    w, samples, key = read(task)
    found = store.get(key)
    if found is not None:
        return Done(task, key, found.layer)
    return finish(task, key, w.shape, lambda: _make(task, w, samples), store)


class Here:
    """In this process, one after the other."""

    def run(
        self, tasks: Sequence[Task], tensors: Tensors, calibration: Mapping[str, Any] | None, store: Store
    ) -> Iterator[Done | Failed]:
        read = _Reader(tensors, calibration)
        for task in tasks:
            yield _do(task, read, store)


# ---- processes


_opened = cache(open_tensors)
_readers: dict[str, _Reader] = {}  # of a worker, for the tensor that it is at


def _in_process(task: Task, path: str, calibration: str | Mapping[str, Any] | None, journal: str) -> Done | Failed:
    """In a worker: it opens the model itself, so that no tensor goes through a pipe."""
    if task.name not in _readers:
        _readers.clear()
        inputs = _opened(calibration) if isinstance(calibration, str) else calibration
        _readers[task.name] = _Reader(_opened(path), inputs)
    return _do(task, _readers[task.name], Journal(Path(journal)))


def _obey() -> None:
    """A worker whose parent is killed would wait for work forever; and Ctrl-C is the parent's to answer."""
    import multiprocessing
    import signal
    import threading
    from multiprocessing.connection import wait

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        wait([parent.sentinel] if parent is not None else [])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Processes:
    """In `jobs` processes. They read the model at `path` themselves, and write to the journal.

    calibration: the path of the inputs; without it those of a task are sent along.
    """

    def __init__(self, jobs: int, path: str, calibration: str | None) -> None:
        self._jobs, self._path, self._calibration = jobs, path, calibration

    def run(
        self, tasks: Sequence[Task], tensors: Tensors, calibration: Mapping[str, Any] | None, store: Store
    ) -> Iterator[Done | Failed]:
        import multiprocessing
        from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

        journal = str(cast(Journal, store).directory)
        # Not fork: this process may have threads, and numpy's BLAS has.
        context = multiprocessing.get_context("spawn")
        with _fewer_threads(self._jobs), ProcessPoolExecutor(self._jobs, context, _obey) as pool:
            waiting: set[Future[Done | Failed]] = set()
            left = list(reversed(tasks))
            try:
                while left or waiting:
                    while left and len(waiting) < 2 * self._jobs:
                        task = left.pop()
                        inputs: Any = self._calibration
                        if inputs is None and calibration is not None and task.name in calibration:
                            inputs = {task.name: calibration[task.name]}
                        waiting.add(pool.submit(_in_process, task, self._path, inputs, journal))
                    finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in finished:
                        yield future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _fewer_threads(jobs: int) -> Iterator[None]:
    """Processes that start meanwhile share the CPUs: BLAS and our kernels would else take all of them in each."""
    each = str(max(1, _machine.get_num_threads() // jobs))
    names = ("PYCOMPRESS_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, each))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ---- Dask


class Cluster:
    """On the workers of a Dask cluster, which need pycompress and no file of this machine: tensors go over the network.

    At most `ahead` layers for each worker's thread are on their way, so that memory stays bounded here and there.
    """

    def __init__(self, address: str, ahead: int = 2) -> None:
        try:
            distributed: Any = import_module("distributed")
        except ImportError as error:
            raise ImportError(
                'a Dask cluster needs the package distributed: pip install "pycompress-kernels[dask]"'
            ) from error
        try:
            self._client = distributed.Client(address, timeout="20s", set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise ConnectionError(f"no Dask scheduler answers at {address!r}: {error}") from error
        self._ahead = ahead

    def close(self) -> None:
        self._client.close()

    def run(
        self, tasks: Sequence[Task], tensors: Tensors, calibration: Mapping[str, Any] | None, store: Store
    ) -> Iterator[Done | Failed]:
        distributed: Any = import_module("distributed")
        read = _Reader(tensors, calibration)
        left = list(reversed(tasks))
        waiting: dict[Any, tuple[Task, str, tuple[int, ...]]] = {}
        room = max(1, self._ahead * sum(self._client.nthreads().values()))
        try:
            while left or waiting:
                while left and len(waiting) < room:
                    task = left.pop()
                    w, samples, key = read(task)
                    found = store.get(key)
                    if found is not None:
                        yield Done(task, key, found.layer)
                        continue
                    w_there, samples_there = self._client.scatter([w, samples], hash=False)
                    future = self._client.submit(
                        _make, task, w_there, samples_there, key=f"pycompress-{key}", pure=False
                    )
                    waiting[future] = task, key, w.shape
                    del w, samples
                if waiting:
                    with self._client.as_current():
                        distributed.wait(list(waiting), return_when="FIRST_COMPLETED")
                for future in [future for future in waiting if future.done()]:
                    task, key, shape = waiting.pop(future)
                    yield finish(task, key, shape, future.result, store)
        finally:
            self._client.cancel(list(waiting))
