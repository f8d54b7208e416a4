"""One program's speed on one model, as a line of JSON; run by an interpreter that has the program, all it imports.

    python bench_child.py PROGRAM MODEL --threads 2 --prompt-tokens 512 --tokens 64 --runs 5
"""
import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", choices=sorted(PROGRAMS))
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--budget", type=float, default=30, help="seconds after which no further run is started")
    options = parser.parse_args()
    os.environ["MLXLM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(options.threads)
    prefill, step = PROGRAMS[options.program](options.model, options.threads)
    prompt = [1000 + i for i in range(options.prompt_tokens)]

    def once(tokens: int = options.tokens) -> tuple[float, float]:
        start = time.perf_counter()
        prefill(prompt)
        first = time.perf_counter()
        for _ in range(tokens):
            step()
        return len(prompt) / (first - start), tokens / (time.perf_counter() - first)

    start = time.perf_counter()
    once(2)
    runs = []
    while len(runs) < options.runs and (not runs or time.perf_counter() - start < options.budget):
        runs.append(once())
    medians = [round(statistics.median(run[i] for run in runs), 2) for i in (0, 1)]
    json.dump({"prefill_tps": medians[0], "decode_tps": medians[1], "runs": len(runs)}, sys.stdout)


Steps = tuple[Callable[[list[int]], None], Callable[[], None]]


def mlx_steps(package: str, load: Callable) -> Callable[[str, int], Steps]:
    def steps(path: str, _threads: int) -> Steps:
        from importlib import import_module

        import mlx.core as mx

        model = load(path)
        generate_step, running = import_module(f"{package}.generate").generate_step, []

        def prefill(prompt: list[int]) -> None:
            running[:] = [iter(generate_step(mx.array(prompt), model, max_tokens=10_000))]
            next(running[0])

        return prefill, lambda: next(running[0])

    return steps


def load_mlxlm(path: str, activations: str | None = None):
    from mlxlm.load import load_model

    return load_model(path, activations=activations)


def load_mlx_lm(path: str):
    from mlx_lm import load

    return load(path)[0]


def llama_steps(path: str, threads: int) -> Steps:
    from llama_cpp import Llama  # pyright: ignore[reportMissingImports]

    model = Llama(path, n_ctx=1024, n_threads=threads, n_threads_batch=threads, n_batch=512, verbose=False)

    def prefill(prompt: list[int]) -> None:
        model.reset()
        model.eval(prompt)

    return prefill, lambda: model.eval([1234])


def transformers_steps(path: str, threads: int) -> Steps:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    state = {}

    @torch.no_grad()
    def run(tokens: list[int], cache) -> None:
        out = model(torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        state["cache"], state["token"] = out.past_key_values, int(out.logits[0, -1].argmax())

    return lambda prompt: run(prompt, None), lambda: run([state["token"]], state["cache"])


PROGRAMS: dict[str, Callable[[str, int], Steps]] = {
    "mlxlm": mlx_steps("mlxlm", load_mlxlm),
    "mlxlm-int8": mlx_steps("mlxlm", partial(load_mlxlm, activations="int8")),
    "mlx-lm": mlx_steps("mlx_lm", load_mlx_lm),
    "llama.cpp": llama_steps,
    "transformers": transformers_steps,
}

if __name__ == "__main__":
    main()
