"""From a model and a recipe to a compressed model: what `pycompress.compress` and the command do.

plan.py    which steps each tensor is taken through       layers.py  one layer through its steps
work.py    the layers: here, in processes, on a cluster   store.py   where finished ones wait, and are found again
times.py   what they take on this machine                 search.py  the choice among candidates
inorder.py layer by layer, while the network runs
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..io import Tensors, open_tensors, schema, writer
from ..io.safetensors import Tensor
from ..model import CompressedModel, load
from ..recipe import Recipe
from .inorder import Forward, inputs_of
from .plan import InMemory, Plan, make_plan
from .run import Finished, Progress, run_plan
from .store import Journal, Memory
from .work import Cluster, Here, Processes, Workers

__all__ = ["compress", "compress_file"]


def compress(
    tensors: Mapping[str, Any] | str | os.PathLike[str],
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str],
    *,
    calibration: Mapping[str, Any] | Forward | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    evaluate: Callable[[CompressedModel], float] | None = None,
) -> CompressedModel:
    """In memory: see `pycompress.compress`."""
    recipe = Recipe.of(recipe)
    if isinstance(tensors, str | os.PathLike):
        tensors = open_tensors(tensors)
    source = tensors if isinstance(tensors, Tensors) else InMemory(tensors)
    forward, inputs = None, None
    if isinstance(calibration, Mapping):
        inputs = calibration
    elif callable(calibration):
        forward = calibration
        transposed = {one.name: one.transposed for one in make_plan(_new(source), recipe, None, later=True).tensors}
        inputs = inputs_of(forward, source, transposed)
    elif calibration is not None:
        raise TypeError(f"calibration is {type(calibration).__name__}, wanted a mapping or a function")
    plan = make_plan(_new(source), recipe, inputs)

    def told(phase: str, name: str, done: int, total: int) -> None:
        if progress is not None and phase == "converting":
            progress(done, total, name)

    finished = run_plan(plan, source, inputs, Memory(), Here(), told, evaluate, times=recipe.searches, forward=forward)
    return CompressedModel(finished.tensors(source), finished.report)


def compress_file(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str],
    *,
    calibration: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    evaluate: Callable[[CompressedModel], float] | None = None,
    jobs: int = 1,
    dask: str | None = None,
    times: bool = True,
) -> CompressedModel:
    """Compress the model at `path` into the file `output`, a tensor at a time, and load that.

    path: what `pycompress.io.open_tensors` reads. recipe, evaluate: as in `pycompress.compress`. calibration: as there,
    or the path of a .npz or .safetensors of inputs. progress: called with the phase ("converting", "measuring",
    "writing"), the name of a tensor, bytes done, and bytes in all of this phase. jobs: processes to convert in. dask:
    the address of a scheduler, whose workers convert. times: measure what each layer takes, which searches do anyway.

    Memory for a few tensors at a time is enough, whatever the size of the model. The output appears when it is whole. A
    run that was interrupted leaves a directory `.NAME.unfinished` beside it, from which the next run takes what is the
    same in both. Raises as `pycompress.compress`, and OSError for what cannot be written.
    """
    recipe = Recipe.of(recipe)
    source, output = open_tensors(path), Path(output)
    if type(jobs) is not int or not 1 <= jobs <= 1024:
        raise ValueError(f"jobs is {jobs!r}, wanted 1 to 1024")
    if any(file.exists() and output.exists() and os.path.samefile(file, output) for file in source.files):
        raise ValueError(f"output is {output}, which is the model itself; wanted another file")
    if not output.parent.is_dir() or output.is_dir():
        raise ValueError(f"output is {str(output)!r}, wanted a file in a directory that exists")
    inputs_path = calibration if isinstance(calibration, str | os.PathLike) else None
    inputs: Any = open_tensors(inputs_path) if inputs_path is not None else calibration
    plan = make_plan(_new(source), recipe, inputs)
    journal = Journal.beside(output)
    if jobs > 1 and dask is not None:
        raise ValueError(f"jobs is {jobs} and dask is {dask!r}, wanted one of them")
    told = progress or (lambda phase, name, done, total: None)
    workers: Workers = Here()
    with ExitStack() as stack:
        if dask is not None:
            workers = cluster = Cluster(dask)
            stack.callback(cluster.close)
        elif jobs > 1:
            workers = Processes(jobs, os.fspath(path), None if inputs_path is None else os.fspath(inputs_path))
        stack.callback(os.close, journal.lock())
        finished = run_plan(plan, source, inputs, journal, workers, told, evaluate, times=times or recipe.searches)
        _write(plan, source, finished, output, journal, told)
        journal.remove()
    return load(output)


def _new(source: Tensors) -> Tensors:
    if schema.is_compressed(source.metadata):
        raise ValueError(f"the model {source.files[0]} is compressed already, wanted the one it was made from")
    return source


def _write(plan: Plan, source: Tensors, finished: Finished, output: Path, journal: Journal, progress: Progress) -> None:
    """Put the pieces and what is left of the model together, by copying their bytes."""
    plain: dict[str, Tensor] = {}
    weights: dict[str, tuple[schema.Stored, dict[str, Tensor]]] = {}
    for name in source:
        piece = finished.pieces.get(name)
        if piece is None:
            plain[name] = source.tensor(name)
            continue
        stored, tensors = piece.stored()
        if stored is None:
            plain |= tensors
        else:
            weights[name] = stored, tensors
    total = sum(t.nbytes for t in plain.values()) + sum(t.nbytes for _, ts in weights.values() for t in ts.values())
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        progress("writing", output.name, done, total)

    # In the journal's directory: what a killed process leaves there is found and removed.
    beside = journal.directory / ".whole.tmp"
    writer.write(beside, plain, weights, finished.report.as_dict(), step)
    writer.publish(beside, output)
