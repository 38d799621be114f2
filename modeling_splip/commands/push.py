"""Share a model on the Hub: weights, processor, code, card, adapters for PEFT, and a gallery."""

import argparse
import tempfile
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig

from ..common.files import write_json, write_text
from ..common.text import printable, printable_lines
from ..loading import load_retriever
from ..modeling_retriever import Retriever
from ..search.table import CARD, GROUP_ROWS, MANIFEST, read_manifest
from ..sharing.eval_results import EVAL_RESULTS, eval_results_file, render_eval_results
from ..sharing.model_card import CARD_FILE, CardFacts, read_records, read_run, render_card
from ..sharing.peft_export import export_peft
from ..sharing.private import remove_origins, shared_base, write_shared_table

# What an earlier push may have left in a repository, and this one replaces: it would be read beside the new files.
REPLACED = {
    "model": [
        "model.safetensors",
        "model-*.safetensors",
        "model.safetensors.index.json",
        "peft/*",
        f"{EVAL_RESULTS}/*",
    ],
    "dataset": ["data-*"],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `splip push`."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a run's folder, or a model's")
    parser.add_argument("repo", metavar="REPO", help="Hub id that the model gets: owner/name")
    parser.add_argument("--results", nargs="+", default=[], type=Path, help="files that `splip evaluate --out` wrote")
    parser.add_argument(
        "--benchmark", metavar="DATASET", help="Hub id of the benchmark that --results are of, for its leaderboard"
    )
    parser.add_argument("--gallery", type=Path, help="also push this gallery, to the dataset repository REPO-gallery")
    parser.add_argument("--full", action="store_true", help="with the base CLIP's weights: needs nothing else")
    parser.add_argument("--license", default="other", help="Hub licence id of the model (default: other)")
    parser.add_argument("--private", action="store_true", help="make the repositories private where they are new")
    parser.add_argument("--revision", help="branch to push to, made where it is new (default: main)")
    parser.add_argument("--dry-run", action="store_true", help="list what would go, and print the card; no network")


def run(args: argparse.Namespace) -> int:
    """Put the files of each repository into a folder, then push or list them."""
    for what, name in (("REPO", args.repo), ("--benchmark", args.benchmark)):
        if name is not None:
            validate_repo_id(name)
            if name.count("/") != 1:
                raise ValueError(f"{what} must be owner/name, got '{name}'.")
    with tempfile.TemporaryDirectory(prefix="splip-push-") as folder:
        stages = {("model", args.repo): Path(folder) / "model"}
        stage_model(args, stages["model", args.repo])
        if args.gallery:
            stages["dataset", f"{args.repo}-gallery"] = Path(folder) / "gallery"
            stage_gallery(args.gallery, args.repo, stages["dataset", f"{args.repo}-gallery"])
        for (kind, repo), stage in stages.items():
            if args.dry_run:
                list_files(kind, repo, stage)
            else:
                print(upload(kind, repo, stage, args.private, args.revision))
        if args.dry_run:
            card = (stages["model", args.repo] / CARD_FILE).read_text("utf-8")
            print(f"\n{printable_lines(card)}")
    return 0


def stage_model(args: argparse.Namespace, stage: Path) -> None:
    """Write the files of a model's repository to a folder. The model is loaded first, so that a broken one is refused.

    Raises:
        FileNotFoundError: if there is no model.
        ValueError: if others could not load it, because its base CLIP is a folder of this machine.
    """
    folder = args.folder / "model" if (args.folder / "model" / "config.json").is_file() else args.folder
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"'{args.folder}' is no folder of a run or a model: train first, or name one.")
    model, processor = load_retriever(str(folder))
    fingerprint = model.fingerprint(processor)
    full = isinstance(model, Retriever) and (args.full or model.config.checkpoint == "full")
    if shared_base(model.config) is None:
        if isinstance(model, Retriever) and not full:
            raise ValueError(
                f"The base CLIP '{model.config.base_model}' is a folder of this machine, which others do not have: "
                "push with --full, or train on a Hub id."
            )
        model.config.base_model = None
    model.save_pretrained(stage, **({"full": True} if full else {}))
    processor.save_pretrained(stage)
    remove_origins(stage)
    exported = export_peft(model, stage) if isinstance(model, Retriever) else []
    facts = CardFacts(
        repo=args.repo,
        method=type(model),
        config=AutoConfig.from_pretrained(stage, trust_remote_code=False),
        fingerprint=fingerprint,
        run=read_run(folder),
        records=[record for path in args.results for record in read_records(path)],
        license=args.license,
        peft=[path.relative_to(stage).as_posix() for path in exported],
    )
    write_text(stage / CARD_FILE, render_card(facts))
    if args.benchmark:
        path = stage / eval_results_file(args.benchmark)
        path.parent.mkdir()
        write_text(path, render_eval_results(args.repo, args.benchmark, facts.records))


def stage_gallery(gallery: Path, model: str, stage: Path) -> None:
    """Copy a gallery, without this machine's paths."""
    manifest = read_manifest(gallery)
    write_shared_table(gallery / manifest["data"], stage / manifest["data"], GROUP_ROWS)
    named = {"root": "", "source": "", "model": model, "model_beside": None, "unreadable": []}
    write_json(stage / MANIFEST, manifest | named)
    write_text(stage / CARD_FILE, CARD.format(data=manifest["data"]))


def list_files(kind: str, repo: str, stage: Path) -> None:
    """Print the files that would go to a repository, with their sizes in bytes."""
    sizes = {path.relative_to(stage).as_posix(): path.stat().st_size for path in stage.rglob("*") if path.is_file()}
    print(f"{kind} {repo}: {len(sizes)} files, {sum(sizes.values()):,} bytes")
    for name, size in sorted(sizes.items()):
        print(f"{size:>14,}  {printable(name)}")


def upload(kind: str, repo: str, stage: Path, private: bool, revision: str | None) -> str:
    """Push a folder in the place of what an earlier push left, and return the address of its repository.

    Raises:
        OSError: if the Hub cannot be reached or refuses.
    """
    api = HfApi()
    try:
        api.create_repo(repo, repo_type=kind, private=private or None, exist_ok=True)
        if revision:
            api.create_branch(repo, branch=revision, repo_type=kind, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            repo_type=kind,
            folder_path=stage,
            revision=revision,
            commit_message="Push by splip",
            delete_patterns=REPLACED[kind],
        )
    except Exception as error:  # the Hub client raises a dozen kinds
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise OSError(
            f"'{repo}' was not pushed ({reason}): log in with `hf auth login`, check the name and the network."
        ) from error
    return str(commit.repo_url)
