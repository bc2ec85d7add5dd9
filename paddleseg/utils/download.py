"""Download a file once: checked, resumed, atomic, and shared by the processes of one machine."""

import contextlib
import http.client
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from typing import Iterator, NamedTuple, Optional
from urllib.parse import SplitResult, urlsplit

from paddleseg.cvlibs.errors import DataError, SegError
from paddleseg.utils import files

logger = logging.getLogger(__name__)

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CHUNK_BYTES = 1 << 20
_HUB_NAME = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|pt)$")  # PyTorch hub: name-<first digits of sha256>.pth
_PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)


class DownloadError(SegError):
    """A file can't be had; the message is the reason, without the URL."""


class _Passing(Exception):
    """A failure that another attempt may cure."""


class _Source(NamedTuple):
    url: str  # without its fragment
    sha256: Optional[str]  # the first digits, or all, of what the file must have


def _parse(url: str) -> _Source:
    """Split off and check what the URL says of the file: `#sha256=<hex>`, or the digits in a hub name."""
    parts = _split(url)
    plain_url = parts._replace(fragment="").geturl()
    if parts.fragment:
        stated = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", parts.fragment)
        if not stated:
            raise DownloadError(f"the fragment #{parts.fragment:.80} isn't sha256= and 64 hexadecimal digits")
        return _Source(plain_url, stated.group(1).lower())
    in_name = _HUB_NAME.search(parts.path)
    return _Source(plain_url, in_name.group(1) if in_name else None)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise DownloadError(f"it is no address ({error})") from None
    _check_scheme(parts)
    return parts


def _check_scheme(parts: SplitResult) -> None:
    if parts.scheme == "http" and parts.hostname in _LOOPBACK:
        return
    if parts.scheme != "https" or not parts.hostname:
        raise DownloadError("only https addresses are fetched")


def cache_home() -> str:
    """The folder of what is downloaded or unpacked: $PADDLESEG_HOME, or else ~/.paddleseg/weights."""
    home = os.environ.get("PADDLESEG_HOME") or os.path.join(os.path.expanduser("~"), ".paddleseg", "weights")
    return os.path.abspath(home)


def cache_path(url: str) -> str:
    """Where a URL's file is kept: `cache_home`, then host and path.

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
    source = _parse(url)
    target = os.path.abspath(target)
    try:
        if os.path.exists(target):  # whole, as it got its name last
            _check_sha256(target, source.sha256)
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with _locked(target + ".lock"):
            if os.path.exists(target):  # another process was faster
                _check_sha256(target, source.sha256)
            else:
                _fetch(source, target, attempts, pause_sec, timeout_sec)
    except OSError as error:
        raise DownloadError(f"{error.strerror or error}: {error.filename or target}") from error


def download_file_and_uncompress(url: str, savepath: Optional[str] = None, extrapath: Optional[str] = None,
                                 extraname: Optional[str] = None, print_progress: bool = True, cover: bool = False,
                                 delete_file: bool = True, filename: Optional[str] = None) -> str:
    """Fetch and unpack a data set, as data sets written for PaddleSeg do; returns its folder.

    Args:
        url: an archive (.zip, .tar, .tar.gz) of one folder, whose name is the archive's; or a file.
        savepath: the folder for the archive; the working directory by default.
        extrapath: where the data set's folder is made; the working directory by default.
        extraname: the name of that folder; by default the archive's.
        print_progress: taken for PaddleSeg's signature; a terminal shows progress, a log doesn't.
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
    with _locked(folder + ".lock"):
        if not os.path.isdir(folder):  # else it is whole, as it got its name last
            download(url, archive)
            _unpack_folder(archive, stem, folder, delete_file)
    if filename is not None and not os.path.exists(os.path.join(folder, filename)):
        raise DataError(f"{folder} holds no {filename}; delete the folder to download it again")
    return folder


def _unpack_folder(archive: str, stem: str, folder: str, delete_file: bool) -> None:
    """Unpack, and take what lies in the archive's own folder out of it; a file that is no archive goes there itself."""
    from paddleseg.utils.archive import is_tar, is_zip, unpack_all

    whole = folder + ".unpacked"
    shutil.rmtree(whole, ignore_errors=True)
    if is_zip(archive) or is_tar(archive):
        unpack_all(archive, whole)
        if delete_file:
            os.remove(archive)
    else:
        os.makedirs(whole)
        os.replace(archive, os.path.join(whole, os.path.basename(archive)))
    inner = os.path.join(whole, stem)
    os.replace(inner if os.path.isdir(inner) else whole, folder)
    shutil.rmtree(whole, ignore_errors=True)


def _fetch(source: _Source, target: str, attempts: int, pause_sec: float, timeout_sec: float) -> None:
    part = target + ".part"
    logger.info("downloading %s to %s", source.url, target)
    for attempt in range(1, attempts + 1):
        try:
            _transfer(source, part, timeout_sec)
            break
        except _Passing as reason:
            if attempt == attempts:
                raise DownloadError(f"{reason}, {attempts} attempts") from None
            logger.warning("%s: %s; attempt %d of %d", source.url, reason, attempt + 1, attempts)
            time.sleep(pause_sec * attempt)
    try:
        _check_sha256(part, source.sha256)
    except DownloadError:
        os.remove(part)
        _forget(_tag_path(part))
        raise
    with open(part, "rb") as stream:
        os.fsync(stream.fileno())
    os.replace(part, target)
    _forget(_tag_path(part))


def _transfer(source: _Source, part: str, timeout_sec: float) -> None:
    """One attempt to complete `part`."""
    try:
        response = _open(source, part, timeout_sec)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what is there can't be a beginning of the server's file
            _forget(part)
            raise _Passing("the server has another file now") from None
        kind = _Passing if error.code in _PASSING_STATUS else DownloadError
        raise kind(f"HTTP {error.code} {error.reason}") from None
    except (http.client.InvalidURL, ValueError) as error:  # a host or a path that can't be sent
        raise DownloadError(f"it is no address ({error})") from None
    except (http.client.HTTPException, OSError) as error:  # URLError is an OSError
        raise _Passing(f"not reachable: {getattr(error, 'reason', error)}") from None
    with response:
        _receive(response, part)


def _open(source: _Source, part: str, timeout_sec: float):
    request = urllib.request.Request(source.url, headers={"User-Agent": "paddleseg"})
    have_bytes = os.path.getsize(part) if os.path.exists(part) else 0
    tag = _read_tag(part)
    if have_bytes and (tag or source.sha256):  # else nothing would tell that the file has changed meanwhile
        request.add_header("Range", f"bytes={have_bytes}-")
        if tag:
            request.add_header("If-Range", tag)
    handlers = [_Redirects()]
    if urlsplit(source.url).hostname in _LOOPBACK:
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers).open(request, timeout=timeout_sec)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything else."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        parts = urlsplit(newurl)
        if parts.scheme != "https" and urlsplit(req.full_url).scheme == "https":
            raise DownloadError(f"the server redirects to {parts.scheme}; only https addresses are fetched")
        _check_scheme(parts)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _receive(response, part: str) -> None:
    from tqdm import tqdm

    start = _resumed_at(response, part)
    length = response.headers["Content-Length"] or ""
    if not re.fullmatch("[0-9]{1,18}", length):
        raise DownloadError("the server doesn't state the size of the file")
    total = start + int(length)
    free_bytes = shutil.disk_usage(os.path.dirname(part)).free
    if total - start > free_bytes:
        raise DownloadError(f"the file needs {total - start} bytes more, {free_bytes} are free "
                            f"in {os.path.dirname(part)}")
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
                raise _Passing(f"the connection broke after {received} of {total} bytes: {error}") from None
            if not chunk:
                raise _Passing(f"the connection ended after {received} of {total} bytes")
            out.write(chunk)
            received += len(chunk)
            bar.update(len(chunk))


def _resumed_at(response, part: str) -> int:
    """The offset at which the server's answer starts."""
    if response.status != 206:
        return 0
    stated = re.match(r"bytes (\d+)-", response.headers["Content-Range"] or "")
    start = os.path.getsize(part)
    if not stated or int(stated.group(1)) != start:
        raise DownloadError("the server answers with another part of the file than asked for")
    return start


def _tag_path(part: str) -> str:
    return part + ".etag"


def _read_tag(part: str) -> Optional[str]:
    """The version of the server's file that `part` is a beginning of."""
    with contextlib.suppress(FileNotFoundError), open(_tag_path(part), encoding="ascii") as stream:
        return stream.read()
    return None


def _write_tag(part: str, tag: Optional[str]) -> None:
    if tag and tag.isascii() and not tag.startswith("W/"):  # a weak one doesn't promise equal bytes
        with open(_tag_path(part), "w", encoding="ascii") as stream:
            stream.write(tag)
    else:
        _forget(_tag_path(part))


def _forget(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def _check_sha256(path: str, expected: Optional[str]) -> None:
    if expected is None:
        return
    found = files.sha256(path)
    if not found.startswith(expected):
        raise DownloadError(f"{path} has the SHA-256 {found}, the URL states {expected}; "
                            "if the file is right, add #sha256= and its 64 digits to the URL")


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold the lock file; the system lets go of it when the process ends, however it ends."""
    with open(path, "w") as stream:
        if not files.lock(stream.fileno()):
            logger.info("another process is fetching %s; waiting for it", path[:-len(".lock")])
            files.lock(stream.fileno(), wait=True)
        yield
