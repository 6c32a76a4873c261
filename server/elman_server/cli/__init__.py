"""The server's commands; `elman.cli.program` adds them to the command line."""
