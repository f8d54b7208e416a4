"""Tiny random vision-language checkpoints made with transformers, and what transformers computes with them."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.utils import logging

logging.set_verbosity_error()
torch.set_num_threads(2)

TEXT = dict(
    vocab_size=97,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=1024,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
IMAGE, VIDEO = 90, 91  # the ids that keep places, unless a case says otherwise
BOUND = 1e-4  # of the reference's spread
errors: list[float] = []  # that assert_close found in the test that runs


@dataclass(frozen=True)
class Case:
    """One variant of a type.

    text, vision: go on top of TEXT and into vision_config; root: beside them.
    media: makes (media, tokens) for sizes: ``media(sizes, generator)`` gives arrays in Hugging Face's layout for
        images of these (height, width) in patches, and the number of places that each needs.
    videos: the same for videos of (frames, height, width); None where the family has none.
    around: the ids that stand before and after the places of an item.
    extra: what transformers' forward needs besides: (ids, media) -> arguments.
    tower: the reference's rows, (model, media) -> array (n, dim), where they aren't those of get_image_features.
    values: sets parameters by a part of their name to between low and high, where random numbers are meaningless.
    """

    model_type: str
    variant: str
    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    root: dict[str, Any] = field(default_factory=dict)
    media: Callable[..., tuple[dict[str, np.ndarray], list[int]]] | None = None
    videos: Callable[..., tuple[dict[str, np.ndarray], list[int]]] | None = None
    sizes: tuple[tuple[int, ...], ...] = ((4, 6), (8, 4))
    clips: tuple[tuple[int, ...], ...] = ((4, 4, 6), (2, 4, 4))
    around: tuple[tuple[int, ...], tuple[int, ...]] = ((92,), (93,))
    extra: Callable[[np.ndarray, dict[str, np.ndarray]], dict[str, Any]] = lambda ids, media: {}
    tower: Callable[..., np.ndarray] | None = None
    values: dict[str, tuple[float, float]] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    axis: int = 0  # along which the media have their images
    attention: str = "eager"
    make: Callable[["Case"], Any] | None = None
    turns: bool = True  # whether the reference takes a conversation of several prompts as one
    image_token: int = IMAGE
    video_token: int = VIDEO

    @property
    def name(self) -> str:
        return f"{self.model_type}-{self.variant}"


def build(case: Case):
    """The reference model: eager, float32, every parameter random."""
    model = (case.make or conditional)(case).float().eval()
    randomize(model, case)
    return model


def of(case: Case, model) -> str:
    """What the case is compared with, in words."""
    homes = {type(part).__module__.split(".")[0] for part in model.modules()} - {"torch"}
    if "transformers" not in homes:
        return "PyTorch, in the test"
    if homes != {"transformers"}:
        return "transformers, with PyTorch in the test"
    kind = model.config.model_type
    return "transformers" if kind == case.model_type else f"transformers, its {kind}"


def text_settings(case: Case) -> dict[str, Any]:
    return {k: v for k, v in {**TEXT, **case.text}.items() if k not in case.drop}


def conditional(case: Case):
    """The model that transformers builds for image and text."""
    ids = {"image_token_id": case.image_token, "video_token_id": case.video_token}
    settings = {k: v for k, v in {**ids, **case.root}.items() if v is not None}
    config = AutoConfig.for_model(
        case.model_type, text_config=text_settings(case), vision_config=dict(case.vision), **settings
    )
    return AutoModelForImageTextToText.from_config(config, attn_implementation=case.attention)


def randomize(model, case: Case) -> None:
    generator = torch.Generator().manual_seed(zlib.crc32(case.name.encode()))
    ranges = {"A_log": (0.0, 2.0), "dt_bias": (-3.0, -2.0), **case.values}
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            chosen = next((r for part, r in ranges.items() if part in name), None)
            if chosen:
                p.copy_(chosen[0] + (chosen[1] - chosen[0]) * torch.rand(p.shape, generator=generator))
            elif p.ndim == 1:
                norm = any(part in name for part in ("norm", "ln_", ".ln")) and "bias" not in name
                p.copy_((1.0 if norm else 0.0) + 0.3 * noise)
            else:
                fan_in = p.shape[1:].numel() if p.ndim > 2 and "experts" not in name else p.shape[-1]
                p.copy_(noise * 1.2 / fan_in**0.5)


@dataclass(frozen=True)
class Prompt:
    """Token ids (L,), and the media that they keep places for."""

    ids: np.ndarray
    media: dict[str, np.ndarray]


def _generator(case: Case, salt: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(f"{case.name} {salt}".encode()))


def prompt(case: Case, sizes=(), clips=(), *, length: int = 5, salt: str = "") -> Prompt:
    """A prompt with images of ``sizes``, then videos of ``clips``, text between them and at both ends."""
    rng = _generator(case, f"{sizes} {clips} {salt}")
    media: dict[str, np.ndarray] = {}
    places: list[tuple[int, int]] = []
    for kind, make, token in ((sizes, case.media, case.image_token), (clips, case.videos, case.video_token)):
        if kind:
            arrays, counts = make(kind, rng)
            media |= arrays
            places += [(token, n) for n in counts]
    top = min(t for t in (case.image_token, case.video_token, 90) if t > 0)
    ids = list(rng.integers(3, top, length))
    for token, count in places:
        ids += [*case.around[0], *[token] * count, *case.around[1], *rng.integers(3, top, 3)]
    return Prompt(np.array([*ids, *rng.integers(3, top, length)], np.int32), media)


def logits(model, case: Case, prompt: Prompt) -> np.ndarray:
    """(L, vocab) of the whole prompt."""
    with torch.no_grad():
        return model(**arguments(case, prompt), use_cache=False).logits.float().numpy()[0]


def arguments(case: Case, prompt: Prompt) -> dict[str, Any]:
    """What transformers' forward takes for a prompt."""
    media = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in prompt.media.items()}
    more = {k: torch.as_tensor(v) for k, v in case.extra(prompt.ids[None], prompt.media).items()}
    return {"input_ids": torch.from_numpy(prompt.ids.astype(np.int64))[None], **media, **more}


def rows(model, case: Case, prompt: Prompt) -> np.ndarray:
    """(n, dim): what the tower and the projector make of the media."""
    if case.tower:
        return case.tower(model, prompt.media)
    arrays = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in prompt.media.items()}
    with torch.no_grad():
        see = model.model.get_video_features if "pixel_values_videos" in arrays else model.model.get_image_features
        found = see(**arrays)
    found = getattr(found, "pooler_output", found)
    found = torch.cat([x.reshape(-1, x.shape[-1]) for x in found]) if isinstance(found, (list, tuple)) else found
    return found.reshape(-1, found.shape[-1]).float().numpy()


def embeddings(model, case: Case, prompt: Prompt) -> np.ndarray:
    """(L, dim) as the reference's first layer gets them: media in place."""
    caught: list[torch.Tensor] = []

    def catch(module, args, kwargs):
        given = kwargs.get("inputs_embeds")
        ids = kwargs.get("input_ids")
        caught.append(args[0] if args else given if given is not None else model.get_input_embeddings()(ids))

    handle = text_model(model).register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with torch.no_grad():
            model(**arguments(case, prompt), use_cache=False)
    finally:
        handle.remove()
    return caught[0][0].float().numpy()


def text_model(model):
    return getattr(model.model, "language_model", None) or model.model.text_model


def save(model, folder: Path) -> Path:
    """As transformers writes a checkpoint."""
    model.save_pretrained(folder)
    return folder


def assert_close(found: np.ndarray, expected: np.ndarray, bound: float = BOUND) -> None:
    """Within the bound; the likeliest tokens are equal but where the reference has a tie within it."""
    spread = expected.std()
    assert found.shape == expected.shape, (found.shape, expected.shape)
    assert np.isfinite(found).all()
    worst = np.abs(found - expected).max() / spread
    errors.append(float(worst))
    assert worst <= bound, worst
    top = np.sort(expected, axis=-1)
    clear = top[..., -1] - top[..., -2] > 2 * bound * spread
    assert (found.argmax(-1) == expected.argmax(-1))[clear].all()


def grid_media(names: tuple[str, str], width: Callable[[Case], int] | int, merge: int = 2):
    """Media of flat patches and grids (t, h, w), as Qwen's and GLM's towers take them."""

    def make(sizes, rng):
        grids = np.array([(1, *s) if len(s) == 2 else s for s in sizes], np.int64)
        counts = grids.prod(axis=1)
        pixels = rng.standard_normal((counts.sum(), width)).astype(np.float32)
        return {names[0]: pixels, names[1]: grids}, [int(n) // merge**2 for n in counts]

    return make


def token_types(ids: np.ndarray, media: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """transformers' marks of which token is an image's (1) or a video's (2)."""
    return {"mm_token_type_ids": (ids == IMAGE) * 1 + (ids == VIDEO) * 2}
