"""The `splip` command, one file a sub-command."""
