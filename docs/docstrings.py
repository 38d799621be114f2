"""What the API's pages do with docstrings before they are read as Markdown."""

import re
from typing import Any

import griffe

# A word in angle brackets, which Markdown takes for HTML and shows nothing of; between backticks it is safe.
PLACEHOLDER = re.compile(r"(`[^`]*`)|<(?=[\w/])")


class Placeholders(griffe.Extension):
    """Shows `<base>` in docstrings as it is written."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Escape every placeholder of one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = PLACEHOLDER.sub(lambda found: found[1] or "&lt;", obj.docstring.value)
