"""A recipe, then the flags; whatever is unknown or impossible is refused in one sentence with the nearest name."""

import re
from dataclasses import fields

import pytest
import yaml

from modeling_splip.training.arguments import (
    TrainingArguments,
    group_fields,
    load_recipe,
    parse_arguments,
    recipe_names,
)
from modeling_splip.training.methods import METHODS

BASICS = ["--dataset", "D"]


def parse(*words: str) -> TrainingArguments:
    return parse_arguments([*BASICS, *words])


def test_defaults():
    args = parse()
    assert args == TrainingArguments(dataset="D")
    assert args.method == "splip" and args.settings() == METHODS["splip"].objective.settings_class()


def test_flags_override_the_recipe(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "epochs: 3\nlearning_rate: 1e-3\nbatch_size: 8\nmodel: {m: 2, n: 3}\nloss:\n  beta: 0\n  tau: 1\n"
    )
    args = parse("--recipe", str(recipe))
    assert (args.epochs, args.learning_rate, args.batch_size) == (3, 1e-3, 8)
    assert args.model == {"m": 2, "n": 3} and args.loss == {"beta": 0.0, "tau": 1.0}
    assert isinstance(args.loss["tau"], float)
    args = parse("--recipe", str(recipe), "--epochs", "5", "--model.m", "6", "--loss.alpha=2e-1", "--loss.beta", "1e-2")
    assert (args.epochs, args.batch_size) == (5, 8)
    assert args.model == {"m": 6, "n": 3} and args.loss == {"beta": 0.01, "tau": 1.0, "alpha": 0.2}
    assert args.settings().beta == 0.01


def test_every_kind_of_value():
    words = ["--gradient_checkpointing", "--no-resume", "--clip_norm", "1", "--schedule", "cosine", "--tracker", "none"]
    words += ["--model.use_b_t", "false", "--model.prompt_depth", "2", "--model.template", "{modality}: {class_name}"]
    words += ["--model.conditioning=domain", "--level", "fine_grained", "--loss.adaptive_margin", "no"]
    args = parse(*words)
    assert args.gradient_checkpointing is True and args.resume is False and args.clip_norm == 1.0
    assert args.model == {
        "use_b_t": False,
        "prompt_depth": 2,
        "template": "{modality}: {class_name}",
        "conditioning": "domain",
    }
    assert args.level == "fine_grained" and args.settings().adaptive_margin is False


def test_the_record_reads_back(tmp_path):
    args = parse("--model.m", "2", "--loss.beta", "0.5", "--workers", "3")
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(args.to_dict()))
    assert parse_arguments(["--recipe", str(tmp_path / "again.yaml")]) == args


@pytest.mark.parametrize("name", recipe_names())
def test_packaged_recipes(name):
    args = parse("--recipe", name)
    values = load_recipe(name)
    assert {key: args.to_dict()[key] for key in values if key != "dataset"} == {
        key: value for key, value in values.items() if key != "dataset"
    }
    assert isinstance(args.settings(), METHODS[args.method].objective.settings_class)
    assert args.augment == {}  # no source names any augmentation
    # No recipe chooses its checkpoint on unseen classes; these keep the last one.
    assert args.validation_classes > 0 or name in ("small_splip", "splip_open23") or "_sketchy21" in name
    assert args.batch_size % (args.accumulation * args.pairs_per_class) == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--batchsize", "4"], r"Unknown argument --batchsize; did you mean 'batch_size'\?"),
        (["--batch-size", "4"], r"Unknown argument --batch-size; did you mean 'batch_size'\?"),
        (["stray"], r"Unknown argument stray"),
        (["--recipe", "splip_sketchy"], r"There is no recipe 'splip_sketchy'; did you mean 'splip_sketchy[12]'\?"),
        (["--recipe", "/no/such.yaml"], r"There is no recipe '/no/such.yaml'"),
        (["--method", "slip"], r"Unknown method slip; did you mean 'splip'\?"),
        (["--method", "splip_encoder"], r"Unknown method splip_encoder"),
        (["--schedule", "cosin"], r"Unknown schedule cosin; did you mean 'cosine'\?"),
        (["--mixed_precision", "bf-16"], r"Unknown mixed_precision bf-16; did you mean 'bf16'\?"),
        (["--tracker", "tensorbord"], r"Unknown tracker tensorbord; did you mean 'tensorboard'\?"),
        (["--model.conditionning", "image"], r"Unknown model.conditionning; did you mean 'conditioning'\?"),
        (["--model.class_names", "a"], r"Unknown model.class_names; "),
        (["--loss.apha", "1"], r"Unknown loss.apha; did you mean 'alpha'\?"),
        (["--loss.alpha"], r"--loss.alpha needs a value"),
        (["--optimizer.lr", "1"], r"Unknown argument --optimizer.lr"),
        (["--loss.alpha", "big"], r"loss.alpha must be a finite number, got 'big'"),
        (["--model.m", "2.5"], r"model.m must be a whole number, got '2.5'"),
        (["--model.use_b_t", "perhaps"], r"model.use_b_t must be true or false, got 'perhaps'"),
        (["--model.conditioning", "both"], r"conditioning must be one of \('image', 'domain'\), got 'both'"),
        (["--model.m", "0"], r"m must be at least 1, got 0"),
        (["--level", "fine"], r"Unknown level fine; did you mean 'fine_grained'\?"),
        (["--loss.level", "fine_grained"], r"Unknown loss.level; "),
        (["--loss.tau", "0"], r"tau must be above 0"),
        (["--augment.flipp", "1"], r"Unknown augment.flipp; did you mean 'flip'\?"),
        (["--augment.flip", "1.5"], r"augment.flip must lie between 0 and 1.0, got 1.5"),
        (["--augment.thickness", "1.5"], r"augment.thickness must be a whole number, got '1.5'"),
        (["--epochs", "0"], r"epochs must be at least 1, got 0"),
        (["--workers", "-2"], r"workers must be at least -1, got -2"),
        (["--seed", "-1"], r"seed must be at least 0, got -1"),
        (["--clip_norm", "-0.1"], r"clip_norm must be at least 0, got -0.1"),
        (["--learning_rate", "nan"], r"learning_rate must be a finite number, got nan"),
        (["--loss.beta", "inf"], r"loss.beta must be a finite number, got 'inf'"),
        (["--resume", "perhaps"], r"resume must be true or false, got 'perhaps'"),
        (["--patience", "3", "--validation_classes", "0"], r"patience counts validations"),
        (["--learning_rate", "0"], r"learning_rate must be above 0, got 0.0"),
        (["--batch_size", "10", "--accumulation", "4"], r"batch_size 10 is not a multiple of accumulation 4"),
        (["--level", "fine_grained", "--pairs_per_class", "1"], r"needs pairs_per_class of at least 2"),
        (["--dataset", ""], r"No dataset: pass --dataset"),
    ],
)
def test_refused_in_one_sentence(words, sentence):
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as error:
        parse(*words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epoch: 3", r"Unknown key in recipe 'bad.yaml': epoch; did you mean 'epochs'\?"),
        ("loss: {apha: 1}", r"Unknown loss.apha; did you mean 'alpha'\?"),
        ("loss: {level: category}", r"Unknown loss.level; "),
        ("level: fine", r"Unknown level fine; did you mean 'fine_grained'\?"),
        ("loss: 3", r"loss must be a mapping of names to values, got 3"),
        ("model:", r"model must be a mapping of names to values, got None"),
        ("epochs: many", r"epochs must be a whole number, got 'many'"),
        ("epochs: 2.5", r"epochs must be a whole number, got 2.5"),
        ("epochs: true", r"epochs must be a whole number, got True"),
        ("learning_rate: fast", r"learning_rate must be a finite number, got 'fast'"),
        ("resume: 1", r"resume must be true or false, got 1"),
        ("method: 3", r"method must be text, got 3"),
        ("loss: {1: 2}", r"Unknown loss.1; known are "),
        ("true: 3", r"Unknown key in recipe 'bad.yaml': True"),
        ("epochs: 3\nepochs: 4", r"is not YAML \('epochs' stands there twice\)"),
        ("loss: {alpha: 1, alpha: 2}", r"is not YAML \('alpha' stands there twice\)"),
        ("- epochs", r"must be a mapping of argument names"),
        ("a: b: c", r"Recipe '.*bad.yaml' is not YAML"),
    ],
)
def test_bad_recipes(text, sentence, tmp_path):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        parse("--recipe", str(tmp_path / "bad.yaml"))


@pytest.mark.parametrize("words", [[], ["--resume"], ["--resume", "true"], ["--resume=false"], ["--no-resume"]])
def test_flags_that_are_true_or_false(words, tmp_path):
    (tmp_path / "recipe.yaml").write_text("mixed_precision: no\nresume: yes\ndataset: data\n")
    arguments = parse_arguments(["--recipe", str(tmp_path / "recipe.yaml"), *words])
    assert arguments.resume is (words not in (["--resume=false"], ["--no-resume"]))
    assert arguments.mixed_precision == "no"


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("true", "true"), ("no", "false"), ("yes", "true")])
def test_sketches_are_inverted_as_a_recipe_or_a_flag_says(text, value, tmp_path):
    (tmp_path / "recipe.yaml").write_text(f"dataset: data\ninvert_sketches: {text}\n")
    recipe = ["--recipe", str(tmp_path / "recipe.yaml")]
    assert parse_arguments(recipe).invert_sketches == value
    assert parse_arguments([*recipe, "--invert_sketches", "false"]).invert_sketches == "false"
    with pytest.raises(ValueError, match="invert_sketches must be auto, true or false, got 'maybe'"):
        parse_arguments([*recipe, "--invert_sketches", "maybe"])


def test_a_flag_of_the_wrong_type_shows_the_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--epochs", "many")
    assert stop.value.code == 2 and "argument --epochs: invalid int value: 'many'" in capsys.readouterr().err


def test_help_explains_everything(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(["--help"], "What it is for.")
    printed = capsys.readouterr().out
    assert stop.value.code == 0 and "What it is for." in printed
    words = " ".join(printed.split())
    for item in fields(TrainingArguments):
        if item.name not in ("model", "loss", "augment"):
            assert f"--{item.name}" in words and " ".join(item.metadata["help"].split()) in words, item.name
    for method in list(METHODS):
        for group, names in ((group, group_fields(group, method)) for group in ("model", "loss", "augment")):
            section = words.split(f"{method}, --{group}.NAME VALUE:", 1)[-1]
            for name, default in names.items():
                found = re.search(rf"--{group}\.{name} (.*?) \(default: {re.escape(str(default))}\)", section)
                assert found and "--" not in found[1] and re.search("[a-z|]", found[1]), f"{group}.{name}"


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (BOMB, "aliases such as .name are not read"),
        ("method: " + "[" * 5000, "nests too deep"),
        ("&a [*a]", "aliases such as"),
    ],
    ids=["bomb", "deep", "circle"],
)
def test_a_recipe_that_explodes_is_refused_at_once(text, sentence, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"^Recipe '.*recipe\.yaml' is not YAML \(.*{sentence}"):
        load_recipe(str(tmp_path / "recipe.yaml"))
