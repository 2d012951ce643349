"""Fetching files of published models, from a Hub on this machine: told progress, going on after a break, refusals in a sentence."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from fkv import hub
from tests.hub_stand_in import COMMIT, Hub, serving

DATA = bytes(range(256)) * 20_000
REPO, FILE = "someone/model", "checkpoints/model.pt"


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 200_000)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(Hub({f"{REPO}/{FILE}": DATA})) as found:
        yield found


def test_a_file_is_fetched_once_with_progress_and_found_afterwards(there: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[str, int, int]] = []
    assert hub.local(REPO, FILE) is None
    path = hub.fetch(REPO, FILE, lambda *news: told.append(news), endpoint=there.address)
    assert path.read_bytes() == DATA
    assert told[-1] == (FILE, len(DATA), len(DATA))
    assert capsys.readouterr().err == ""
    assert hub.local(REPO, FILE) == path
    hub.fetch(REPO, FILE, endpoint="http://127.0.0.1:9")
    assert len(there.ranges) == 1


def test_a_broken_line_goes_on_where_it_stopped(there: Hub) -> None:
    there.cut = 1_000_000
    assert hub.fetch(REPO, FILE, endpoint=there.address).read_bytes() == DATA
    assert there.ranges[0] == ""
    assert there.ranges[1].startswith("bytes=")
    assert int(there.ranges[1].removeprefix("bytes=").rstrip("-")) > 0


def test_what_the_hub_says_of_a_file_is_asked_without_fetching_it(there: Hub) -> None:
    said = hub.ask(REPO, FILE, endpoint=there.address)
    assert (said.size, len(said.sha256)) == (len(DATA), 64)
    assert there.ranges == []


def test_bytes_that_are_not_the_published_ones_are_refused_and_not_kept(there: Hub) -> None:
    there.lie = "f" * 64
    with pytest.raises(OSError, match=r"differs from the published file \(SHA-256\); it is not kept, fetch it again"):
        hub.fetch(REPO, FILE, endpoint=there.address)
    assert hub.local(REPO, FILE) is None
    there.lie = ""
    assert hub.fetch(REPO, FILE, endpoint=there.address).read_bytes() == DATA


def test_each_refusal_is_one_sentence_with_its_cure(there: Hub) -> None:
    with pytest.raises(FileNotFoundError, match=r"^someone/model has no file other\.pt; it may have been renamed$"):
        hub.fetch(REPO, "other.pt", endpoint=there.address)
    with pytest.raises(FileNotFoundError, match="there is no public repository nobody/nothing"):
        hub.fetch("nobody/nothing", FILE, endpoint=there.address)
    there.gated.add(REPO)
    with pytest.raises(PermissionError, match=r"asks for permission; accept its terms on https://huggingface\.co/someone/model"):
        hub.fetch(REPO, FILE, endpoint=there.address)


def test_without_a_network_it_says_so(there: Hub) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(OSError, match=r"cannot be fetched .*check the network"):
        hub.fetch(REPO, FILE, endpoint=f"http://127.0.0.1:{port}")
    with pytest.raises(OSError, match=r"cannot be reached .*check the network"):
        hub.fetch_url(f"http://127.0.0.1:{port}/x.bin", Path("x.bin"))


def test_a_full_disk_is_noticed_before_anything_is_fetched(there: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "SPARE", 1 << 60)
    with pytest.raises(OSError, match=r"checkpoints/model\.pt needs 5\.1 MB and .* free; free some, or set HF_HOME"):
        hub.fetch(REPO, FILE, endpoint=there.address)
    assert there.ranges == []


def test_a_file_of_the_web_goes_on_where_it_stopped(there: Hub, tmp_path: Path) -> None:
    url, path = f"{there.address}/{REPO}/{FILE}", tmp_path / "web" / "model.bin"
    there.cut = 1_000_000
    with pytest.raises(OSError, match="try again: it goes on where it stopped"):
        hub.fetch_url(url, path)
    assert not path.exists()
    told: list[int] = []
    assert hub.fetch_url(url, path, lambda file, done, total: told.append(done)).read_bytes() == DATA
    assert there.ranges[1] == f"bytes={path.stat().st_size - (told[-1] - 1_000_000)}-"


def test_files_of_a_folder_that_are_not_here_are_named(there: Hub) -> None:
    with pytest.raises(OSError, match="text_encoder"):
        hub.snapshot(REPO, ["text_encoder/*"], download=False)


PATTERNS = ("text_encoder/*.json", "text_encoder/*.safetensors")


def in_cache(*files: str) -> Path:
    """The folder of a repository of which these files were fetched."""
    from huggingface_hub import constants

    storage = Path(constants.HF_HUB_CACHE) / f"models--{REPO.replace('/', '--')}"
    folder = storage / "snapshots" / COMMIT
    for path in (storage / "refs" / "main", *(folder / file for file in files)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(COMMIT)
    return folder


def test_a_folder_is_here_only_with_its_weights_and_every_part_of_them(there: Hub) -> None:
    two, index = "text_encoder/model-00002-of-00002.safetensors", "text_encoder/model.safetensors.index.json"
    steps = (("text_encoder/config.json", r"text_encoder/\*\.safetensors"), (two, "text_encoder/model-00001-of-00002.safetensors"))
    for file, lacking in (*steps, (two.replace("00002-", "00001-"), index)):
        in_cache(file)
        with pytest.raises(FileNotFoundError, match=rf"^{lacking} of someone/model is not here; download it first$"):
            hub.snapshot(REPO, PATTERNS, download=False)
    folder = in_cache(index)
    assert hub.snapshot(REPO, PATTERNS, download=False) == folder
    assert hub.snapshot(REPO, PATTERNS) == folder


def test_room_for_the_missing_files_of_a_folder_is_looked_at_before_any_is_fetched(there: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def stand_in(repo: str, **how: object) -> object:
        asked.append(how)
        if how.get("local_files_only"):
            raise LocalEntryNotFoundError("not here")
        assert how.get("dry_run"), "fetched without looking at the room"
        sizes = ((5_000_000_000, True), (700, False))
        return [SimpleNamespace(file_size=size, will_download=wanted) for size, wanted in sizes]

    monkeypatch.setattr("huggingface_hub.snapshot_download", stand_in)
    monkeypatch.setattr(hub, "SPARE", 1 << 60)
    with pytest.raises(OSError, match=r"text_encoder/\*\.safetensors needs 5\.0 GB and .* free; free some, or set HF_HOME"):
        hub.snapshot(REPO, PATTERNS)
    assert [bool(how.get("dry_run")) for how in asked] == [False, True]
