"""Telling a Hub id from a path."""

import os
import re
from pathlib import Path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(name: str | os.PathLike) -> bool:
    """Return whether a name can only be meant as `owner/name` on the Hub: it has that form, and no folder is there.

    `runs/model` is a path where a folder `runs` exists, so that a misspelt path is not looked up on the Hub.
    """
    path = Path(name).expanduser()
    return bool(_HUB_ID.fullmatch(str(name))) and not path.exists() and not path.parent.is_dir()
