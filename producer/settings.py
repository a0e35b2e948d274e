"""Every setting of ocrpool: one frozen object, read from `OCRPOOL_*` variables where a process starts and handed down.

Each default works on a laptop. The README's table is made from this model by `ocrpool settings --markdown`.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlparse

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from producer.addresses import AllowList
from producer.redis_url import HIDDEN, without_passwords
from producer.redis_url import check as check_redis_url

DATA_DIR = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "ocrpool"

Size = tuple[int, int]

#: The settings that a process which parses documents is told: what a page may take there.
DECODER_LIMITS = {
    "max_pages",
    "max_page_pixels",
    "max_page_side_pt",
    "pdf_dpi",
    "page_timeout_s",
    "rasterise_memory_bytes",
    "sandbox",
}
#: The settings that are secrets as a whole.
SECRETS = frozenset({"flower_basic_auth", "signing_key", "webhook_secrets"})
#: A bucket, and what its keys begin with.
_S3_PLACE = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9!_.*'()/-]*)?")


class Settings(BaseSettings):
    """The settings. Build it once: `Settings()` reads the environment, `Settings(name=...)` overrides it."""

    model_config = SettingsConfigDict(env_prefix="OCRPOOL_", frozen=True, extra="forbid")

    # Where things are
    redis_url: str = Field(
        "redis://127.0.0.1:6390/0",
        description="Redis of the queue and the ledger, or its Sentinels: "
        "`redis+sentinel://host1:26379,host2:26379/mymaster/0`. The default port is the embedded server's own.",
    )
    namespace: str = Field("ocrpool", pattern=r"^[a-z0-9_-]{1,32}$", description="Prefix of every Redis key and queue.")
    data_dir: Path = Field(DATA_DIR, description="Folder of the embedded Redis server and of the default blob store.")
    blob_url: str = Field(
        "",
        description="Blob store: `file:///folder` or `s3://bucket/prefix`; empty: the folder `blobs` in the data "
        "folder.",
    )
    s3_public_url: str = Field(
        "",
        description="Endpoint at which clients reach the S3 store, for links; empty: the one that the pool uses.",
    )
    s3_sources: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Places (`s3://bucket` or `s3://bucket/folder`) from which documents may be handed in by address, "
        "whoever the tenant is; empty: none.",
    )
    result_inline_bytes: int = Field(
        256 << 10,
        ge=1,
        description="A page's outcome with more bytes than this, as JSON, lies in the blob store instead of Redis.",
    )
    gateway_host: str = Field("127.0.0.1", description="Address that the gateway listens on.")
    api_keys: Literal["auto", "on", "off"] = Field(
        "auto", description="Whether the gateway asks for an API key; `auto`: unless it listens on loopback alone."
    )
    gateway_port: int = Field(8080, ge=0, le=65535, description="Port of the gateway; 0 takes a free one.")
    worker_metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port of a worker's `/metrics`, `/healthz` and `/readyz`; a pool counts on from it; 0 takes a free "
        "one.",
    )
    worker_metrics_host: str = Field("127.0.0.1", description="Address that a worker's `/metrics` listens on.")
    flower_port: int = Field(5555, ge=0, le=65535, description="Port of Flower; 0 takes a free one.")
    flower_host: str = Field("127.0.0.1", description="Address that Flower listens on.")
    flower_basic_auth: str = Field("", description="`user:password` for Flower; needed unless it listens on loopback.")

    node: str = Field("", description="Name of a worker; empty: its host and process id. No two workers may share one.")

    # Engine
    predictor: Literal["auto", "onnxruntime", "paddle", "fake"] = Field(
        "auto", description="Runtime of the models; `auto` takes the first that this machine can run."
    )
    model: str = Field(
        "",
        description="A model's name, such as `PP-OCRv5_mobile`, or the path of a folder; empty: the runtime's default.",
    )
    model_download: bool = Field(
        True, description="Whether PaddleX, where installed, may fetch a model that was named and is not here."
    )
    device: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        "auto", description="Where the models run; what cannot be used falls back to the next: tensorrt, cuda, cpu."
    )
    precision: Literal["auto", "fp32", "fp16"] = Field(
        "auto", description="Arithmetic of the models on a card; `auto` is fp16. A CPU always computes in fp32."
    )
    preprocess: Literal["auto", "host"] = Field(
        "auto", description="Where batches are made of pages: beside the models, or in the host's memory."
    )
    jpeg_decode: Literal["sandbox", "card"] = Field(
        "sandbox",
        description="Where JPEG files are decoded; `card` parses them outside the sandbox: for trusted documents only.",
    )
    strict_runtime: bool = Field(
        False, description="Refuse to start where a card or its libraries cannot be used, instead of falling back."
    )
    workers_per_card: int = Field(
        0, ge=0, le=32, description="Worker processes that `ocrpool pool` and `up` run on each card; 0: what suits it."
    )
    predictor_threads: int = Field(
        0, ge=0, le=256, description="CPU threads of a worker's models; 0 takes every core that is the worker's."
    )
    detector_sizes: Annotated[tuple[Size, ...], NoDecode] = Field(
        (),
        description="Page shapes (height x width, multiples of 32) that the detector sees; empty: those fitted for the "
        "device. `ocrpool shapes fit` fits a list to documents of yours.",
    )
    detector_batches: Annotated[tuple[int, ...], NoDecode] = Field(
        (), description="Batch sizes (pages) that the detector sees; empty: those for the device."
    )
    recogniser_widths: Annotated[tuple[int, ...], NoDecode] = Field(
        (),
        description="Widths in pixels of the line crops (48 px high) that the recogniser sees; empty: those fitted "
        "for the device.",
    )
    recogniser_batches: Annotated[tuple[int, ...], NoDecode] = Field(
        (), description="Batch sizes (lines) that the recogniser sees; empty: those for the device."
    )
    max_delay_ms: float = Field(50, ge=0, le=10_000, description="Longest wait of a batch's oldest item for company.")
    batch_timeout_s: float = Field(
        60,
        gt=0,
        le=3600,
        description="A batch that runs longer than this hangs: its worker ends itself, and others read its pages.",
    )
    pages_in_flight: int = Field(
        0, ge=0, le=1024, description="Pages that one worker reads at a time; 0: 16, or 64 beside a card."
    )
    spans_in_flight: int = Field(
        0, ge=0, le=256, description="Spans that one worker holds at a time; 0: 8, or 64 beside a card."
    )

    # Rasterising
    rasterise_processes: int = Field(
        0,
        ge=0,
        le=256,
        description="Sandboxed decoder processes of a worker; 0: one for each core that is the worker's.",
    )
    rasterise_memory_bytes: int = Field(1 << 30, ge=1 << 27, description="Address space that one page may take there.")
    raster_budget_bytes: int = Field(
        2 << 30, ge=1, description="Memory of a worker's decoded pages; a page that needs more is read alone."
    )
    sandbox: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Landlock and seccomp around the decoders: no files, no network, no programs; `auto`: what the "
        "kernel has, `on`: refuse to start without.",
    )
    pdf_dpi: int = Field(150, ge=50, le=600, description="Resolution at which PDF pages are rendered.")
    page_timeout_s: float = Field(60, gt=0, le=3600, description="Longest time to rasterise one page.")

    # Limits
    max_document_bytes: int = Field(100_000_000, ge=1, description="Largest document.")
    max_json_document_bytes: int = Field(
        10_000_000, ge=1, description="Largest document in a JSON body, which is held in memory several times over."
    )
    upload_timeout_s: float = Field(600, gt=0, le=86_400, description="Longest time in which a document may come.")
    upload_idle_s: float = Field(20, gt=0, le=3600, description="Longest pause within an upload.")
    gateway_requests: int = Field(
        1000, ge=1, le=100_000, description="Requests under way at a gateway, long-polls among them; more are refused."
    )
    max_pages: int = Field(2000, ge=1, le=100_000, description="Most pages of one job.")
    max_page_pixels: int = Field(100_000_000, ge=1, description="Most pixels of one page.")
    max_page_side_pt: int = Field(14_400, ge=1, description="Longest side of a PDF page, in points.")
    max_queued_jobs: int = Field(
        10_000, ge=1, description="Unfinished jobs that the pool holds before it refuses more."
    )
    signing_key: str = Field(
        "",
        description="Signs the addresses of results that need no token; empty: a random one that Redis keeps, the same "
        "for all gateways.",
    )
    signed_url_ttl_s: float = Field(
        3600, gt=0, le=30 * 86_400, description="Such an address, or one of a result in S3, is good for this long."
    )
    paddleocr_models: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Models of PaddleOCR's API that this pool answers to, such as `PP-OCRv5,PP-OCRv6`; empty: what its "
        "workers run.",
    )
    paddlex_visualize: bool = Field(
        False,
        description="`POST /ocr` with JSON answers pictures unless a request says `visualize: false`, as PaddleX's own "
        "server does; each takes a process of its own.",
    )
    max_batch_documents: int = Field(1000, ge=1, le=10_000, description="Most documents of one request for a batch.")
    max_batch_bytes: int = Field(
        100_000_000, ge=1, description="Most bytes of them together; up to a million of each are held in memory."
    )
    tenant_max_queued_pages: int = Field(
        0,
        ge=0,
        description="Pages that one tenant may have waiting or being read, unless it has a limit of its own; 0: any.",
    )
    tenant_max_unfinished_jobs: int = Field(0, ge=0, description="Unfinished jobs of one tenant, likewise.")
    tenant_max_requests_per_s: float = Field(
        0,
        ge=0,
        le=1e6,
        description="Requests a second of one tenant, likewise: documents handed in, over the whole "
        "pool; other requests, at each gateway.",
    )
    tenant_max_document_bytes: int = Field(0, ge=0, description="Largest document of one tenant, likewise.")
    max_wait_s: float = Field(60, ge=0, le=600, description="Longest long-poll at the gateway.")

    public_url: str = Field(
        "",
        pattern=r"^(https?://[^\s?#]+)?$",
        description="The gateway's address as clients see it, such as `https://ocr.example.com`: for links.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses or networks of proxies, such as `127.0.0.1,10.0.0.0/8`, that may say whose requests "
        "they pass on (`X-Forwarded-For`, `X-Forwarded-Proto`); empty: none may.",
    )

    # What goes out
    fetch_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Inner networks and host names, such as `10.1.0.0/16,files.internal`, that documents are fetched "
        "from and webhooks sent to, by plain HTTP too; else only public addresses by HTTPS.",
    )
    fetch_timeout_s: float = Field(60, gt=0, le=3600, description="Longest time in which a document is fetched.")
    webhook_secrets: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Secrets (`whsec_` and 24 to 64 bytes in base64) that sign webhooks, each for itself, so that one "
        "can take over from another; empty: no webhooks.",
    )
    webhook_deliveries: int = Field(
        128,
        ge=0,
        le=256,
        description="Webhooks that a gateway sends at a time; 0 leaves them to `ocrpool webhooks deliver` elsewhere.",
    )
    export_processes: int = Field(
        2, ge=1, le=64, description="Searchable PDFs and overlays that a gateway makes at a time; others wait."
    )
    export_timeout_s: float = Field(120, gt=0, le=3600, description="Longest time to make one of them.")
    export_bytes: int = Field(500_000_000, ge=1, description="Largest file that is made so.")

    redis_reserve_percent: int = Field(
        15, ge=0, le=90, description="Part of Redis' `maxmemory` that is kept for accepted jobs: new ones are refused."
    )

    # Cache
    cache_ttl_s: float = Field(
        300,
        ge=0,
        le=86_400,
        description="What was read is given again for this long to the same document or page; 0: everything is read.",
    )
    cache_max_bytes: int = Field(
        1_000_000, ge=0, description="Largest result, of a page and of a whole document, that is given again."
    )

    # Ledger
    durable: bool = Field(
        False, description="Accept a job only once Redis has it on its disk (WAITAOF; Redis 7.2 with `appendonly yes`)."
    )
    # Below the time that the ledger's client waits for any reply: after that one, a refused job would still be read.
    durable_timeout_s: float = Field(5, gt=0, le=10, description="Longest wait for that; after it the job is refused.")
    durable_replicas: int = Field(
        0, ge=0, le=10, description="Replicas that must have it on their disks as well, so that no failover loses it."
    )
    span_pages: int = Field(8, ge=1, le=256, description="Pages that travel as one message.")
    lease_s: float = Field(15, gt=0, le=3600, description="A worker's claim on a span lapses after this.")
    lease_renew_s: float = Field(5, gt=0, le=1200, description="A live worker renews its claims this often.")
    sweep_interval_s: float = Field(3, gt=0, le=600, description="Spans that nobody holds are looked for this often.")
    intake_timeout_s: float = Field(
        120,
        gt=0,
        le=86_400,
        description="A worker that reads nothing ends itself after this, if messages wait and it receives none.",
    )
    unclaimed_after_s: float = Field(
        10, gt=0, le=86_400, description="A span that waits this long while its queue is empty is published again."
    )
    deadline_s: float = Field(
        86_400, gt=0, le=7 * 86_400, description="A job without a deadline of its own expires then."
    )
    result_ttl_s: float = Field(
        86_400, gt=0, le=30 * 86_400, description="A finished job and its result are kept this long."
    )
    drain_timeout_s: float = Field(
        60, gt=0, le=3600, description="Time that `ocrpool pool` and `up` give a stopping worker for its pages."
    )

    # Logs
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least severe line that is logged."
    )
    log_format: Literal["text", "json"] = Field("text", description="Lines for people, or one JSON object a line.")

    @field_validator("detector_sizes", mode="before")
    @classmethod
    def _parse_sizes(cls, value: object) -> object:
        """Environment form: `960x736,736x960`."""
        if isinstance(value, str):
            return tuple(tuple(int(side) for side in size.split("x")) for size in filter(None, value.split(",")))
        return value

    @field_validator("detector_batches", "recogniser_batches", "recogniser_widths", mode="before")
    @classmethod
    def _parse_numbers(cls, value: object) -> object:
        """Environment form: `1,2,4`."""
        if isinstance(value, str):
            return tuple(int(number) for number in filter(None, value.split(",")))
        return value

    @field_validator("fetch_allow", "webhook_secrets", "paddleocr_models", "trusted_proxies", mode="before")
    @classmethod
    def _parse_texts(cls, value: object) -> object:
        """Environment form: `one,two`."""
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("fetch_allow")
    @classmethod
    def _check_fetch_allow(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        AllowList.parse(entries)
        return entries

    @field_validator("webhook_secrets")
    @classmethod
    def _check_secrets(cls, secrets: tuple[str, ...]) -> tuple[str, ...]:
        for secret in secrets:
            try:
                size = len(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
            except ValueError:
                size = 0
            if not secret.startswith("whsec_") or not 24 <= size <= 64:
                raise ValueError("secrets such as those of: echo whsec_$(openssl rand -base64 32)")
        return secrets

    @field_validator("detector_sizes")
    @classmethod
    def _check_sizes(cls, sizes: tuple[Size, ...]) -> tuple[Size, ...]:
        if any(side < 32 or side % 32 for size in sizes for side in size):
            raise ValueError("each size is height x width, both multiples of 32, such as 960x736")
        return sizes

    @field_validator("detector_batches", "recogniser_batches", "recogniser_widths")
    @classmethod
    def _check_numbers(cls, numbers: tuple[int, ...]) -> tuple[int, ...]:
        if any(number < 1 for number in numbers):
            raise ValueError("a list of whole numbers from 1 on, such as 1,2,4")
        return numbers

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: str) -> str:
        check_redis_url(value)
        return value

    @field_validator("blob_url")
    @classmethod
    def _check_blob_url(cls, value: str) -> str:
        url = urlparse(value)
        folder = url.scheme == "file" and not url.netloc and url.path not in ("", "/")
        if value and not folder and not _S3_PLACE.fullmatch(value):
            raise ValueError("a folder or a bucket, such as file:///var/lib/ocrpool/blobs or s3://scans/ocrpool")
        return value

    @field_validator("s3_public_url")
    @classmethod
    def _check_public_url(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^/?#]+/?", value):
            raise ValueError("the URL of an endpoint, such as https://files.example.com")
        return value

    @field_validator("s3_sources", mode="before")
    @classmethod
    def _parse_sources(cls, value: object) -> object:
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    @field_validator("s3_sources")
    @classmethod
    def _check_sources(cls, places: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_S3_PLACE.fullmatch(place) for place in places):
            raise ValueError("places by commas, such as s3://scans,s3://mail/attachments")
        return places

    @field_validator("data_dir")
    @classmethod
    def _make_absolute(cls, value: Path) -> Path:
        """The parts of a pool may run in other folders."""
        return value.expanduser().absolute()

    @model_validator(mode="after")
    def _check_leases(self) -> Self:
        if self.lease_s < 2 * self.lease_renew_s:
            raise ValueError(
                "OCRPOOL_LEASE_S must be at least twice OCRPOOL_LEASE_RENEW_S, or live workers lose their leases"
            )
        if self.lease_s < 2 * self.sweep_interval_s:
            raise ValueError(
                "OCRPOOL_LEASE_S must be at least twice OCRPOOL_SWEEP_INTERVAL_S, or dead workers are found late"
            )
        return self

    @model_validator(mode="after")
    def _check_sources_are_not_the_store(self) -> Self:
        own = f"{self.blob_url.rstrip('/')}/"
        if own.startswith("s3://") and any(f"{place.rstrip('/')}/".startswith(own) for place in self.s3_sources):
            raise ValueError(
                "OCRPOOL_S3_SOURCES must not lie in OCRPOOL_BLOB_URL: nobody is given the pool's own objects"
            )
        return self

    @model_validator(mode="after")
    def _check_durability(self) -> Self:
        if self.durable_replicas and not self.durable:
            raise ValueError("OCRPOOL_DURABLE_REPLICAS needs OCRPOOL_DURABLE=1")
        return self

    @property
    def asks_for_keys(self) -> bool:
        """Whether the gateway asks for API keys."""
        return self.api_keys == "on" or (self.api_keys == "auto" and not self.on_loopback)

    @property
    def on_loopback(self) -> bool:
        """Whether nobody but this machine reaches the gateway."""
        try:
            return ip_address(self.gateway_host).is_loopback
        except ValueError:
            return self.gateway_host == "localhost"

    @property
    def blob_dir(self) -> Path:
        """The folder of a blob store that is one."""
        return Path(urlparse(self.blob_url).path) if self.blob_url.startswith("file:") else self.data_dir / "blobs"


def explain(error: ValidationError) -> list[str]:
    """A sentence for each wrong setting, which names its variable; options of a command are named as such."""
    sentences = []
    for problem in error.errors():
        name = "_".join(str(part) for part in problem["loc"])
        shown = f"OCRPOOL_{name.upper()}" if error.title == Settings.__name__ else f"--{name.replace('_', '-')}"
        message = problem["msg"].removeprefix("Value error, ")
        sentences.append(f"{shown}: {message}" if name else message)
    return sentences


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """A sentence for each `OCRPOOL_*` variable that is no setting."""
    known = [f"OCRPOOL_{name.upper()}" for name in Settings.model_fields]
    sentences = []
    for name in sorted(environment):
        if name.startswith("OCRPOOL_") and name not in known:
            near = get_close_matches(name, known, n=1)
            sentences.append(f"{name} is not a setting{f'; did you mean {near[0]}?' if near else '.'}")
    return sentences


def describe() -> str:
    """A Markdown table of every setting: its variable, its default and what it does."""

    def shown(name: str, value: object) -> str:
        if name == "data_dir":
            return "`~/.local/share/ocrpool`"
        return f"`{as_text(value)}`" if as_text(value) else "(empty)"

    rows = [
        f"| `OCRPOOL_{name.upper()}` | {shown(name, field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| variable | default | meaning |", "| --- | --- | --- |", *rows])


def as_environment(settings: Settings) -> dict[str, str]:
    """The settings as the `OCRPOOL_*` variables of a child process."""
    return {f"OCRPOOL_{name.upper()}": as_text(value) for name, value in settings}


def as_shown(name: str, value: object) -> str:
    """A setting's value as its variable holds it, without what is secret in it."""
    text = as_text(value)
    if name == "redis_url":
        return without_passwords(text)
    return HIDDEN if name in SECRETS and text else text


def as_text(value: object) -> str:
    """A setting's value as its variable holds it."""
    if isinstance(value, tuple):
        return ",".join("x".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in value)
    return str(value)
