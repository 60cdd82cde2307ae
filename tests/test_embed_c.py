"""The installed package as a C or C++ project meets it: header, CMake package, pkg-config, and the example program."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

capi = pytest.importorskip("pycompress.capi")
pytest.importorskip("pycompress._native", reason="the compiled part is not installed")

EXAMPLE = Path(__file__).parents[1] / "examples" / "embed_c"
STRICT = ["-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"]
THREADS = [1, 2, 5]


def need(*tools):
    """The first of these programs that exists; the test is skipped without one."""
    found = next(filter(None, map(shutil.which, tools)), None)
    return found or pytest.skip(f"there is no {' or '.join(tools)} here")


def run(*command, cwd=None, env=None, status=0):
    """stdout and stderr of a command that ends with `status`."""
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == status, f"{shlex.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture
def project(tmp_path):
    """A copy of the example, away from this repository."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "embed_c"))


def check_program(program, directory):
    """Runs the program as its README says; returns the line that it printed with 1 thread."""
    weights = directory / "weights.bin"
    assert "can't be opened" in run(program, weights, status=1)
    lines = [run(program, "--write", weights, THREADS[0])]
    lines += [run(program, weights, threads) for threads in THREADS]
    assert [path.name for path in directory.glob("weights*")] == ["weights.bin"]
    size = weights.stat().st_size
    for line, threads in zip(lines, [THREADS[0], *THREADS], strict=True):
        kernel = r"gemm_s8(_split)?/\w+"
        assert re.fullmatch(rf"61x200x387 {kernel}, {size} mapped bytes, threads: {threads}, wrong: 0\n", line)

    stored = weights.read_bytes()
    weights.write_bytes(b"X" + stored[1:])
    assert "pc_gemm_s8_packed_info: format: " in run(program, weights, status=1)
    weights.write_bytes(stored[: len(stored) // 2])
    assert "pc_gemm_s8_packed_info: buffer: " in run(program, weights, status=1)
    weights.write_bytes(b"")
    assert "can't be mapped" in run(program, weights, status=1)
    return lines[0]


def test_find_package_and_pkg_config_agree(project, tmp_path):
    cmake, make, pkg_config = need("cmake"), need("make", "gmake"), need("pkg-config", "pkgconf")
    compiler = need("cc", "gcc", "clang")

    build = tmp_path / "build"
    flags = " ".join(STRICT)
    run(cmake, "-S", project, "-B", build, f"-DCMAKE_PREFIX_PATH={capi.prefix()}", f"-DCMAKE_C_FLAGS={flags}",
        f"-DCMAKE_C_COMPILER={compiler}")  # fmt: skip
    run(cmake, "--build", build)
    by_cmake = check_program(build / "embed_c", build)

    env = {"PKG_CONFIG_PATH": capi.get_pkgconfig_dir()}
    run(make, f"CC={compiler}", f"PKG_CONFIG={pkg_config}", f"CFLAGS=-O2 {flags}", cwd=project, env=env)
    by_pkg_config = check_program(project / "embed_c", project)

    assert by_cmake == by_pkg_config
    assert (build / "weights.bin").exists()
    version = run(pkg_config, "--modversion", "pycompress", env=env).strip()
    assert version == capi.ffi.string(capi.lib.pc_version()).decode()


def test_find_package_by_directory(project, tmp_path):
    cmake = need("cmake")
    need("cc", "gcc", "clang")
    run(cmake, "-S", project, "-B", tmp_path / "build", f"-Dpycompress_DIR={capi.get_cmake_dir()}")
    too_new = tmp_path / "embed_c" / "CMakeLists.txt"
    too_new.write_text(too_new.read_text().replace("pycompress 0.1 ", "pycompress 99.0 "))
    run(cmake, "-S", project, "-B", tmp_path / "other", f"-Dpycompress_DIR={capi.get_cmake_dir()}", status=1)


@pytest.mark.parametrize("compilers", [("gcc", "cc"), ("clang",)], ids=["gcc", "clang"])
@pytest.mark.parametrize("standard", ["c99", "c11", "c++98", "c++17"])
def test_header_is_strict_c_and_cpp(tmp_path, compilers, standard):
    compiler = need(*compilers)
    language = "c++" if "+" in standard else "c"
    # Included alone, first and twice.
    source = tmp_path / "main.inc"
    source.write_text(
        "#include <pycompress.h>\n#include <pycompress.h>\n"
        "int main(void) { pc_gemm_s8_desc d; d.size = sizeof d; return d.size == 0 || pc_isa_count() < 0; }\n"
    )
    run(compiler, "-x", language, f"-std={standard}", *STRICT, "-I", capi.get_include(), "-fsyntax-only", source)


def test_cpp_program_links(tmp_path):
    compiler = need("c++", "g++", "clang++")
    source = tmp_path / "main.cpp"
    source.write_text("#include <pycompress.h>\n#include <cstdio>\nint main() { std::puts(pc_version()); }\n")
    program = tmp_path / "main"
    lib_dir = capi.get_lib_dir()
    run(
        compiler,
        *STRICT,
        source,
        "-o",
        program,
        f"-I{capi.get_include()}",
        f"-L{lib_dir}",
        "-lpycompress",
        f"-Wl,-rpath,{lib_dir}",
    )
    assert run(program).strip() == capi.ffi.string(capi.lib.pc_version()).decode()


@pytest.mark.parametrize(
    ("option", "function"),
    [
        ("--prefix", capi.prefix),
        ("--include", capi.get_include),
        ("--libdir", capi.get_lib_dir),
        ("--cmakedir", capi.get_cmake_dir),
        ("--pkgconfigdir", capi.get_pkgconfig_dir),
    ],
)
def test_command_says_where(tmp_path, option, function):
    # Elsewhere than in this repository, whose pycompress/ has no compiled part.
    printed = run(sys.executable, "-W", "error", "-m", "pycompress.capi", option, cwd=tmp_path).strip()
    assert printed == function()
    assert Path(printed).is_dir()


def test_installed_files_are_there_and_can_be_moved():
    assert Path(capi.get_include(), "pycompress.h").is_file()
    assert Path(capi.get_cmake_dir(), "pycompressConfig.cmake").is_file()
    texts = [Path(capi.get_pkgconfig_dir(), "pycompress.pc"), *Path(capi.get_cmake_dir()).glob("*.cmake")]
    assert len(texts) >= 4
    for path in texts:
        assert capi.prefix() not in path.read_text(), f"{path} names a directory of this machine"
