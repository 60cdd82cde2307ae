"""The C interface from Python: cffi over the library that the compiled module uses, and where an embedder finds it.

`ffi` and `lib` are made on first use, from the installed pycompress.h itself, so the two can't drift apart:

    from pycompress.capi import check, ffi, lib

    size = ffi.new("size_t *")
    check(lib.pc_gemm_s8_pack_size(768, 768, size))

`lib` is the same copy of the library that pycompress._native runs: one active instruction set, one pool. cffi releases
the GIL around each call. Integer constants of the header (PC_U8, PC_ALIGNMENT, ...) are attributes of `lib`.

For a C project:

    cmake -DCMAKE_PREFIX_PATH="$(python -m pycompress.capi --prefix)" ...
    PKG_CONFIG_PATH="$(python -m pycompress.capi --pkgconfigdir)" pkg-config --cflags --libs pycompress
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._errors import FormatError

__all__ = [
    "check",
    "ffi",
    "get_cmake_dir",
    "get_include",
    "get_lib_dir",
    "get_pkgconfig_dir",
    "lib",
    "prefix",
]

ffi: Any  # the cffi.FFI with the declarations of pycompress.h
lib: Any  # the library, as ffi.dlopen gives it


def prefix() -> str:
    """The directory with include/ and lib/: an installation prefix as CMake understands it. ImportError without one."""
    # The compiled module shows where: in an editable install, this file is elsewhere.
    spec = importlib.util.find_spec("pycompress._native")
    if spec is None or spec.origin is None:
        raise ImportError("pycompress was installed without its compiled part, so there is no C interface")
    return str(Path(spec.origin).parent)


def get_include() -> str:
    """The directory with pycompress.h."""
    return str(Path(prefix(), "include"))


def get_lib_dir() -> str:
    """The directory with the shared library: for -L, and for -Wl,-rpath or LD_LIBRARY_PATH at run time."""
    return str(Path(prefix(), "lib"))


def get_cmake_dir() -> str:
    """The directory with pycompressConfig.cmake: a value for pycompress_DIR."""
    return str(Path(get_lib_dir(), "cmake", "pycompress"))


def get_pkgconfig_dir() -> str:
    """The directory with pycompress.pc: a value for PKG_CONFIG_PATH."""
    return str(Path(get_lib_dir(), "pkgconfig"))


def check(status: int) -> None:
    """Raise what a pc_status means, with pc_last_error() of this thread as the message; nothing for PC_OK.

    TypeError for PC_ERROR_TYPE, OverflowError for PC_ERROR_OVERFLOW, FormatError for PC_ERROR_FORMAT, else ValueError,
    as the functions of pycompress.
    """
    if status == 0:
        return
    library = _load_lib()
    errors: dict[int, type[Exception]] = {
        library.PC_ERROR_TYPE: TypeError,
        library.PC_ERROR_OVERFLOW: OverflowError,
        library.PC_ERROR_FORMAT: FormatError,
    }
    raise errors.get(status, ValueError)(_load_ffi().string(library.pc_last_error()).decode())


def _installed(path: Path) -> Path:
    if not path.is_file():
        raise ImportError(f"{path.name} of the C interface is not in this installation of pycompress: no {path}")
    return path


def _declarations(header: str) -> str:
    """pycompress.h as cffi reads it: without the preprocessor, but for the numbers that it defines."""
    header = re.sub(r"(?ms)^#ifdef __cplusplus$.*?^#endif$", "", header)
    header = re.sub(r"(?m)^#(?!define PC_\w+ \d+$).*", "", header)
    return re.sub(r"\bPC_API\b", "", header)


@functools.cache
def _load_ffi() -> Any:
    import cffi

    header = _installed(Path(get_include(), "pycompress.h"))
    declared = cffi.FFI()
    declared.cdef(_declarations(header.read_text(encoding="utf-8")))
    return declared


@functools.cache
def _load_lib() -> Any:
    directory = Path(get_lib_dir())
    found = [path for path in (directory / "libpycompress.dylib", directory / "libpycompress.dll") if path.is_file()]
    return _load_ffi().dlopen(str(found[0] if found else _installed(directory / "libpycompress.so")))


def __getattr__(name: str) -> Any:
    loaders: dict[str, Callable[[], Any]] = {"ffi": _load_ffi, "lib": _load_lib}
    if name not in loaders:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return loaders[name]()


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pycompress.capi", description="Where the C interface of this installation of pycompress is."
    )
    group = parser.add_mutually_exclusive_group(required=True)
    for option, function in {
        "--prefix": prefix,
        "--include": get_include,
        "--libdir": get_lib_dir,
        "--cmakedir": get_cmake_dir,
        "--pkgconfigdir": get_pkgconfig_dir,
    }.items():
        group.add_argument(option, dest="get", action="store_const", const=function, help=function.__doc__)
    print(parser.parse_args().get())


if __name__ == "__main__":
    _main()
