"""The `splip` command: `main` finds a command by its name, every other file is one.

First steps: `demo`. Data: `describe`. Training and evaluation: `reproduce`, `evaluate`. Search: `index`, `search`.
Sharing: `push`, `export`. Two more come from elsewhere by the entry point group `splip.commands`: `prepare` and
`space`. A command has `add_arguments` and `run`, and imports no other command.
"""
