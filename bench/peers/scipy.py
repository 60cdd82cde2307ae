"""scipy.sparse: CSR and BSR products of its own loops, one thread, in float32 only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pycompress.bench import sparse
from pycompress.bench.peer import Peer, Ready

from ._sparse import fastest, transposed, whole_blocks

# Compiled for any x86-64 CPU: there is nothing that an instruction set would change.
PEER = Peer("scipy", "scipy", ["scipy"], caps={isa: {} for isa in ("avx2", "avxvnni", "avx512vnni")})


@PEER.family(
    "sparse",
    {name: "csr or bsr @ x.T, the faster" for name, kind in sparse.KINDS.items() if kind.dense != "static"},
    group="sparse",
)
def product(operands: sparse.Operands, form: str) -> Ready:
    return fastest(_ways(operands, form))


def _ways(operands: sparse.Operands, form: str) -> Iterator[Ready]:
    """x is transposed beforehand, and the result afterwards, at no cost to it."""
    import scipy.sparse

    dense, block = operands.dense(form), sparse.KINDS[form].block
    n, x = len(dense.w), np.ascontiguousarray(dense.x.T)
    csr = scipy.sparse.csr_array(dense.w)
    yield Ready(lambda: csr @ x, transposed)
    if block != (1, 1):
        bsr = scipy.sparse.bsr_array(whole_blocks(dense.w, block), blocksize=block)
        padded = np.pad(x, [(0, bsr.shape[1] - len(x)), (0, 0)])
        yield Ready(lambda: bsr @ padded, lambda y: transposed(y[:n]))
