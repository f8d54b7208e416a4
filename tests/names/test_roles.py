"""Roles: the project's table, a user's file on top of it, and every mistake such a file can hold."""

import json

import pytest
from click.testing import CliRunner

from mlxlm import roles
from mlxlm.errors import ConfigError, MLXLMError, UsageError


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes the user's file and makes it the one in force."""
    path = tmp_path / "roles.toml"
    monkeypatch.setenv("MLXLM_ROLES", str(path))

    def write(text: str):
        path.write_text(text, encoding="utf-8")
        return path

    write("")
    return write


def test_the_memory_is_what_the_roles_were_planned_with(own):
    # 55 GB hot and 505 GB in all are the planned figures, by GGUF's file sizes.
    needed = roles.memory(roles.load_roles())
    assert needed["hot"] == pytest.approx(55e9, rel=0.1)
    assert needed["total"] == pytest.approx(505e9, rel=0.1)


def test_a_role_says_how_to_load_its_model(own):
    role = roles.find("coder_escalation")
    assert role.load_arguments() == {"path_or_hf_repo": "mlx-community/Qwen2.5-Coder-32B-Instruct-4bit",
                                     "draft": "mlx-community/Qwen2.5-Coder-0.5B-Instruct-8bit"}
    assert role.generate_arguments() == {"num_draft_tokens": 24, "prompt_lookup": True}
    assert roles.find("frontdoor").load_arguments()["experts_per_token"] == 6
    assert roles.find("worker_math").model == roles.find("worker_general").model


def test_a_role_is_loaded_with_its_draft(own, tmp_path):
    import tiny

    import mlxlm

    model, small = tiny.checkpoint(tmp_path / "m"), tiny.checkpoint(tmp_path / "d", seed=1)
    own(f'[roles.pair]\nmodel = "{model}"\ndraft = "{small}"\nnum_draft_tokens = 3\n'
        f'[roles.alone]\nmodel = "{model}"\nlookup = true\n[roles.sparse]\nmodel = "{model}"\nexperts = 2\n')
    assert mlxlm.load(role="pair")[0].draft.model is not None and mlxlm.load(role="alone")[0].draft == "lookup"
    assert mlxlm.load(role="pair", draft="lookup")[0].draft == "lookup"
    with pytest.raises(MLXLMError, match="expert"):
        mlxlm.load(role="sparse")
    for wrong in ({}, {"path_or_hf_repo": str(model), "role": "pair"}):
        with pytest.raises(UsageError, match="either a model or a role"):
            mlxlm.load(**wrong)


def test_a_role_on_the_command_line(own, tmp_path):
    import tiny

    from mlxlm.cli.group import group

    own(f'[roles.pair]\nmodel = "{tiny.checkpoint(tmp_path / "m")}"\nlookup = true\n')
    said = CliRunner().invoke(group, ["generate", "--role", "pair", "Hello", "-m", "4", "--json"])
    assert said.exit_code == 0 and len(json.loads(said.output)["token_ids"]) <= 4
    assert CliRunner().invoke(group, ["chat", "--role", "pair", "-m", "2"], input="Hello\n").exit_code == 0
    both = CliRunner().invoke(group, ["generate", "--role", "pair", "--model", "x", "Hello"])
    assert isinstance(both.exception, UsageError)


def test_an_embedder_is_counted_and_not_loaded(own):
    assert roles.find("embedder").weight_bytes == pytest.approx(4e9, rel=0.1)
    with pytest.raises(UsageError, match="embedding model"):
        roles.find("embedder").load_arguments()


def test_a_users_file_goes_on_top_key_by_key(own):
    own('[roles.frontdoor]\nexperts = 8\n[roles.mine]\nmodel = "me/Tiny-1B-8bit"\nresidence = "hot"\n')
    found = roles.load_roles()
    assert found["frontdoor"].experts == 8 and found["frontdoor"].model.endswith("30B-A3B-Instruct-4bit")
    assert found["mine"].tier == "C" and found["mine"].weight_bytes == pytest.approx(1e9 * 8.5 / 8)


@pytest.mark.parametrize(("text", "said"), [
    ("[roles.frontdoor]\nexpert = 8\n", "Did you mean 'experts'"),
    ("[roles.frontdoor]\nexperts = \"8\"\n", "expected int"),
    ("[roles.frontdoor]\nexperts = -1\n", "wrong kind"),
    ("[roles.frontdoor]\nresidence = \"cold\"\n", "hot or warm"),
    ("[roles.frontdoor]\nlookup = 1\n", "expected bool"),
    ("[roles.x]\nexperts = 8\n", "no model"),
    ("[roles.x]\nshares = \"y\"\n", "none of its own"),
    ("roles = 3\n", "must be tables"),
    ("[roles\n", "isn't TOML"),
])
def test_a_mistake_is_named_with_its_file(own, text, said):
    path = own(text)
    with pytest.raises(ConfigError, match=said) as caught:
        roles.load_roles()
    assert str(path) in str(caught.value)


def test_a_model_may_be_any_folder(own):
    own('[roles.here]\nmodel = "/somewhere/my models/Some 2B-8bit/"\n')
    assert roles.find("here").weight_bytes == pytest.approx(2e9 * 8.5 / 8)
    assert roles.find("here").load_arguments()["path_or_hf_repo"] == "/somewhere/my models/Some 2B-8bit/"


def test_an_unknown_role_names_the_close_one(own):
    with pytest.raises(UsageError, match="Did you mean 'frontdoor'"):
        roles.find("front_door")


def test_a_named_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="can't be read"):
        roles.load_roles(tmp_path / "none.toml")


def test_the_command(own):
    from mlxlm.cli.roles import command

    own('[roles.unsized]\nmodel = "me/Thing"\n')
    shown = CliRunner().invoke(command, [])
    assert shown.exit_code == 0 and "6 experts" in shown.output and "K=24" in shown.output
    assert "This machine" in shown.output
    said = json.loads(CliRunner().invoke(command, ["--json"]).output)
    assert said["roles"]["unsized"]["weight_bytes"] is None and said["memory"]["hot"] > 5e10
