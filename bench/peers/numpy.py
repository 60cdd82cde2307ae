"""numpy: float32 `dot` on the BLAS it was built with, OpenBLAS in its wheels."""

from __future__ import annotations

import numpy as np

from pycompress.bench.gemm import Operands
from pycompress.bench.peer import Call, Peer

from ._sparse import serve_dense

PEER = Peer(
    "numpy",
    "numpy",
    ["numpy"],
    caps={"avx2": {"OPENBLAS_CORETYPE": "Haswell"}, "avxvnni": {"OPENBLAS_CORETYPE": "Haswell"}},
)


@PEER.family("gemm", {"f32": "dot", "f32_array": "dot"})
def gemm(operands: Operands, form: str) -> Call:
    x, w = operands.x, operands.w.T
    out = np.empty((len(x), w.shape[1]), np.float32)
    return lambda: np.dot(x, w, out=out)


serve_dense(PEER, gemm)
