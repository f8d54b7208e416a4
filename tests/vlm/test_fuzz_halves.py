"""Damaged configs of models and processors: an MLXLMError or a result, and nothing else."""

import copy
import json
import random
import warnings

import pytest

from mlxlm.errors import MLXLMError
from mlxlm.processor import media_processor
from mlxlm.registry import VLMTypeRegistry

from .test_images_halves import image
from .test_names_halves import RELEASED
from .test_processors_halves import CASES, tokenizer

JUNK = (None, 0, -1, 1.5, True, "x", [], [1, 2], {}, {"a": 1}, 10**9, "pixtral", "llama", float("nan"))


@pytest.mark.parametrize("name", RELEASED)
def test_damaged_model_configs(name):
    rng = random.Random(name)
    for _ in range(25):
        config = copy.deepcopy(RELEASED[name][0])
        part = rng.choice([config, config["text_config"], config["vision_config"]])
        part[rng.choice([key for key in part if part is not config or key != "model_type"])] = rng.choice(JUNK)
        if rng.random() < 0.2:
            config[rng.choice(["text_config", "vision_config"])] = rng.choice(JUNK)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert VLMTypeRegistry.shared.create(config).layers
            except MLXLMError as error:
                assert str(error)


@pytest.mark.parametrize("name", [n for n in CASES if "-" not in n])
def test_damaged_processor_configs(name, tmp_path):
    rng, (make, marker) = random.Random(name), CASES[name]
    theirs, ours = tokenizer(tmp_path, image_token="<image_soft_token>", boi_token="<start_of_image>",
                             eoi_token="<end_of_image>") if name == "gemma3" else tokenizer(tmp_path)
    make(theirs).save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    whole, fine = json.loads(path.read_text()), 0
    for _ in range(40):
        config = copy.deepcopy(whole)
        part = rng.choice([config, config["image_processor"], config["image_processor"]])
        keys = [key for key in part if key not in ("processor_class", "image_processor")]
        if keys:
            part[rng.choice(keys)] = rng.choice(JUNK)
        path.write_text(json.dumps(config))
        try:
            processor = media_processor(tmp_path, ours, {"model_type": name})
            assert processor(f"{marker} What?", images=image(40, 30)).items
            fine += 1
        except MLXLMError as error:
            assert str(error)
    assert fine  # much of a config doesn't matter to an image
