"""Our own dense kernels, on the same weight with its zeros: what a sparse one has to beat."""

from __future__ import annotations

from pycompress.bench import sparse
from pycompress.bench.peer import Call, Peer

from ._sparse import DENSE

CAPS = {isa: {"PYCOMPRESS_ISA": isa} for isa in ("scalar", "avx2", "avxvnni", "avx512vnni")}

PEER = Peer("pycompress_dense", "pycompress dense", [], caps=CAPS)


@PEER.family("sparse", dict.fromkeys(DENSE, "linear, weight dense and packed"), group="our dense")
def dense(operands: sparse.Operands, form: str) -> Call:
    return sparse.ours_dense(operands, form)
