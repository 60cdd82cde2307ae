"""A fixed set of calls whose results have the same bits everywhere, and a digest of them.

For comparing processes: `import battery; print(battery.digest())`, with this directory on the path. The float32 weight,
which may differ between instruction sets, is not part of it.
"""

import hashlib
import itertools

import numpy as np

import pycompress as pc

f32 = np.float32
EIGHT_BITS = [np.uint8, np.int8]
ACTIVATIONS = [None, "relu", "relu6", "hardswish", "silu", "gelu", (-0.75, 1.25)]
# m, n, k; the last two are worth several threads.
SHAPES = [(1, 1, 1), (3, 17, 33), (13, 70, 130), (1, 515, 260), (260, 200, 384), (16, 1030, 1024)]


def random_bytes(rng, dtype, *shape):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


def results():
    rng = np.random.default_rng(1)
    for shape in ((1,), (3, 33), (2, 5, 70), (600, 700)):
        x = (rng.standard_normal(shape) * 9).astype(f32)
        channels = shape[-1]
        yield from pc.dynamic_quantize_linear(x)
        for dtype in EIGHT_BITS:
            scale, zero_point = rng.uniform(0.01, 0.1, channels).astype(f32), random_bytes(rng, dtype, channels)
            q = pc.quantize_linear(x, scale, zero_point, axis=-1)
            yield q
            yield pc.dequantize_linear(q, scale, zero_point, axis=-1)
            yield pc.quantize_linear(x, scale[0], zero_point[0])

    for (m, n, k), x_type, w_type in itertools.product(SHAPES, EIGHT_BITS, EIGHT_BITS):
        a, b = random_bytes(rng, x_type, m, k), random_bytes(rng, w_type, k, n)
        za, zb = random_bytes(rng, x_type, m), random_bytes(rng, w_type, n)
        yield pc.matmul_integer(a, b)
        yield pc.matmul_integer(a, b, za, zb)
        scales = rng.uniform(0.01, 0.02, n).astype(f32)
        yield pc.qlinear_matmul(a, 0.02, za[:1], b, scales, zb, 0.9, x_type(9))

    for m, n, k in SHAPES:
        weight = pc.Int8Weight.from_float(rng.standard_normal((n, k)).astype(f32))
        bias, x = rng.standard_normal(n).astype(f32), rng.standard_normal((m, k)).astype(f32)
        for activation in ACTIVATIONS:
            yield pc.linear(x, weight, bias, activation=activation)
            yield pc.linear(x, weight, activation=activation, x_qparams=(0.02, 120))
            for x_type in EIGHT_BITS:
                q, x_qparams = random_bytes(rng, x_type, m, k), (0.02, int(random_bytes(rng, x_type)))
                yield pc.linear(q, weight, bias, activation=activation, x_qparams=x_qparams)
                for y_scale in (0.05, 2.0):
                    y_qparams = y_scale, int(random_bytes(rng, x_type))
                    yield pc.linear(q, weight, bias, activation=activation, x_qparams=x_qparams, y_qparams=y_qparams)


def digest():
    sha = hashlib.sha256()
    for result in map(np.asarray, results()):
        sha.update(f"{result.dtype} {result.shape}".encode())
        sha.update(result.tobytes())
    return sha.hexdigest()
