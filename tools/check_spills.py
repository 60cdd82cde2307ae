#!/usr/bin/env python3
"""Finds accumulators that go through memory inside the GEMM kernels' loops over k.

    tools/check_spills.py build/release         the object files of a build directory

In each tile<...> and wide<...> function of gemm/ the loops that multiply (vpdpbusd, vpmaddwd, vfmadd) are found as
ranges closed by a jump backwards; of nested ones the innermost. A vector store in one is an error, whatever its
address: the accumulators stay in registers from the first k to the last, so such a loop has nothing to store but what
the compiler spills. That costs up to a third of the speed.

Exit code: 0 fine, 1 spills, 2 the files can't be examined (no kernel with such a loop among them is one of these).
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from disassembly import Function, Instruction, ToolError, finish, functions, namespace_isa, object_files

MULTIPLY = re.compile(r"^(vpdpbusds?|vpmaddwd|vfn?madd\d+ps)$")
STORE = re.compile(r"^%[xyz]mm\d+,\s*[^%]*\(.*\)(\{%k\d\})?$")
TILE = re.compile(r"4(tile|wide)I")
BY_DESIGN = "S4Tile"  # int4: the sums over groups wait in L1, since registers are full of the group's own


def loops(function: Function) -> list[list[Instruction]]:
    """The innermost loops that multiply."""
    ranges = []
    first = function.instructions[0].address
    for i in function.instructions:
        target = re.match(r"([0-9a-f]+)( |$)", i.operands) if i.mnemonic.startswith("j") else None
        if target and first <= int(target[1], 16) <= i.address:
            ranges.append((int(target[1], 16), i.address))
    bodies = {r: [i for i in function.instructions if r[0] <= i.address <= r[1]] for r in ranges}
    multiplying = {r for r, body in bodies.items() if any(MULTIPLY.match(i.mnemonic) for i in body)}
    inner = {r for r in multiplying if not any(q != r and r[0] <= q[0] and q[1] <= r[1] for q in multiplying)}
    return [bodies[r] for r in sorted(inner)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="build directories, object files, shared libraries")
    problems: list[str] = []
    kernels = 0
    try:
        for path in object_files(parser.parse_args().paths):
            for function in functions(path):
                if BY_DESIGN in function.symbol:
                    continue
                if not TILE.search(function.symbol) or not namespace_isa(function.symbol) or not function.instructions:
                    continue
                found = loops(function)
                kernels += bool(found)
                for body in found:
                    stores = [i for i in body if i.mnemonic.startswith("vmov") and STORE.match(i.operands)]
                    if stores:
                        count = f"{len(stores)} vector stores in the loop over k, the first '{stores[0]}'"
                        problems.append(f"{path}: {function.symbol}: {count}")
        if not kernels:
            raise ToolError("no tile<...> kernel with a loop that multiplies is in these files")
        return finish(problems, f"{kernels} kernels: no vector is stored in a loop over k")
    except ToolError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
