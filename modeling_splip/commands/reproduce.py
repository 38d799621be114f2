"""Run a published experiment: prepare the data, train, evaluate, compare with the published numbers."""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

from ..common.files import write_text
from ..common.processes import worker_count
from ..common.text import hint
from ..data.dataset import INFO_FILE, SbirDataset, open_dataset
from ..data.protocols import PROTOCOLS
from ..evaluation.report import RECORDS
from ..loading import load_retriever
from ..sharing.model_card import CARD_FILE, CardFacts, read_records, read_run, render_card
from ..training.arguments import TrainingArguments, load_recipe, parse_arguments, recipe_names
from ..training.plan import MEASURED_STEPS, TrainingPlan, plan_training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `splip reproduce`."""
    parser.add_argument("name", help=f"experiment: {', '.join(experiments())}")
    parser.add_argument("--data-dir", help="the benchmark's archive or folder, if it is not prepared yet")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="change values of the recipe: batch_size=96"
    )
    parser.add_argument(
        "--launch", default=sys.executable, metavar="WORDS", help="what starts the training: 'accelerate launch', ..."
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done and what it takes")


def run(args: argparse.Namespace) -> int:
    """Do what is missing, step after step; what an interrupted command has done is kept."""
    arguments = read_arguments(args.name, args.set)
    if args.data_dir and not Path(args.data_dir).expanduser().exists():
        raise FileNotFoundError(f"There is no archive '{args.data_dir}': pass --data-dir with the benchmark's archive.")
    commands = plan_commands(args.name, arguments, args.set, args.data_dir, args.launch)
    if args.dry_run:
        print(describe(args.name, arguments, commands))
        return 0
    if not commands["prepare"] and not is_prepared(arguments):
        raise FileNotFoundError(
            f"'{arguments.dataset}' is no prepared dataset: pass --data-dir with the benchmark's archive, or run "
            f"`splip prepare {benchmark(args.name)} --data-dir ARCHIVE --out {shlex.quote(arguments.dataset)}`."
        )
    if is_prepared(arguments):
        check_benchmark(args.name, arguments)
    for step, command in commands.items():
        if not command:
            continue
        print(f"\n{step}: {shlex.join(command)}", flush=True)
        status = subprocess.run(command).returncode
        if status:
            raise OSError(f"'{step}' of {args.name} ended with status {status}: see above, then run the same again.")
        if step == "prepare":
            check_benchmark(args.name, arguments)
        if step == "train":
            check_finished(args.name, arguments)
    print(f"\ncard: {write_card(args.name, arguments)}")
    return 0


def experiments() -> list[str]:
    """Return the recipes of published experiments: those that name a benchmark."""
    return [name for name in recipe_names() if "dataset" in load_recipe(name)]


def benchmark(name: str) -> str:
    """Return the benchmark's split of an experiment, as `splip prepare` names it."""
    return Path(load_recipe(name)["dataset"]).name


def read_arguments(name: str, changes: list[str]) -> TrainingArguments:
    """Return the experiment's recipe with changes.

    Raises:
        ValueError: if there is no such experiment, or a change is none.
    """
    if name not in experiments():
        raise ValueError(f"There is no experiment '{name}'{hint(name, experiments())}")
    for change in changes:
        if "=" not in change:
            raise ValueError(f"--set takes NAME=VALUE, got '{change}'.")
    return parse_arguments(training_flags(name, changes))


def training_flags(name: str, changes: list[str]) -> list[str]:
    """Return the flags of `splip train`."""
    return ["--recipe", name, *(f"--{change}" for change in changes)]


def is_prepared(arguments: TrainingArguments) -> bool:
    return (Path(arguments.dataset) / INFO_FILE).is_file()


def check_benchmark(name: str, arguments: TrainingArguments) -> SbirDataset:
    """Open the prepared dataset; refuse another one than the experiment's."""
    dataset = open_dataset(arguments.dataset)
    if dataset.name != benchmark(name):
        raise ValueError(
            f"'{arguments.dataset}' holds '{dataset.name}', but {name} is an experiment on '{benchmark(name)}': set "
            "another dataset=FOLDER."
        )
    return dataset


def check_finished(name: str, arguments: TrainingArguments) -> None:
    """Refuse to go on with a training that was told to stop before its end."""
    run = json.loads((Path(arguments.output) / "run.json").read_text("utf-8"))
    if not run["finished"]:
        raise OSError(
            f"The training of {name} was asked to stop after {run['steps']} steps, which are saved: run the same again "
            "to go on."
        )


def plan_commands(
    name: str, arguments: TrainingArguments, changes: list[str], data_dir: str | None, launch: str
) -> dict[str, list[str]]:
    """Return the command of each step; that of `prepare` is empty where the data are there or no archive is named."""
    splip, output = [sys.executable, "-m", "modeling_splip"], Path(arguments.output)
    prepare = [*splip, "prepare", benchmark(name), "--data-dir", str(data_dir), "--out", arguments.dataset]
    resume = ["--resume"] if output.exists() else []
    evaluate = ["--model", str(output / "model"), "--dataset", arguments.dataset]
    level = arguments.level
    protocols = [name for name, protocol in PROTOCOLS.items() if protocol.level == level and protocol.reported]
    evaluate += ["--protocol", *protocols, "--report", str(output / "report")]
    return {
        "prepare": prepare if data_dir and not is_prepared(arguments) else [],
        "train": [*shlex.split(launch), "-m", "modeling_splip", "train", *training_flags(name, changes), *resume],
        "evaluate": [*splip, "evaluate", *evaluate],
    }


def write_card(name: str, arguments: TrainingArguments) -> Path:
    """Write the trained model's card, with the results of its evaluation, into the run's folder.

    `splip push` writes it again under the name that the model gets on the Hub.
    """
    output = Path(arguments.output)
    model, processor = load_retriever(str(output / "model"))
    facts = CardFacts(
        repo=f"your-name/{name}",
        method=type(model),
        config=model.config,
        fingerprint=model.fingerprint(processor),
        run=read_run(output / "model"),
        records=read_records(output / "report" / RECORDS),
    )
    write_text(output / CARD_FILE, render_card(facts))
    return output / CARD_FILE


def describe(name: str, arguments: TrainingArguments, commands: dict[str, list[str]]) -> str:
    """Return the plan; what it takes is measured where data and base CLIP are here."""
    lines = [f"{name}: {arguments.method} on {benchmark(name)}, {arguments.level} level", ""]
    if is_prepared(arguments):
        dataset = check_benchmark(name, arguments)
        lines.append(f"data: found at {arguments.dataset}, version {dataset.version}")
        lines += [*describe_plan(plan_training(arguments, dataset), arguments)]
    else:
        needs = "will be prepared" if commands["prepare"] else "missing; --data-dir names the benchmark's archive"
        lines += [f"data: not prepared at {arguments.dataset}, {needs}", "what it takes: measured once data are there"]
    lines += ["", *(f"{step}: {shlex.join(command)}" for step, command in commands.items() if command)]
    return "\n".join([*lines, f"card: {Path(arguments.output) / CARD_FILE}"])


def describe_plan(plan: TrainingPlan, arguments: TrainingArguments) -> list[str]:
    """Return what a training takes, a line for each thing."""
    least = "at least " if arguments.gradient_checkpointing else ""
    hours = plan.seconds(worker_count(arguments.workers)) / 3600
    return [
        f"classes: {plan.classes} trained, {plan.validation_classes} held back for validation",
        f"steps: {plan.steps:,} of {arguments.batch_size} sketches, {plan.epoch_steps:,} an epoch",
        f"parameters: {plan.trained:,} trained of {plan.parameters:,}",
        f"memory: {least}{plan.memory / 1e9:.2f} GB in one process, beside what the library takes",
        f"time: {hours:.2f} hours on this machine's {plan.device} without validation, from {MEASURED_STEPS} steps of "
        f"{plan.measured} sketches each",
    ]
