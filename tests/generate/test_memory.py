"""The wired limit is raised once, however many generations overlap, and put back by the last of them."""
from types import SimpleNamespace

import mlx.core as mx
import pytest
from generation_fakes import SumModel, sum_model_tokens

from mlxlm.generate import generate_step, memory


@pytest.fixture
def limits(monkeypatch):
    """The limits that were set on a Mac that isn't there."""
    history = [7]

    def set_wired_limit(limit):
        history.append(limit)
        return history[-2]

    fake = SimpleNamespace(metal=SimpleNamespace(is_available=lambda: True), set_wired_limit=set_wired_limit,
                           device_info=lambda: {"max_recommended_working_set_size": 1000}, synchronize=mx.synchronize)
    monkeypatch.setattr(memory, "mx", fake)
    return history


def test_overlapping_generations_raise_it_once(limits):
    first, second = (generate_step([n, 2], SumModel(), max_tokens=3) for n in (1, 4))
    next(first)
    next(second)
    assert limits == [7, 1000]
    assert [token for token, _ in first] == sum_model_tokens([1, 2], 3)[1:]
    assert limits == [7, 1000]
    second.close()
    assert limits == [7, 1000, 7]


def test_an_error_puts_it_back(limits):
    model = SumModel()

    def fail():
        raise RuntimeError

    model.before_last_layer = fail
    with pytest.raises(RuntimeError):
        next(generate_step([1], model))
    assert limits == [7, 1000, 7]
