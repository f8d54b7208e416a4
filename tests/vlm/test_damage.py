"""Settings of vision-language checkpoints that are wrong in any one place: an error of ours, or a model that works."""

import copy
import json
import warnings

import pytest
from PIL import Image

from mlxlm.errors import MLXLMError
from mlxlm.processor import media_processor
from mlxlm.registry import VLMTypeRegistry
from mlxlm.text.tokenizer import Tokenizer

from . import tiny_processor
from .cases_qwen import CASES
from .reference import conditional

JUNK = (None, -1, 0, 3, 10**12, 2.5, 1e300, True, "x", [], [1], [-3, 2, 2], {}, {"a": 1})


def places(value, at=()):
    """Every key of a config, however deep."""
    for key, inner in value.items():
        yield (*at, key)
        if isinstance(inner, dict):
            yield from places(inner, (*at, key))


def changed(config, at, value):
    new = copy.deepcopy(config)
    inner = new
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return new


@pytest.mark.parametrize("name", ["qwen2_5_vl-windows", "qwen3_vl_moe-deepstack", "glm_ocr-images"])
def test_configs(name):
    case = next(c for c in CASES if c.name == name)
    config = json.loads(conditional(case).config.to_json_string())
    VLMTypeRegistry.shared.create(config)
    for at in places(config):
        if at[0] == "architectures":
            continue
        for value in JUNK:
            if value == 10**12 and at[-1] not in ("depth", "num_hidden_layers"):
                continue  # a size that only the weights can refute
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    VLMTypeRegistry.shared.create(changed(config, at, value))
                except MLXLMError:
                    continue


@pytest.mark.parametrize("kind", ["Qwen2VLImageProcessor", "Glm46VImageProcessor"])
def test_processors(tmp_path, kind):
    tiny_processor.tokenizer(tmp_path)
    own = {"size": {"shortest_edge": 100, "longest_edge": 9000}, "patch_size": 4, "merge_size": 2, "resample": 3,
           "temporal_patch_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 0.004,
           "do_resize": True, "do_rescale": True, "do_normalize": True, "image_processor_type": kind,
           "processor_class": "Qwen2_5_VLProcessor"}
    model_type = "glm_ocr" if kind.startswith("Glm") else "qwen2_5_vl"
    tokenizer, picture = Tokenizer.from_folder(tmp_path), Image.new("RGB", (30, 20))
    for at in places(own):
        for value in JUNK:
            (tmp_path / "preprocessor_config.json").write_text(json.dumps(changed(own, at, value)))
            try:
                processor = media_processor(tmp_path, tokenizer, {"model_type": model_type})
                processor("What?", images=picture)
            except MLXLMError:
                continue
