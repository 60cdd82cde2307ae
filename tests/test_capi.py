"""Every function of pycompress.h, called through cffi: statuses and messages, the four calls of each GEMM, parts on
threads, packed weights from a file; and the same bits as pycompress._native, which runs the same library."""

import mmap
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from reference import f32, random_bytes, same_bits

import pycompress as pc

capi = pytest.importorskip("pycompress.capi")
native = pytest.importorskip("pycompress._native", reason="the compiled part is not installed")
ffi, lib = capi.ffi, capi.lib

INFINITY = float("inf")
TYPES = {"float32": lib.PC_F32, "uint8": lib.PC_U8, "int8": lib.PC_S8, "int32": lib.PC_S32}
ACTIVATIONS = {
    "none": (lib.PC_ACTIVATION_NONE, 0.0, 0.0),
    "relu": (lib.PC_ACTIVATION_CLAMP, 0.0, INFINITY),
    "relu6": (lib.PC_ACTIVATION_CLAMP, 0.0, 6.0),
    "hardswish": (lib.PC_ACTIVATION_HARDSWISH, 0.0, 0.0),
    "silu": (lib.PC_ACTIVATION_SILU, 0.0, 0.0),
    "gelu": (lib.PC_ACTIVATION_GELU, 0.0, 0.0),
}
PARTS = [1, 2, 3, 7]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def isa():
    """A function that forces an instruction set; the one before is back after the test."""
    before = lib.pc_isa_active()
    yield lambda name: capi.check(lib.pc_set_isa(name.encode()))
    assert lib.pc_set_isa(lib.pc_isa_name(before)) == lib.PC_OK


def text(pointer):
    return ffi.string(pointer).decode()


def pointer(array, ctype="void *"):
    """The address of an array, or NULL for None. The caller keeps the array."""
    return ffi.NULL if array is None else ffi.cast(ctype, array.ctypes.data)


def aligned(size):
    memory = np.zeros(size + lib.PC_ALIGNMENT, np.uint8)
    skip = -memory.ctypes.data % lib.PC_ALIGNMENT
    return memory[skip : skip + size]


def on_threads(nth, call):
    """Call (ith, nth) for each ith, from threads that run at the same time."""
    barrier = threading.Barrier(nth)

    def part(ith):
        barrier.wait()
        capi.check(call(ith, nth))

    with ThreadPoolExecutor(nth) as pool:
        list(pool.map(part, reversed(range(nth))))


def describe(ctype, **fields):
    desc = ffi.new(f"{ctype} *", {"size": ffi.sizeof(ctype), **fields})
    assert desc.size > 0
    return desc


def activation_fields(activation):
    return dict(zip(("activation", "low", "high"), activation, strict=True))


# ---- the module itself


def test_every_function_of_the_header_is_called_here():
    header = Path(capi.get_include(), "pycompress.h").read_text()
    declared = set(re.findall(r"^PC_API\b[^;(]*?\b(pc_\w+)\(", header, re.MULTILINE))
    assert header.count("\nPC_API ") == len(declared)
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert declared == set(re.findall(r"\blib\.(pc_\w+)\(", tests))


def test_installed_header_is_the_one_of_the_sources():
    source = Path(__file__).parents[1] / "csrc" / "include" / "pycompress.h"
    if not source.exists():
        pytest.skip("the tests run without the sources")
    assert Path(capi.get_include(), "pycompress.h").read_text() == source.read_text()


def test_it_is_the_library_that_the_module_runs(isa):
    isa("scalar")
    assert native.active_isa() == "scalar"
    assert text(lib.pc_version()) == native.version()
    assert text(lib.pc_version()) == f"{lib.PC_VERSION_MAJOR}.{lib.PC_VERSION_MINOR}.{lib.PC_VERSION_PATCH}"


def test_ffi_and_lib_are_made_once():
    assert capi.ffi is ffi
    assert capi.lib is lib
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = capi.nothing


def test_import_error_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(capi, "prefix", lambda: str(tmp_path))
    with pytest.raises(ImportError, match=r"pycompress\.h .*is not in this installation"):
        capi._load_ffi.__wrapped__()
    with pytest.raises(ImportError, match=r"libpycompress\.so .*is not in this installation"):
        capi._load_lib.__wrapped__()


def test_import_error_without_the_compiled_part(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="without its compiled part"):
        capi.get_include()


# ---- statuses


def test_status_names():
    statuses = {name: getattr(lib, name) for name in dir(lib) if name.startswith("PC_ERROR_")}
    assert sorted(statuses.values()) == list(range(1, len(statuses) + 1))
    for name, status in statuses.items():
        assert text(lib.pc_status_name(status)) == name.removeprefix("PC_ERROR_").lower()
    assert text(lib.pc_status_name(lib.PC_OK)) == "ok"
    assert text(lib.pc_status_name(-1)) == text(lib.pc_status_name(1000)) == "unknown"


class Gemm:
    """A small call of pc_gemm_s8_run that is right, to be spoilt in one place."""

    def __init__(self):
        self.packed = pack_s8(np.ones((5, 9), np.int8), np.ones(5, np.float32))
        self.x = np.ones((3, 9), np.uint8)
        self.y = np.zeros((3, 5), np.int32)
        self.work = aligned(1 << 20)
        self.desc = describe("pc_gemm_s8_desc", m=3, n=5, k=9, x_type=lib.PC_U8, y_type=lib.PC_S32)
        self.size = None
        self.ith, self.nth = 0, 1

    def __call__(self):
        size = self.packed.size if self.size is None else self.size
        x, y, work = pointer(self.x), pointer(self.y), pointer(self.work)
        packed = pointer(self.packed)
        return lib.pc_gemm_s8_run(self.desc, packed, size, x, y, work, self.work.size, self.ith, self.nth)

    def set(self, **fields):
        for name, value in fields.items():
            setattr(self.desc, name, value)

    def nan(self):
        self.x = np.full((3, 9), np.nan, np.float32)
        self.y = np.zeros((3, 5), np.float32)
        self.set(x_type=lib.PC_F32, y_type=lib.PC_F32)

    def wide(self):
        k = 33026  # 33025 * 255 * 255 < 2^31
        self.packed = pack_s8(np.ones((5, k), np.uint8), np.ones(5, np.float32))
        self.set(k=k)

    def other_cpu(self):
        # A header that agrees with itself, but for panels of 5 outputs, which no kernel has.
        panel, group = self.packed[12:16].view(np.uint16)
        assert panel != 5
        self.packed[12:14].view(np.uint16)[:] = 5
        values = 5 * (-(-9 // int(group)) * int(group))
        self.packed[32:40].view(np.uint64)[:] = 64 + 64 + 64 + -(-values // 64) * 64


SPOILT = {
    "NULL": (lambda g: setattr(g, "desc", ffi.NULL), "desc is NULL", ValueError),
    "TYPE": (lambda g: g.set(x_type=lib.PC_S32), "x_type is 4", TypeError),
    "SHAPE": (lambda g: g.set(k=8), r"m, n, k are 3, 5, 8, .* 5, 9", ValueError),
    "VALUE": (lambda g: setattr(g, "nth", 0), "ith is 0 of nth 0", ValueError),
    "OVERFLOW": (Gemm.wide, "k is 33026", OverflowError),
    "ALIGNMENT": (lambda g: setattr(g, "work", g.work[1:]), "workspace is not aligned to 64", ValueError),
    "OVERLAP": (lambda g: setattr(g, "y", g.x), "y overlaps x", ValueError),
    "BUFFER": (lambda g: setattr(g, "work", g.work[:64]), "workspace has 64 bytes, wanted", ValueError),
    "FORMAT": (lambda g: g.packed.__setitem__(0, 0), "packed does not begin as", pc.FormatError),
    "ISA": (Gemm.other_cpu, "packed was made for another kind of CPU", ValueError),
    "STRUCT": (lambda g: g.set(size=8), "desc->size is 8, wanted", ValueError),
    "NONFINITE": (Gemm.nan, "x holds NaN or infinity in row 0", ValueError),
}


def test_every_status_is_provoked():
    assert {f"PC_ERROR_{name}" for name in SPOILT} == {name for name in dir(lib) if name.startswith("PC_ERROR_")}


@pytest.mark.parametrize("name", SPOILT)
def test_statuses_messages_and_exceptions(name):
    spoil, message, error = SPOILT[name]
    gemm = Gemm()
    capi.check(gemm())
    assert (gemm.y == 9).all()
    spoil(gemm)
    status = gemm()
    assert status == getattr(lib, f"PC_ERROR_{name}")
    assert re.search(message, text(lib.pc_last_error()))
    with pytest.raises(error, match=message):
        capi.check(status)
    # A call that goes well leaves the message.
    capi.check(Gemm()())
    assert re.search(message, text(lib.pc_last_error()))


def test_last_error_and_last_kernel_belong_to_the_thread():
    assert lib.pc_set_num_threads(-7) == lib.PC_ERROR_VALUE
    capi.check(Gemm()())
    kernel = text(lib.pc_last_kernel())
    assert kernel.startswith("gemm_s8")

    def other():
        seen = [text(lib.pc_last_error()), text(lib.pc_last_kernel())]
        assert lib.pc_set_num_threads(5000) == lib.PC_ERROR_VALUE
        return [*seen, text(lib.pc_last_error())]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(other).result() == ["", "", "num_threads is 5000, wanted 1 to 4096, or 0 for the default"]
    assert "-7" in text(lib.pc_last_error())
    assert text(lib.pc_last_kernel()) == kernel


# ---- the machine and the pool


def test_isas(isa):
    count = lib.pc_isa_count()
    isas = [{"name": text(lib.pc_isa_name(i)), "usable": lib.pc_isa_usable(i) != 0} for i in range(count)]
    assert isas == native.isas()
    assert isas[0] == {"name": "scalar", "usable": True}
    assert lib.pc_isa_name(-1) == lib.pc_isa_name(count) == ffi.NULL
    assert lib.pc_isa_usable(-1) == lib.pc_isa_usable(count) == 0
    for i, entry in enumerate(isas):
        if entry["usable"]:
            isa(entry["name"])
            assert lib.pc_isa_active() == i
            capi.check(Gemm()())
            assert re.fullmatch(r"gemm_s8(_split)?/\w+", text(lib.pc_last_kernel()))
        else:
            assert lib.pc_set_isa(entry["name"].encode()) == lib.PC_ERROR_ISA
            assert "this CPU can't run it" in text(lib.pc_last_error())
    assert lib.pc_set_isa(b"abacus") == lib.PC_ERROR_ISA
    assert "'abacus' is not in this build" in text(lib.pc_last_error())
    assert lib.pc_set_isa(ffi.NULL) == lib.PC_OK
    assert isas[lib.pc_isa_active()]["usable"]


def test_cpu_info():
    info = describe("pc_cpu_info")
    capi.check(lib.pc_get_cpu_info(info))
    assert text(info.name) == native.cpu_name()
    assert info.usable_cpus == native.usable_cpus() >= 1
    assert (info.l1d_bytes, info.l2_bytes, info.l3_bytes) == native.cache_sizes()
    info.size = 4
    assert lib.pc_get_cpu_info(info) == lib.PC_ERROR_STRUCT
    assert lib.pc_get_cpu_info(ffi.NULL) == lib.PC_ERROR_NULL


def test_pool():
    before = lib.pc_get_num_threads()
    assert before >= 1
    try:
        capi.check(lib.pc_set_num_threads(3))
        assert lib.pc_get_num_threads() == native.get_num_threads() == 3
        capi.check(lib.pc_set_num_threads(0))
        assert lib.pc_get_num_threads() >= 1
    finally:
        capi.check(lib.pc_set_num_threads(before))

    seen = []

    @ffi.callback("pc_status(void *, int32_t, int32_t)")
    def body(context, ith, nth):
        seen.append((ffi.from_handle(context), ith, nth))
        return lib.pc_set_num_threads(-ith) if ith == 2 else lib.PC_OK

    context = ffi.new_handle("context")
    assert lib.pc_parallel(body, context, 2) == lib.PC_OK
    assert sorted(seen) == [("context", ith, 2) for ith in range(2)]
    seen.clear()
    # The status of a part, and its message, from whichever thread.
    assert lib.pc_parallel(body, context, 4) == lib.PC_ERROR_VALUE
    assert "num_threads is -2" in text(lib.pc_last_error())
    assert sorted(seen) == [("context", ith, 4) for ith in range(4)]
    assert lib.pc_parallel(body, context, 0) == lib.PC_ERROR_VALUE
    assert lib.pc_parallel(ffi.NULL, ffi.NULL, 1) == lib.PC_ERROR_NULL


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_measure_peak(dtype):
    macs = ffi.new("double *")
    capi.check(lib.pc_measure_peak(TYPES[dtype], macs))
    assert macs[0] > 1e6
    assert lib.pc_measure_peak(lib.PC_S32, macs) == lib.PC_ERROR_TYPE


# ---- quantization


@pytest.mark.parametrize("nth", PARTS)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_quantize_linear(rng, dtype, nth):
    x = rng.standard_normal((2, 3, 101), np.float32)
    scale = rng.random(3, np.float32) + np.float32(0.01)
    zero_point = random_bytes(rng, dtype, 3).astype(np.int32)
    wanted, y = np.empty((2, 2, 3, 101), dtype)
    native.quantize_linear(x, scale, zero_point, wanted)
    desc = describe("pc_quant_desc", outer=2, channels=3, inner=101, q_type=TYPES[dtype])
    desc.scale, desc.zero_point = pointer(scale, "float *"), pointer(zero_point, "int32_t *")
    x_pointer, y_pointer = pointer(x, "float *"), pointer(y)
    on_threads(nth, lambda i, n: lib.pc_quantize_linear_run(desc, x_pointer, y_pointer, i, n))
    same_bits(y, wanted)


@pytest.mark.parametrize("nth", PARTS)
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
def test_dequantize_linear(rng, dtype, nth):
    x = random_bytes(rng, dtype, 2, 3, 101)
    scale = rng.random(3, np.float32) + np.float32(0.01)
    wanted, y = np.empty((2, 2, 3, 101), np.float32)
    native.dequantize_linear(x, scale, np.zeros(3, np.int32), wanted)
    # Without zero points: NULL.
    desc = describe("pc_quant_desc", outer=2, channels=3, inner=101, q_type=TYPES[dtype])
    desc.scale = pointer(scale, "float *")
    x_pointer, y_pointer = pointer(x), pointer(y, "float *")
    on_threads(nth, lambda i, n: lib.pc_dequantize_linear_run(desc, x_pointer, y_pointer, i, n))
    same_bits(y, wanted)


@pytest.mark.parametrize("nth", PARTS)
def test_dynamic_quantization(rng, nth):
    x = rng.standard_normal(1001, np.float32)
    scale, zero_point = native.dynamic_quantize_linear(x, np.empty(1001, np.uint8))
    limits = np.full((nth, 2), np.nan, np.float32)
    x_pointer, range_pointer = pointer(x, "float *"), pointer(limits, "float *")
    on_threads(nth, lambda i, n: lib.pc_range_run(x_pointer, x.size, range_pointer, i, n))
    assert (limits[:, 0].min(), limits[:, 1].max()) == (x.min(), x.max())
    got_scale, got_zero_point = ffi.new("float *"), ffi.new("int32_t *")
    capi.check(lib.pc_dynamic_qparams(range_pointer, nth, got_scale, got_zero_point))
    assert (got_scale[0], got_zero_point[0]) == (scale, zero_point)


@pytest.mark.parametrize("nth", PARTS)
def test_quantize_rows(rng, nth):
    m, k = 9, 77
    x = rng.standard_normal((m, k + 4), np.float32)  # rows are longer than k
    wanted = np.empty((m, k), np.uint8), np.empty(m, np.float32), np.empty(m, np.int32)
    native.quantize_rows(np.ascontiguousarray(x[:, :k]), *wanted)
    y, scale, zero_point = np.full((m, k + 6), 99, np.uint8), np.empty(m, np.float32), np.empty(m, np.int32)
    x_pointer, y_pointer = pointer(x, "float *"), pointer(y, "uint8_t *")
    s, z = pointer(scale, "float *"), pointer(zero_point, "int32_t *")
    on_threads(nth, lambda i, n: lib.pc_quantize_rows_run(x_pointer, m, k, k + 4, y_pointer, k + 6, s, z, i, n))
    for a, b in zip((np.ascontiguousarray(y[:, :k]), scale, zero_point), wanted, strict=True):
        same_bits(a, b)
    assert (y[:, k:] == 99).all()


# ---- gemm_s8


def pack_s8(q, scale):
    n, k = q.shape
    size = ffi.new("size_t *")
    capi.check(lib.pc_gemm_s8_pack_size(n, k, size))
    packed = aligned(size[0])
    w, s, p = pointer(q), pointer(scale, "float *"), pointer(packed)
    capi.check(lib.pc_gemm_s8_pack(w, TYPES[q.dtype.name], n, k, *q.strides, s, p, packed.size))
    return packed


def run_s8(desc, packed, x, y, nth=1):
    size = ffi.new("size_t *")
    p = pointer(packed)
    capi.check(lib.pc_gemm_s8_workspace_size(desc, p, packed.size, nth, size))
    work = aligned(size[0])
    x_pointer, y_pointer, w = pointer(x), pointer(y), pointer(work)
    on_threads(nth, lambda i, n: lib.pc_gemm_s8_run(desc, p, packed.size, x_pointer, y_pointer, w, work.size, i, n))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_pack_s8(rng, dtype, transposed):
    q = random_bytes(rng, dtype, 37, 29).T if transposed else random_bytes(rng, dtype, 29, 37)
    scale = rng.random(29, np.float32) + np.float32(0.01)
    packed = pack_s8(q, scale)
    handle = native.pack_int8(q, scale)
    assert packed.tobytes() == handle.tobytes()
    n, k, kernel = ffi.new("int64_t *"), ffi.new("int64_t *"), ffi.new("const char **")
    capi.check(lib.pc_gemm_s8_packed_info(pointer(packed), packed.size, n, k, kernel))
    assert (n[0], k[0], text(kernel[0])) == (29, 37, handle.kernel)
    capi.check(lib.pc_gemm_s8_packed_info(pointer(packed), packed.size, ffi.NULL, ffi.NULL, ffi.NULL))


@pytest.mark.parametrize("nth", PARTS)
@pytest.mark.parametrize("w_dtype", ["int8", "uint8"])
@pytest.mark.parametrize("x_dtype", ["uint8", "int8"])
def test_gemm_s8_int32(rng, x_dtype, w_dtype, nth):
    m, n, k = 23, 70, 131
    x, q = random_bytes(rng, x_dtype, m, k), random_bytes(rng, w_dtype, n, k)
    zx, zw = random_bytes(rng, x_dtype, m).astype(np.int32), random_bytes(rng, w_dtype, n).astype(np.int32)
    desc = describe("pc_gemm_s8_desc", m=m, n=n, k=k, x_type=TYPES[x_dtype], y_type=lib.PC_S32)
    desc.x_zero_points, desc.w_zero_points = pointer(zx, "int32_t *"), pointer(zw, "int32_t *")
    y, ones = np.empty((m, n), np.int32), np.ones(n, np.float32)
    run_s8(desc, pack_s8(q, ones), x, y, nth)
    np.testing.assert_array_equal(y, (x.astype(np.int64) - zx[:, None]) @ (q.astype(np.int64) - zw[:, None]).T)
    wanted = np.empty_like(y)
    native.gemm_int8(x, native.pack_int8(q, ones), zx, zw, wanted, 1)
    same_bits(y, wanted)


@pytest.mark.parametrize("nth", [1, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("x_dtype", ["float32", "uint8", "int8"])
@pytest.mark.parametrize("y_dtype", ["float32", "uint8", "int8"])
def test_gemm_s8_last_steps(rng, x_dtype, y_dtype, activation, nth):
    m, n, k = 13, 37, 65
    x = rng.standard_normal((m, k), np.float32) if x_dtype == "float32" else random_bytes(rng, x_dtype, m, k)
    q = rng.integers(-127, 127, (n, k), np.int8, endpoint=True)
    scale, bias = rng.random(n, np.float32) / 99 + np.float32(1e-4), rng.standard_normal(n, np.float32)
    x_qparams = None if (x_dtype, y_dtype) == ("float32", "float32") else (0.03, 11)
    y_qparams = None if y_dtype == "float32" else (0.05, -3 if y_dtype == "int8" else 90)

    wanted, y = np.empty((2, m, n), y_dtype)
    code = ACTIVATIONS[activation]
    native.linear(x, native.pack_int8(q, scale), bias, code, x_qparams, y_qparams, wanted, 1)

    fields = activation_fields(code)
    for side, qparams in ("x", x_qparams), ("y", y_qparams):
        if qparams:
            fields[f"{side}_scale"], fields[f"{side}_zero_point"] = qparams
    desc = describe("pc_gemm_s8_desc", m=m, n=n, k=k, x_type=TYPES[x_dtype], y_type=TYPES[y_dtype], **fields)
    desc.bias = pointer(bias, "float *")
    run_s8(desc, pack_s8(q, scale), x, y, nth)
    same_bits(y, wanted)


def test_parts_in_any_order_on_one_thread(rng):
    m, n, k, nth = 50, 90, 64, 6
    x, q = random_bytes(rng, "uint8", m, k), random_bytes(rng, "int8", n, k)
    packed = pack_s8(q, None)
    desc = describe("pc_gemm_s8_desc", m=m, n=n, k=k, x_type=lib.PC_U8, y_type=lib.PC_S32)
    size = ffi.new("size_t *")
    capi.check(lib.pc_gemm_s8_workspace_size(desc, pointer(packed), packed.size, nth, size))
    work, y = aligned(size[0]), np.full((m, n), -1, np.int32)
    for ith in rng.permutation(nth):
        capi.check(
            lib.pc_gemm_s8_run(
                desc, pointer(packed), packed.size, pointer(x), pointer(y), pointer(work), work.size, int(ith), nth
            )
        )
    np.testing.assert_array_equal(y, x.astype(np.int64) @ q.astype(np.int64).T)


def test_packed_weight_from_a_file(rng, tmp_path):
    m, n, k = 11, 40, 72
    x, q = random_bytes(rng, "uint8", m, k), random_bytes(rng, "int8", n, k)
    path = tmp_path / "weight"
    path.write_bytes(pack_s8(q, np.ones(n, np.float32)).tobytes())
    desc = describe("pc_gemm_s8_desc", m=m, n=n, k=k, x_type=lib.PC_U8, y_type=lib.PC_S32)
    y = np.empty((m, n), np.int32)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        packed = np.frombuffer(mapped, np.uint8)
        run_s8(desc, packed, x, y, 2)
        del packed  # or the mapping can't be closed
    np.testing.assert_array_equal(y, x.astype(np.int64) @ q.astype(np.int64).T)


# ---- gemm_f32


@pytest.mark.parametrize("nth", PARTS)
@pytest.mark.parametrize("activation", ["none", "relu6", "gelu"])
@pytest.mark.parametrize("transposed", [False, True])
def test_gemm_f32(rng, transposed, activation, nth):
    m, n, k = 21, 60, 150
    x, bias = rng.standard_normal((m, k), np.float32), rng.standard_normal(n, np.float32)
    w = rng.standard_normal((k, n), np.float32).T if transposed else rng.standard_normal((n, k), np.float32)
    code = ACTIVATIONS[activation]
    wanted = np.empty((m, n), np.float32)
    native.linear_f32(x, w, bias, code, wanted, 1)

    ldn, ldk = (stride // 4 for stride in w.strides)
    desc = describe("pc_gemm_f32_desc", m=m, n=n, k=k, ldn=ldn, ldk=ldk, **activation_fields(code))
    desc.bias = pointer(bias, "float *")
    size = ffi.new("size_t *")
    capi.check(lib.pc_gemm_f32_pack_size(n, k, size))
    packed = aligned(size[0])
    capi.check(lib.pc_gemm_f32_pack(pointer(w, "float *"), n, k, ldn, ldk, pointer(packed), packed.size))
    capi.check(lib.pc_gemm_f32_workspace_size(desc, nth, size))
    work = aligned(size[0])
    x_pointer, work_pointer = pointer(x, "float *"), pointer(work)
    for weight, weight_bytes in (w, 0), (packed, packed.size):
        y = np.full((m, n), np.nan, np.float32)
        y_pointer, w_pointer = pointer(y, "float *"), pointer(weight)

        def part(ith, nth, y_pointer=y_pointer, w_pointer=w_pointer, weight_bytes=weight_bytes):
            return lib.pc_gemm_f32_run(
                desc, w_pointer, weight_bytes, x_pointer, y_pointer, work_pointer, work.size, ith, nth
            )

        on_threads(nth, part)
        same_bits(y, wanted)


@pytest.mark.parametrize("m", [1, 33])
def test_gemm_f16(rng, m):
    n, k, nth = 70, 51, 2
    x, w = rng.standard_normal((m, k)).astype(f32), rng.standard_normal((n, k)).astype(np.float16)
    desc, size, y = describe("pc_gemm_f32_desc", m=m, n=n, k=k), ffi.new("size_t *"), np.full((m, n), np.nan, f32)
    capi.check(lib.pc_gemm_f16_pack_size(n, k, size))
    packed = aligned(size[0])
    capi.check(lib.pc_gemm_f16_pack(pointer(w, "uint16_t *"), n, k, k, 1, pointer(packed), packed.size))
    capi.check(lib.pc_gemm_f32_workspace_size(desc, nth, size))
    work = aligned(size[0])
    x_at, y_at, w_at, work_at = pointer(x, "float *"), pointer(y, "float *"), pointer(packed), pointer(work)
    on_threads(
        nth, lambda ith, of: lib.pc_gemm_f32_run(desc, w_at, packed.size, x_at, y_at, work_at, work.size, ith, of)
    )
    same_bits(y, pc.linear(x, w.astype(f32)))


# ---- sparse


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bits", [32, 8])
def test_spmm(rng, bits, transposed):
    m, n, k, nth = 70, 60, 90, 2
    w = rng.standard_normal((n, k)).astype(f32) * (rng.random((n, k)) < 0.3)
    weight = pc.BSRWeight.from_dense(w, (4, 1), bits=bits)
    matrix = describe("pc_sparse_matrix", type=lib.PC_F32 if bits == 32 else lib.PC_S8, n=n, k=k, block_n=4, block_k=1)
    matrix.blocks, matrix.data = len(weight.data), pointer(weight.data)
    matrix.indices, matrix.indptr = pointer(weight.indices, "int32_t *"), pointer(weight.indptr, "int32_t *")
    matrix.scale = pointer(weight.scale, "float *")
    size = ffi.new("size_t *")
    capi.check(lib.pc_spmm_pack_size(matrix, size))
    packed = aligned(size[0])
    capi.check(lib.pc_spmm_pack(matrix, pointer(packed), packed.size))
    of_n, of_k, of_type, kernel = (ffi.new(f"{ctype} *") for ctype in ("int64_t", "int64_t", "pc_type", "char const *"))
    capi.check(lib.pc_spmm_packed_info(pointer(packed), packed.size, of_n, of_k, of_type, kernel))
    assert (of_n[0], of_k[0], of_type[0]) == (n, k, matrix.type)

    x = rng.standard_normal((m, k)).astype(f32)
    qparams = {} if bits == 32 else {"x_qparams": (0.02, 120)}
    wanted = pc.linear(x, weight, **qparams)
    desc = describe("pc_spmm_desc", m=m, n=n, k=k, x_type=lib.PC_F32, y_type=lib.PC_F32)
    desc.x_transposed = desc.y_transposed = transposed
    if bits == 8:
        desc.x_scale, desc.x_zero_point = qparams["x_qparams"]
    capi.check(lib.pc_spmm_workspace_size(desc, pointer(packed), packed.size, nth, size))
    work = aligned(size[0])
    x, y = np.ascontiguousarray(x.T if transposed else x), np.empty((n, m) if transposed else (m, n), f32)
    at = [pointer(a) for a in (packed, x, y, work)]
    on_threads(nth, lambda ith, of: lib.pc_spmm_run(desc, at[0], packed.size, at[1], at[2], at[3], work.size, ith, of))
    assert text(kernel[0]).startswith("sparse_")
    same_bits(y.T if transposed else y, wanted)


# ---- pool


def test_pool_and_add(rng):
    x = rng.integers(0, 256, (2, 9, 7, 70), np.uint8)
    wanted, y = pc.max_pool2d(x, 3, stride=2, padding=1), np.empty((2, 5, 4, 70), np.uint8)
    fields = dict.fromkeys(("kernel_height", "kernel_width"), 3) | dict.fromkeys(("stride_height", "stride_width"), 2)
    fields |= dict.fromkeys(("dilation_height", "dilation_width", "top", "left"), 1)
    desc = describe(
        "pc_pool_desc", batch=2, height=9, width=7, channels=70, out_height=5, out_width=4, mode=lib.PC_POOL_MAX,
        x_type=lib.PC_U8, y_type=lib.PC_U8, **fields,
    )  # fmt: skip
    on_threads(3, lambda ith, nth: lib.pc_pool_run(desc, pointer(x), pointer(y), ith, nth))
    assert np.array_equal(y, wanted)
    other = x[::-1].copy()
    total, scales = np.empty_like(x), {"a_scale": 0.5, "b_scale": 0.25, "y_scale": 1.0, "b_zero_point": 9}
    desc = describe("pc_add_desc", count=x.size, type=lib.PC_U8, y_type=lib.PC_U8, **scales)
    on_threads(2, lambda ith, nth: lib.pc_add_run(desc, pointer(x), pointer(other), pointer(total), ith, nth))
    assert np.array_equal(total, pc.add(x, other, a_qparams=(0.5, 0), b_qparams=(0.25, 9), y_qparams=(1.0, 0)))


# ---- gemm_s4


@pytest.mark.parametrize("nth", PARTS)
def test_gemm_s4(rng, nth):
    m, n, k, group = 9, 70, 77, 32
    weight = pc.Int4Weight.from_float(rng.standard_normal((n, k)).astype(f32), group)
    x, y = rng.standard_normal((m, k)).astype(f32), np.empty((m, n), f32)
    size = ffi.new("size_t *")
    capi.check(lib.pc_gemm_s4_pack_size(n, k, group, size))
    packed = aligned(size[0])
    p, w, s = pointer(packed), pointer(weight.data, "uint8_t *"), pointer(weight.scale, "float *")
    capi.check(lib.pc_gemm_s4_pack(w, n, k, 0, group, s, p, packed.size))
    assert packed.tobytes() == weight.packed().tobytes()
    got = [ffi.new("int64_t *") for _ in range(3)]
    capi.check(lib.pc_gemm_s4_packed_info(p, packed.size, *got, ffi.NULL))
    assert [value[0] for value in got] == [n, k, group]
    desc = describe("pc_gemm_s4_desc", m=m, n=n, k=k, x_type=lib.PC_F32, y_type=lib.PC_F32)
    capi.check(lib.pc_gemm_s4_workspace_size(desc, p, packed.size, nth, size))
    work = aligned(size[0])
    a, b, c = pointer(x), pointer(y), pointer(work)
    on_threads(nth, lambda i, of: lib.pc_gemm_s4_run(desc, p, packed.size, a, b, c, work.size, i, of))
    same_bits(y, pc.linear(x, weight))
