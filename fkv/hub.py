"""Files of published models: what a repository says of a file, whether it is here, and fetching it, resumable and checked.

Everything goes through `huggingface_hub` and its cache; a file outside the Hub is given by its URL. Nothing here is asked at import, and a
file that cannot be had is one `OSError` in a sentence.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import re
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Report = Callable[[str, int, int], None]  # file, bytes done, bytes in all (0: not known)
SPARE = 1 << 30  # bytes left free on the disk
BLOCK = 1 << 20
SHA256 = 64  # hexadecimal digits; large files have such an etag
SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})\.safetensors")
LFS = b"version https://git-lfs"
HTML = (b"<!doctype html", b"<html")


@dataclass(frozen=True)
class Remote:
    """What a repository says of a file: bytes, and the SHA-256 of a large one ("" where it gives none)."""

    size: int
    sha256: str = ""


def silent(file: str, done: int, total: int) -> None:
    """A report to nobody."""


def local(repo: str, file: str) -> Path | None:
    """Where a file lies in the Hub's cache, if it does."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file)
    return Path(found) if isinstance(found, str) else None


def ask(repo: str, file: str, *, endpoint: str | None = None, timeout: float = 5) -> Remote:
    """Asks the Hub about a file without fetching it. Raises OSError in a sentence where it cannot be had."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        found = get_hf_file_metadata(hf_hub_url(repo, file, endpoint=endpoint), timeout=timeout)
    except Exception as error:
        raise reason(error, repo, file) from None
    etag = found.etag or ""
    return Remote(found.size or 0, etag if len(etag) == SHA256 else "")


def fetch(repo: str, file: str, report: Report = silent, *, endpoint: str | None = None) -> Path:
    """The file in the Hub's cache, downloaded if it is not there; an interrupted download goes on where it stopped.

    Raises OSError in a sentence: no network, no room, no such file, access not granted, or bytes that are not the published ones.
    """
    here = local(repo, file)
    if here is not None:
        return here
    from huggingface_hub import constants, hf_hub_download

    remote = ask(repo, file, endpoint=endpoint)
    room(Path(constants.HF_HUB_CACHE), remote.size, file)
    try:
        path = Path(hf_hub_download(repo, file, endpoint=endpoint, tqdm_class=bar(file, report)))
    except Exception as error:
        raise reason(error, repo, file) from None
    try:
        verify(path, remote)
    except OSError:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise
    return path


def snapshot(repo: str, patterns: Sequence[str], report: Report = silent, *, download: bool = True) -> Path:
    """The folder of a repository's files that match `patterns`, at least one file each; fetched only with `download`. Raises OSError."""
    from huggingface_hub import constants, snapshot_download

    wanted = ", ".join(patterns)

    def taken(**how: Any) -> Any:
        try:
            return snapshot_download(repo, allow_patterns=list(patterns), **how)
        except Exception as error:
            raise reason(error, repo, wanted) from None

    try:
        folder = Path(taken(local_files_only=True))
        lacking = absent(folder, patterns)
        if not lacking:
            return folder
    except FileNotFoundError:
        lacking = wanted
    if not download:
        raise FileNotFoundError(f"{lacking} of {repo} is not here; download it first")
    planned = taken(dry_run=True, tqdm_class=bar(wanted, silent))
    room(Path(constants.HF_HUB_CACHE), sum(file.file_size or 0 for file in planned if file.will_download), wanted)
    folder = Path(taken(tqdm_class=bar(wanted, report)))
    if lacking := absent(folder, patterns):
        raise FileNotFoundError(f"{repo} has no file {lacking}; it may have been renamed")
    return folder


def absent(folder: Path, patterns: Sequence[str]) -> str:
    """The first pattern without a file, or the first missing part of weights in several files; "" where nothing is missing."""
    for pattern in patterns:
        found = [path for path in folder.glob(pattern) if path.is_file()]
        if not found:
            return pattern
        for path in (part for one in found for part in siblings(one)):
            if not path.is_file():
                return str(path.relative_to(folder))
    return ""


def siblings(path: Path) -> list[Path]:
    """All parts of weights in several files, of which `path` is one, and their index; nothing for another file."""
    found = SHARD.fullmatch(path.name)
    if not found:
        return []
    stem, count = found[1], int(found[2])
    parts = [path.with_name(f"{stem}-{number:05d}-of-{count:05d}.safetensors") for number in range(1, count + 1)]
    return [*parts, path.with_name(f"{stem}.safetensors.index.json")]


def fetch_url(url: str, path: Path, report: Report = silent, *, timeout: float = 30) -> Path:
    """A file from the web at `path`, by way of `path`.part, from which an interrupted download goes on if the server still has the same
    file. Raises OSError in a sentence.
    """
    if path.is_file():
        return path
    part, tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.tag")
    broken = (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        done, total = _download(url, part, tag, report, timeout)
    except urllib.error.HTTPError as error:
        raise OSError(f"{url} answers {error.code} {error.reason}; the file may have moved") from None
    except broken as error:
        raise OSError(f"{url} cannot be reached ({error}); check the network, then try again: it goes on where it stopped") from None
    except OSError as error:
        if error.errno is None:  # a sentence already
            raise
        raise OSError(f"{path} cannot be written ({error.strerror}); free some room, or set HF_HOME to another folder") from None
    if done < total:
        raise OSError(f"{url} ended after {done} of {total} bytes; try again: it goes on where it stopped")
    os.replace(part, path)
    tag.unlink(missing_ok=True)
    return path


def _download(url: str, part: Path, tag: Path, report: Report, timeout: float) -> tuple[int, int]:
    """Adds to `part` what it lacks, or writes it anew where the server's file is not the one that `tag` names; bytes done and in all."""
    known = tag.read_text() if tag.is_file() else ""
    done = part.stat().st_size if known and part.is_file() else 0
    asked = urllib.request.Request(url, headers={"Range": f"bytes={done}-", "If-Range": known} if done else {})
    try:
        answer = urllib.request.urlopen(asked, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not done:
            raise
        part.unlink()
        return _download(url, part, tag, report, timeout)
    with answer:
        given = answer.headers.get("ETag", "")
        if answer.status == 206 and given != known:
            part.unlink()
            return _download(url, part, tag, report, timeout)
        done = done if answer.status == 206 else 0
        total = done + int(answer.headers.get("Content-Length", 0))
        room(part.parent, total - done, part.name.removesuffix(".part"))
        with open(part, "ab" if done else "wb") as out:
            tag.write_text(given)
            while block := answer.read(BLOCK):
                out.write(block)
                done += len(block)
                report(part.name.removesuffix(".part"), done, total)
    return done, total


def damaged(path: Path) -> str:
    """What is wrong with a file that should hold weights and cannot be read, by its first bytes, with the cure."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(256).lstrip().lower()
    cure = "delete it and fetch it again"
    if head.startswith(LFS):
        return f"{path} is a git-lfs pointer, not the weights it stands for; {cure}"
    if head.startswith(HTML):
        return f"{path} is an HTML page, not weights; {cure}"
    return f"{path} ({size} bytes) is not a complete weights file ({'it is cut short or damaged' if size else 'it is empty'}); {cure}"


def room(folder: Path, size: int, file: str) -> None:
    """Raises OSError where the disk of `folder` cannot take `size` bytes more and keep some spare."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if size and free < size + SPARE:
        cure = "free some, or set HF_HOME to another disk"
        raise OSError(f"{file} needs {gigabytes(size)} and {there} has {gigabytes(free)} free; {cure}")


def verify(path: Path, remote: Remote) -> None:
    """Compares a file with what its repository says of it. Raises OSError with what differs."""
    size = path.stat().st_size
    if remote.size and size != remote.size:
        raise OSError(f"{path.name} has {size} bytes, published are {remote.size}; it is not kept, fetch it again")
    if remote.sha256 and sha256(path) != remote.sha256:
        raise OSError(f"{path.name} differs from the published file (SHA-256); it is not kept, fetch it again")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def gigabytes(size: float) -> str:
    """Bytes in decimal gigabytes, or megabytes below one."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def bar(file: str, report: Report) -> type[Any]:
    """A progress bar class for `huggingface_hub` that tells `report` instead of drawing."""
    from huggingface_hub.utils import tqdm

    class Told(tqdm):
        def __init__(self, *values: Any, **more: Any) -> None:
            super().__init__(*values, **(more | {"disable": False, "leave": False, "file": io.StringIO()}))

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            if self.unit == "B":
                report(file, int(self.n), int(self.total or 0))

    return Told


def reason(error: Exception, repo: str, file: str) -> OSError:
    """A failure of `huggingface_hub` as one sentence with the cure."""
    from huggingface_hub import errors

    if isinstance(error, errors.DryRunError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, errors.GatedRepoError):
        cure = f"accept its terms on https://huggingface.co/{repo} and run `hf auth login`"
        return PermissionError(f"{repo} asks for permission; {cure}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return FileNotFoundError(f"there is no public repository {repo}; it may have moved, or needs `hf auth login`")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return FileNotFoundError(f"{file} of {repo} is not here and huggingface.co cannot be reached; check the network, then try again")
    if isinstance(error, errors.EntryNotFoundError):
        return FileNotFoundError(f"{repo} has no file {file}; it may have been renamed")
    if isinstance(error, OSError) and error.errno == 28:
        return OSError(f"no space is left on the disk for {file}; free some, or set HF_HOME to another disk")
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return OSError(f"{file} of {repo} cannot be fetched ({first}); check the network, then try again: it goes on where it stopped")
