"""The example program of an inverted-residual block, built as its README says; on every instruction set."""

import re
import shutil
from pathlib import Path

import pytest

import pycompress as pc

pytest.importorskip("pycompress.capi")
pytest.importorskip("pycompress._native", reason="the compiled part is not installed")

from test_embed_c import STRICT, capi, need, run

EXAMPLE = Path(__file__).parents[1] / "examples" / "residual_block_c"


def check_program(program):
    for isa in pc.cpu_info()["isas"]:
        for threads in (1, 2, 5):
            printed = run(program, threads, env={"PYCOMPRESS_ISA": isa})
            kernel = rf"depthwise_s8/{isa}"
            found = re.fullmatch(
                rf"28x27x24 > 144 > 24 {kernel}, (\d+) distinct results, threads: {threads}, wrong: 0\n", printed
            )
            assert found, printed
            assert int(found[1]) > 200
    assert "wanted 1 to 64" in run(program, 0, status=1)


def test_by_cmake_and_by_pkg_config(tmp_path):
    cmake, make, pkg_config = need("cmake"), need("make", "gmake"), need("pkg-config", "pkgconf")
    compiler, flags = need("cc", "gcc", "clang"), " ".join(STRICT)
    project = Path(shutil.copytree(EXAMPLE, tmp_path / "residual_block_c"))
    build = tmp_path / "build"
    run(cmake, "-S", project, "-B", build, f"-DCMAKE_PREFIX_PATH={capi.prefix()}", f"-DCMAKE_C_FLAGS={flags}",
        f"-DCMAKE_C_COMPILER={compiler}")  # fmt: skip
    run(cmake, "--build", build)
    check_program(build / "residual_block")
    env = {"PKG_CONFIG_PATH": capi.get_pkgconfig_dir()}
    run(make, f"CC={compiler}", f"PKG_CONFIG={pkg_config}", f"CFLAGS=-O2 {flags}", cwd=project, env=env)
    assert "wrong: 0" in run(project / "residual_block")
