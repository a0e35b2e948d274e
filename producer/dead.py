"""Dead letters: what the pool has given up, kept with its reason until somebody looks at it.

Three kinds: pages that took three workers along (`poison_document`), messages that are not of this pool's contract, and
webhooks that no try delivered.
The ledger keeps the last `KEPT` of them. The document of a page goes with its job, as every document does
(`OCRPOOL_RESULT_TTL_S`): until then the page can be replayed, and each letter says how long that is.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict

from producer.errors import InvalidRequest, NotFound
from producer.ledger import Ledger
from producer.outbox import Outbox
from producer.producer import JobHandle, Producer
from producer.scripts import reachable

#: Dead letters that are kept; the oldest give way.
KEPT = 1000
#: Of a message so many bytes are kept.
MESSAGE_BYTES = 4096


class DeadLetter(BaseModel):
    """What was given up, when and why."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: Literal["page", "message", "webhook"]
    #: Milliseconds since 1970, by the server's clock.
    at_ms: int
    #: The error's code, and one sentence.
    code: str
    reason: str
    #: Of a page: its job, its unit there, and the name that the producer gave the document. Of a webhook: its job and
    #: its endpoint.
    job_id: str = ""
    unit: str = ""
    name: str = ""
    #: Of a page: until when its document is kept, so that it can be replayed, in seconds since 1970; of a webhook: its
    #: record. None: it is gone.
    replayable_until: float | None = None
    #: Of a message: its queue and its first bytes, in Base64.
    queue: str = ""
    body: str = ""

    @property
    def content(self) -> str:
        """A message's bytes as text, with what is not printable escaped."""
        return base64.b64decode(self.body).decode("utf-8", "backslashreplace").encode("unicode_escape").decode()


class DeadLetters:
    """The dead letters of one pool."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float] = time.time) -> None:
        self._ledger = ledger
        self._clock = clock
        self._key = f"{ledger.namespace}:dead"

    def all(self) -> list[DeadLetter]:
        """The newest first."""
        with reachable():
            found = cast(dict[bytes, bytes], self._ledger.redis.hgetall(self._key))
        letters = [DeadLetter.model_validate_json(letter) for letter in found.values()]
        return sorted(self._with_times(letters), key=lambda letter: -int(letter.id))

    def get(self, letter_id: str) -> DeadLetter:
        """Raises `NotFound`."""
        with reachable():
            found = cast("bytes | None", self._ledger.redis.hget(self._key, letter_id))
        if found is None:
            raise _missing(letter_id)
        [letter] = self._with_times([DeadLetter.model_validate_json(found)])
        return letter

    def _with_times(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """The letters with the time until which each can be replayed: a job's record and its document go together.

        Of a job that has not ended it is only known that they outlast its end.
        """
        with reachable(), self._ledger.redis.pipeline(transaction=False) as pipe:
            for letter in letters:
                record = "delivery" if letter.kind == "webhook" else "job"
                pipe.pttl(f"{self._ledger.namespace}:{record}:{letter.job_id}")
            left_ms = pipe.execute()
        now, most_s = self._clock(), {"page": self._ledger.settings.result_ttl_s}
        return [
            letter.model_copy(
                update={"replayable_until": now + min(left / 1000, most_s.get(letter.kind, inf)) if left > 0 else None}
            )
            for letter, left in zip(letters, left_ms, strict=True)
        ]

    def drop(self, letter_id: str) -> None:
        """Forget it. Raises `NotFound`."""
        with reachable():
            dropped = self._ledger.redis.hdel(self._key, letter_id)
        if not dropped:
            raise _missing(letter_id)

    def replay(self, letter_id: str, producer: Producer) -> JobHandle:
        """Hand the page's document in again, whole and as a new job of the same tenant, or send the webhook anew; and
        forget the letter.

        Raises:
            NotFound: there is no such letter, its document went with its job, or its webhook is gone.
            InvalidRequest: it is a message, which would be refused again.
        """
        letter = self.get(letter_id)
        if letter.kind == "message":
            raise InvalidRequest(f"Dead letter {letter_id} is a message that would be refused again; drop it instead.")
        if letter.kind == "webhook":
            Outbox(self._ledger).replay(letter.job_id)
            self.drop(letter_id)
            return producer.job(letter.job_id)
        try:
            job = self._ledger.job(letter.job_id)
            with producer.blobs.local(job.blob) as document:
                handle = producer.of_tenant(job.tenant).submit(document, name=job.name, options=job.options)
        except NotFound:
            raise NotFound(
                f"The document of dead letter {letter_id} is gone: it is kept as long as its job "
                f"(OCRPOOL_RESULT_TTL_S). Hand it in again yourself, and drop the letter."
            ) from None
        self.drop(letter_id)
        return handle


def _missing(letter_id: str) -> NotFound:
    return NotFound(f"There is no dead letter {letter_id}; `ocrpool dead list` shows those there are.")


def bury_message(ledger: Ledger, message: bytes, queue: str, reason: str) -> None:
    """Keep a message that is not of this pool's contract."""
    body = base64.b64encode(message[:MESSAGE_BYTES]).decode()
    ledger.bury({"kind": "message", "code": "message_refused", "reason": reason, "queue": queue, "body": body})
