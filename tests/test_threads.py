"""Threads of a call, calls from several threads, and fork."""

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from reference import f32, python, random_bytes, same_bits

import pycompress as pc

COUNT = "import pycompress as pc; print(pc.get_num_threads())"


class Layer:
    """Worth several threads in each of its forms."""

    def __init__(self, rng, m=128, n=256, k=384):
        self.w, self.bias = rng.standard_normal((n, k), f32), rng.standard_normal(n).astype(f32)
        self.x, self.q = rng.standard_normal((m, k), f32), random_bytes(rng, np.uint8, m, k)
        self.weight = pc.Int8Weight.from_float(self.w)

    def run(self, **arguments):
        qparams = {"x_qparams": (0.02, 120)}
        yield pc.linear(self.x, self.w, self.bias, activation="gelu", **arguments)
        yield pc.linear(self.x, self.weight, self.bias, activation="relu", **arguments)
        yield pc.linear(self.q, self.weight, self.bias, **qparams, **arguments)
        yield pc.linear(self.q, self.weight, self.bias, y_qparams=(0.5, 9), **qparams, **arguments)


@pytest.fixture
def layer(rng):
    return Layer(rng)


def same_results(got, wanted):
    for one, other in zip(got, wanted, strict=True):
        same_bits(one, other)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 4096])
def test_num_threads_changes_no_bit(way, layer, n):
    wanted = list(layer.run(num_threads=1))
    same_results(layer.run(num_threads=n), wanted)
    same_results(layer.run(num_threads=np.int64(n)), wanted)


@pytest.mark.parametrize(("m", "n"), [(1, 4099), (2, 2048), (4099, 1), (13, 1030)])
def test_flat_products_are_split_along_the_other_side(way, rng, m, n):
    k = 1024
    w, x = rng.standard_normal((n, k), f32), rng.standard_normal((m, k), f32)
    for weight in (w, pc.Int8Weight.from_float(w)):
        same_bits(pc.linear(x, weight, num_threads=3), pc.linear(x, weight, num_threads=1))


def test_set_num_threads():
    default = pc.get_num_threads()
    try:
        for n in (1, 3, np.int32(7), 4096):
            pc.set_num_threads(n)
            assert pc.get_num_threads() == n
            assert type(pc.get_num_threads()) is int
    finally:
        pc.set_num_threads(None)
    assert pc.get_num_threads() == default


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"PYCOMPRESS_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": "5,2"}, 5),
        ({"PYCOMPRESS_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"PYCOMPRESS_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, 5),
        ({"PYCOMPRESS_NUM_THREADS": "many", "OMP_NUM_THREADS": "5"}, 5),
        ({"PYCOMPRESS_NUM_THREADS": "0", "OMP_NUM_THREADS": "5"}, 5),
        ({"PYCOMPRESS_NUM_THREADS": "-2", "OMP_NUM_THREADS": "5"}, 5),
        ({"PYCOMPRESS_NUM_THREADS": "4097", "OMP_NUM_THREADS": "5"}, 5),
    ],
    ids=str,
)
def test_environment_sets_the_default(environment, wanted):
    assert int(python(COUNT, **backend(), **environment)) == wanted


def backend():
    return {"PYCOMPRESS_BACKEND": pc.cpu_info()["backend"]}


def test_default_is_the_cpus_of_this_process():
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("there is no affinity here")
    assert 1 <= int(python(COUNT, **backend())) <= len(os.sched_getaffinity(0))
    cpu = min(os.sched_getaffinity(0))
    assert int(python(f"import os; os.sched_setaffinity(0, [{cpu}]); {COUNT}", **backend())) == 1


def test_environment_is_asked_again_for_the_default():
    code = "import pycompress as pc; pc.set_num_threads(9); pc.set_num_threads(None); print(pc.get_num_threads())"
    assert int(python(code, PYCOMPRESS_NUM_THREADS="3", **backend())) == 3


# ---- calls at the same time


def test_calls_from_several_threads(way, layer):
    """On one weight that nobody has packed yet, with a pool that only one of them gets."""
    wanted = list(Layer(np.random.default_rng(0)).run(num_threads=1))
    barrier = threading.Barrier(6)

    def call(_):
        barrier.wait(timeout=60)
        return [list(layer.run(num_threads=2)) for _ in range(5)]

    with ThreadPoolExecutor(6) as pool:
        for results in pool.map(call, range(6)):
            for result in results:
                same_results(result, wanted)


def test_small_calls_from_several_threads(rng):
    w, x = rng.standard_normal((33, 65), f32), rng.standard_normal((64, 65), f32)
    weight = pc.Int8Weight.from_float(w)
    wanted = pc.linear(x, weight)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            rows = list(pool.map(lambda i: pc.linear(x[i % 64], weight), range(2000)))
    finally:
        sys.setswitchinterval(interval)
    for i, row in enumerate(rows):
        same_bits(row, wanted[i % 64])


def test_errors_in_one_thread_leave_the_others_alone(layer):
    wanted = list(layer.run(num_threads=1))
    bad = layer.x.copy()
    bad[77, 5] = np.nan

    def call(i):
        if i % 2:
            with pytest.raises(ValueError, match=r"^x .*NaN"):
                pc.linear(bad, layer.weight, num_threads=2)
        else:
            same_results(layer.run(num_threads=2), wanted)
        return i

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(call, range(20))) == list(range(20))


# ---- fork


def in_child(body):
    """Exit status of a forked child that runs body(); a hang ends it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(120)
            body()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
# Python warns of what these tests show to be safe.
fork_warns = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@needs_fork
@fork_warns
def test_fork_after_the_threads_were_used(layer):
    wanted = list(layer.run(num_threads=2))

    def child():
        for n in (1, 2, 3):
            same_results(layer.run(num_threads=n), wanted)

        def grandchild():
            same_results(layer.run(num_threads=2), wanted)

        assert in_child(grandchild) == 0

    for _ in range(3):
        assert in_child(child) == 0
        same_results(layer.run(num_threads=2), wanted)


@needs_fork
@fork_warns
def test_fork_while_another_thread_computes(layer):
    wanted = list(layer.run(num_threads=2))
    stop, started = threading.Event(), threading.Event()

    def work():
        while not stop.is_set():
            list(layer.run(num_threads=2))
            started.set()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        assert started.wait(timeout=60)
        for _ in range(10):
            assert in_child(lambda: same_results(layer.run(num_threads=2), wanted)) == 0
    finally:
        stop.set()
        worker.join()


@needs_fork
@fork_warns
def test_failure_in_a_child_is_seen(layer):
    """That the tests above can fail."""

    def child():
        os.close(2)
        raise AssertionError

    assert in_child(child) == 1
