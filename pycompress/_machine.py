"""What runs here: CPU, instruction sets, threads, versions."""

from __future__ import annotations

import os
import platform
from typing import Any

from . import _arguments, _backend

__version__ = "0.1.0"


def get_num_threads() -> int:
    """Threads that a call may use when it does not say: set_num_threads(), else PYCOMPRESS_NUM_THREADS, else
    OMP_NUM_THREADS, else the CPUs that this process may use (affinity and cgroup quota)."""
    n: int = _backend.kernels().get_num_threads()
    return n


def set_num_threads(n: int | None) -> None:
    """Set what `get_num_threads` returns: 1 to 4096, or None for the default. Raises TypeError and ValueError."""
    value = _arguments.num_threads(n)
    _backend.kernels().set_num_threads(0 if value is None and _backend.NAME == "native" else value)


def cpu_info() -> dict[str, Any]:
    """What runs here, for people and for reports; plain values, as json takes them.

    name
        of the CPU
    backend
        "native" or "numba"
    isa, isas
        the instruction set in use, and all that are built and usable here; None and [] with the Numba backend
    cores, threads
        CPUs that this process may use, and threads that a call may use
    l1d_bytes, l2_bytes, l3_bytes
        of the caches; 0 where unknown
    """
    info: dict[str, Any] = {"name": platform.processor() or platform.machine(), "backend": _backend.NAME}
    info |= {"isa": None, "isas": [], "cores": os.cpu_count() or 1, "threads": get_num_threads()}
    info |= dict.fromkeys(("l1d_bytes", "l2_bytes", "l3_bytes"), 0)
    if _backend.NAME == "native":
        native = _backend.kernels()
        info["name"] = native.cpu_name() or info["name"]
        info["isa"] = native.active_isa()
        info["isas"] = [isa["name"] for isa in native.isas() if isa["usable"]]
        info["cores"] = native.usable_cpus()
        info["l1d_bytes"], info["l2_bytes"], info["l3_bytes"] = native.cache_sizes()
    return info
