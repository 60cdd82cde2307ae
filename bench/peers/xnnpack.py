"""XNNPACK as a system library (Debian: libxnnpack-dev), through its C interface.

Its sparse product is the 1x1 convolution of channels-first images in float32, for which it keeps only the weights that
are not zero. int8 has a scale for each output ("qc8"), and int8 activations: they get ours less 128.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pycompress.bench import gemm, sparse
from pycompress.bench.conv import Operands as Images
from pycompress.bench.peer import Peer, Ready, threads

from ._sparse import DENSE, transposed

# It asks the CPU, and obeys nothing.
PEER = Peer("xnnpack", "XNNPACK", ["cffi"], libraries=["libXNNPACK.so.0"])

# Of xnnpack.h. create(...): padding, kernel, stride, dilation, groups, channels of a group, strides of pixels; then the
# quantization, weight [outputs, height, width, channels of a group], bias, bounds, flags.
_GEOMETRY = (
    "uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, "
)
_GEOMETRY += "size_t, size_t, size_t, size_t, "
_SETUP = "xnn_operator_t, size_t batch, size_t height, size_t width, const void* x, void* y, pthreadpool_t"
_HEADER = f"""
typedef struct xnn_operator* xnn_operator_t;
typedef struct pthreadpool* pthreadpool_t;
int xnn_initialize(const void* allocator);
int xnn_run_operator(xnn_operator_t, pthreadpool_t);
int xnn_delete_operator(xnn_operator_t);
int xnn_create_convolution2d_nhwc_f32({_GEOMETRY} const void*, const void*, float, float, uint32_t, xnn_operator_t*);
int xnn_create_convolution2d_nchw_f32({_GEOMETRY} const void*, const void*, float, float, uint32_t, xnn_operator_t*);
int xnn_create_convolution2d_nhwc_qc8({_GEOMETRY} int8_t x_zero_point, float x_scale, const float* scale, const void*,
  const void*, int8_t y_zero_point, float y_scale, int8_t, int8_t, uint32_t, xnn_operator_t*);
int xnn_setup_convolution2d_nhwc_f32({_SETUP});
int xnn_setup_convolution2d_nchw_f32({_SETUP});
int xnn_setup_convolution2d_nhwc_qc8({_SETUP});
pthreadpool_t pthreadpool_create(size_t threads);
"""


class _Library:
    """The library, its threads, and what has to outlive the calls."""

    def __init__(self) -> None:
        import cffi

        self.ffi = cffi.FFI()
        self.ffi.cdef(_HEADER)
        self.lib = self.ffi.dlopen(PEER.libraries[0])
        self.pool: Any = self.ffi.NULL
        if threads() > 1:
            self.pool = self.ffi.dlopen("libpthreadpool.so.0").pthreadpool_create(threads())
        _check("xnn_initialize", self.lib.xnn_initialize(self.ffi.NULL))

    def convolution(
        self,
        form: str,
        x: NDArray[Any],
        y: NDArray[Any],
        w: NDArray[Any],
        geometry: tuple[int, int, int] = (0, 1, 1),
        quantization: tuple[Any, ...] = (),
    ) -> Callable[[], object]:
        """y = the convolution of x, which is `_padded`, by w [O, kh, kw, I / groups].

        form is "nhwc_f32", "nhwc_qc8" or "nchw_f32";
        geometry is padding, stride and groups; quantization what stands before and after the weight in its place.
        """
        ffi, lib = self.ffi, self.lib
        padding, stride, groups = geometry
        (outputs, height, width, inputs), axis = w.shape, 1 if form.startswith("nchw") else 3
        image = x.shape[2:] if axis == 1 else x.shape[1:3]
        made, null = ffi.new("xnn_operator_t*"), ffi.NULL
        weight, scale = np.ascontiguousarray(w), ()
        before: tuple[Any, ...] = ()
        after: tuple[Any, ...] = (-np.inf, np.inf)
        if form == "nhwc_qc8":
            (x_zero, x_scale), scale, (y_zero, y_scale) = quantization
            before = x_zero, x_scale, ffi.from_buffer("float[]", scale)
            after = y_zero, y_scale, -128, 127
        status = getattr(lib, f"xnn_create_convolution2d_{form}")(
            *[padding] * 4, height, width, stride, stride, 1, 1,
            groups, inputs, outputs // groups, inputs * groups, outputs,
            *before, ffi.from_buffer(weight), null, *after, 0, made,
        )  # fmt: skip
        _check("create", status)
        about = (1, *image, ffi.from_buffer(x), ffi.from_buffer(y), self.pool)
        _check("setup", getattr(lib, f"xnn_setup_convolution2d_{form}")(made[0], *about))
        operator, run, pool = made[0], lib.xnn_run_operator, self.pool
        owned = (x, y, weight, scale)

        def call(_: Any = owned) -> None:  # which have to live as long
            _check("run", run(operator, pool))

        return call


def _check(what: str, status: int) -> None:
    if status:
        names = (
            "",
            "uninitialized",
            "invalid parameter",
            "invalid state",
            "unsupported parameter",
            "unsupported hardware",
        )
        raise RuntimeError(f"{what}: {names[status] if status < len(names) else 'out of memory'}")


def _padded(x: NDArray[Any]) -> NDArray[Any]:
    """It reads up to 16 bytes beyond x."""
    memory = np.zeros(x.nbytes + 16, np.uint8)
    copy: NDArray[Any] = memory[: x.nbytes].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


def _signed(qparams: Sequence[float]) -> tuple[int, float]:
    """The zero point and the scale of uint8 that are stored less 128."""
    scale, zero_point = qparams
    return int(zero_point) - 128, float(scale)


def _unsigned(y: NDArray[np.int8]) -> NDArray[np.uint8]:
    unsigned: NDArray[np.uint8] = y.view(np.uint8) ^ np.uint8(128)
    return unsigned


@PEER.family("gemm", {"static": "convolution2d_nhwc_qc8, 1x1", "f32": "convolution2d_nhwc_f32, 1x1"})
def product(operands: gemm.Operands, form: str) -> Ready:
    library, (m, k), n = _Library(), operands.x.shape, len(operands.w)
    if form == "f32":
        y = np.empty((m, n), np.float32)
        call = library.convolution(
            "nhwc_f32", _padded(operands.x.reshape(1, 1, m, k)), y, operands.w.reshape(n, 1, 1, k)
        )
        return Ready(call, lambda _: y)
    q = np.empty((m, n), np.int8)
    about = _signed(operands.x_qparams), operands.weight.scale, _signed(operands.y_qparams)
    x, w = _padded(operands.signed().reshape(1, 1, m, k)), operands.weight.q.reshape(n, 1, 1, k)
    return Ready(library.convolution("nhwc_qc8", x, q, w, quantization=about), lambda _: _unsigned(q))


@PEER.family(
    "sparse",
    {name: "convolution2d_nchw_f32, 1x1" for name, kind in DENSE.items() if kind != "static"},
    group="sparse",
)
def sparse_product(operands: sparse.Operands, form: str) -> Ready:
    """x is transposed beforehand, and the result afterwards, at no cost to it."""
    dense = operands.dense(form)
    n, k = dense.w.shape
    m, x = len(dense.x), np.ascontiguousarray(dense.x.T)
    y = np.empty((n, m), np.float32)
    call = _Library().convolution("nchw_f32", _padded(x.reshape(1, k, 1, m)), y, dense.w.reshape(n, 1, 1, k))
    return Ready(call, lambda _: transposed(y))


@PEER.family("conv", {"static": "convolution2d_nhwc_qc8", "f32": "convolution2d_nhwc_f32"})
def conv(images: Images, form: str) -> Ready:
    library, static = _Library(), form == "static"
    x = _padded((images.q ^ np.uint8(128)).view(np.int8) if static else images.x)
    calls = []
    for layer in images.layers:
        side = (x.shape[1] + 2 * layer.padding - layer.w.shape[2]) // layer.stride + 1
        y = _padded(np.zeros((1, side, side, len(layer.w)), x.dtype))
        w = (layer.q if static else layer.w).transpose(0, 2, 3, 1)
        about = (_signed(layer.x_qparams), layer.scale, _signed(layer.y_qparams)) if static else ()
        geometry = layer.padding, layer.stride, layer.groups
        calls.append(library.convolution("nhwc_qc8" if static else "nhwc_f32", x, y, w, geometry, about))
        x = y

    def call() -> None:
        for one in calls:
            one()

    return Ready(call, lambda _: _unsigned(x) if static else x)
