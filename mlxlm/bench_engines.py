"""The other end of `mlxlm.bench`: one engine with one model, timing what it is asked for; run as a process.

It reads lines ``[prompt tokens, generated tokens, batch]`` and answers each with a JSON line.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from mlxlm.errors import MLXLMError, UsageError

CHUNK = 512
Timed = tuple[float, float]


def main() -> None:
    """Loads, says so, and answers until the input ends."""
    name, path = sys.argv[1], Path(sys.argv[2])
    out = sys.stdout
    sys.stdout = sys.stderr  # what the engine prints mustn't get between the answers
    run = _try(out, lambda: LOADERS[name](path))
    if run is None:
        return
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        seconds = _try(out, lambda asked=asked: run(*asked))
        if seconds is not None:
            print(json.dumps({"seconds": seconds}), file=out, flush=True)


def _try(out, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (MLXLMError, ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError,
            RuntimeError, TypeError, ValueError) as error:
        # Another package may fail in any way, and why is an answer too.
        print(json.dumps({"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}), file=out, flush=True)
        return None


def tokens(count: int, vocabulary: int) -> list[int]:
    """The prompt of every engine: spread over the vocabulary, without its first tokens, which are often special."""
    return [100 + i * 7919 % (vocabulary - 200) for i in range(count)]


def _timed(steps: Iterator[Any], generation: int) -> Timed:
    """Seconds to the first step, and of the ``generation - 1`` after it."""
    start = time.perf_counter()
    next(steps)
    first = time.perf_counter()
    for _ in islice(steps, generation - 1):
        pass
    return first - start, time.perf_counter() - first


def _mlx(model: Any, generate_step: Callable, make_cache: Callable, vocabulary: int) -> Callable[..., Timed]:
    import mlx.core as mx

    def batched(prompt: int, generation: int, batch: int) -> Iterator[Any]:
        cache, fed = make_cache(), mx.array([tokens(prompt, vocabulary)] * batch)
        while fed.shape[1] > CHUNK:
            model(fed[:, :CHUNK], cache=cache)
            mx.eval([c.state for c in cache])
            fed = fed[:, CHUNK:]
        for _ in range(generation):
            fed = model(fed, cache=cache)[:, -1:].argmax(-1)
            mx.eval(fed)
            yield fed

    def run(prompt: int, generation: int, batch: int) -> Timed:
        if batch > 1:
            return _timed(batched(prompt, generation, batch), generation)
        ids = mx.array(tokens(prompt, vocabulary))
        return _timed(iter(generate_step(ids, model, max_tokens=generation)), generation)

    return run


def _mlxlm(path: Path, activations: str | None = None) -> Callable[..., Timed]:
    from mlxlm import load_model
    from mlxlm.generate import generate_step
    from mlxlm.generate.loop import vocab_size

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="activations=")  # a row of what would not differ misleads
        try:
            model = load_model(path, activations=activations)
        except UserWarning as why:
            raise UsageError(str(why)) from why
    return _mlx(model, generate_step, model.make_cache, vocab_size(model) or 32000)


def _mlx_lm(path: Path) -> Callable[..., Timed]:
    from mlx_lm.generate import generate_step  # type: ignore[import-not-found]
    from mlx_lm.models.cache import make_prompt_cache  # type: ignore[import-not-found]
    from mlx_lm.utils import load_model  # type: ignore[import-not-found]

    if path.is_file():
        raise ValueError("it reads no GGUF files")
    model, config = load_model(path)
    return _mlx(model, generate_step, lambda: make_prompt_cache(model), int(config["vocab_size"]))


def _llama_cpp(path: Path) -> Callable[..., Timed]:
    from llama_cpp import Llama  # type: ignore[import-not-found]

    if not path.is_file():
        raise ValueError("it reads GGUF files only")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    model = Llama(str(path), n_ctx=16384, n_batch=CHUNK, n_threads=cores, n_threads_batch=cores, verbose=False)

    def steps(prompt: int, generation: int) -> Iterator[int]:
        model.reset()
        model.eval(tokens(prompt, model.n_vocab()))
        for _ in range(generation):
            token = model.sample(temp=0.0)
            yield token
            model.eval([token])

    def run(prompt: int, generation: int, batch: int) -> Timed:
        if batch > 1:
            raise ValueError("batches aren't measured with it")
        return _timed(steps(prompt, generation), generation)

    return run


def _transformers(path: Path) -> Callable[..., Timed]:
    import torch  # type: ignore[import-not-found]
    from transformers import AutoModelForCausalLM  # type: ignore[import-not-found]

    where: dict[str, Any] = {"gguf_file": path.name} if path.is_file() else {}
    model = AutoModelForCausalLM.from_pretrained(path.parent if path.is_file() else path, dtype="auto", **where).eval()

    @torch.inference_mode()
    def steps(prompt: int, generation: int, batch: int) -> Iterator[Any]:
        fed, past = torch.tensor([tokens(prompt, model.config.vocab_size)] * batch), None
        for _ in range(generation):
            out = model(fed, past_key_values=past, use_cache=True, logits_to_keep=1)
            fed, past = out.logits[:, -1:].argmax(-1), out.past_key_values
            yield fed

    return lambda prompt, generation, batch: _timed(steps(prompt, generation, batch), generation)


LOADERS: dict[str, Callable[[Path], Callable[..., Timed]]] = {
    "mlxlm": _mlxlm, "mlxlm-int8": partial(_mlxlm, activations="int8"), "mlx-lm": _mlx_lm, "llama.cpp": _llama_cpp,
    "transformers": _transformers}


if __name__ == "__main__":
    main()
