"""Download a file once: checked, resumed, atomic, shared by the processes of one machine; and unpack archives."""

import contextlib
import gzip
import hashlib
import http.client
import logging
import os
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import BinaryIO, Iterator, Optional
from urllib.parse import SplitResult, urlsplit

from paddleseg.cvlibs.errors import DataError, SegError
from paddleseg.utils import files
from paddleseg.utils.cli import printable

logger = logging.getLogger(__name__)

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CHUNK_BYTES = 1 << 20
_PAUSE_SEC, _TIMEOUT_SEC = 2.0, 30.0
_HUB_NAME = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|pt)$")  # PyTorch hub: name-<first digits of sha256>.pth
_MAX_RATIO = 100  # images and weights hardly shrink; what grows so much is made to fill a disk
_FREE_BYTES = 1 << 20  # below this, any ratio
_MAX_READ_BYTES = 1 << 14  # tarfile copies in blocks of that size, but reads headers whole, whatever their size


class DownloadError(SegError):
    """A file can't be downloaded; the message is the reason, without the URL."""


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise DownloadError(f"it is no address ({error})") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK) or not parts.hostname:
        raise DownloadError("only https addresses are fetched")
    return parts


def _stated_sha256(parts: SplitResult) -> Optional[str]:
    """Return what a URL says of its file, `#sha256=<hex>` or the first digits in a hub name."""
    if not parts.fragment:
        in_name = _HUB_NAME.search(parts.path)
        return in_name and in_name.group(1)
    stated = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", parts.fragment)
    if not stated:
        raise DownloadError(f"the fragment #{parts.fragment:.80} isn't sha256= and 64 hexadecimal digits")
    return stated.group(1).lower()


def cache_home() -> str:
    """Return the folder for downloads: $PADDLESEG_HOME, or else ~/.paddleseg/weights."""
    home = os.environ.get("PADDLESEG_HOME") or os.path.join(os.path.expanduser("~"), ".paddleseg", "weights")
    return os.path.abspath(home)


def cache_path(url: str) -> str:
    """Return the path where a URL's file is kept: `cache_home`, then host and path.

    Raises:
        DownloadError: not an https address of a file.
    """
    parts = _split(url)
    if parts.path.endswith("/") or not parts.path:
        raise DownloadError("the address names no file")
    names = [parts.netloc.rpartition("@")[2], *filter(None, parts.path.split("/"))]
    if parts.query:
        names.insert(-1, parts.query)
    safe = [re.sub(r"[^A-Za-z0-9._+-]|^\.+", "_", name) for name in names]
    return os.path.join(cache_home(), *safe)


def download(url: str, target: str, attempts: int = 3) -> None:
    """Fetch `url` into the file `target` unless it is there.

    One process downloads, the others wait for it. A broken connection goes on where it stopped, and so does a later
    run if a checksum is stated, which would tell another version of the file. The size must be the one that the
    server states, and the SHA-256 the one that the URL states: as `#sha256=<hex>`, or by its first digits as in the
    names of PyTorch hub (resnet101_v1c-e67eebb6.pth).

    Raises:
        DownloadError: not https, not reachable, or not the right file.
    """
    parts = _split(url)
    sha256, target = _stated_sha256(parts), os.path.abspath(target)
    part = target + ".part"
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with contextlib.nullcontext() if os.path.exists(target) else _locked(target):
            if os.path.exists(target):  # it is whole, as it got its name last
                _check_sha256(target, sha256)
                return
            if sha256 is None:
                Path(part).unlink(missing_ok=True)
            logger.info("downloading %s to %s", url, target)
            _fetch(parts._replace(fragment="").geturl(), part, attempts)
            try:
                _check_sha256(part, sha256)
            except DownloadError:
                Path(part).unlink(missing_ok=True)
                raise
            with files.atomic_path(target) as temporary:
                os.replace(part, temporary)
    except OSError as error:
        raise DownloadError(f"{error.strerror or error}: {error.filename or target}") from error


def _fetch(url: str, part: str, attempts: int) -> None:
    """Complete the file `part`, in several attempts if need be."""
    for attempt in range(1, attempts + 1):
        try:
            return _transfer(url, part)
        except (http.client.InvalidURL, ValueError) as error:  # a host or a path that can't be sent
            raise DownloadError(f"it is no address ({error})") from None
        except (http.client.HTTPException, OSError) as error:
            status = getattr(error, "code", 500)
            if status == 416:  # what is there can't be a beginning of the server's file
                Path(part).unlink(missing_ok=True)
            elif status < 500 and status not in (408, 425, 429):
                raise DownloadError(str(error)) from None
            if attempt == attempts:
                raise DownloadError(f"not reachable: {error}, {attempts} attempts") from None
            logger.warning("%s: %s; attempt %d of %d", url, error, attempt + 1, attempts)
            time.sleep(_PAUSE_SEC * attempt)


def _transfer(url: str, part: str) -> None:
    from tqdm import tqdm

    have_bytes = os.path.getsize(part) if os.path.exists(part) else 0
    request = urllib.request.Request(url, headers={"User-Agent": "paddleseg"})
    if have_bytes:
        request.add_header("Range", f"bytes={have_bytes}-")
    with urllib.request.build_opener(_HttpsRedirects).open(request, timeout=_TIMEOUT_SEC) as response:
        start = have_bytes if response.status == 206 else 0
        if start and not (response.headers["Content-Range"] or "").startswith(f"bytes {start}-"):
            raise DownloadError("the server answers with another part of the file than asked for")
        if response.length is None:
            raise DownloadError("the server doesn't state the size of the file")
        total, free_bytes = start + response.length, shutil.disk_usage(os.path.dirname(part)).free
        if response.length > free_bytes:
            raise DownloadError(f"the file needs {response.length} bytes more, {free_bytes} are free at {part}")
        bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=os.path.basename(part), disable=None)
        with open(part, "ab" if start else "wb") as out, bar:
            while chunk := response.read(_CHUNK_BYTES):  # never beyond the stated size
                out.write(chunk)
                bar.update(len(chunk))
            if out.tell() != total:
                raise ConnectionError(f"the connection ended after {out.tell()} of {total} bytes")


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything else."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if _split(newurl).scheme != "https" and req.full_url.startswith("https:"):
            raise DownloadError("the server redirects from https to http; only https addresses are fetched")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_sha256(path: str, expected: Optional[str]) -> None:
    if expected is None:
        return
    digest = files.sha256(path)
    if not digest.startswith(expected):
        raise DownloadError(f"{path} has the SHA-256 {digest}, the URL states {expected}; "
                            "if the file is right, add #sha256= and its 64 digits to the URL")


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold the lock file of a path, waiting for another process that holds it."""
    with open(path + ".lock", "w") as stream:
        if not files.lock(stream.fileno()):
            logger.info("another process is fetching %s; waiting for it", path)
            files.lock(stream.fileno(), wait=True)
        yield


def download_file_and_uncompress(url: str, savepath: Optional[str] = None, extrapath: Optional[str] = None,
                                 extraname: Optional[str] = None, print_progress: bool = True, cover: bool = False,
                                 delete_file: bool = True, filename: Optional[str] = None) -> str:
    """Fetch and unpack a data set, as data sets written for PaddleSeg do; returns its folder.

    Args:
        url: an archive (.zip, .tar, .tar.gz) of one folder, whose name is the archive's; or a file.
        savepath: the folder for the archive; the working directory by default.
        extrapath: where the data set's folder is made; the working directory by default.
        extraname: the name of that folder; by default the archive's.
        print_progress: accepted for PaddleSeg's signature; a terminal shows progress, a log doesn't.
        cover: refused where there is something to cover; delete the folder by hand.
        delete_file: the archive, once it is unpacked.
        filename: a file that the folder must hold.

    Raises:
        DownloadError: the archive can't be had, or what is there would have to be deleted.
        DataError: it can't be unpacked, or doesn't hold `filename`.
    """
    archive = os.path.join(savepath or ".", os.path.basename(urlsplit(url).path))
    stem = re.sub(r"(\.tar)?\.[A-Za-z0-9]+$", "", os.path.basename(archive))
    folder = os.path.join(extrapath or ".", extraname or stem)
    if cover and os.path.isdir(folder):
        raise DownloadError(f"{folder} is there and would be replaced; delete it yourself")
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with _locked(folder):
        if not os.path.isdir(folder):
            download(url, archive)
            unpack_folder(archive, stem, folder)
            if delete_file:
                Path(archive).unlink(missing_ok=True)
    if filename is not None and not os.path.exists(os.path.join(folder, filename)):
        raise DataError(f"{folder} holds no {filename}; delete the folder to download it again")
    return folder


def unpack_folder(archive: str, stem: str, folder: str) -> None:
    """Unpack an archive's folder `stem`, or else all of it, as `folder`: whole, or not at all.

    A file that is no archive is put into the folder itself.

    Raises:
        DataError: the archive is refused or damaged, or the folder can't be written.
    """
    with _unpacked(archive, folder) as temporary:
        inner = os.path.join(temporary, stem)
        os.replace(inner if os.path.isdir(inner) else temporary, folder)


def unpack_single(archive: str, suffix: str) -> str:
    """Unpack the archive's only file that ends with `suffix` into the download cache; returns its path.

    It is kept there for this version of the archive.

    Raises:
        DataError: the archive is refused, damaged, without such a file or with several, or the cache can't be written.
    """
    state = os.stat(archive)
    version = f"{os.path.realpath(archive)}\0{state.st_size}\0{state.st_mtime_ns}"
    digits = hashlib.sha256(os.fsencode(version)).hexdigest()[:16]
    target = os.path.join(cache_home(), "unpacked", f"{os.path.basename(archive):.100}-{digits}{suffix}")
    if not os.path.isfile(target):  # else it is whole, as it got its name last
        with _unpacked(archive, target) as temporary:
            found = [path for path in Path(temporary).rglob(f"[!.]*{suffix}") if path.is_file()]
            if len(found) != 1:
                raise DataError(f"{archive} holds {len(found)} {suffix} files, not one; unpack it and name the file")
            with files.atomic_path(target) as whole:
                os.replace(found[0], whole)
    return target


def archive_kind(head: bytes) -> Optional[str]:
    """Return "zip", "gz" or "tar" by the first 512 bytes of a file; None for anything else.

    (zipfile.is_zipfile looks for a mark that a large array may hold by chance. Of .gz, only .tar.gz can be read.)
    """
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x1f\x8b"):
        return "gz"
    return "tar" if head[257:262] == b"ustar" else None


@contextlib.contextmanager
def _unpacked(archive: str, target: str) -> Iterator[str]:
    """Unpack an archive into a temporary folder beside `target`, which is gone afterwards.

    Raises:
        DataError: the archive is damaged, holds anything but plain files and folders, or what has no room.
    """
    temporary = f"{target}.{os.getpid()}.tmp"
    try:
        os.makedirs(temporary)
        _unpack(archive, temporary)
        yield temporary
    except SegError:
        raise
    except Exception as error:  # a damaged archive raises errors of zlib, struct, …
        reason = printable(f"{type(error).__name__}: {error}")
        raise DataError(f"{archive} can't be unpacked to {os.path.dirname(target)} ({reason:.160})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack(archive: str, folder: str) -> None:
    limit_bytes = min(shutil.disk_usage(folder).free, max(_FREE_BYTES, _MAX_RATIO * os.path.getsize(archive)))
    with open(archive, "rb") as stream:
        kind = archive_kind(stream.read(512))
        stream.seek(0)
        if kind is None:
            shutil.copy(archive, folder)
        elif kind == "zip":
            with zipfile.ZipFile(stream) as opened:
                if sum(info.file_size for info in opened.infolist()) > limit_bytes:
                    raise tarfile.ReadError(f"it holds more than {limit_bytes >> 20} MiB")
                opened.extractall(folder)
        else:
            plain = _BoundedReader(gzip.open(stream) if kind == "gz" else stream, limit_bytes)
            with tarfile.open(fileobj=plain, mode="r:") as opened:
                opened.extractall(folder, filter=_refuse_links)


def _refuse_links(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """Refuse what isn't a plain file or folder; links have led tarfile's own filter outside (CVE-2025-4517)."""
    if not (member.isreg() or member.isdir()) or member.size < 0:  # tarfile goes back by a size below 0, for ever
        raise tarfile.ReadError(f"{member.name!r:.80} is a link, a device or damaged")
    return tarfile.data_filter(member, folder)


class _BoundedReader:
    """A stream for tarfile, which reads headers whole and members to their end, whatever sizes they state."""

    def __init__(self, stream: BinaryIO, limit_bytes: int):
        self._stream = stream
        self._limit_bytes = limit_bytes
        self.tell = stream.tell

    def read(self, count: int) -> bytes:
        if not 0 <= count <= _MAX_READ_BYTES:
            raise tarfile.ReadError("it holds an oversized header")
        self.seek(self.tell(), count)
        return self._stream.read(count)

    def seek(self, position: int, count: int = 0) -> int:
        if position + count > self._limit_bytes:
            raise tarfile.ReadError(f"it holds more than {self._limit_bytes >> 20} MiB")
        return self._stream.seek(position)
