"""The cases of Gemma 4: grids of any shape padded to one length, images read both ways within the window or not."""

import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
from torch import nn
from transformers import Gemma3nAudioConfig, Gemma3nConfig, Gemma3nForConditionalGeneration, Gemma3nVisionConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.gemma3n import modeling_gemma3n

from . import mobilenet_reference as mobilenet
from . import reference
from .reference import Case, token_types

MOST, PATCH, POOL = 72, 4, 3  # patches that the arrays have room for, pixels along one's side, patches pooled to one
VISION = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, head_dim=8,
    patch_size=PATCH, position_embedding_size=64, pooling_kernel_size=POOL,
)  # fmt: skip
TEXT = dict(
    head_dim=16, global_head_dim=32, sliding_window=6, hidden_size_per_layer_input=8, vocab_size_per_layer_input=97,
    layer_types=["sliding_attention", "full_attention"] * 2,
)  # fmt: skip


def grids(names):
    """Patches and their places, padded, for images of (rows, columns) or videos of (frames, rows, columns)."""

    def make(sizes, rng):
        frames = [size[-2:] for size in sizes for _ in range(size[0] if len(size) == 3 else 1)]
        pixels = np.zeros((len(frames), MOST, 3 * PATCH**2), np.float32)
        places = np.full((len(frames), MOST, 2), -1, np.int64)
        for x, at, (rows, columns) in zip(pixels, places, frames, strict=True):
            n = rows * columns
            x[:n] = rng.random((n, 3 * PATCH**2))
            at[:n] = np.stack(np.divmod(np.arange(n), columns)[::-1], -1)
        media = {names[0]: pixels, names[1]: places}
        if len(sizes[0]) == 3:
            media["num_frames_per_video"] = np.array([size[0] for size in sizes])
        return media, [int(np.prod(size)) // POOL**2 for size in sizes]

    return make


COMMON = dict(
    media=grids(("pixel_values", "image_position_ids")),
    videos=grids(("pixel_values_videos", "video_position_ids")),
    extra=token_types, sizes=((6, 9), (12, 6)), clips=((2, 6, 6), (1, 9, 3)),
)  # fmt: skip
# Scores have no scale of their own: norms of 1 would make the softmax so steep that float32 is no reference.
STEEP = {"q_norm": (0.4, 0.7), "k_norm": (0.4, 0.7)}
BOUNDS = {"input_min": (-2.0, -1.0), "output_min": (-2.0, -1.0), "input_max": (1.0, 2.0), "output_max": (1.0, 2.0)}
CASES = (
    Case("gemma4", "shared", text={**TEXT, "num_kv_shared_layers": 2}, vision=VISION, values=STEEP, **COMMON),
    Case("gemma4", "causal", text=TEXT, vision=VISION, values=STEEP, **COMMON),
    Case(
        "gemma4", "both-ways",
        text={**TEXT, "use_bidirectional_attention": "vision", "hidden_size_per_layer_input": 0},
        vision={**VISION, "use_clipped_linears": True, "standardize": True}, values={**STEEP, **BOUNDS}, **COMMON,
    ),
)  # fmt: skip

# Gemma 3n: transformers' model around a tower in plain PyTorch, as it takes its own from timm.

IMAGE_3N, FIRST = 90, 80  # the vision side's vocabulary: the ids from 80 to 95, the image's among them
TEXT_3N = dict(
    head_dim=16, sliding_window=6, num_hidden_layers=4, num_kv_shared_layers=2, hidden_size_per_layer_input=8,
    vocab_size_per_layer_input=FIRST, activation_sparsity_pattern=[0.0, 0.9, 0.0, 0.0], laurel_rank=8,
    layer_types=["sliding_attention", "full_attention"] * 2,
)  # fmt: skip


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.timm_model = mobilenet.Encoder()

    def forward(self, pixel_values, **_):
        return BaseModelOutputWithPooling(last_hidden_state=self.timm_model(pixel_values))


def around_tower(case):
    """transformers' model, whose towers it would ask timm for, saved with a config that tells of this one."""
    vision = Gemma3nVisionConfig(hidden_size=mobilenet.OUT, vocab_size=16, vocab_offset=FIRST)
    audio = Gemma3nAudioConfig(hidden_size=16, vocab_size=4, vocab_offset=96)
    config = Gemma3nConfig(
        text_config={**reference.text_settings(case)},
        vision_config=vision, audio_config=audio, image_token_id=IMAGE_3N,
        vision_soft_tokens_per_image=mobilenet.SIDE**2,
    )  # fmt: skip
    auto, made = modeling_gemma3n.AutoModel, {"gemma3n_vision": Tower, "gemma3n_audio": nn.Identity}
    with patch.object(auto, "from_config", lambda c, real=auto.from_config: made.get(c.model_type, lambda: real(c))()):
        model = Gemma3nForConditionalGeneration(config)
    model.set_attn_implementation({"text_config": "eager"})
    write = model.save_pretrained

    def save(folder):
        write(folder)
        path = Path(folder) / "config.json"
        raw = json.loads(path.read_text())
        raw["vision_config"] |= {"blocks": mobilenet.STAGES, "stem_size": mobilenet.STEM, "output_side": mobilenet.SIDE}
        path.write_text(json.dumps(raw))

    model.save_pretrained = save
    return model


def pictures(sizes, rng):
    """Images of 64 pixels a side, 4 rows each."""
    return {"pixel_values": rng.standard_normal((len(sizes), 3, 64, 64)).astype(np.float32)}, [4] * len(sizes)


CASES += (
    Case("gemma3n", "image", text=TEXT_3N, make=around_tower, media=pictures, sizes=((64,), (64,)), video_token=FIRST,
         values={"layer_scale.gamma": (0.3, 1.0)}),
)  # fmt: skip
