"""NumKong: packed dot products of int8 by int8, the activations less 128."""

from __future__ import annotations

import numpy as np

from pycompress.bench.gemm import Operands
from pycompress.bench.peer import Peer, Ready


def hold(isa: str) -> None:
    """Turn off the kernels above: it names them by processors."""
    import numkong

    avx512 = ("skylake", "icelake", "genoa", "turin", "sapphire", "sapphireamx", "graniteamx", "diamond")
    avxvnni = ("alder", "sierra")
    for name in avx512 + (avxvnni if isa == "avx2" else ()):
        numkong.disable_capability(name)


PEER = Peer("numkong", "NumKong", ["numkong"], caps={"avx2": {}, "avxvnni": {}}, hold=hold)


@PEER.family("gemm", {"u8s8": "dots_packed, s8 x s8"})
def gemm(operands: Operands, form: str) -> Ready:
    import numkong

    x, packed = operands.signed(), numkong.dots_pack(operands.weight.q.copy(), dtype="int8")
    out = numkong.empty((len(x), len(operands.w)), dtype="int32")
    return Ready(lambda: numkong.dots_packed(x, packed, out=out), lambda _: operands.unsigned_sums(np.asarray(out)))
