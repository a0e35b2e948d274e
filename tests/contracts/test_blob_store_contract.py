"""What every blob store promises, on the real ones and on the fake."""

from __future__ import annotations

import errno
import io
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

from producer.blobs import BlobStore, FolderStore, MemoryStore
from producer.errors import NotFound, Unavailable
from producer.s3 import PART_BYTES, S3Store

#: Of a bucket to which boto3's variables lead: these tests run on it, too.
S3_TEST_URL = os.environ.get("S3_TEST_URL", "")
STORES = ("folder", "memory", "s3", "rclone", *(["s3 of S3_TEST_URL"] if S3_TEST_URL else []))


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    match request.param:
        case "folder":
            return FolderStore(tmp_path / "blobs")
        case "memory":
            return MemoryStore()
        case "s3" | "rclone":
            request.getfixturevalue(request.param)
            return S3Store(f"s3://scans/{uuid.uuid4().hex}")
    return S3Store(f"{S3_TEST_URL}/{uuid.uuid4().hex}")


def test_bytes_and_files_come_back_as_they_went_in(store: BlobStore) -> None:
    store.put("job_1", b"from memory")
    store.put("job_2", io.BytesIO(b"%PDF from a file"))

    assert store.get("job_1") == b"from memory"
    assert store.get("job_2") == b"%PDF from a file"
    with store.local("job_2") as path:
        assert path.read_bytes() == b"%PDF from a file"


def test_a_second_put_replaces_the_first_whole(store: BlobStore) -> None:
    store.put("job_1", b"a long first version")
    store.put("job_1", b"short")
    assert store.get("job_1") == b"short"


# Rclone's server decides between no writers.
@pytest.mark.parametrize("store", [store for store in STORES if store != "rclone"], indirect=True)
def test_of_two_writers_of_a_new_blob_one_wins_whole(store: BlobStore) -> None:
    contents = [bytes([writer]) * 10_000 for writer in range(1, 9)]
    with ThreadPoolExecutor(len(contents)) as threads:
        won = list(threads.map(lambda content: store.put_new("job_1", content), contents))
    assert [store.get("job_1")] == [content for content, is_new in zip(contents, won, strict=True) if is_new]
    assert not store.put_new("job_1", io.BytesIO(b"later"))
    store.put("job_1", b"replaced all the same")
    assert store.get("job_1") == b"replaced all the same"


def test_a_large_document_goes_through_whole(store: BlobStore) -> None:
    document = os.urandom(PART_BYTES) + os.urandom(PART_BYTES // 2)
    store.put("job_1", io.BytesIO(document))
    with store.local("job_1") as path:
        assert path.read_bytes() == document


def test_a_store_that_can_be_used_says_nothing(store: BlobStore) -> None:
    store.check()
    store.check(patient=False)


def test_what_is_not_there_is_not_found(store: BlobStore) -> None:
    with pytest.raises(NotFound):
        store.get("job_1")
    with pytest.raises(NotFound), store.local("job_1"):
        pass


def test_deleting_twice_is_no_error(store: BlobStore) -> None:
    store.put("job_1", b"x")
    store.delete("job_1")
    store.delete("job_1")
    with pytest.raises(NotFound):
        store.get("job_1")


@pytest.mark.parametrize("key", ["../../etc/passwd", "a/b", "", "job\0", "jobs\n", "JOB", "x" * 81])
def test_a_key_that_is_not_ours_never_becomes_a_path(store: BlobStore, key: str) -> None:
    with pytest.raises(ValueError, match="not a blob key"):
        store.put(key, b"x")


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "blobs"
    blocked.write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="cannot store"):
        FolderStore(blocked).put("job_1", b"x")
    assert list(tmp_path.iterdir()) == [blocked]


@pytest.mark.parametrize("method", ["is_file", "read_bytes"])
def test_a_folder_that_cannot_be_read_says_nothing_about_a_blob(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    store = FolderStore(tmp_path)
    store.put("job_1", b"x")

    def stale(path: Path) -> NoReturn:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, method, stale)
    with pytest.raises(Unavailable, match=r"The blob folder cannot be read: Stale file handle\."):
        store.get("job_1")


class Interrupted(io.BytesIO):
    """A file whose reading ends the thread that reads it."""

    def read(self, size: int | None = -1, /) -> bytes:
        raise KeyboardInterrupt


def test_a_put_that_is_broken_off_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        FolderStore(tmp_path).put("job_1", Interrupted())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_unfinished_files_go_when_they_are_old(tmp_path: Path) -> None:
    # Given what a killed `put` leaves, one long ago and one now, beside an old blob
    store = FolderStore(tmp_path)
    store.put("job_11", b"document")
    folder = tmp_path / "11"
    for name, age_s in ((".old", 3601), (".new", 3500), ("job_11", 7200)):
        (folder / name).write_bytes(b"part")
        os.utime(folder / name, (0, time.time() - age_s))

    assert store.delete_unfinished(older_than_s=3600) == 1
    assert sorted(path.name for path in folder.iterdir()) == [".new", "job_11"]
