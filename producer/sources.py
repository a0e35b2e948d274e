"""Documents that are handed in by the `s3://` address of an object, where the settings allow it."""

from __future__ import annotations

from typing import IO

from producer.errors import FetchFailed, FetchForbidden, NotFound, Unavailable
from producer.s3 import Bucket, split
from producer.settings import Settings


class Sources:
    """The places that the settings allow. Safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._buckets = {name: Bucket(name, f"The bucket {name}") for name, _ in map(split, settings.s3_sources)}

    def copy(self, url: str, file: IO[bytes]) -> None:
        """Write the document at the `s3://` address to the empty file.

        Raises:
            FetchForbidden: documents may not come from there. Nothing was sent.
            FetchFailed: there is no such document, or its place cannot be reached.
            TooLarge: it has more than `max_document_bytes`.
            OSError: there is no room for it.
        """
        bucket, key = split(url)
        if not url.startswith("s3://") or not _allowed(bucket, key, self._settings):
            raise FetchForbidden("Documents may not be fetched from there (OCRPOOL_S3_SOURCES).")
        try:
            self._buckets[bucket].download(key, file, most_bytes=self._settings.max_document_bytes, signed=False)
        except NotFound as error:
            raise FetchFailed("There is no document at this address.") from error
        except Unavailable as error:
            raise FetchFailed(str(error)) from error


def bucket_of(url: str) -> str:
    """Which bucket the document lies in, as `s3://bucket`."""
    return f"s3://{split(url)[0]}"


def file_name(url: str) -> str:
    """What the document is called there."""
    return url.rpartition("/")[2]


def _allowed(bucket: str, key: str, settings: Settings) -> bool:
    # Servers that keep objects as files may take the dots for folders.
    if not key.isprintable() or {"", ".", ".."} & set(key.split("/")):
        return False
    own = [settings.blob_url] if settings.blob_url.startswith("s3://") else []
    return _within(bucket, key, settings.s3_sources) and not _within(bucket, key, own)


def _within(bucket: str, key: str, places: tuple[str, ...] | list[str]) -> bool:
    for allowed, folder in map(split, places):
        beginning = f"{folder.strip('/')}/".lstrip("/")
        if bucket == allowed and key.startswith(beginning):
            return True
    return False
