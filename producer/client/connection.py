"""What the clients' connections have in common."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import httpx

#: How long a call is tried while the gateway is away or takes nothing.
PATIENCE_S = 60.0
#: Connections that are kept for the next call; there may be more.
KEPT = 32


def settings_of(base_url: str, api_key: str | None) -> dict[str, Any]:
    """How httpx is to connect. Redirects are errors: they would take documents and the key elsewhere."""
    headers = {"User-Agent": f"ocrpool/{version('ocrpool')}"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    return {
        "base_url": base_url,
        "headers": headers,
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=KEPT),
        "follow_redirects": False,
    }
