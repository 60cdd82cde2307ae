"""pycompress.numba: the native kernels called inside @njit, from threads, from prange and from a cache; the same bits
as pycompress._native, and errors instead of crashes."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from reference import random_bytes, same_bits

native = pytest.importorskip("pycompress._native", reason="the compiled part is not installed")
numba = pytest.importorskip("numba")

import pycompress as pc  # noqa: E402
from pycompress import numba as pn  # noqa: E402

ACTIVATIONS = {
    "none": pn.NONE,
    "relu": pn.RELU,
    "relu6": pn.RELU6,
    "clamp": (pn.RELU[0], -0.5, 1.5),
    "hardswish": pn.HARDSWISH,
    "silu": pn.SILU,
    "gelu": pn.GELU,
}
f32 = np.float32


@pytest.fixture
def rng():
    return np.random.default_rng(0)


class Layer:
    """A small layer: arrays for both libraries."""

    def __init__(self, rng, m=7, n=40, k=33):
        self.q = rng.integers(-127, 127, (n, k), np.int8, endpoint=True)
        self.scale = rng.random(n, f32) / 99 + f32(1e-4)
        self.bias = rng.standard_normal(n, f32)
        self.x = rng.standard_normal((m, k), f32)
        self.w = rng.standard_normal((n, k), f32)
        self.packed = pn.pack_int8(self.q, self.scale)
        self.handle = native.pack_int8(self.q, self.scale)
        self.out = np.full((m, n), np.nan, f32)

    def wanted(self, activation=pn.NONE):
        out = np.empty_like(self.out)
        native.linear(self.x, self.handle, self.bias, activation, None, None, out, 1)
        return out


@pytest.fixture
def layer(rng):
    return Layer(rng)


# ---- the same bits as the native functions


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_quantize_linear(rng, dtype):
    x = rng.standard_normal((2, 3, 50), f32)
    scale, zero_point = rng.random(3, f32) + f32(0.01), random_bytes(rng, dtype, 3).astype(np.int32)
    wanted, out = np.empty((2, 2, 3, 50), dtype)
    native.quantize_linear(x, scale, zero_point, wanted)
    pn.quantize_linear(x, scale, zero_point, out)
    same_bits(out, wanted)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
def test_dequantize_linear(rng, dtype):
    x = random_bytes(rng, dtype, 2, 3, 50)
    scale, zero_point = rng.random(3, f32) + f32(0.01), np.array([0, 1, 2], np.int32)
    wanted, out = np.empty((2, 2, 3, 50), f32)
    native.dequantize_linear(x, scale, zero_point, wanted)
    pn.dequantize_linear(x, scale, zero_point, out)
    same_bits(out, wanted)


def test_dynamic_quantize_linear(rng):
    x = rng.standard_normal(1001, f32)
    wanted, out = np.empty((2, 1001), np.uint8)
    assert pn.dynamic_quantize_linear(x, out) == native.dynamic_quantize_linear(x, wanted)
    same_bits(out, wanted)


def test_quantize_rows(rng):
    x = rng.standard_normal((9, 40), f32)[:, :33]
    wanted = np.empty((9, 33), np.uint8), np.empty(9, f32), np.empty(9, np.int32)
    native.quantize_rows(np.ascontiguousarray(x), *wanted)
    outer = np.full((9, 50), 99, np.uint8)
    got = outer[:, :33], np.empty(9, f32), np.empty(9, np.int32)
    pn.quantize_rows(x, *got)
    for a, b in zip(got, wanted, strict=True):
        same_bits(a, b)
    assert (outer[:, 33:] == 99).all()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_pack_int8(rng, dtype, transposed):
    q = random_bytes(rng, dtype, 33, 40).T if transposed else random_bytes(rng, dtype, 40, 33)
    scale = rng.random(40, f32) + f32(0.01)
    packed = pn.pack_int8(q, scale)
    assert packed.dtype == np.uint8
    assert packed.ctypes.data % 64 == 0
    assert packed.tobytes() == native.pack_int8(q, scale).tobytes()
    assert pn.packed_shape(packed) == (40, 33)


@pytest.mark.parametrize("zero_points", ["none", "x", "w", "both"])
@pytest.mark.parametrize("w_dtype", ["int8", "uint8"])
@pytest.mark.parametrize("x_dtype", ["uint8", "int8"])
def test_gemm_int8(rng, x_dtype, w_dtype, zero_points):
    m, n, k = 7, 40, 33
    x, q = random_bytes(rng, x_dtype, m, k), random_bytes(rng, w_dtype, n, k)
    zx = random_bytes(rng, x_dtype, m).astype(np.int32) if zero_points in ("x", "both") else None
    zw = random_bytes(rng, w_dtype, n).astype(np.int32) if zero_points in ("w", "both") else None
    out = np.empty((m, n), np.int32)
    pn.gemm_int8(x, pn.pack_int8(q, np.ones(n, f32)), zx, zw, out)
    x, q = x.astype(np.int64), q.astype(np.int64)
    x = x if zx is None else x - zx[:, None]
    q = q if zw is None else q - zw[:, None]
    np.testing.assert_array_equal(out, x @ q.T)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("x_dtype", ["float32", "uint8", "int8"])
@pytest.mark.parametrize("y_dtype", ["float32", "uint8", "int8"])
def test_linear_int8(rng, layer, x_dtype, y_dtype, activation):
    x = layer.x if x_dtype == "float32" else random_bytes(rng, x_dtype, *layer.x.shape)
    x_qparams = None if (x_dtype, y_dtype) == ("float32", "float32") else (0.03, 11)
    y_qparams = None if y_dtype == "float32" else (0.05, -3 if y_dtype == "int8" else 90)
    for bias in layer.bias, None:
        wanted, out = np.empty((2, *layer.out.shape), y_dtype)
        native.linear(x, layer.handle, bias, ACTIVATIONS[activation], x_qparams, y_qparams, wanted)
        pn.linear_int8(x, layer.packed, bias, ACTIVATIONS[activation], x_qparams, y_qparams, out)
        same_bits(out, wanted)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("transposed", [False, True])
def test_linear_f32(layer, transposed, activation):
    w = np.asfortranarray(layer.w) if transposed else layer.w
    for bias in layer.bias, None:
        wanted = np.empty_like(layer.out)
        native.linear_f32(layer.x, w, bias, ACTIVATIONS[activation], wanted)
        pn.linear_f32(layer.x, w, bias, ACTIVATIONS[activation], layer.out)
        same_bits(layer.out, wanted)


@pytest.mark.parametrize(("m", "n", "k"), [(0, 4, 4), (4, 0, 4), (4, 4, 0), (1, 1, 1), (0, 0, 0)])
def test_small_and_empty(rng, m, n, k):
    layer = Layer(rng, m, n, k)
    pn.linear_int8(layer.x, layer.packed, layer.bias, pn.NONE, None, None, layer.out)
    same_bits(layer.out, layer.wanted())
    pn.linear_f32(layer.x, layer.w, None, pn.NONE, layer.out)
    np.testing.assert_allclose(layer.out, layer.x @ layer.w.T, rtol=1e-5)


# ---- inside compiled code


@numba.njit(nogil=True)
def everything(q, scale, x, bias):
    """Packs, quantizes and runs two layers, all with memory of its own."""
    packed = pn.pack_int8(q, scale)
    n, k = pn.packed_shape(packed)
    m = len(x)
    xq, x_scale, x_zero_point = np.empty((m, k), np.uint8), np.empty(m, np.float32), np.empty(m, np.int32)
    pn.quantize_rows(x, xq, x_scale, x_zero_point)
    sums = np.empty((m, n), np.int32)
    pn.gemm_int8(xq, packed, x_zero_point, None, sums)
    out = np.empty((m, n), np.float32)
    # Temporary arrays must live as long as the call.
    pn.linear_int8(x, packed, bias + np.float32(0), pn.clamp(-0.5, 1.5), None, None, out, nth=1, ith=0)
    return sums, x_scale, out


def test_inside_njit(layer):
    sums, x_scale, out = everything(layer.q, layer.scale, layer.x, layer.bias)
    same_bits(out, layer.wanted(ACTIVATIONS["clamp"]))
    y = sums.astype(f32) * (x_scale[:, None] * layer.scale) + layer.bias
    same_bits(np.clip(y, f32(-0.5), f32(1.5)), out)


def test_threads_at_once(rng):
    """Compiled code without the GIL, from several threads, each with a layer of its own."""
    layers = [Layer(rng, 20, 60 + i, 100) for i in range(4)]
    wanted = [layer.wanted(ACTIVATIONS["clamp"]) for layer in layers]
    everything(layers[0].q, layers[0].scale, layers[0].x, layers[0].bias)

    def work(i):
        a = layers[i % 4]
        for _ in range(20):
            same_bits(everything(a.q, a.scale, a.x, a.bias)[2], wanted[i % 4])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))


def test_it_runs_without_the_gil(layer):
    """Both threads are inside compiled code at the same time: each waits there for the other."""

    @numba.njit(nogil=True)
    def meet(flags, mine, x, packed, out):
        pn.linear_int8(x, packed, None, pn.NONE, None, None, out)
        flags[mine] = 1
        for _ in range(1 << 24):
            pn.linear_int8(x, packed, None, pn.NONE, None, None, out)
            if flags[1 - mine] == 1:
                return True
        return False

    flags = np.ones(2, np.int32)
    assert meet(flags, 0, layer.x, layer.packed, layer.out)  # compiles
    flags[:] = 0
    with ThreadPoolExecutor(2) as pool:
        parts = [pool.submit(meet, flags, i, layer.x, layer.packed, layer.out.copy()) for i in range(2)]
        assert [part.result(60) for part in parts] == [True, True]


@pytest.mark.parametrize("nth", [1, 2, 3, 8])
def test_parts_on_threads(rng, nth):
    layer = Layer(rng, 30, 100, 70)
    xq, sums = random_bytes(rng, "uint8", 30, 70), np.full((30, 100), -1, np.int32)
    dense, plain = np.full((2, 30, 100), np.nan, f32)
    barrier = threading.Barrier(nth)

    def part(ith):
        barrier.wait()
        pn.linear_int8(layer.x, layer.packed, layer.bias, pn.GELU, None, None, layer.out, ith, nth)
        pn.gemm_int8(xq, layer.packed, None, None, sums, ith, nth)
        pn.linear_f32(layer.x, layer.w, layer.bias, pn.NONE, dense, ith, nth)

    with ThreadPoolExecutor(nth) as pool:
        list(pool.map(part, range(nth)))
    same_bits(layer.out, layer.wanted(pn.GELU))
    np.testing.assert_array_equal(sums, xq.astype(np.int64) @ layer.q.T.astype(np.int64))
    pn.linear_f32(layer.x, layer.w, layer.bias, pn.NONE, plain)
    same_bits(dense, plain)


@numba.njit(nogil=True)
def part_went_well(x, packed, out, ith, nth):
    """No exception comes out of a prange, so it is caught inside."""
    try:
        pn.linear_int8(x, packed, None, pn.NONE, None, None, out, ith, nth)
    except Exception:  # the only form that Numba knows
        return 0
    return 1


@pytest.mark.filterwarnings("ignore::numba.NumbaWarning")  # about threading layers that are not there
def test_prange(rng):
    @numba.njit(parallel=True)
    def parallel(x, packed, out, nth):
        good = 0
        for ith in numba.prange(nth):
            good += part_went_well(x, packed, out, ith, nth)
        return good

    layer = Layer(rng, 30, 100, 70)
    layer.bias[:] = 0
    assert parallel(layer.x, layer.packed, layer.out, 3) == 3
    same_bits(layer.out, layer.wanted())
    assert parallel(layer.x[:, :5], layer.packed, layer.out, 3) == 0


CACHED = """
import numba, numpy as np, sys
from pycompress import numba as pn

@numba.njit(cache=True)
def layer(q, x):
    packed = pn.pack_int8(q, np.ones(len(q), np.float32))
    out = np.empty((len(x), len(q)), np.int32)
    pn.gemm_int8(x, packed, None, None, out)
    return out

q, x = np.arange(-6, 6, dtype=np.int8).reshape(3, 4), np.arange(8, dtype=np.uint8).reshape(2, 4)
assert (layer(q, x) == x.astype(int) @ q.T.astype(int)).all()
print(sum(layer.stats.cache_hits.values()), sum(layer.stats.cache_misses.values()))
"""


def test_cache_serves_another_process(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    script = tmp_path / "cached.py"
    script.write_text(CACHED)
    for wanted in "0 1", "1 0":
        # As an error: Numba warns where it can't cache because an address is in the code.
        command = [sys.executable, "-W", "error::numba.NumbaWarning", str(script)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
        assert (done.stdout.strip(), done.returncode) == (wanted, 0), done.stderr


def test_memory_is_given_back(layer):
    runtime = pytest.importorskip("numba.core.runtime")
    runtime._nrt_python.memsys_enable_stats()
    everything(layer.q, layer.scale, layer.x, layer.bias)
    before = runtime.rtsys.get_allocation_stats()
    for _ in range(100):
        everything(layer.q, layer.scale, layer.x, layer.bias)
    after = runtime.rtsys.get_allocation_stats()
    assert after.mi_alloc - before.mi_alloc == after.mi_free - before.mi_free > 0


def test_packed_weight_from_a_file(layer, tmp_path):
    path = tmp_path / "weight"
    path.write_bytes(layer.packed.tobytes())
    mapped = np.memmap(path, np.uint8, "r")
    pn.linear_int8(layer.x, mapped, layer.bias, pn.NONE, None, None, layer.out)
    same_bits(layer.out, layer.wanted())


# ---- views


def test_rows_of_a_larger_array(rng, layer):
    m, n, k = 7, 40, 33
    outer_x, outer_out = rng.standard_normal((m, k + 7), f32), np.full((m, n + 9), np.nan, f32)
    outer_x[:, 3 : k + 3] = layer.x
    x, out = outer_x[:, 3 : k + 3], outer_out[:, 2 : n + 2]
    pn.linear_int8(x, layer.packed, layer.bias, pn.NONE, None, None, out)
    same_bits(out, layer.wanted())
    out[:] = np.nan
    pn.linear_f32(x, layer.w, None, pn.NONE, out)
    np.testing.assert_allclose(out, layer.x @ layer.w.T, rtol=1e-4, atol=1e-4)
    assert np.isnan(outer_out[:, :2]).all()
    assert np.isnan(outer_out[:, n + 2 :]).all()


def test_read_only_operands(layer):
    for array in layer.x, layer.packed, layer.bias, layer.w:
        array.setflags(write=False)
    pn.linear_int8(layer.x, layer.packed, layer.bias, pn.NONE, None, None, layer.out)
    same_bits(layer.out, layer.wanted())
    pn.linear_f32(layer.x, layer.w, layer.bias, pn.NONE, layer.out)


# ---- errors


def linear(layer, **changed):
    arguments = {
        "x": layer.x,
        "packed": layer.packed,
        "bias": layer.bias,
        "activation": pn.NONE,
        "x_qparams": None,
        "y_qparams": None,
        "out": layer.out,
        "ith": 0,
        "nth": 1,
    }
    pn.linear_int8(*{**arguments, **changed}.values())


def misaligned(array):
    buffer = np.zeros(array.nbytes + 1, np.uint8)
    return buffer[1:].view(array.dtype).reshape(array.shape)


def unaligned_packed(layer):
    buffer = np.zeros(layer.packed.size + 64, np.uint8)
    skip = -buffer.ctypes.data % 64 + 8
    return buffer[skip:][: layer.packed.size - 64]


SHAPES = "the shapes of x, the weight and out do not fit"
VALUE_ERRORS = {
    "x too short": (lambda a: {"x": a.x[:, :5]}, SHAPES),
    "x too long": (lambda a: {"x": np.ones((7, 34), f32)}, SHAPES),
    "out too low": (lambda a: {"out": a.out[:6]}, SHAPES),
    "out too narrow": (lambda a: {"out": a.out[:, :39]}, SHAPES),
    "bias": (lambda a: {"bias": a.bias[:39]}, "bias has another length"),
    "x by columns": (lambda a: {"x": np.asfortranarray(a.x)}, "rows of x or out are not contiguous"),
    "out by columns": (lambda a: {"out": np.asfortranarray(a.out)}, "rows of x or out are not contiguous"),
    "x broadcast": (lambda a: {"x": np.broadcast_to(a.x[0], a.x.shape)}, "overlap"),
    "x backwards": (lambda a: {"x": a.x[::-1]}, "backwards"),
    "out overlaps": (lambda a: {"x": a.out[:, :33], "out": a.out}, "y overlaps x"),
    "nan": (lambda a: {"x": a.x * f32("nan")}, "x holds NaN or infinity in row 0"),
    "x misaligned": (lambda a: {"x": misaligned(a.x)}, "x, y or bias is not aligned"),
    "truncated": (lambda a: {"packed": a.packed[:640]}, "packed has .* bytes, its header wants"),
    "short": (lambda a: {"packed": a.packed[:8]}, "packed has 8 bytes, a header alone has 64"),
    "empty": (lambda a: {"packed": a.packed[:0]}, "packed"),
    "not packed": (lambda a: {"packed": np.zeros_like(a.packed)}, "packed "),
    "packed unaligned": (lambda a: {"packed": unaligned_packed(a)}, "packed is not aligned to 64 bytes"),
    "ith": (lambda a: {"ith": 2, "nth": 2}, "ith is 2 of nth 2"),
    "ith negative": (lambda a: {"ith": -1}, "ith is -1 of nth 1"),
    "nth": (lambda a: {"nth": 0}, "ith is 0 of nth 0"),
    "x scale": (lambda a: {"x_qparams": (0.0, 0)}, "scale of x_qparams or y_qparams is not positive"),
    "x scale in float32": (lambda a: {"x_qparams": (1e-60, 0)}, "scale of x_qparams or y_qparams is not positive"),
    "x scale nan": (lambda a: {"x_qparams": (float("nan"), 0)}, "scale of x_qparams or y_qparams is not positive"),
    "x scale infinite": (lambda a: {"x_qparams": (1e60, 0)}, "x_scale is inf"),
    "x zero point": (lambda a: {"x_qparams": (1.0, 256)}, "x_zero_point is 256, wanted 0 to 255"),
    "no x_qparams": (lambda a: {"x": a.x.astype(np.uint8)}, "x_scale is 0"),
    "no y_qparams": (lambda a: {"x_qparams": (1.0, 0), "out": np.empty(a.out.shape, np.uint8)}, "y_scale is 0"),
    "y_qparams": (lambda a: {"y_qparams": (1.0, 0)}, "y_qparams go with out of uint8 or int8"),
    "activation": (lambda a: {"activation": (9, 0.0, 0.0)}, "activation is 9"),
    "clamp": (lambda a: {"activation": pn.clamp(2.0, 1.0)}, "low"),
}


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("name", VALUE_ERRORS)
def test_value_errors(layer, name):
    change, message = VALUE_ERRORS[name]
    linear(layer)
    with pytest.raises(ValueError, match=message):
        linear(layer, **change(layer))


@pytest.mark.parametrize(
    "change", [{"x_qparams": (1.0, 2**32)}, {"ith": 2**32}, {"nth": 2**32 + 1}, {"x_qparams": (1.0, -(2**40))}]
)
def test_numbers_beyond_int32(layer, change):
    with pytest.raises(OverflowError, match="does not fit int32"):
        linear(layer, **change)


def test_k_that_could_overflow():
    with pytest.raises(OverflowError, match="k is 65794"):
        pn.pack_int8(np.zeros((1, 65794), np.int8), np.ones(1, f32))
    packed = pn.pack_int8(np.zeros((1, 33026), np.uint8), np.ones(1, f32))
    with pytest.raises(OverflowError, match="k is 33026"):
        pn.gemm_int8(np.zeros((1, 33026), np.uint8), packed, None, None, np.empty((1, 1), np.int32))


TYPING_ERRORS = {
    "x dtype": (lambda a: {"x": a.x.astype(float)}, "x is array.*float64.* wanted a 2-D array of float32 or uint8"),
    "x ndim": (lambda a: {"x": a.x[0]}, "x is array.*1d.* wanted a 2-D array"),
    "x list": (lambda a: {"x": 1.0}, "x is float64, wanted a 2-D array|Unknown attribute"),
    "bias dtype": (lambda a: {"bias": a.bias.astype(np.int32)}, "bias is array.*int32"),
    "bias strided": (lambda a: {"bias": np.ones(80, f32)[::2]}, "bias is array.* wanted a C-contiguous array"),
    "packed dtype": (
        lambda a: {"packed": a.packed.view(np.int8)},
        "packed is array.*int8.* wanted a 1-D array of uint8",
    ),
    "packed strided": (lambda a: {"packed": a.packed[::2]}, "packed is array.* wanted a C-contiguous array"),
    "out dtype": (lambda a: {"out": np.empty(a.out.shape, np.int32)}, "out is array.*int32"),
    "out read-only": (
        lambda a: {"out": np.broadcast_to(f32(0), a.out.shape)},
        "out is .* wanted an aligned and writable",
    ),
}


@pytest.mark.parametrize("name", TYPING_ERRORS)
def test_typing_errors(layer, name):
    change, message = TYPING_ERRORS[name]
    with pytest.raises(numba.TypingError, match=message):
        linear(layer, **change(layer))


def test_errors_of_the_other_functions(rng, layer):
    x3, u3 = np.ones((2, 3, 4), f32), np.ones((2, 3, 4), np.uint8)
    scale, zero_point = np.ones(3, f32), np.zeros(3, np.int32)
    with pytest.raises(ValueError, match="out has another shape"):
        pn.quantize_linear(x3, scale, zero_point, u3[:1])
    with pytest.raises(ValueError, match="out has another shape"):
        pn.dequantize_linear(u3, scale, zero_point, x3[:1])
    for short in (scale[:2], zero_point), (scale, zero_point[:2]):
        with pytest.raises(ValueError, match="another length than x has channels"):
            pn.quantize_linear(x3, *short, u3)
        with pytest.raises(ValueError, match="another length than x has channels"):
            pn.dequantize_linear(u3, *short, x3)
    with pytest.raises(ValueError, match=r"scale\[0\] is 0"):
        pn.quantize_linear(x3, scale * 0, zero_point, u3)
    with pytest.raises(ValueError, match="x holds NaN"):
        pn.quantize_linear(x3 * f32("nan"), scale, zero_point, u3)
    with pytest.raises(ValueError, match="out has another shape"):
        pn.dynamic_quantize_linear(x3.ravel(), u3.ravel()[1:])
    with pytest.raises(ValueError, match="x holds NaN or infinity"):
        pn.dynamic_quantize_linear(x3.ravel() * f32("inf"), u3.ravel())

    m = len(layer.x)
    rows = np.empty(layer.x.shape, np.uint8), np.empty(m, f32), np.empty(m, np.int32)
    for i in range(3):
        with pytest.raises(ValueError, match="out has another shape than x, or"):
            pn.quantize_rows(layer.x, *(a[1:] if i == j else a for j, a in enumerate(rows)))

    with pytest.raises(ValueError, match="scale has another length"):
        pn.pack_int8(layer.q, layer.scale[1:])
    with pytest.raises(ValueError, match=r"scale\[0\] is -"):
        pn.pack_int8(layer.q, -layer.scale)

    xq, sums = random_bytes(rng, "uint8", *layer.x.shape), np.empty(layer.out.shape, np.int32)
    zx, zw = np.zeros(sums.shape[0], np.int32), np.zeros(sums.shape[1], np.int32)
    with pytest.raises(ValueError, match="x_zero_point has another length"):
        pn.gemm_int8(xq, layer.packed, zx[1:], zw, sums)
    with pytest.raises(ValueError, match="w_zero_point has another length"):
        pn.gemm_int8(xq, layer.packed, zx, zw[1:], sums)
    with pytest.raises(ValueError, match=r"x_zero_points\[0\] is 256"):
        pn.gemm_int8(xq, layer.packed, zx + np.int32(256), None, sums)

    for x, w, out in (
        (layer.x[:, 1:], layer.w, layer.out),
        (layer.x, layer.w[1:], layer.out),
        (layer.x, layer.w, layer.out[:, 1:]),
    ):
        with pytest.raises(ValueError, match="the shapes of x, the weight and out do not fit"):
            pn.linear_f32(x, w, None, pn.NONE, out)
    for w in layer.w[::-1], np.broadcast_to(f32(1), layer.w.shape):
        with pytest.raises(ValueError, match="w has strides that are not positive"):
            pn.linear_f32(layer.x, w, None, pn.NONE, layer.out)
    with pytest.raises(ValueError, match="bias has another length"):
        pn.linear_f32(layer.x, layer.w, layer.bias[1:], pn.NONE, layer.out)


# ---- the other kinds of weight

compares_floats = pytest.mark.skipif(
    pc.cpu_info()["backend"] != "native", reason="the Numba backend's float32 sums have no fused multiply-add"
)


@compares_floats
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_packed_float_weights(layer, dtype):
    w = layer.w.astype(dtype)
    packed = pn.pack_f32(w) if dtype == "float32" else pn.pack_f16(w.view(np.uint16))
    pn.linear_packed_f32(layer.x, packed, layer.bias, pn.SILU, layer.out)
    same_bits(layer.out, pc.linear(layer.x, layer.w.astype(dtype).astype(f32), layer.bias, activation="silu"))
    with pytest.raises(ValueError, match=r"packed w is \[40, 33\], wanted \[39, 33\]"):
        pn.linear_packed_f32(layer.x, packed, None, pn.NONE, layer.out[:, 1:])
    for size in 0, 63:
        with pytest.raises(ValueError, match="packed"):
            pn.linear_packed_f32(layer.x, np.zeros(size, np.uint8), None, pn.NONE, layer.out)


@compares_floats
@pytest.mark.parametrize("block", [(1, 1), (4, 1)])
@pytest.mark.parametrize("bits", [32, 8])
def test_linear_sparse(layer, bits, block):
    w = layer.w * (np.abs(layer.w) > 1)
    weight = pc.CSRWeight.from_dense(w, bits=bits) if block == (1, 1) else pc.BSRWeight.from_dense(w, block, bits=bits)
    data = weight.data.reshape(-1, *block)
    packed = pn.pack_sparse(data, weight.indices, weight.indptr, weight.scale, *weight.shape)
    pn.linear_sparse(layer.x, packed, layer.bias, pn.RELU, None, None, layer.out)
    same_bits(layer.out, pc.linear(layer.x, weight, layer.bias, activation="relu"))
    bad = weight.indices.copy()
    bad[0] = 1000
    with pytest.raises(ValueError, match=r"indices"):
        pn.pack_sparse(data, bad, weight.indptr, weight.scale, *weight.shape)
    with pytest.raises(ValueError, match="the lengths of data, indices and indptr do not fit n"):
        pn.pack_sparse(data, weight.indices, weight.indptr[1:], weight.scale, *weight.shape)


@compares_floats
@pytest.mark.parametrize(("bits", "quantized"), [(32, False), (8, False), (8, True)])
def test_depthwise_conv2d(rng, bits, quantized):
    w = rng.standard_normal((5, 1, 3, 3), f32)
    weight = pc.DepthwiseWeight.from_float(w, bits=bits)
    q, scale = (weight.q, weight.scale) if bits == 8 else (w, None)
    packed = pn.pack_depthwise(np.ascontiguousarray(q.reshape(5, 3, 3)), scale)
    x = rng.standard_normal((2, 6, 7, 5), f32) if not quantized else random_bytes(rng, "uint8", 2, 6, 7, 5)
    x_qparams, y_qparams = ((0.05, 100) if bits == 8 else None), ((0.1, 3) if quantized else None)
    wanted = pc.depthwise_conv2d(
        x,
        weight,
        stride=2,
        padding=(1, 0, 0, 1),
        activation="relu6",
        x_qparams=x_qparams and pc.QParams(*x_qparams),
        y_qparams=y_qparams and pc.QParams(*y_qparams),
    )
    out = np.empty_like(wanted)
    args = (x, packed, None, (2, 2), (1, 0, 0, 1), (1, 1), pn.RELU6, x_qparams, y_qparams)
    pn.depthwise_conv2d(*args, out)
    same_bits(out, wanted)
    with pytest.raises(ValueError, match="out has another shape than the result"):
        pn.depthwise_conv2d(*args, out[:1])
    with pytest.raises(ValueError, match="stride or dilation is less than 1"):
        pn.depthwise_conv2d(*args[:3], (0, 1), *args[4:], out)


def test_numba_is_imported_by_this_module_only():
    code = "import sys, pycompress.capi; pycompress.capi.lib.pc_version(); assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
