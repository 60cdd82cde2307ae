"""An instruction set and a number of threads forced for a while: for the self-check and for benches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from . import _backend, _machine


@contextmanager
def forced(isa: str | None = None, num_threads: int | None = None) -> Iterator[None]:
    """Run the `with` block on this instruction set and with this many threads; then what was before is back.

    None leaves either as it is. Raises ValueError for an instruction set that can't run here. It holds for the whole
    process, so nothing else may compute meanwhile. A packed weight keeps the instruction set that it was packed for.
    """
    threads_before = _machine.get_num_threads()
    isa_before = None
    if isa is not None:
        if _backend.NAME != "native":
            raise ValueError(
                f"isa is {isa!r}, wanted None: the {_backend.NAME} backend compiles for this CPU, whatever it is"
            )
        native = _backend.kernels()
        isa_before = native.active_isa()
        native.set_isa(isa)
    try:
        if num_threads is not None:
            _machine.set_num_threads(num_threads)
        yield
    finally:
        if num_threads is not None:
            _machine.set_num_threads(threads_before)
        if isa_before is not None:
            native.set_isa(isa_before)
