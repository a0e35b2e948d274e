"""What a client would like and need not get: `Prefer: wait=10` (RFC 7240)."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Header

from producer.settings import Settings

#: Whole seconds; what a client writes that is no preference of ours is passed over, as the RFC has it.
_WAIT = re.compile(r'wait\s*=\s*"?([0-9]{1,9})"?\s*(?:;.*)?', re.IGNORECASE)

PreferHeader = Annotated[
    list[str] | None,
    Header(alias="Prefer", description="`wait=10`: seconds to wait for the job to end.", examples=["wait=10"]),
]


def preferred_wait_s(prefer: list[str] | None, settings: Settings) -> int:
    """How long the client would have its answer wait, the first time that it says so; at most the longest wait."""
    for preference in ",".join(prefer or ()).split(","):
        if found := _WAIT.fullmatch(preference.strip()):
            return min(int(found[1]), int(settings.max_wait_s))
    return 0


def applied(wait_s: int) -> dict[str, str]:
    """The header that tells how long the answer was ready to wait."""
    return {"Preference-Applied": f"wait={wait_s}"}
