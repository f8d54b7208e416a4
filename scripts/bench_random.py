"""Models of random weights beside what a machine can do: decoding against read bandwidth, prefill against its peaks.

Weights are random bits, so a model of any size is there in seconds; only its speed means anything. What the machine can
do moves from minute to minute, so it is measured before each round of a model, and a share is that round's own.
"""
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("bench_machine.cpp")
LLAMA = {"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 20,
         "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "rms_norm_eps": 1e-5,
         "vocab_size": 128_256, "max_position_embeddings": 16_384, "rope_theta": 500_000.0, "tie_word_embeddings": True}
MOE = {**LLAMA, "model_type": "qwen3_moe", "num_hidden_layers": 12, "num_experts": 64, "num_experts_per_tok": 8,
       "moe_intermediate_size": 768, "decoder_sparse_step": 1, "norm_topk_prob": True, "mlp_only_layers": [],
       "vocab_size": 32_000}
HYBRID = {"model_type": "nemotron_h", "hidden_size": 2048, "intermediate_size": 8192, "vocab_size": 32_000,
          "num_hidden_layers": 16, "hybrid_override_pattern": "M-M-M-M*-M-M-M-M", "num_attention_heads": 16,
          "num_key_value_heads": 8, "head_dim": 128, "mamba_num_heads": 64, "mamba_head_dim": 64, "ssm_state_size": 128,
          "n_groups": 8, "conv_kernel": 4, "chunk_size": 128, "layer_norm_epsilon": 1e-5, "mlp_hidden_act": "relu2",
          "max_position_embeddings": 8192, "tie_word_embeddings": False, "use_bias": False, "use_conv_bias": True,
          "attention_bias": False, "mlp_bias": False, "mamba_proj_bias": False}
SMALL = {**LLAMA, "num_hidden_layers": 6, "vocab_size": 32_000}
# (config, bits or None for dense, dtype)
MODELS = {"llama 1.5B, 4-bit": (LLAMA, 4, "bfloat16"), "qwen3_moe, 64 experts, 8 active, 4-bit": (MOE, 4, "bfloat16"),
          "nemotron_h, 4-bit": (HYBRID, 4, "bfloat16"), "llama 0.4B, bfloat16": (SMALL, None, "bfloat16"),
          "llama 0.4B, float32": (SMALL, None, "float32")}
CONTEXTS, BATCHES = (128, 1024, 4096, 8192), (1, 2, 4, 8, 16)


def randoms(options, folder: Path) -> dict:
    """A row for each model and number of threads; contexts and batches for the first of them."""
    report, program = {}, compiled(folder)
    for threads in options.threads:
        report[f"machine, {threads} threads"] = machine(program, threads)
        for name in options.models or MODELS:
            command = [sys.executable, __file__, name, program, str(threads), str(options.runs), str(options.budget)]
            if name == next(iter(MODELS)) and threads == max(options.threads):
                command.append("sweeps")
            environment = {**os.environ, "MLXLM_THREADS": str(threads), "PYTHONPATH": str(SOURCE.parents[1])}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            report[f"{name}, {threads} threads"] = (
                {"failed": done.stderr.strip().splitlines()[-1:]} if done.returncode else json.loads(done.stdout))
    return report


def compiled(folder: Path) -> str:
    """The little program that measures the machine, for this processor."""
    program = str(folder / "machine")
    arm = platform.machine() == "aarch64"
    native = ["-mcpu=native"] if arm else ["-march=native", "-mprefer-vector-width=512"]
    subprocess.run(["g++", "-O3", *native, str(SOURCE), "-o", program, "-lpthread"], check=True)
    return program


def machine(program: str, threads: int) -> dict:
    """Read bandwidth, the f32 peak, and that of pairs of bf16 numbers where the processor multiplies them."""
    return json.loads(subprocess.run([program, str(threads)], check=True, capture_output=True).stdout)


def random_model(config: dict, bits: int | None, dtype: str) -> Any:
    """A model of the config whose weights are random bits under small scales."""
    import mlx.core as mx
    import mlx.nn as nn
    import numpy as np
    from mlx.utils import tree_flatten, tree_unflatten

    from mlxlm import kernels
    from mlxlm.registry import LLMTypeRegistry

    registry = LLMTypeRegistry.shared
    architecture = registry.architecture(config["model_type"])
    settings = registry.settings(architecture, config, "the benchmark")
    model = architecture.build(settings)
    model.config, kind = settings, getattr(mx, dtype)
    if bits:
        nn.quantize(model, 64, bits, class_predicate=lambda name, m: hasattr(m, "to_quantized") and "conv" not in name)
    rng, filled = np.random.default_rng(0), []
    parameters: Any = tree_flatten(model.parameters())
    for name, w in parameters:
        part = name.rpartition(".")[2]
        if w.dtype == mx.uint32:
            filled.append((name, mx.array(rng.integers(0, 2**32, w.shape, np.uint32))))
        elif part in ("scales", "biases"):
            filled.append((name, mx.full(w.shape, 0.01 if part == "scales" else -0.075, kind)))
        elif w.ndim > 1:
            size = 1 / math.sqrt(w.shape[-1])
            filled.append((name, mx.array(rng.standard_normal(w.shape, np.float32) * np.float32(size)).astype(kind)))
        else:
            filled.append((name, mx.ones(w.shape, mx.float32 if part in ("A_log", "dt_bias", "D") else kind)))
        mx.eval(filled[-1][1])
    model.update(tree_unflatten(filled))
    model.eval()
    kernels.install(model)
    kernels.settle(model)  # as `load` has them
    mx.eval(model.parameters())
    return model


def active_bytes(model: Any, config: dict) -> int:
    """Bytes of the weights that one token needs: of experts the picked share, of an untied table one row."""
    from mlx.utils import tree_flatten

    total = 0
    parameters: Any = tree_flatten(model.parameters())
    for name, w in parameters:
        share = 1.0
        if "switch_mlp" in name:
            share = config["num_experts_per_tok"] / config["num_experts"]
        elif "embed" in name and not config["tie_word_embeddings"]:
            share = 1 / w.shape[0]
        total += w.nbytes * share
    return int(total)


def multiplications(model: Any) -> int:
    """Weights that a prompt's token is multiplied by: all but the table's, where the head is not asked for it."""
    total = 0
    for name, module in model.named_modules():
        if "embed" in name or "lm_head" in name or "weight" not in module or module.weight.ndim < 2:
            continue
        total += module.weight.size * (32 // module.bits if "scales" in module else 1)
    return total


def child(name: str, program: str, threads: int, runs: int, budget: float, sweeps: bool) -> dict:
    config, bits, dtype = MODELS[name]
    model = random_model(config, bits, dtype)
    flops, bytes_each, rounds = 2 * multiplications(model), active_bytes(model, config), []
    start = time.perf_counter()
    while len(rounds) < runs + 1 and (len(rounds) < 2 or time.perf_counter() - start < budget):
        limits = machine(program, threads)
        cache = model.make_cache()
        prefill, decode = prefill_rate(model, cache, 1, 512), decode_rate(model, cache, 1)
        rounds.append({"prefill_tps": prefill, "decode_tps": decode,
                       "of bandwidth": decode * bytes_each / 1e9 / limits["read_gb_s"]})
        for peak in ("f32", "bf16") if dtype == "bfloat16" else ("f32",):
            if (limit := limits.get(f"{peak}_gflop_s")) and "num_experts" not in config:
                rounds[-1][f"prefill of {peak} peak"] = prefill * flops / 1e9 / limit
    row = {key: round(statistics.median(r[key] for r in rounds[1:]), 2) for key in rounds[0]}
    row |= {"active_gb": round(bytes_each / 1e9, 3), "rounds": len(rounds) - 1}
    if sweeps:
        row["context"] = {n: swept(model, 1, n, runs) for n in CONTEXTS}
        row["batch"] = {n: swept(model, n, 128, runs) for n in BATCHES}
    return row


def prefill_rate(model, cache, batch: int, context: int) -> float:
    """Prompt tokens a second, in chunks of 512, through all layers and no head."""
    import mlx.core as mx

    prompt = mx.arange(batch * context).reshape(batch, context) % 1000
    start = time.perf_counter()
    for i in range(0, context, 512):
        # The last layer's output is asked for too: its cache alone would leave most of that layer's work undone.
        mx.eval(model.backbone(model.backbone.embed(prompt[:, i : i + 512]), cache), cache.arrays)
    return batch * context / (time.perf_counter() - start)


def decode_rate(model, cache, batch: int, steps: int = 16) -> float:
    """Tokens a second of all rows together."""
    import mlx.core as mx

    token = mx.zeros((batch, 1), mx.int32)
    start = time.perf_counter()
    for _ in range(steps):
        mx.async_eval(model(token, cache=cache), cache.arrays)
    mx.eval(cache.arrays)
    mx.synchronize()
    return batch * steps / (time.perf_counter() - start)


def swept(model, batch: int, context: int, runs: int) -> float:
    cache = model.make_cache()
    prefill_rate(model, cache, batch, context)
    rates = [decode_rate(model, cache, batch) for _ in range(runs + 1)]
    return round(statistics.median(rates[1:]), 2)


if __name__ == "__main__":
    name, program, threads, runs, budget = sys.argv[1:6]
    json.dump(child(name, program, int(threads), int(runs), float(budget), "sweeps" in sys.argv[6:]), sys.stdout)
