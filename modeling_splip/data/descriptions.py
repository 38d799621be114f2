"""Descriptions of classes: for every class one sentence in answer to each of a few questions, in a JSON file.

The packaged file lies beside this one, and not with the data builders, because training reads it.
"""

import json
import re
import shlex
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..common.text import hint, nearest, plain_words, spelling_key

SCHEMA = "splip-descriptions-1"
PACKAGED = Path(__file__).with_name("descriptions.json")
# Thirty plain words fit into CLIP's 77 tokens, although a rare word takes two or three.
MAX_WORDS = 30


@dataclass
class Descriptions:
    """The content of a descriptions file.

    Attributes:
        source: who or what wrote the sentences.
        prompts: name of a question -> the question, with `{class}` where the class goes.
        classes: readable class name -> name of a question -> the sentence that answers it.
    """

    source: str
    prompts: dict[str, str]
    classes: dict[str, dict[str, str]] = field(default_factory=dict)

    def faults(self) -> dict[str, str]:
        """Return class -> the first thing that is wrong with it, for every class that has a fault."""
        found, keys, sentences = {}, set(), set()
        for name, answers in self.classes.items():
            if spelling_key(name) in keys:
                found[name] = "is there twice"
            elif list(answers) != list(self.prompts):
                found[name] = f"must answer {', '.join(self.prompts)}, in this order"
            keys.add(spelling_key(name))
            for prompt, sentence in answers.items():
                fault = sentence_fault(name, sentence, sentences)
                if fault:
                    found.setdefault(name, f"{prompt} {fault}")
                sentences.add(sentence.casefold())
        return found

    def to_json(self) -> dict:
        """Return what the file holds."""
        return {"schema": SCHEMA, "source": self.source, "prompts": self.prompts, "classes": self.classes}


def read_descriptions(path: str | Path) -> Descriptions:
    """Read a descriptions file. Its sentences are not checked: see `Descriptions.faults`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not of this form.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no descriptions file '{path}': write one with "
            f"`splip describe --classes FILE --model ID --out {shlex.quote(str(path))}`."
        )
    try:
        data = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Descriptions file '{path}' is not JSON: {error}.") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError(f"'{path}' is no descriptions file: its schema must be '{SCHEMA}'.")
    source, prompts, classes = (data.get(key) for key in ("source", "prompts", "classes"))
    if not isinstance(source, str) or not _strings(prompts) or not all("{class}" in p for p in prompts.values()):
        raise ValueError(f"'{path}' must name its source, and its prompts must be questions about {{class}}.")
    if not isinstance(classes, dict) or not all(_strings(answers) for answers in classes.values()):
        raise ValueError(f"The classes of '{path}' must each hold one sentence for every prompt.")
    return Descriptions(source, prompts, classes)


def load_descriptions(source: str | Path | None = None, questions: Collection[str] = ()) -> dict[str, list[str]]:
    """Return the sentences of every class, in the order of the prompts.

    Args:
        source: a descriptions file; None for the packaged one, which knows the benchmarks and the drawn world.
        questions: names of the prompts whose answers are wanted; all where there are none.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not of this form, it has no such prompt, or a sentence has a fault.
    """
    path = PACKAGED if source is None else source
    descriptions = read_descriptions(path)
    for name, fault in descriptions.faults().items():
        raise ValueError(
            f"'{path}', class '{name}': {fault}; correct it, or remove it and run the same `splip describe` again."
        )
    for question in questions:
        if question not in descriptions.prompts:
            raise ValueError(f"'{path}' has no question '{question}'{hint(question, descriptions.prompts)}")
    wanted = [prompt for prompt in descriptions.prompts if prompt in questions or not questions]
    return {name: [answers[prompt] for prompt in wanted] for name, answers in descriptions.classes.items()}


def descriptions_of(
    class_names: Iterable[str], source: str | Path | None = None, questions: Collection[str] = ()
) -> list[list[str]]:
    """Return the sentences of these classes, in the order of the classes.

    Args:
        class_names: in any spelling that `spelling_key` takes for equal.
        source, questions: as in `load_descriptions`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file has a fault or no such question, or a class is not described.
    """
    class_names = list(class_names)
    sentences = {spelling_key(name): (name, found) for name, found in load_descriptions(source, questions).items()}
    missing = [name for name in class_names if spelling_key(name) not in sentences]
    if missing:
        hints = []
        for name in missing[:10]:
            near = nearest(name, [known for known, _ in sentences.values()])
            hints.append(f"'{name}'" + (f" (nearest known: '{near}')" if near else ""))
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        where = f"'{source}'" if source is not None else "the packaged descriptions"
        raise ValueError(
            f"No description in {where} of {', '.join(hints)}{more}: "
            "rename them, or write a file for your classes with `splip describe --classes FILE --model ID --out OUT`."
        )
    return [sentences[spelling_key(name)][1] for name in class_names]


def sentence_fault(name: str, sentence: str, others: Collection[str]) -> str:
    """Return what is wrong with a sentence about a class, "" if nothing.

    Args:
        name: the class.
        sentence: about it.
        others: the sentences that it must not repeat, case-folded.
    """
    words = len(sentence.split())
    if not words:
        return "is empty"
    if words > MAX_WORDS:
        return f"has {words} words, more than {MAX_WORDS}"
    if not re.search(rf"(?<!\w){re.escape(plain_words(name))}(s|es)?(?!\w)", plain_words(sentence)):
        return f"does not name '{name}'"
    if not sentence.endswith("."):
        return "does not end with a full stop"
    if sentence.casefold() in others:
        return "repeats another sentence"
    return ""


def _strings(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(text, str) for text in value.values())
