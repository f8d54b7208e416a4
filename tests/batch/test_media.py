"""Images in a batch: each answer is that of its own prompt, beside others with other images or none."""

import numpy as np
import pytest
from PIL import Image
from vlm.test_generate import folder as _folder

from mlxlm import load, stream_generate
from mlxlm.generate.engine import BatchEngine

folder = _folder  # a tiny Qwen 2.5 VL, whose positions differ from the count of its tokens


def picture(seed: int, size=(40, 24)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


@pytest.mark.parametrize("prefill_tokens", [16, 512])
def test_images_and_text_share_passes(folder, prefill_tokens):
    model, processor = load(folder)
    asked = [("What is it?", {"images": [picture(1)]}), ("No picture", {}),
             ("Two of them", {"images": [picture(2), picture(3, (24, 40))]}), ("x", {"images": [picture(4)]})]
    alone = [[piece.token for piece in stream_generate(model, processor, prompt, max_tokens=10, **more)]
             for prompt, more in asked]
    with BatchEngine(model, processor, max_batch=3, prefill_tokens=prefill_tokens) as engine:
        requests = [engine.submit(prompt, max_tokens=10, **more) for prompt, more in asked]
        assert [[piece.token for piece in request] for request in requests] == alone
