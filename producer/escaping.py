"""Words of strangers, made safe to show: on a terminal, in a log line, beside a job."""

from __future__ import annotations

import re

#: Characters of a document's name.
NAME_CHARS = 255


def escaped(text: str) -> str:
    r"""The text on one line: what is not printable as Python writes it, such as `\x1b`, `\n` or `\u202e`."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shown_name(name: str) -> str:
    """A document's name without folders and without what is not printable."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(char for char in last if char.isprintable())
