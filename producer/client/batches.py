"""Many documents in a request, as steps: each of them has an outcome, whatever becomes of the requests."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from pydantic import BaseModel

from producer.client.sources import Named, opened
from producer.client.steps import Patience, Send, Steps, parsed
from producer.documents import Source, no_address
from producer.errors import AdmissionError, InvalidRequest, OcrpoolError, Unauthorized, from_code
from producer.job import JobStatus

#: Documents of one request, and their bytes if they are more than one: less than a gateway takes.
AT_ONCE, AT_ONCE_BYTES = 100, 50_000_000

#: What the next request would be told as well, after as long a wait.
OVER = (AdmissionError, Unauthorized)

#: A job's id, and whether an earlier request brought it.
Accepted = tuple[str, bool]

#: A document and its name, or why it has none.
NamedSource = tuple[Source, str | OcrpoolError | None]

#: The job of a document, or why it has none.
Outcome = Accepted | OcrpoolError


class _Problem(BaseModel):
    code: str
    detail: str


class _BatchedDocument(BaseModel):
    job: JobStatus | None
    problem: _Problem | None

    @property
    def outcome(self) -> Outcome:
        if self.job is not None:
            return self.job.id, False
        problem = self.problem or _Problem(code="internal", detail="The gateway told nothing of this document.")
        return from_code(problem.code, problem.detail)


class _BatchAccepted(BaseModel):
    documents: tuple[_BatchedDocument, ...]


@dataclass
class Batches:
    """The documents of one `submit_all`, as many in a request as it carries."""

    patience: Patience
    #: The options, as a form has them.
    fields: Mapping[str, str]
    _over: OcrpoolError | None = field(default=None, init=False)

    def submit(self, sources: Iterable[NamedSource]) -> Steps[list[Outcome]]:
        """What came of each document, in their order. Once the gateway takes nothing for as long as it is waited for,
        or nothing from this client, the rest are not sent, and have its error."""
        found: list[Outcome] = []
        left = iter(sources)
        while some := list(itertools.islice(left, AT_ONCE)):
            found += yield from self._some(some)
        return found

    def _some(self, sources: Sequence[NamedSource]) -> Steps[list[Outcome]]:
        found: dict[int, Outcome] = {}
        files: dict[int, Named] = {}
        sizes: dict[int, int] = {}
        with ExitStack() as held:
            for place, (source, name) in enumerate(sources):
                try:
                    if isinstance(name, OcrpoolError):
                        raise name
                    no_address(source)
                    (shown, file), sizes[place] = held.enter_context(opened(source, name))
                    files[place] = (shown or "/", file)
                except OcrpoolError as refusal:
                    found[place] = refusal
            for places in by_size(sizes):
                try:
                    outcomes = yield from self._request([files[place] for place in places])
                    found.update(zip(places, outcomes, strict=True))
                except OcrpoolError as error:
                    found.update(dict.fromkeys(places, error))
                    if isinstance(error, OVER):
                        self._over = error
        return [found[place] for place in range(len(sources))]

    def _request(self, files: Sequence[Named]) -> Steps[list[Outcome]]:
        if self._over is not None:
            raise self._over
        headers = {"Idempotency-Key": secrets.token_hex(16)}
        request = Send("POST", "/v1/batches", headers=headers, form=self.fields, files=files)
        answer = yield from self.patience.answer(request)
        accepted = parsed(_BatchAccepted, answer).documents
        if len(accepted) != len(files):
            raise InvalidRequest(f"{answer.url} was sent {len(files)} documents and told of {len(accepted)}.")
        return [document.outcome for document in accepted]


def by_size(sizes: Mapping[int, int]) -> Iterator[list[int]]:
    """The places of documents of these sizes, as many together as one request carries."""
    together: list[int] = []
    size_bytes = 0
    for place, more in sizes.items():
        if together and size_bytes + more > AT_ONCE_BYTES:
            yield together
            together, size_bytes = [], 0
        together.append(place)
        size_bytes += more
    if together:
        yield together
