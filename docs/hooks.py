"""What MkDocs does besides its configuration: a page of the API for every room, and links that stay inside the site."""

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

import rooms

# A link from a page to a file of the repository that is no page.
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")


def api_pages() -> dict[str, str]:
    """Return the pages of the API, address -> Markdown: one for each room with public names."""
    pages = {}
    for room in rooms.rooms():
        place = ".".join(room.relative_to(rooms.ROOT).parts)
        parts = [f"# {place}", rooms.docstring(room / "__init__.py")]
        parts += [f"::: {place}.{file}.{name}" for name, file in rooms.public_names(room).items()]
        if len(parts) > 2:
            pages[f"api/{place}.md"] = "\n\n".join(parts) + "\n"
    return pages


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the API's pages at the end of the navigation."""
    config.nav.append({"API": list(api_pages())})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the API's pages, which lie in no file."""
    for address, text in api_pages().items():
        files.append(File.generated(config, address, content=text))
    return files


def on_page_markdown(markdown: str, **kwargs) -> str:
    """Return a page on which links to files outside of the site are plain text."""
    return OUTSIDE.sub(r"\1", markdown)
