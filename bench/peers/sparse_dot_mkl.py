"""MKL's sparse BLAS in float32, by sparse_dot_mkl. Its BSR takes square blocks only, so that it gets CSR."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, files

import numpy as np

from pycompress.bench import sparse
from pycompress.bench.peer import Peer, Ready

from ._sparse import fastest, transposed
from ._torch import CAPS

# The wheel of mkl puts its library where no loader looks; sparse_dot_mkl asks this variable first.
with suppress(PackageNotFoundError):
    for _file in files("mkl") or []:
        if _file.name.startswith("libmkl_rt.so"):
            os.environ.setdefault("MKL_RT", str(_file.locate()))

PEER = Peer("sparse_dot_mkl", "MKL sparse", ["sparse_dot_mkl"], caps=CAPS)


@PEER.family(
    "sparse",
    {
        name: "dot_product_mkl of csr, w x^T or x w^T, the fastest"
        for name, kind in sparse.KINDS.items()
        if kind.dense != "static"
    },
    group="sparse",
)
def product(operands: sparse.Operands, form: str) -> Ready:
    return fastest(_ways(operands, form))


def _ways(operands: sparse.Operands, form: str) -> Iterator[Ready]:
    """x as it is, by the weight or its transpose, and x transposed beforehand at no cost to it."""
    import scipy.sparse
    from sparse_dot_mkl import dot_product_mkl

    x, w = operands.dense(form).x, scipy.sparse.csr_matrix(operands.dense(form).w)
    xt, wt = np.ascontiguousarray(x.T), w.T.tocsr()
    yt, y = np.zeros((w.shape[0], len(x)), np.float32), np.zeros((len(x), w.shape[0]), np.float32)
    yield Ready(lambda: dot_product_mkl(w, xt, out=yt, out_scalar=0.0), transposed)
    yield Ready(lambda: dot_product_mkl(x, wt, out=y, out_scalar=0.0))
    yield Ready(lambda: dot_product_mkl(w, x.T), transposed)
