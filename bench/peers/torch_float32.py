"""torch's float32 `linear` as it is called without compiling: MKL."""

from __future__ import annotations

from pycompress.bench.gemm import Operands
from pycompress.bench.peer import Peer, Ready

from ._sparse import serve_dense
from ._torch import CAPS, start

PEER = Peer("torch_float32", "torch MKL", ["torch"], caps=CAPS)


@PEER.family("gemm", {"f32": "nn.functional.linear", "f32_array": "nn.functional.linear"})
def gemm(operands: Operands, form: str) -> Ready:
    torch = start()
    x, w, linear = torch.from_numpy(operands.x), torch.from_numpy(operands.w), torch.nn.functional.linear
    return Ready(lambda: linear(x, w), lambda y: y.numpy())


serve_dense(PEER, gemm)
