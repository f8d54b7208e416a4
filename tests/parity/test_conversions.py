"""Conversions by mlx-lm of models that mlx-lm itself gets wrong: loaded here they give transformers' logits."""

import pytest

from mlxlm.load import load_model

from .test_mlx_lm import converted
from .test_parity import assert_close, case_of, run

WRONG_BUT_WHOLE = [
    "falcon_h1-keys-multiplied",
    "mamba2-groups-biases-tied",
    "jamba-experts",
    "granitemoehybrid-groups",
    "deepseek_v32-indexed-groups-yarn",
    "mimo_v2_flash-sinks",
    "bailing_moe-groups",
]


@pytest.mark.parametrize("name", WRONG_BUT_WHOLE)
def test_a_conversion_is_right_where_mlx_lm_is_not(name, tmp_path):
    case, _, ids, expected = row = case_of(name)
    folder = converted(row, tmp_path, None)[1]
    assert case.mlx_lm_wrong
    assert_close(run(load_model(folder), ids), expected)
