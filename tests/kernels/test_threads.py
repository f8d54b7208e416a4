"""Many threads and streams at once, forks, and the same numbers each time."""

import os
import subprocess
import sys
import threading

import mlx.core as mx
import numpy as np
from kernel_reference import numbers, random

from mlxlm.kernels import in_force, ops


def pipeline(seed: int):
    """A bit of every operation, big enough to be shared out over the pool."""
    rng = np.random.default_rng(seed)
    x, w = random(rng, (40, 256)), random(rng, (512, 256))
    one = x[:1]
    quantized = mx.quantize(w, 64, 4)
    y = ops.swiglu(ops.linear(x, w), ops.quantized_matmul(x, *quantized, group_size=64, bits=4))
    few = ops.quantized_matmul(one, *quantized, group_size=64, bits=4)
    heads = ops.rope(y.reshape(1, 40, 8, 64).swapaxes(1, 2), 64, traditional=False, base=1e4, scale=1.0, offset=3)
    seen = ops.attention(heads, heads, heads, scale=0.1, mask="causal")
    last = ops.attention(heads[:, :, -1:], heads, heads, scale=0.1)
    return [ops.rms_norm(y, None, 1e-5), few, seen, last]


def test_several_threads_and_streams_agree_with_one():
    wanted = [[numbers(a) for a in pipeline(seed)] for seed in range(4)]
    wrong = []

    def work(seed):
        with mx.stream(mx.new_stream(mx.cpu)):
            for _ in range(15):
                results = pipeline(seed)
                mx.eval(results)
                for got, want in zip(results, wanted[seed], strict=True):
                    if not np.array_equal(numbers(got), want):
                        wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_the_same_numbers_each_time():
    first = [numbers(a) for a in pipeline(0)]
    for _ in range(10):
        for got, want in zip(pipeline(0), first, strict=True):
            np.testing.assert_array_equal(numbers(got), want)


FORK = """
import os, sys
import numpy as np
import mlx.core as mx
sys.path[:0] = {paths!r}
from test_threads import pipeline
from kernel_reference import numbers
want = [numbers(a) for a in pipeline(0)]
child = os.fork()
if child == 0:
    with mx.stream(mx.new_stream(mx.cpu)):
        same = all(np.array_equal(numbers(a), b) for a, b in zip(pipeline(0), want))
    os._exit(0 if same else 3)
_, status = os.waitpid(child, 0)
again = all(np.array_equal(numbers(a), b) for a, b in zip(pipeline(0), want))
sys.exit(os.waitstatus_to_exitcode(status) or (0 if again else 4))
"""


def test_a_forked_child_computes_too():
    script = FORK.format(paths=[os.path.dirname(__file__)])
    done = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def run(code: str, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, timeout=60, capture_output=True, text=True,
        check=False,
    )
    return done.returncode, done.stdout.strip(), done.stderr


def test_the_number_of_threads_can_be_set():
    code = "from mlxlm.kernels import in_force; print(in_force()['threads'])"
    assert run(code, MLXLM_THREADS="1")[1] == "1"
    assert run(code, MLXLM_THREADS="3")[1] == "3"
    assert in_force()["threads"] >= 1


def test_threads_follow_the_affinity():
    core = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{core}}})\n"
        "from mlxlm.kernels import in_force; print(in_force()['threads'])"
    )
    environment = {"MLXLM_THREADS": ""}
    assert run(code, **environment)[1] == "1"
