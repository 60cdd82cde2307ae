"""What objdump and nm say about an object file or a library, as Python values."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ISAS = ("avx2", "avxvnni", "avx512vnni")


@dataclass
class Instruction:
    address: int
    mnemonic: str
    operands: str

    def __str__(self) -> str:
        return f"{self.address:x}: {self.mnemonic} {self.operands}".rstrip()


@dataclass
class Function:
    symbol: str
    """The mangled name: a demangled one may begin with a return type."""
    instructions: list[Instruction] = field(default_factory=list)


class ToolError(Exception):
    """The files can't be examined at all."""


def run(*command: str | Path) -> str:
    program = os.environ.get(str(command[0]).upper(), str(command[0]))
    if not shutil.which(program):
        raise ToolError(f"{program} is not installed (Debian: binutils)")
    done = subprocess.run([program, *map(str, command[1:])], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"{program}: {done.stderr.strip()}")
    return done.stdout


FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
LINE = re.compile(r"^ *([0-9a-f]+):\t(.*)$")
PREFIXES = {"lock", "rep", "repz", "repnz", "bnd", "notrack", "data16", "cs", "ds", "es", "fs", "gs", "ss", "addr32"}


def functions(path: Path) -> Iterator[Function]:
    """The functions of a file, with their instructions in AT&T syntax (sources first, destination last)."""
    function = None
    for line in run("objdump", "-d", "-w", "--no-show-raw-insn", path).splitlines():
        if match := FUNCTION.match(line):
            if function:
                yield function
            function = Function(match[1])
        elif function and (match := LINE.match(line)):
            words = match[2].split("#")[0].split()
            while len(words) > 1 and (words[0] in PREFIXES or words[0].startswith(("rex", "{"))):
                del words[0]
            if words:
                function.instructions.append(Instruction(int(match[1], 16), words[0], " ".join(words[1:])))
    if function:
        yield function


def namespace_isa(symbol: str) -> str | None:
    """The ISA whose namespace pc::<isa> a mangled name lies in, functions local to such functions included."""
    match = re.match(r"_ZN?Z*N?K?N?2pc(\d+)", symbol)
    if not match:
        return None
    rest = symbol[match.end() :]
    name = rest[: int(match[1])]
    return name if name in ISAS else None


def path_isa(path: Path) -> str | None:
    """The ISA that an object file was compiled for: CMake puts it in <library>_<isa>.dir."""
    for part in path.parts:
        match = re.search(r"_(" + "|".join(ISAS) + r")\.dir$", part)
        if match:
            return match[1]
    return None


def object_files(paths: Iterable[Path]) -> list[Path]:
    """Files as they are; in directories the objects of the library and the Python module, not those of tests."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.rglob("*.o") if "tests" not in p.relative_to(path).parts)
        elif path.is_file():
            found.append(path)
        else:
            raise ToolError(f"{path} does not exist")
    if not found:
        raise ToolError("no object files in " + ", ".join(map(str, paths)))
    return found


def finish(problems: list[str], done: str) -> int:
    """Exit code 1 with the problems, or 0 with what was done."""
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{len(problems)} problems" if problems else done)
    return 1 if problems else 0
