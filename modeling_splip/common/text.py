"""Names and messages: one way to compare class names, to suggest the nearest name, to quote, and to write a table."""

import difflib
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence


def spelling_key(name: str) -> str:
    """Return the form in which two spellings of a class name are compared.

    Upper and lower case are equal, and so are the two Unicode forms of a letter with an accent. Spaces, `_` and `-` do
    not count: "hot-air balloon", "Hot_air_balloon" and "hotair balloon" are one class.
    """
    return re.sub(r"[\s_\-]+", "", composed(name)).casefold()


def composed(text: str) -> str:
    """Return text in Unicode's NFC form, in which names are stored: an accented letter is one character."""
    return unicodedata.normalize("NFC", text)


def readable(name: str) -> str:
    """Return the name of a folder as a prompt says it: `stop_sign` is "stop sign", `t-shirt` stays."""
    return re.sub(r"[\s_]+", " ", composed(name)).strip()


def plain_words(text: str) -> str:
    """Return text in lower case with single spaces between words, also for `_` and `-`; accents in one form (NFC)."""
    return re.sub(r"[\s_\-]+", " ", unicodedata.normalize("NFC", text)).strip().casefold()


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that looks most like this one, whatever the spelling; None where none is similar."""
    keys = {spelling_key(each): each for each in reversed(list(known))}
    found = difflib.get_close_matches(spelling_key(str(name)), list(keys), n=1, cutoff=0.5)
    return keys[found[0]] if found else None


def hint(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown name: the nearest known name, or all where none is similar.

    `f"There is no recipe '{name}'{hint(name, recipes)}"` reads "There is no recipe 'slip'; did you mean 'splip'?", and
    needs no full stop.
    """
    names = list(known)
    close = nearest(name, names)
    if close is not None:
        return f"; did you mean '{close}'?"
    return f"; known are {quoted(names, 20)}." if names else "; there are none."


def quoted(names: Iterable[str], most: int = 10) -> str:
    """Return names for a message: the first ones in quotes, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + more


def printable(text: str) -> str:
    """Return text for a terminal: no control characters, which a file's name may hold, and only what it can show."""
    plain = "".join(char if char.isprintable() else "?" for char in text)
    encoding = sys.stdout.encoding or "utf-8"
    return plain.encode(encoding, "replace").decode(encoding)


def printable_lines(text: str) -> str:
    """Return text of several lines for a terminal, each as `printable` returns it."""
    return "\n".join(map(printable, text.split("\n")))


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line."""
    return printable(" ".join(str(error).split()))


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]], aligned: bool = False) -> str:
    """Return a Markdown table.

    Args:
        columns: the C column names.
        rows: the cells of each row, C each; a `|` in a cell is escaped.
        aligned: whether to fill up the cells, so that the table reads well as plain text.
    """
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (columns, *rows)]
    widths = [max(len(cell) for cell in column) if aligned else 3 for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    widths = widths if aligned else [0] * len(widths)
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)
