"""The server's part of the command line; `elman.cli.program` names its commands."""
