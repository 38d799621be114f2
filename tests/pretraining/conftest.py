"""Helpers of these tests are imported by name, whatever pytest takes as the root."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
