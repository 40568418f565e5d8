"""Promises about fetching: whatever the network does, a shard in the cache is whole, and a failure is one clear line."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from nanochat import hub
from nanochat.errors import DataError
from tests.nanochat.store import BODY, HALF, REPO, Handler, Store


@pytest.fixture
def fetch(store: Store, tmp_path: Path) -> Callable[..., Path]:
    def one(name: str = "shard_00000.parquet") -> Path:
        return hub.fetch(store.root, REPO, [name], tmp_path, wait=0.001)[0]

    return one


def test_the_address_of_a_shard_is_the_one_that_the_hub_documents() -> None:
    expected = "https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main/shard_00000.parquet"
    assert hub.url("", "karpathy/climbmix-400b-shuffle", "shard_00000.parquet") == expected
    assert hub.url("http://mirror/", "a/b", "c").startswith("http://mirror/datasets/a/b/")


@pytest.mark.parametrize(
    "fault", ["", "drop", "503", "truncate", "corrupt", "drop ignore-range", "drop shifted", "drop drop 503 drop"]
)
def test_a_shard_arrives_whole_whatever_the_network_does(store: Store, fetch: Callable[..., Path], fault: str) -> None:
    store.faults = fault.split()
    path = fetch()
    assert path.read_bytes() == BODY
    assert sorted(p.name.removeprefix(path.name) for p in path.parent.iterdir()) == ["", ".lock", ".sha256"]
    assert not store.faults, "the server had more faults in store than were met"


def test_a_broken_transfer_goes_on_where_it_stopped(store: Store, fetch: Callable[..., Path]) -> None:
    store.faults = ["drop"]
    fetch()
    assert store.asked == ["", f"bytes={HALF}-"]


def test_what_an_ended_session_left_is_continued(store: Store, fetch: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "shard_00000.parquet.part").write_bytes(BODY[:1000])
    assert fetch().read_bytes() == BODY
    assert store.asked == ["bytes=1000-"]


@pytest.mark.parametrize("left", [BODY, BODY + b"of another file", b"x" * 1000], ids=["whole", "longer", "another"])
def test_a_part_that_is_whole_or_wrong_does_no_harm(fetch: Callable[..., Path], tmp_path: Path, left: bytes) -> None:
    (tmp_path / "shard_00000.parquet.part").write_bytes(left)
    assert fetch().read_bytes() == BODY


def test_a_cached_shard_is_not_fetched_again_unless_it_rotted(store: Store, fetch: Callable[..., Path]) -> None:
    path = fetch()
    assert fetch() == path and len(store.asked) == 1
    raw = bytearray(BODY)
    raw[HALF] ^= 1
    path.write_bytes(raw)
    assert fetch().read_bytes() == BODY and len(store.asked) == 2


def test_without_the_hubs_hash_a_cut_file_is_noticed_all_the_same(store: Store, fetch: Callable[..., Path]) -> None:
    store.hashes, store.faults = False, ["truncate"]
    assert fetch().read_bytes() == BODY


def test_sessions_that_want_the_same_shard_fetch_it_once(store: Store, fetch: Callable[..., Path]) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert len({future.result() for future in [pool.submit(fetch) for _ in range(4)]}) == 1
    assert len(store.asked) == 1


def test_many_shards_come_in_the_order_asked_for(store: Store, tmp_path: Path) -> None:
    store.bodies = {f"shard_{n:05d}.parquet": b"PAR1" + bytes([n]) * 100_000 + b"PAR1" for n in range(9)}
    store.faults = ["503", "drop", "drop", "503", "corrupt"]
    paths = hub.fetch(store.root, REPO, list(store.bodies), tmp_path, wait=0.001)
    assert [path.read_bytes() for path in paths] == list(store.bodies.values())


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (["503"] * 99, "given up after 6 attempts .HTTP 503.: try again"),
        (["corrupt"] * 99, "given up after 6 attempts .sha256 .* is not the promised"),
        (["truncate"] * 99, "given up after 6 attempts .connection lost at"),
    ],
)
def test_what_never_gets_better_is_given_up(
    store: Store, fetch: Callable[..., Path], faults: list[str], message: str
) -> None:
    store.faults = list(faults)
    with pytest.raises(DataError, match=message) as caught:
        fetch()
    assert "\n" not in str(caught.value)


def test_a_page_instead_of_a_shard_is_refused_at_once(store: Store, fetch: Callable[..., Path]) -> None:
    store.hashes, store.faults = False, ["page"]
    with pytest.raises(DataError, match="no parquet file: check corpus_url"):
        fetch()
    assert len(store.asked) == 1


def test_a_shard_that_does_not_exist_is_refused_at_once(fetch: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"shard_99999.parquet: HTTP 404: no such file: check corpus_url and shards"):
        fetch("shard_99999.parquet")


def test_no_network_is_one_line(store: Store, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port
    with pytest.raises(DataError, match=r"given up after 6 attempts \(.*refused\): try again when the network is up"):
        hub.fetch(f"http://127.0.0.1:{port}", REPO, ["shard_00000.parquet"], tmp_path, wait=0.001)


def test_a_full_disk_is_one_line(fetch: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "shard_00000.parquet.part").symlink_to("/dev/full")
    with pytest.raises(DataError, match=r"disk full at 0.0 MB of shard_00000.parquet: free some space"):
        fetch()


def test_a_folder_that_cannot_be_made_is_one_line(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot keep downloads here .*set XDG_CACHE_HOME"):
        hub.fetch(store.root, REPO, ["shard_00000.parquet"], tmp_path / "file" / "cache")
