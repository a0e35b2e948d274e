"""Log lines of every process: for people, or one JSON object a line. They go to standard error."""

from __future__ import annotations

import logging
import sys
import traceback
from contextlib import suppress
from typing import TextIO

import structlog

from producer.escaping import escaped
from producer.settings import Settings


class LossyLogger(structlog.PrintLogger):
    """Drops lines that cannot be written, to a full disk or a closed pipe: a log must not end what it tells of."""

    def msg(self, message: str) -> None:
        with suppress(OSError):
            super().msg(message)

    log = debug = info = warn = warning = fatal = failure = err = error = critical = exception = msg


def configure_logs(settings: Settings) -> None:
    """Set up structlog, and send the standard library's log lines through it."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if settings.node:
        # Workers of one pool may write to one place.
        shared.insert(0, lambda _logger, _method, line: {"worker": settings.node, **line})
    renderers: list[structlog.typing.Processor]
    if settings.log_format == "json":
        shared.append(structlog.processors.format_exc_info)
        renderers = [structlog.processors.JSONRenderer()]
    else:
        console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_write_traceback)
        renderers = [_escape, console]
    level = logging.getLevelNamesMapping()[settings.log_level]
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: LossyLogger(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def _escape(_logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What strangers wrote neither ends the line nor moves the cursor of whoever reads it."""
    return {
        escaped(field): value if field == "exc_info" else escaped(value if isinstance(value, str) else repr(value))
        for field, value in line.items()
    }


def _write_traceback(out: TextIO, error: structlog.typing.ExcInfo) -> None:
    """Below its line and indented, so that an error's words are not taken for a line of the log.

    Plain: other tracebacks show local variables, and with them documents and secrets.
    """
    for line in "".join(traceback.format_exception(*error)).splitlines():
        out.write(f"\n    {escaped(line)}")
