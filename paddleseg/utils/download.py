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
_HUB_NAME = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|pt)$")  # PyTorch hub: name-<first digits of sha256>.pth
_RETRYABLE_STATUS = (408, 425, 429, 500, 502, 503, 504)
_MAX_RATIO = 100  # images and weights hardly shrink; what grows so much is made to fill a disk
_FREE_BYTES = 1 << 20  # below this, any ratio
_MAX_READ_BYTES = 1 << 14  # tarfile copies in blocks of that size, but reads headers whole, whatever their size


class DownloadError(SegError):
    """A file can't be downloaded; the message is the reason, without the URL."""


class RetryableError(Exception):
    """A failure that another attempt may cure."""


def _stated_sha256(parts: SplitResult) -> Optional[str]:
    """Return what a URL says of its file, `#sha256=<hex>` or the first digits in a hub name."""
    if parts.fragment:
        stated = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", parts.fragment)
        if not stated:
            raise DownloadError(f"the fragment #{parts.fragment:.80} isn't sha256= and 64 hexadecimal digits")
        return stated.group(1).lower()
    in_name = _HUB_NAME.search(parts.path)
    return in_name and in_name.group(1)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise DownloadError(f"it is no address ({error})") from None
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK) or not parts.hostname:
        raise DownloadError("only https addresses are fetched")
    return parts


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


def download(url: str, target: str, attempts: int = 3, pause_sec: float = 2.0,
             timeout_sec: float = 30.0) -> None:
    """Fetch `url` into the file `target` unless it is there.

    One process downloads, the others wait for it. An interrupted download goes on where it stopped. The size
    must be the one that the server states, and the SHA-256 the one that the URL states: as `#sha256=<hex>`,
    or by its first digits as in the names of PyTorch hub (resnet101_v1c-e67eebb6.pth).

    Raises:
        DownloadError: not https, not reachable, or not the right file.
    """
    parts = _split(url)
    sha256 = _stated_sha256(parts)
    target = os.path.abspath(target)
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with contextlib.nullcontext() if os.path.exists(target) else _locked(target):
            if not os.path.exists(target):  # else it is whole, as it got its name last
                _fetch(parts._replace(fragment="").geturl(), sha256, target, attempts, pause_sec, timeout_sec)
                return
        _check_sha256(target, sha256)
    except OSError as error:
        raise DownloadError(f"{error.strerror or error}: {error.filename or target}") from error


def _fetch(url: str, sha256: Optional[str], target: str, attempts: int, pause_sec: float, timeout_sec: float) -> None:
    part = target + ".part"
    logger.info("downloading %s to %s", url, target)
    for attempt in range(1, attempts + 1):
        try:
            _transfer(url, part, sha256 is not None, timeout_sec)
            break
        except RetryableError as reason:
            if attempt == attempts:
                raise DownloadError(f"{reason}, {attempts} attempts") from None
            logger.warning("%s: %s; attempt %d of %d", url, reason, attempt + 1, attempts)
            time.sleep(pause_sec * attempt)
    _remove(part + ".etag")
    try:
        _check_sha256(part, sha256)
    except DownloadError:
        _remove(part)
        raise
    with files.atomic_path(target) as temporary:
        os.replace(part, temporary)


def _transfer(url: str, part: str, is_checked: bool, timeout_sec: float) -> None:
    """Make one attempt to complete `part`; `is_checked` says that a checksum would tell a file that has changed."""
    request = urllib.request.Request(url, headers={"User-Agent": "paddleseg"})
    have_bytes = os.path.getsize(part) if os.path.exists(part) else 0
    tag = Path(part + ".etag").read_text("ascii") if os.path.exists(part + ".etag") else None
    if have_bytes and (tag or is_checked):
        request.add_header("Range", f"bytes={have_bytes}-")
        if tag:
            request.add_header("If-Range", tag)
    handlers = [_HttpsRedirects()]
    if urlsplit(url).hostname in _LOOPBACK:
        handlers.append(urllib.request.ProxyHandler({}))
    try:
        response = urllib.request.build_opener(*handlers).open(request, timeout=timeout_sec)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what is there can't be a beginning of the server's file
            _remove(part)
            raise RetryableError("the server has another file now") from None
        kind = RetryableError if error.code in _RETRYABLE_STATUS else DownloadError
        raise kind(f"HTTP {error.code} {error.reason}") from None
    except (http.client.InvalidURL, ValueError) as error:  # a host or a path that can't be sent
        raise DownloadError(f"it is no address ({error})") from None
    except (http.client.HTTPException, OSError) as error:  # URLError is an OSError
        raise RetryableError(f"not reachable: {getattr(error, 'reason', error)}") from None
    with response:
        _receive(response, part)


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything else."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if _split(newurl).scheme != "https" and req.full_url.startswith("https:"):
            raise DownloadError("the server redirects from https to http; only https addresses are fetched")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _receive(response, part: str) -> None:
    from tqdm import tqdm

    start = 0
    if response.status == 206:
        start = os.path.getsize(part)
        if not (response.headers["Content-Range"] or "").startswith(f"bytes {start}-"):
            raise DownloadError("the server answers with another part of the file than asked for")
    length = response.headers["Content-Length"] or ""
    if not re.fullmatch("[0-9]{1,18}", length):
        raise DownloadError("the server doesn't state the size of the file")
    total, folder = start + int(length), os.path.dirname(part)
    free_bytes = shutil.disk_usage(folder).free
    if total - start > free_bytes:
        raise DownloadError(f"the file needs {total - start} bytes more, {free_bytes} are free in {folder}")
    name = os.path.basename(part)[:-len(".part")]
    with open(part, "r+b" if start else "wb") as out, tqdm(
            total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=None) as bar:
        if not start:  # the old bytes are gone by now: a tag never stands beside those of another version
            _write_tag(part, response.headers["ETag"])
        out.seek(start)
        received = start
        while received < total:
            try:
                chunk = response.read(min(_CHUNK_BYTES, total - received))
            except (http.client.HTTPException, OSError) as error:
                raise RetryableError(f"the connection broke after {received} of {total} bytes: {error}") from None
            if not chunk:
                raise RetryableError(f"the connection ended after {received} of {total} bytes")
            out.write(chunk)
            received += len(chunk)
            bar.update(len(chunk))


def _write_tag(part: str, tag: Optional[str]) -> None:
    _remove(part + ".etag")
    if tag and tag.isascii() and not tag.startswith("W/"):  # a weak one doesn't promise equal bytes
        Path(part + ".etag").write_text(tag, "ascii")


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


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
                _remove(archive)
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
    if not (member.isreg() or member.isdir()):
        raise tarfile.ReadError(f"{member.name!r:.80} is a link or a device")
    return tarfile.data_filter(member, folder)


class _BoundedReader:
    """A stream for tarfile: bounds the memory for a header, and the bytes that all members together can be."""

    def __init__(self, stream: BinaryIO, limit_bytes: int):
        self._stream = stream
        self._limit_bytes = limit_bytes
        self.tell = stream.tell

    def read(self, count: int) -> bytes:
        if not 0 <= count <= _MAX_READ_BYTES:
            raise tarfile.ReadError("it holds an oversized header")
        self._check(self.tell() + count)
        return self._stream.read(count)

    def seek(self, position: int) -> int:
        self._check(position)
        return self._stream.seek(position)

    def _check(self, position: int) -> None:
        if position > self._limit_bytes:
            raise tarfile.ReadError(f"it holds more than {self._limit_bytes >> 20} MiB")
