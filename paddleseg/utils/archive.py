"""Take one file out of an archive, or all of them, and nothing that lies elsewhere."""

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tarfile
import zipfile
from typing import BinaryIO, Callable, Iterator, List, NamedTuple

from paddleseg.cvlibs.errors import DataError, WeightsError
from paddleseg.utils import download

_MAX_MEMBERS = 1000
_MAX_UNPACKED_BYTES = 8 << 30
_MAX_RATIO = 100  # weights hardly shrink; what grows so much is made to fill a disk
_FREE_BYTES = 1 << 20  # below this, any ratio
_MAX_HEADER_BYTES = 1 << 16
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_GZIP_MAGIC = b"\x1f\x8b"
_HEADER_TYPES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE,
                 tarfile.SOLARIS_XHDTYPE)


class _Refused(Exception):
    """The reason why an archive isn't unpacked."""


class _Member(NamedTuple):
    name: str
    nbytes: int
    is_folder: bool
    is_regular: bool
    open: Callable[[], BinaryIO]


def unpack_single(archive: str, suffix: str) -> str:
    """Unpack the archive's only file that ends with `suffix` into the download cache; returns its path.

    It is kept there for this version of the archive. The whole archive is refused if a member is a link, a
    device, or named to lie outside, or if it is too big.

    Raises:
        WeightsError: refused, damaged, without such a file or with several, or the cache can't be written.
    """
    target = _unpacked_path(archive) + suffix
    if os.path.isfile(target):  # whole, as it got its name last
        return target
    temporary = f"{target}.{os.getpid()}.tmp"
    try:
        with _members(archive) as members:
            member = _choose(members, suffix, os.path.getsize(archive))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(temporary, "wb") as out, member.open() as stream:
                shutil.copyfileobj(stream, out, 1 << 20)
                out.flush()
                os.fsync(out.fileno())
        if os.path.getsize(temporary) != member.nbytes:
            raise _Refused(f"is truncated: {member.name!r:.80} ends early")
        os.replace(temporary, target)
    except _Refused as reason:
        raise WeightsError(f"{archive} {reason}") from None
    except PermissionError:
        raise WeightsError(f"{archive} can't be unpacked to {target}: the folder isn't writable; set PADDLESEG_HOME "
                           f"to one that is, or unpack it by hand and name the {suffix} file") from None
    except Exception as error:  # a damaged archive raises errors of zlib, struct, …
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise WeightsError(f"{archive} can't be unpacked ({reason:.120})") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
    return target


def unpack_all(archive: str, folder: str) -> None:
    """Unpack every file of an archive into `folder`, which isn't there yet: whole, or not at all.

    The whole archive is refused if a member is a link, a device, or named to lie outside, or if it is too big.

    Raises:
        DataError: refused, damaged, or the folder can't be written.
    """
    temporary = f"{folder}.{os.getpid()}.tmp"
    try:
        os.makedirs(temporary)
        limit_bytes = min(shutil.disk_usage(temporary).free, max(_FREE_BYTES, _MAX_RATIO * os.path.getsize(archive)))
        with _members(archive) as members:
            for member in members:
                _check_member(member)
                limit_bytes -= member.nbytes
                if limit_bytes < 0 or member.nbytes < 0:
                    raise _Refused("holds more than there is room for, or than an archive of its size can")
                if member.is_regular:
                    _write_member(member, os.path.join(temporary, *member.name.split("/")))
        os.replace(temporary, folder)
    except _Refused as reason:
        raise DataError(f"{archive} {reason}") from None
    except Exception as error:  # a damaged archive raises errors of zlib, struct, …
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{archive} can't be unpacked to {folder} ({reason:.120})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_member(member: _Member, path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "xb") as out, member.open() as stream:
        shutil.copyfileobj(stream, out, 1 << 20)
        if out.tell() != member.nbytes:
            raise _Refused(f"is truncated: {member.name!r:.80} ends early")


def _unpacked_path(archive: str) -> str:
    """A name in the cache that no other archive has, nor another version of this one."""
    state = os.stat(archive)
    version = f"{os.path.realpath(archive)}\0{state.st_size}\0{state.st_mtime_ns}"
    digits = hashlib.sha256(os.fsencode(version)).hexdigest()[:16]
    return os.path.join(download.cache_home(), "unpacked", f"{os.path.basename(archive):.100}-{digits}")


def _choose(members: Iterator[_Member], suffix: str, archive_bytes: int) -> _Member:
    """The one file with the suffix; every member is checked."""
    chosen, total_bytes = [], 0
    limit_bytes = min(_MAX_UNPACKED_BYTES, max(_FREE_BYTES, _MAX_RATIO * archive_bytes))
    for count, member in enumerate(members, start=1):
        parts = _check_member(member)
        total_bytes += member.nbytes
        if count > _MAX_MEMBERS or total_bytes > limit_bytes or member.nbytes < 0:
            raise _Refused(f"holds more than {_MAX_MEMBERS} files, or more than {limit_bytes >> 20} MiB: refused")
        if member.is_regular and member.name.endswith(suffix) and not parts[-1].startswith("."):
            chosen.append(member)
    if len(chosen) != 1:
        raise _Refused(f"holds {len(chosen)} {suffix} files, not one; "
                       f"unpack it and name the {suffix} file")
    return chosen[0]


def _check_member(member: _Member) -> List[str]:
    """The parts of its path, which must lie inside."""
    parts = member.name.replace("\\", "/").split("/")
    if parts[0] == "" or ":" in parts[0] or ".." in parts:
        raise _Refused(f"holds {member.name!r:.80}, a path outside its folder: refused")
    if _CONTROL.search(member.name):
        raise _Refused(f"holds {member.name!r:.80}, a name with control characters: refused")
    if not (member.is_regular or member.is_folder):
        raise _Refused(f"holds {member.name!r:.80}, a link or a device: refused")
    return parts


@contextlib.contextmanager
def _members(archive: str) -> Iterator[Iterator[_Member]]:
    if is_zip(archive):
        with zipfile.ZipFile(archive) as opened:
            yield (_zip_member(opened, info) for info in opened.infolist())
    else:
        mode = "r:gz" if _head(archive, 2) == _GZIP_MAGIC else "r:"
        with tarfile.open(archive, mode, tarinfo=_TarInfo) as opened:
            yield (_tar_member(opened, info) for info in opened)


def is_zip(path: str) -> bool:
    """By its first bytes: zipfile.is_zipfile looks for a mark that a large array may hold by chance."""
    return _head(path, 4) == b"PK\x03\x04"


def is_tar(path: str) -> bool:
    """Whether it is a .tar, or a .gz, of which only a .tar can be read."""
    return _head(path, 2) == _GZIP_MAGIC or _head(path, 262)[257:] == b"ustar"


def _head(path: str, count: int) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(count)


class _TarInfo(tarfile.TarInfo):
    """Refuses headers that tarfile would read into memory whatever their size."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        info = super().frombuf(buf, encoding, errors)
        is_header = info.type not in tarfile.SUPPORTED_TYPES or info.type in _HEADER_TYPES
        if info.type == tarfile.GNUTYPE_SPARSE or is_header and info.size > _MAX_HEADER_BYTES:
            raise _Refused(f"holds {info.name!r:.80}, a sparse file or an oversized header: refused")
        return info


def _zip_member(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive isn't of Unix
    is_folder = info.is_dir()
    is_regular = not is_folder and kind in (0, stat.S_IFREG)
    # Not its filename, which zipfile cuts at a NUL.
    return _Member(info.orig_filename, info.file_size, is_folder, is_regular, lambda: opened.open(info))


def _tar_member(opened: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    is_regular = info.isreg() and not info.issparse()
    return _Member(info.name, info.size, info.isdir(), is_regular, lambda: opened.extractfile(info))
