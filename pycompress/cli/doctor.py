"""`pycompress doctor`: what runs here and why, and whether it computes what it should."""

from __future__ import annotations

import json
import os
import platform
import re
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import console, progress

if TYPE_CHECKING:
    from rich.console import Console

    from pycompress.selfcheck import Check


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Say what runs here and why, and check every kernel on every instruction set.

    The exit code is 1 when a check fails.
    """
    about = _about()
    checks = _checks()
    ok = all(check.ok for check in checks)
    if as_json:
        from dataclasses import asdict

        typer.echo(json.dumps({**about, "checks": [asdict(check) for check in checks], "ok": ok}, indent=2))
    else:
        out = console()
        _show(about, out)
        _show_checks(checks, out)
    if not ok:
        raise typer.Exit(1)


def _checks() -> list[Check]:
    from pycompress import selfcheck

    checks = []
    with progress() as bar:
        task = bar.add_task("checking the kernels", total=selfcheck.count())
        for check in selfcheck.run():
            checks.append(check)
            bar.advance(task)
    return checks


# ---- what is found


def _about() -> dict[str, Any]:
    """Everything but the checks, as json takes it. Peaks in multiply-accumulates per second of one core, or None."""
    import pycompress as pc
    from pycompress.bench import measure

    info = pc.cpu_info()
    return {
        "cpu": info["name"],
        "backend": {"name": info["backend"], "why": _why_backend(info["backend"])},
        "isa": _isa(info),
        "cores": info["cores"],
        "threads": {"number": info["threads"], "why": _why_threads(info["threads"])},
        "caches": {level: info[f"{level}_bytes"] for level in ("l1d", "l2", "l3")},
        "versions": _versions(info["backend"]),
        "c_interface": _c_interface(),
        "thread_pools": _thread_pools(),
        "peak": {name: measure.peak(name) or None for name in ("int8", "float32")},
    }


def _why_backend(name: str) -> str:
    value = os.environ.get("PYCOMPRESS_BACKEND")
    if value:
        return f"PYCOMPRESS_BACKEND={value}"
    return "the default" if name == "native" else "there is no compiled module in this installation"


def _isa(info: dict[str, Any]) -> dict[str, Any]:
    """The instruction sets: active (None with the Numba backend), why that one, the usable ones, the built ones."""
    if info["backend"] != "native":
        return {"active": None, "why": "Numba compiles for this CPU", "usable": [], "built": []}
    from pycompress._backend import kernels

    native, active = kernels(), info["isa"]
    native.set_isa(None)
    best = native.active_isa()
    native.set_isa(active)
    capped = os.environ.get("PYCOMPRESS_ISA")
    why = f"PYCOMPRESS_ISA={capped}; the best here is {best}" if capped else "the best that can run here"
    built = [isa["name"] for isa in native.isas()]
    return {"active": active, "why": why, "usable": info["isas"], "built": built}


def _why_threads(number: int) -> str:
    """Where the number of threads comes from; the rule is that of pycompress.get_num_threads."""
    ignored = ""
    for name in ("PYCOMPRESS_NUM_THREADS", "OMP_NUM_THREADS"):
        if value := os.environ.get(name):
            wanted = re.match(r"\s*(\d+)\s*(,|$)", value)
            if wanted and 1 <= int(wanted[1]) <= 4096:
                return f"{name}={value}{ignored}"
            ignored += f"; {name}={value!r} is ignored: not a number from 1 to 4096"
    cpus = os.cpu_count() or 1
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cpus
    if number < affinity:
        return f"the CPU quota of the control group, on {affinity} CPUs{ignored}"
    if number < cpus:
        return f"the affinity of the process, {affinity} of {cpus} CPUs{ignored}"
    return f"all CPUs{ignored}"


def _versions(backend: str) -> dict[str, str | None]:
    """None for what is not installed."""
    import pycompress as pc

    found: dict[str, str | None] = {"pycompress": pc.__version__, "python": platform.python_version()}
    found["compiler"] = None
    if backend == "native":
        from pycompress._backend import kernels

        found["compiler"] = kernels().compiler()
    for name in ("numpy", "numba", "cffi", "safetensors"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def _c_interface() -> dict[str, Any]:
    """Where header and library are, and whether the library can be called; else why not."""
    try:
        from pycompress import capi

        version = capi.ffi.string(capi.lib.pc_version()).decode()
        return {"found": True, "version": version, "prefix": capi.prefix(), "why": ""}
    except (ImportError, OSError) as error:
        return {"found": False, "version": None, "prefix": None, "why": str(error)}


def _thread_pools() -> list[dict[str, Any]] | None:
    """Those of other libraries in this process, as threadpoolctl finds them; None without threadpoolctl."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return None
    return [
        {key: pool.get(key) for key in ("user_api", "internal_api", "version", "architecture", "num_threads")}
        for pool in threadpool_info()
    ]


# ---- how it is told


def _show(about: dict[str, Any], out: Console) -> None:
    """What runs here, one thing a line, on stdout."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")

    def row(name: str, text: str) -> None:
        grid.add_row(name, text)

    backend, isa, threads, c = (about[name] for name in ("backend", "isa", "threads", "c_interface"))
    row("CPU", about["cpu"])
    row("backend", f"{backend['name']} ({backend['why']})")
    row("instruction set", f"{isa['active'] or 'native to the CPU'} ({isa['why']})")
    if isa["built"]:
        others = [name for name in isa["built"] if name not in isa["usable"]]
        row(
            "  usable",
            ", ".join(isa["usable"]) + (f"; built, but not for this CPU: {', '.join(others)}" * bool(others)),
        )
    row("cores", str(about["cores"]))
    row("threads", f"{threads['number']} ({threads['why']})")
    row("caches", ", ".join(f"{name} {_bytes(size)}" for name, size in about["caches"].items()))
    row("versions", ", ".join(f"{name} {version or '-'}" for name, version in about["versions"].items()))
    row("C interface", f"{c['version']} in {c['prefix']}" if c["found"] else f"not found: {c['why']}")
    row("other thread pools", _pools(about["thread_pools"]))
    peaks = [f"{name} {value / 1e9:.0f} GMAC/s" for name, value in about["peak"].items() if value]
    row("instruction peak", ", ".join(peaks) + " on one core" if peaks else "not known with this backend")
    out.print(grid, highlight=False)


def _bytes(size: int) -> str:
    if size == 0:
        return "unknown"
    return f"{size / 2**20:g} MiB" if size >= 2**20 else f"{size / 2**10:g} KiB"


def _pools(pools: list[dict[str, Any]] | None) -> str:
    if pools is None:
        return "unknown: threadpoolctl is not installed"
    texts = []
    for pool in pools:
        kernel = f" ({pool['architecture']})" if pool["architecture"] else ""
        texts.append(f"{pool['internal_api']} {pool['version'] or ''}{kernel}, {pool['num_threads']} threads")
    return "; ".join(texts) or "none"


def _show_checks(checks: list[Check], out: Console) -> None:
    """A line for each kernel, a column for each instruction set, and below what failed and how."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    columns = list(dict.fromkeys(check.isa for check in checks))
    found = {(check.name, check.isa): check for check in checks}
    table = Table(box=SIMPLE_HEAD)
    table.add_column("self-check")
    for isa in columns:
        table.add_column(isa or "numba", no_wrap=True)
    for name in dict.fromkeys(check.name for check in checks):
        cells = [Text("ok", "green") if found[name, isa].ok else Text("FAILED", "bold red") for isa in columns]
        table.add_row(name, *cells)
    out.print(table)
    failed = [check for check in checks if not check.ok]
    for check in failed:
        where = f"FAILED {check.name} on {check.isa or 'numba'}"
        out.print(
            f"{where} ({check.kernel}): {check.reason}", style="red", markup=False, highlight=False, soft_wrap=True
        )
    verdict = f"{len(failed)} of {len(checks)} checks failed" if failed else f"all {len(checks)} checks passed"
    out.print(verdict, highlight=False)
