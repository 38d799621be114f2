"""What the API's pages do with docstrings before they are read as Markdown."""

import re
from typing import Any

import griffe

# What Markdown takes for HTML, `<base>`, or for a link, `[P][R]`; between backticks it is safe.
TAKEN_FOR_MARKUP = re.compile(r"(`[^`]*`)|<(?=[\w/])|(?<=\])\[")


class AsWritten(griffe.Extension):
    """Shows `<base>`, `[P][R]` and `columns[split][name]` in docstrings as they are written."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Escape what Markdown would take for markup in one docstring."""
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = TAKEN_FOR_MARKUP.sub(lambda found: found[1] or f"&#{ord(found[0])};", text)
