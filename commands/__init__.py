"""The `omnigen2` command, a file for each group of commands; what only a person at a terminal needs."""
