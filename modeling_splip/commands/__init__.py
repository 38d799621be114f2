"""The `splip` command: `main` finds a command by its name, every other file is one.

First steps: `demo`. Search: `index`, `search`. Data: `describe`. Training and evaluation: `train`, `evaluate`,
`reproduce`. Sharing: `push`, `export`. Two more come from elsewhere by the entry point group `splip.commands`:
`prepare` and `space`. A command has `add_arguments` and `run`, or `run_words` where it reads its words itself. None
imports another.
"""
