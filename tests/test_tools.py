"""tools/check_isa.py and tools/check_spills.py find what they are for, in objects made to be bad."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"
COMPILER = shutil.which(os.environ.get("CXX", "c++"))

pytestmark = [
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the tools know x86-64"),
    pytest.mark.skipif(not shutil.which("objdump") or not COMPILER, reason="there is no objdump or no compiler here"),
]


@pytest.fixture
def compiled(tmp_path):
    """Compiles a source for an ISA, or for the baseline, as CMake would name the object; gives its path."""

    def make(source, isa=None, flags=(), directory="library"):
        directory = tmp_path / (f"{directory}_{isa}.dir" if isa else f"{directory}.dir")
        directory.mkdir(exist_ok=True)
        (directory / "source.cpp").write_text(source)
        made = directory / "source.cpp.o"
        subprocess.run([COMPILER, "-O2", "-c", *flags, directory / "source.cpp", "-o", made], check=True)
        return made

    return make


def run(tool, *paths):
    done = subprocess.run([sys.executable, TOOLS / tool, *paths], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


KERNEL = """
#include <immintrin.h>
namespace pc { namespace NS {
void f(float* x) { _mm256_storeu_ps(x, _mm256_add_ps(_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8))); }
template <int R> void g(float* x) { f(x + R); }
template void g<3>(float*);
} }
"""


def test_a_kernel_in_its_namespace(compiled):
    made = compiled(KERNEL, "avx2", ["-mavx2", "-DNS=avx2"])
    assert run("check_isa.py", made) == (0, "1 files: nothing above the baseline where it must not be\n")
    assert run("check_isa.py", made.parents[1])[0] == 0


@pytest.mark.parametrize(
    ("source", "flags", "words"),
    [
        (KERNEL.replace("NS", "other"), ["-mavx2"], "_ZN2pc5other1fEPf: '"),
        ("int f(unsigned x) { return __builtin_popcount(x); }", ["-mpopcnt"], "popcnt"),
        ("#include <immintrin.h>\n__m128i f(__m128i a) { return _mm_shuffle_epi8(a, a); }", ["-mssse3"], "pshufb"),
        ("double f(double a, double b, double c) { return a * b + c; }", ["-mfma", "-ffast-math"], "vfmadd"),
        ("unsigned f(unsigned a, unsigned b) { return ~a & b; }", ["-mbmi"], "andn"),
    ],
)
def test_above_the_baseline(compiled, source, flags, words):
    code, text = run("check_isa.py", compiled(source, flags=flags))
    assert code == 1
    assert words in text


def test_avx512_in_avx2(compiled):
    code, text = run("check_isa.py", compiled(KERNEL.replace("_mm256", "_mm512"), "avx2", ["-mavx512f", "-DNS=avx2"]))
    assert code == 1
    assert "is not in avx2" in text


def test_code_that_runs_at_start(compiled):
    source = """namespace pc { namespace avx2 {
        extern double x[8];
        double x[8];
        static const double y = [] { double s = 0; for (volatile double& v : x) s += v * 2; return s; }();
        double z() { return y; }
    } }"""
    code, text = run("check_isa.py", compiled(source, "avx2", ["-mavx2"]))
    assert code == 1
    assert "GLOBAL__sub_I" in text


def test_a_symbol_that_the_linker_could_take_for_all(compiled):
    source = """template <class T> T twice(T x) { return x + x; }
        namespace pc { namespace avx2 { int f(int x) { return twice(x); } } }"""
    code, text = run("check_isa.py", compiled(source, "avx2", ["-mavx2", "-fno-inline"]))
    assert code == 1
    assert "visible to the linker" in text


def test_linked_and_stripped(compiled, tmp_path):
    made = compiled(KERNEL, "avx2", ["-mavx2", "-DNS=avx2", "-fPIC", "-fvisibility=hidden"])
    library = tmp_path / "library.so"
    subprocess.run([COMPILER, "-shared", made, "-o", library], check=True)
    assert run("check_isa.py", library)[0] == 0
    subprocess.run(["strip", library], check=True)
    code, text = run("check_isa.py", library)
    assert code == 2
    assert "stripped" in text


def test_stripped_and_baseline(compiled, tmp_path):
    library = tmp_path / "library.so"
    made = compiled("int f() { return 1; }", flags=["-fPIC"])
    subprocess.run([COMPILER, "-shared", "-s", made, "-o", library], check=True)
    assert run("check_isa.py", library)[0] == 0


LOOP = """
#include <immintrin.h>
namespace pc { namespace avx2 {
template <int R> void tile(const float* x, float* y, long k) {
  __m256 acc[R];
  for (int r = 0; r < R; ++r) acc[r] = _mm256_setzero_ps();
  for (; k > 0; --k, x += 8)
    for (int r = 0; r < R; ++r) {
      acc[r] = _mm256_fmadd_ps(_mm256_loadu_ps(x + 8 * r), _mm256_loadu_ps(x), acc[r]);
      KEEP(acc[r]);
    }
  for (int r = 0; r < R; ++r) _mm256_storeu_ps(y + 8 * r, acc[r]);
}
template void tile<COUNT>(const float*, float*, long);
} }
"""
KEEP = ["-mavx2", "-mfma", "-funroll-loops", "-O3"]


def test_accumulators_in_registers(compiled):
    made = compiled(LOOP, "avx2", [*KEEP, '-DKEEP(x)=__asm__("" : "+x"(x))', "-DCOUNT=4"])
    assert run("check_spills.py", made) == (0, "1 kernels: no vector is stored in a loop over k\n")


def test_accumulators_in_memory(compiled):
    made = compiled(LOOP, "avx2", [*KEEP, '-DKEEP(x)=__asm__ volatile("" : "+m"(x))', "-DCOUNT=4"])
    code, text = run("check_spills.py", made)
    assert code == 1
    assert "vector stores in the loop over k" in text


def test_nothing_to_examine(compiled, tmp_path):
    assert run("check_spills.py", compiled("int f() { return 1; }"))[0] == 2
    assert run("check_isa.py", tmp_path / "missing")[0] == 2
    (tmp_path / "empty").mkdir()
    assert run("check_isa.py", tmp_path / "empty")[0] == 2


@pytest.mark.parametrize("tool", ["check_isa.py", "check_spills.py"])
def test_help(tool):
    code, text = run(tool, "--help")
    assert code == 0
    assert "Exit code" in text
