import pytest
import yaml

from mgie.config import RECIPES, dump_run, load_run, recipe_path
from mgie.errors import ConfigError
from mgie.weights.parts import resolve


def test_the_command_line_goes_over_the_recipe():
    run = load_run("tiny", ["--optim.lr", "0.5", "--train.samples=32"])
    assert (run.optim.lr, run.train.samples) == (0.5, 32)
    assert run.data == load_run("tiny").data


def test_a_dump_reads_back_to_the_same_run(tmp_path):
    run = load_run("tiny", ["--optim.lrs.denoiser", "1e-4", "--seed", "7"])
    (tmp_path / "run.yaml").write_text(dump_run(run))
    assert load_run(str(tmp_path / "run.yaml")) == run


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_complete_and_valid(path):
    load_run(path.stem).validate()


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("--optim.lrr", "optim.lr"), ("--train.batchsize", "train.batch_size"), ("--lr", "optim.lr")],
)
def test_a_misspelt_option_gets_the_nearest_names(wrong, near):
    with pytest.raises(ConfigError, match=near):
        load_run("tiny", [wrong, "1"])


def test_phrases_of_the_tiny_layout_are_as_long_as_the_condition_that_its_painter_knows():
    assert load_run("tiny_layout").train.layout.pooled == load_run("tiny").model.encoder.edit_head.queries


def test_a_misspelt_recipe_key_gets_the_nearest_names(tmp_path):
    recipe = yaml.safe_load((RECIPES / "tiny.yaml").read_text())
    recipe["train"]["bach_size"] = recipe["train"].pop("batch_size")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(ConfigError, match=r"bach_size.*train\.batch_size"):
        load_run(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("config", "message"),
    [("tinny", "tiny"), ("no/such.yaml", "does not exist")],
)
def test_an_unknown_recipe_is_refused_with_what_exists(config, message):
    with pytest.raises(ConfigError, match=message):
        recipe_path(config)


@pytest.mark.parametrize("content", ["- a list", "a: [", "", "a: " + "[" * 5000, "a: &a {b: *a}"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_run(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("overrides", "world", "message"),
    [
        (["--train.epochs", "2"], 1, "exactly one"),
        (["--train.batch_size", "10", "--train.micro_batch_size", "4"], 1, "multiple of 4"),
        ([], 3, "multiple of 3"),
        (["--train.micro_batch_size", "16"], 3, "multiple of 48"),
        (["--model.encoder.question", "what happens?"], 1, "{instruction}"),
        *((["--name", name], 1, "folder name") for name in ("a/b", "..", ".", ".hidden", "a\nb", "")),
        (["--save.every", "0"], 1, "save.every"),
        (["--save.keep", "0"], 1, "save.keep=0"),
        (["--train.drop.text", "0.99"], 1, "more than 1 together"),
        (["--model.encoder.edit_head.heads", "3"], 1, "no multiple of edit_head.heads=3"),
        (["--optim.betas", "[0.9, 2]"], 1, r"optim\.betas\[1\]=2"),
        (["--optim.lrs", "{denoiser: .nan}"], 1, "optim.lrs.denoiser=nan"),
        (["--train.groups", "[]"], 1, "train.groups"),
        (["--compat", "reference"], 1, "timestep_shift"),
        (["--optim.lrs", "{hand: 1e-3}"], 1, "optim.lrs names hand: expected some of the trained groups"),
        (["--train.frozen_dtype", "bfloat16"], 1, "train.frozen_dtype=bfloat16 with train.precision=fp32"),
    ],
)
def test_what_cannot_work_is_refused_before_any_weight_is_read(overrides, world, message):
    with pytest.raises(ConfigError, match=message):
        load_run("tiny", overrides).validate(world)


@pytest.mark.parametrize("value", ["many", "1.5", "[1]"])
def test_a_value_of_the_wrong_type_is_refused(value):
    with pytest.raises(ConfigError, match=r"^tiny: train\.batch_size is .*: expected a whole number\.$"):
        load_run("tiny", ["--train.batch_size", value])


def test_builtin_paths_lie_beside_the_recipes():
    assert resolve("builtin:tiny_base/sd") == str(RECIPES / "tiny_base" / "sd")
    assert resolve("some/hub-id") == "some/hub-id"


def test_a_process_holds_its_whole_share_unless_told_otherwise():
    tiny = load_run("tiny")
    assert [tiny.train.micro_batch(processes) for processes in (1, 2, 8)] == [16, 8, 2]
    tiny.validate(2)
    assert load_run("tiny", ["--train.micro_batch_size=4"]).train.micro_batch(2) == 4
    with pytest.raises(ConfigError, match="must be a multiple of 3"):
        tiny.validate(3)


def test_aliases_of_aliases_do_not_become_millions_of_keys(tmp_path):
    lines = ["a0: &a0 {k: 1}"]
    lines += [f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(9))}}}" for n in range(1, 12)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="more than 1000 keys"):
        load_run(str(tmp_path / "bomb.yaml"))
