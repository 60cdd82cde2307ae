#!/usr/bin/env python3
"""Finds instructions that not every x86-64 CPU has outside the code that is chosen at run time.

    tools/check_isa.py build/release                                  the object files of a build directory
    tools/check_isa.py build/release/libpycompress.so _native*.so     linked files

Object files are the more telling: their directory says which instruction set they were compiled for, so that also a
function that the linker would drop or merge is seen. In linked files a function belongs to the instruction set whose
namespace (pc::avx2, ...) its symbol lies in; a stripped one must be baseline all through, as the Python module is.

1. Code outside these namespaces holds only instructions of the baseline (x86-64 with SSE2). xgetbv is allowed in
   pc::xgetbv0: its caller asks first whether the CPU has it. tzcnt is allowed: compilers write bsf with a prefix that
   makes it tzcnt, and older CPUs run it as bsf.
2. Code inside pc::avx2 and pc::avxvnni uses no AVX-512 registers, and pc::avx2 has no vpdpbusd.
3. An object file compiled for an instruction set defines no symbol outside its own namespace that the linker could see:
   of a template or inline function compiled twice the linker keeps one, perhaps the one with the raised flags.

Exit code: 0 fine, 1 problems, 2 the files can't be examined.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from disassembly import Function, ToolError, finish, functions, namespace_isa, object_files, path_isa, run

ABOVE_BASELINE = re.compile(
    r"""^(
    (?!verr$|verw$|vm(call|launch|resume|xoff|xon|ptrld|ptrst|clear|read|write)$)v\w+          # VEX and EVEX
  | k(mov|and|andn|or|ort\w*|xor|xnor|not|add|test|shift[lr]|unpck)\w*                          # masks
  | addsubp[sd] | h(add|sub)p[sd] | lddqu | mov(ddup|shdup|sldup) | fisttp\w* | monitor | mwait          # SSE3
  | pshufb | ph(add|sub)(w|d|sw) | pmaddubsw | pmulhrsw | psign[bwd] | pabs[bwd] | palignr        # SSSE3
  | p?blend\w+ | dpp[sd] | extractps | insertps | movntdqa | mpsadbw | packusdw | pcmpeqq          # SSE4.1
  | pextr[bdq] | pinsr[bdq] | phminposuw | p(max|min)(sb|sd|ud|uw) | pmov[sz]x\w+ | pmuldq | pmulld | ptest
  | round[ps][sd]
  | pcmp[ei]str[im] | pcmpgtq | crc32\w* | popcnt\w*                                           # SSE4.2
  | lzcnt\w* | andn\w? | bextr\w? | bls(i|r|msk)\w? | bzhi\w? | pdep\w? | pext[lq]? | mulx\w? | rorx\w?      # BMI
  | s(ar|hl|hr)x\w?
  | movbe\w? | ad[co]x\w? | aes\w+ | sha\d\w+ | pclmul\w* | gf2p8\w+ | rdrand\w? | rdseed\w? | cmpxchg16b
  | xgetbv | xsave\w* | xrstor\w* | [wr][df][sg]sbase\w? | rdpid | rdtscp
  )$""",
    re.VERBOSE,
)
AVX_REGISTER = re.compile(r"%[yz]mm|%k[0-7]\b|%xmm(1[6-9]|2\d|3[01])\b")
AVX512_REGISTER = re.compile(r"%zmm|%k[0-7]\b|%[xy]mm(1[6-9]|2\d|3[01])\b")
# xgetbv0 and what it is inlined into.
CPU_DETECTION = re.compile(r"_ZN2pc12_GLOBAL__N_1(7xgetbv0|6detect)|_ZN2pc12cpu_featuresEv")


def problems_of_function(function: Function, isa: str | None, stripped: bool) -> list[str]:
    """One line for the first instruction that does not belong there."""
    for i in function.instructions:
        if isa is None:
            wrong = bool(ABOVE_BASELINE.match(i.mnemonic) or AVX_REGISTER.search(i.operands))
            if i.mnemonic == "xgetbv" and (stripped or CPU_DETECTION.match(function.symbol)):
                wrong = False
        else:
            wrong = isa != "avx512vnni" and bool(AVX512_REGISTER.search(i.operands))
            wrong |= isa == "avx2" and i.mnemonic.startswith("vpdp")
        if wrong:
            return [f"{function.symbol}: '{i}' is not in {isa or 'the baseline'}"]
    return []


def problems_of_symbols(path: Path, isa: str) -> list[str]:
    found = []
    for line in run("nm", "--defined-only", "-P", path).splitlines():
        symbol, kind = line.split()[:2]
        visible = kind.isupper() or kind in "vwu"
        if visible and kind not in "NA" and namespace_isa(symbol) != isa and not is_constant_of_compiler(symbol):
            found.append(f"the symbol {symbol} (nm: {kind}) is visible to the linker and not in pc::{isa}")
    return found


def is_constant_of_compiler(symbol: str) -> bool:
    """Data that GCC, clang and the sanitizers share between files; the same in every file."""
    return symbol.startswith((".LC", "DW.ref.", "__odr_asan", "__asan"))


def check(path: Path) -> list[str]:
    isa_of_file = path_isa(path) if path.suffix == ".o" else None
    stripped = not run("nm", path).strip()
    found = []
    for function in functions(path):
        # In an object for an ISA, too, what lies outside its namespace is held to the baseline: code run at start.
        found += problems_of_function(function, namespace_isa(function.symbol), stripped)
    if stripped and found:
        raise ToolError(f"{path} is stripped and not all baseline: nothing says which functions are chosen at run time")
    if isa_of_file:
        found += problems_of_symbols(path, isa_of_file)
    return [f"{path}: {problem}" for problem in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="build directories, object files, shared libraries")
    try:
        files = object_files(parser.parse_args().paths)
        problems = [problem for path in files for problem in check(path)]
        return finish(problems, f"{len(files)} files: nothing above the baseline where it must not be")
    except ToolError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
