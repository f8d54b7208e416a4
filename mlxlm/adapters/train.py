"""Fine-tuning by mlx-lm's trainer on our modules: a dataset in JSONL in, an adapter that both load out."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_unflatten

from ..errors import ConfigError, MLXLMError, SourceError, UsageError
from ..files import write_text
from ..layers.experts import QuantizedSwitchLinear, SwitchLinear
from ..weights import rename_path

MOST_LINE = 16 << 20  # bytes of one example


@dataclass(frozen=True)
class Plan:
    """How to train. ``layers`` are the last ones that get adapters, -1 for all; ``scale`` is what BA counts."""

    kind: str = "lora"
    layers: int = 16
    rank: int = 8
    scale: float = 20.0
    dropout: float = 0.0
    steps: int = 1000
    batch: int = 4
    rate: float = 1e-5
    longest: int = 2048
    only_answers: bool = False
    checkpoint: bool = False
    seed: int = 0

    def __post_init__(self):
        if self.kind not in ("lora", "dora"):
            raise UsageError("this kind of adapter isn't trained", where="kind", found=repr(self.kind),
                             expected="lora or dora")
        for name in ("rank", "steps", "batch", "longest"):
            if getattr(self, name) < 1:
                raise UsageError("it must be at least 1", where=name, found=getattr(self, name))


@dataclass(frozen=True)
class Trained:
    """The folder that was written, and the losses on the way: (step, loss) of training and of validation."""

    folder: Path
    losses: list[tuple[int, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)


def train(model: Any, tokenizer: Any, data: str | Path, folder: str | Path, plan: Plan | None = None) -> Trained:
    """Trains an adapter on ``data``, a .jsonl file or a folder with train.jsonl and perhaps valid.jsonl.

    A line is {"messages": […]}, {"prompt": …, "completion": …} or {"text": …}. The adapter goes to ``folder``, which
    must be new or empty. The model is left with the adapter's modules in it. Raises MLXLMError.
    """
    plan, folder, data = plan or Plan(), Path(folder).expanduser(), Path(data).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("there is something already", where=folder, hint="Choose a new folder, or empty this one.")
    file = data / "train.jsonl" if data.is_dir() else data
    examples = read_examples(file, tokenizer, plan)
    validation = data / "valid.jsonl"
    held_out = read_examples(validation, tokenizer, plan) if data.is_dir() and validation.exists() else None
    for where, lot in ((file, examples), (validation, held_out)):
        if lot is not None and len(lot) < plan.batch:
            raise UsageError("there are fewer examples than a batch takes", where=where, found=len(lot),
                             expected=f"at least {plan.batch}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SourceError(f"it can't be written ({error.strerror})", where=folder) from error
    return _run(model, examples, held_out, folder, plan)


def _run(model: Any, examples: list, held_out: list | None, folder: Path, plan: Plan) -> Trained:
    try:
        from mlx_lm.tuner.callbacks import TrainingCallback
        from mlx_lm.tuner.datasets import CacheDataset
        from mlx_lm.tuner.trainer import TrainingArgs
        from mlx_lm.tuner.trainer import train as trained
        from mlx_lm.tuner.utils import linear_to_lora_layers
    except ImportError as error:
        raise MLXLMError("fine-tuning runs by mlx-lm's trainer, which isn't installed",
                         hint="Install it with `pip install mlx-lm`.") from error
    import mlx.optimizers as optimizers
    import numpy

    done = Trained(folder)

    class Losses(TrainingCallback):
        def on_train_loss_report(self, train_info: dict) -> None:
            done.losses.append((train_info["iteration"], float(train_info["train_loss"])))

        def on_val_loss_report(self, val_info: dict) -> None:
            done.validation.append((val_info["iteration"], float(val_info["val_loss"])))

    mx.random.seed(plan.seed)
    numpy.random.seed(plan.seed)  # the trainer draws its batches with it
    model.freeze()
    layers = len(model.layers) if plan.layers < 0 else plan.layers
    if layers > len(model.layers):
        raise UsageError("the model has fewer layers", where="layers", found=layers, expected=len(model.layers))
    parameters = {"rank": plan.rank, "scale": plan.scale, "dropout": plan.dropout}
    try:
        linear_to_lora_layers(model, layers, parameters, use_dora=plan.kind == "dora")
    except ValueError as error:
        raise MLXLMError(f"mlx-lm can't put adapters on this model ({error})") from error
    if plan.kind == "lora":
        _adapt_experts(model, layers, parameters)
    _described(folder, plan, layers, parameters)
    settings = TrainingArgs(batch_size=plan.batch, iters=plan.steps, steps_per_report=max(1, min(10, plan.steps)),
                            max_seq_length=plan.longest, grad_checkpoint=plan.checkpoint,
                            adapter_file=str(folder / "adapters.safetensors"))
    data: Any = [CacheDataset(_Ready(lot)) if lot else None for lot in (examples, held_out)]
    trained(model, optimizers.Adam(learning_rate=plan.rate), *data, args=settings, training_callback=Losses())
    _in_its_words(model, folder)
    return done


def _adapt_experts(model: Any, layers: int, parameters: dict[str, Any]) -> None:
    """Experts get factors each, as those of mlx-lm's own models do; it knows no experts but its own."""
    from mlx_lm.tuner.lora import LoRASwitchLinear

    for layer in model.layers[len(model.layers) - layers:]:
        made = []
        modules: list[tuple[str, Any]] = layer.named_modules()
        for path, module in modules:
            if isinstance(module, SwitchLinear | QuantizedSwitchLinear):
                experts, out, width = module.weight.shape
                width = width * 32 // getattr(module, "bits", 32)
                adapted: Any = LoRASwitchLinear(width, out, experts, r=parameters["rank"], scale=parameters["scale"],
                                                dropout=parameters["dropout"])
                adapted.linear = module
                made.append((path, adapted))
        if made:
            layer.update_modules(tree_unflatten(made))


class _Ready:
    """Examples that are tokens already, behind the face that mlx-lm's trainer asks."""

    def __init__(self, examples: list[tuple[list[int], int]]):
        self._examples = examples

    def __getitem__(self, index: int) -> tuple[list[int], int]:
        return self._examples[index]

    def __len__(self) -> int:
        return len(self._examples)

    def process(self, example: tuple[list[int], int]) -> tuple[list[int], int]:
        return example


def _described(folder: Path, plan: Plan, layers: int, parameters: dict[str, Any]) -> None:
    config = {"fine_tune_type": plan.kind, "num_layers": layers, "lora_parameters": parameters, "iters": plan.steps,
              "batch_size": plan.batch, "learning_rate": plan.rate, "max_seq_length": plan.longest, "seed": plan.seed}
    write_text(folder / "adapter_config.json", json.dumps(config, indent=4) + "\n")


def _in_its_words(model: Any, folder: Path) -> None:
    """Renames the tensors of modules that mlx-lm calls otherwise, so that it finds them too."""
    file = folder / "adapters.safetensors"
    tensors: Any = mx.load(str(file))
    rules = getattr(getattr(model, "architecture", None), "saved", ())
    renamed = {}
    for name, w in tensors.items():
        path, _, kind = name.rpartition(".")
        parts = [r for r in rules if not hasattr(r, "parts")]  # what is one module there stays ours
        renamed[f"{rename_path(parts, path, getattr(model, 'config', None))[0]}.{kind}"] = w
    mx.eval(renamed)
    mx.save_safetensors(str(file), renamed, {"format": "mlx"})


def read_examples(file: Path, tokenizer: Any, plan: Plan) -> list[tuple[list[int], int]]:
    """(tokens, how many of the first aren't learned) of each line. Raises MLXLMError that names file and line."""
    examples = []
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    examples.append(_example(line, tokenizer, plan, f"{file}:{number}"))
    except OSError as error:
        raise SourceError(f"the dataset can't be read ({error.strerror})", where=file,
                          expected="a .jsonl file, or a folder with train.jsonl") from error
    if not examples:
        raise ConfigError("the dataset is empty", where=file)
    return examples


def _example(line: bytes, tokenizer: Any, plan: Plan, where: str) -> tuple[list[int], int]:
    try:
        row = json.loads(line) if len(line) <= MOST_LINE else None
    except (ValueError, RecursionError) as error:
        raise ConfigError("the line isn't JSON", where=where) from error
    if isinstance(row, dict) and isinstance(row.get("text"), str):
        ids = tokenizer.encode(row["text"])
        end = tokenizer.eos_token_id
        return ([*ids, end] if end is not None and ids[-1:] != [end] else ids), 0
    if isinstance(row, dict) and isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        row = {"messages": [{"role": "user", "content": row["prompt"]},
                            {"role": "assistant", "content": row["completion"]}]}
    if not (isinstance(row, dict) and isinstance(row.get("messages"), list) and row["messages"]):
        raise ConfigError("this isn't an example", where=where,
                          expected='{"messages": […]}, {"prompt": …, "completion": …} or {"text": …}')
    messages, tools = row["messages"], row.get("tools")
    ids = list(tokenizer.apply_chat_template(messages, tools=tools))
    if not plan.only_answers:
        return ids, 0
    before = tokenizer.apply_chat_template(messages[:-1], tools=tools, add_generation_prompt=True)
    return ids, len(before)
