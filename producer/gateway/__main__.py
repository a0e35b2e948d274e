"""`python -m producer.gateway`: one gateway process with the settings of the environment."""

from __future__ import annotations

import sys

from pydantic import ValidationError

from producer.blobs import open_store
from producer.errors import Unavailable
from producer.gateway.server import run
from producer.logs import configure_logs
from producer.settings import Settings, explain


def main() -> int:
    try:
        settings = Settings()
    except ValidationError as error:
        print(*explain(error), sep="\n", file=sys.stderr)
        return 2
    configure_logs(settings)
    try:
        open_store(settings).check()
        run(settings)
    except Unavailable as error:
        print(f"The gateway cannot start: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        address = f"{settings.gateway_host}:{settings.gateway_port}"
        print(f"The gateway cannot listen on {address}: {error.strerror or error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
