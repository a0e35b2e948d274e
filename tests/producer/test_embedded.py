"""What an embedded pool leaves behind: nothing."""

from __future__ import annotations

import fcntl
import tempfile
from pathlib import Path

import pytest

from producer.embedded import Embedded, pool_of_its_own, remove_abandoned
from producer.errors import Unavailable
from producer.settings import Settings


def test_folders_of_killed_pools_are_removed_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    for name in ("ocrpool-killed", "ocrpool-living", "somebody-else"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").touch()
    with (tmp_path / "ocrpool-living/lock").open() as living:
        fcntl.flock(living, fcntl.LOCK_EX)

        remove_abandoned(tmp_path, older_than_s=60)
        assert len(list(tmp_path.iterdir())) == 3, "one may just be starting"
        remove_abandoned(tmp_path, older_than_s=-1)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["ocrpool-living", "somebody-else"]


def test_a_pool_of_its_own_lives_apart_and_its_folder_goes_with_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pool_of_its_own(settings) as (_, own):
        assert own.data_dir.is_dir()
        assert own.redis_url != settings.redis_url
        remove_abandoned(tmp_path, older_than_s=-1)
        assert own.data_dir.is_dir()
    assert not own.data_dir.exists()


@pytest.mark.parametrize(
    "url", ["redis://192.0.2.1:6379/0", "rediss://127.0.0.1/0", "redis+sentinel://127.0.0.1/mymaster"]
)
def test_no_server_is_started_where_another_kind_is_named(url: str, settings: Settings) -> None:
    elsewhere = settings.model_copy(update={"redis_url": url})
    with Embedded(elsewhere) as pool, pytest.raises(Unavailable, match="No Redis answers at"):
        pool.start_redis()
