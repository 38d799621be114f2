"""`python -m modeling_splip` is the `splip` command."""

import sys

from .commands.main import main

sys.exit(main())
