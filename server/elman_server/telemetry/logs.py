"""The process's log: lines on stderr, as text or JSON, from both structlog and stdlib."""

import logging
import os
import sys
from typing import Literal

import structlog

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["console", "json"]

_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
"""Processors for every line, from structlog and from stdlib."""


def configure(level: Level, format: Format, **always: object) -> None:
    """Sends lines of at least `level` to stderr in `format`, each with the fields of `always`. A
    second call replaces the first.

    Colours appear only in the console format, on a terminal, without NO_COLOR.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]

    def add(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**line, **always}

    shared = [*_SHARED, add] if always else _SHARED
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(format),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(threshold)


def _renderers(format: Format) -> list[structlog.typing.Processor]:
    if format == "json":
        return [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ]
    colors = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    return [
        structlog.dev.ConsoleRenderer(
            colors=colors, exception_formatter=structlog.dev.plain_traceback
        )
    ]
