"""Runs PaddleOCR's own client, in the environment that it is installed in: a call a line of stdin, an answer a line of
stdout, both JSON. Imports nothing of the project."""

import asyncio
import dataclasses
import json
import sys
from typing import Any

import paddleocr

#: In place of five and ten minutes: a test that hangs shall fail.
LIMITS = {"request_timeout": 60.0, "poll_timeout": 120.0}


def call(client: Any, method: str, arguments: dict[str, Any]) -> Any:
    if "options" in arguments:
        arguments["options"] = paddleocr.OCROptions(**arguments["options"])
    return getattr(client, method)(**arguments)


async def call_async(client: Any, method: str, arguments: dict[str, Any]) -> Any:
    async with client:
        return await call(client, method, arguments)


def main() -> None:
    kept: Any = None
    for line in sys.stdin:
        asked = json.loads(line)
        arguments = asked["arguments"]
        if asked["method"] == "save_ocr_result_resources":
            arguments["result"] = kept
        reached = {"token": asked["token"], "base_url": asked["base_url"]}
        try:
            if asked["client"] == "async":
                client = paddleocr.AsyncPaddleOCRClient(**reached, **LIMITS)
                returned = asyncio.run(call_async(client, asked["method"], arguments))
            else:
                with paddleocr.PaddleOCRClient(**reached, **LIMITS) as client:
                    returned = call(client, asked["method"], arguments)
        except paddleocr.PaddleOCRAPIError as error:
            answer: dict[str, Any] = {"raised": type(error).__name__, "message": str(error)}
        else:
            kept = returned
            answer = {"returned": returned}
        # The client's results are dataclasses.
        print(json.dumps(answer, default=dataclasses.asdict), file=answers, flush=True)


# What libraries print must not come between the answers.
answers, sys.stdout = sys.stdout, sys.stderr
main()
