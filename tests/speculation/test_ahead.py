"""Layers that predict ahead: their guesses are those of transformers' own layer, and as drafts they change nothing."""

import json

import mlx.core as mx
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mlxlm.ahead import load_ahead
from mlxlm.checkpoint import open_checkpoint
from mlxlm.draft import Advice, Draft, attach
from mlxlm.errors import WeightError
from mlxlm.generate.loop import TokenIterator
from mlxlm.generate.sample import greedy
from mlxlm.generate.spec_ahead import AheadDrafter
from mlxlm.generate.speculative import SpeculativeIterator
from mlxlm.load import load_model

STYLES = {
    "deepseek_v3": ("deepseek_v3-no-groups", "model.layers.{n}.",
                    ("model.layers.{n}.enorm", "model.layers.{n}.hnorm", "model.layers.{n}.eh_proj",
                     "model.layers.{n}.shared_head.norm")),
    "glm4_moe": ("glm4_moe-groups-qk-norm", "model.layers.{n}.",
                 ("model.layers.{n}.enorm", "model.layers.{n}.hnorm", "model.layers.{n}.eh_proj",
                  "model.layers.{n}.shared_head.norm")),
    "qwen3_next": ("qwen3_next-delta-moe", "mtp.layers.0.",
                   ("mtp.pre_fc_norm_embedding", "mtp.pre_fc_norm_hidden", "mtp.fc", "mtp.norm")),
    "qwen3_5": ("qwen3_5_text-tied", "mtp.layers.0.",
                ("mtp.pre_fc_norm_embedding", "mtp.pre_fc_norm_hidden", "mtp.fc", "mtp.norm")),
    "mimo": ("mimo-tied", "model.mtp_layers.0.",
             ("model.mtp_layers.0.token_layernorm", "model.mtp_layers.0.hidden_layernorm",
              "model.mtp_layers.0.input_proj", "model.mtp_layers.0.final_layernorm")),
}
PLUS_ONE = {"qwen3_next", "qwen3_5"}  # norms are stored as their distance from one


@pytest.fixture(scope="module", params=STYLES)
def made(request, tmp_path_factory):
    """(style, folder, the reference, the parts' weights, layers): the reference's last layer is what looks ahead."""
    from dataclasses import replace

    from parity import reference
    from parity.cases import CASES

    name, block, parts = STYLES[request.param]
    case = next(c for c in CASES if c.name == name)
    count = case.config.get("num_hidden_layers", 4)
    more = {"num_hidden_layers": count + 1}
    if request.param in PLUS_ONE:
        more["layer_types"] = ["linear_attention"] * (count - 1) + ["full_attention"] * 2
    case = replace(case, config={**case.config, **more})
    net = reference.build(case)
    folder = reference.save(net, tmp_path_factory.mktemp(request.param) / "m")
    random = torch.Generator().manual_seed(5)
    dim = 64
    new = {p: torch.randn(dim, generator=random) * 0.2 + (request.param not in PLUS_ONE) for p in parts}
    new[parts[2]] = torch.randn(dim, 2 * dim, generator=random) * 0.1
    state = {k.replace(f"model.layers.{count}.", block.format(n=count)): v
             for k, v in load_file(folder / "model.safetensors").items() if "mtp_layers" not in k}
    state |= {f"{p.format(n=count)}.weight": w for p, w in new.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_hidden_layers": count, "num_nextn_predict_layers": 1}
    if "layer_types" in config:
        config["layer_types"] = config["layer_types"][:count]
    if "mlp_layer_types" in config:
        config["mlp_layer_types"] = config["mlp_layer_types"][:count]
    (folder / "config.json").write_text(json.dumps(config))
    return request.param, folder, net, [new[p] for p in parts], count


def normed(x, weight, style, eps):
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    return x * (weight + (style in PLUS_ONE))


def expected(made, ids, hidden):
    """Logits of the guesses (L - 1, vocab): by torch, with transformers' own layer over the pairs."""
    style, _, net, (embed, hide, project, last), count = made
    body, eps = net.model, net.config.rms_norm_eps
    h, e = torch.tensor(hidden)[None, :-1], body.embed_tokens(torch.tensor(ids)[None, 1:].long())
    pair = [normed(e, embed, style, eps), normed(h, hide, style, eps)]
    x = torch.cat(pair[::-1] if style == "mimo" else pair, -1) @ project.T
    length = x.shape[1]
    where = torch.arange(length)[None]
    mask = torch.full((length, length), float("-inf")).triu(1)[None, None]
    with torch.no_grad():
        turned = body.rotary_emb(x, where)
        out = body.layers[count](x, attention_mask=mask, position_ids=where, position_embeddings=turned)
        out = out[0] if isinstance(out, tuple) else out
        return net.lm_head(normed(out, last, style, eps))[0].numpy()


def test_guesses_are_those_of_the_reference(made):
    folder = made[1]
    model, ids = load_model(folder), np.random.RandomState(2).randint(3, 97, 14)
    head = load_ahead(model, open_checkpoint(folder))
    hidden = model.backbone(model.backbone.embed(mx.array(ids[None])), model.make_cache())[0]
    want = expected(made, ids, np.array(hidden))
    drafter = AheadDrafter(model, head)
    for chunk in (13, 4):
        drafter._forget(0)
        outs = []
        for start in range(0, 13, chunk):
            part = slice(start, min(start + chunk, 13))
            outs.append(_all(drafter, hidden[part][None], ids[1:][part]))
        found = np.array(model.head(head.norm(mx.concatenate(outs, axis=1)))[0])
        assert np.abs(found - want).max() <= 1e-4 * want.std()


def _all(drafter, hidden, tokens):
    from mlxlm.decoder import Step

    state, embedded = drafter._state, drafter._model.backbone.embed(mx.array(tokens[None]))
    out = drafter._head(hidden, embedded, state[0], Step(len(tokens), state))
    state.offset += len(tokens)
    return out


def test_a_draft_of_it_changes_nothing(made):
    folder = made[1]
    model = load_model(folder)
    attach(model, None, "mtp", Advice(), open_checkpoint(folder))
    assert isinstance(model.draft, Draft) and model.draft.k == 3
    head = model.draft.ahead
    prompt = np.random.RandomState(3).randint(3, 97, 20).tolist()
    plain = [t for t, _ in TokenIterator(prompt, model, max_tokens=30, beyond_context=True)]
    drafter = AheadDrafter(model, head)
    it = SpeculativeIterator(prompt, model, drafter=drafter, num_draft_tokens=3, max_tokens=30, beyond_context=True,
                             prefill_step_size=7)
    assert [t for t, _ in it] == plain
    assert it.proposed > 0
    # What it guesses at each place is what it would guess if it read all the text anew.
    known = [*prompt, *plain]
    heard = drafter._first, list(drafter._pairs)
    assert heard == (0, known[1 : len(heard[1]) + 1]) and len(heard[1]) >= 20
    guess = drafter.propose(known[: len(heard[1]) + 2], 2, greedy)
    fresh = AheadDrafter(model, head)
    hidden = model.backbone(model.backbone.embed(mx.array([known])), model.make_cache())[0]
    fresh.heard(0, hidden)
    again = fresh.propose(known[: len(heard[1]) + 2], 2, greedy)
    assert guess in ([], again)


def test_a_checkpoint_without_one_is_told(tmp_path):
    from tiny import checkpoint

    folder = checkpoint(tmp_path / "m")
    with pytest.raises(WeightError, match="predicts ahead"):
        load_ahead(load_model(folder), open_checkpoint(folder))
