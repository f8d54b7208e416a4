"""The cases of FastVLM: Qwen 2 by transformers, behind FastViT HD in plain PyTorch, in its makers' own layout."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from . import fastvit_reference as fastvit
from .reference import Case, text_settings

TOKEN, TOWER = -200, "model.vision_tower.vision_tower.model."


class FastVLM(nn.Module):
    """The model as its makers put it together: features take an image token's places."""

    def __init__(self, case):
        super().__init__()
        self.config = Qwen2Config(**text_settings(case))
        self.text = Qwen2ForCausalLM._from_config(self.config, attn_implementation="eager")
        self.mm_projector = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64))
        self.tower = fastvit.weights(fastvit.TINY)
        self.model = SimpleNamespace(language_model=self.text.model, get_image_features=self.features)

    def get_input_embeddings(self):
        return self.text.get_input_embeddings()

    def features(self, pixel_values):
        return self.mm_projector(fastvit.features(self.tower, fastvit.TINY, pixel_values))

    def forward(self, input_ids, pixel_values=None, use_cache=False):
        x = self.get_input_embeddings()(input_ids.clamp(min=0)).clone()
        if pixel_values is not None:
            x[input_ids == TOKEN] = self.features(pixel_values).reshape(-1, x.shape[-1])
        return self.text(inputs_embeds=x, use_cache=use_cache)

    def save_pretrained(self, folder):
        folder = Path(folder)
        folder.mkdir()
        tied = self.config.tie_word_embeddings
        state = {n: w for n, w in self.text.state_dict().items() if not (tied and n == "lm_head.weight")}
        state |= {f"model.mm_projector.{n}": w for n, w in self.mm_projector.state_dict().items()}
        state |= {TOWER + n: w for n, w in self.tower.items()}
        state[TOWER + "head.proj"] = torch.zeros(64, 8)
        save_file({n: w.contiguous().clone() for n, w in state.items()}, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(self.settings()))

    def settings(self):
        config = self.config.to_dict()
        config |= {"rope_theta": config.pop("rope_parameters")["rope_theta"], "model_type": "llava_qwen2"}
        return {
            **config, "mm_hidden_size": 64, "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
            "mm_vision_tower": "mobileclip_l_64", "image_aspect_ratio": "pad", "mm_patch_merge_type": "flat",
            "mm_use_im_start_end": False, "tokenizer_model_max_length": 8192, "unfreeze_mm_vision_tower": True,
            "vision_config": fastvit.TINY,
        }  # fmt: skip


def squares(sizes, rng):
    """Images of 64 pixels a side, 16 features each; those of one prompt are of one size."""
    return {"pixel_values": rng.standard_normal((len(sizes), 3, 64, 64)).astype(np.float32)}, [16] * len(sizes)


def words(variant, **text):
    return Case("llava_qwen2", variant, text=text, make=FastVLM, media=squares, sizes=((64,), (64,)), image_token=TOKEN)


CASES = (words("untied"), words("tied", tie_word_embeddings=True))
