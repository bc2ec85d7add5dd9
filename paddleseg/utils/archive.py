"""Take one file out of an archive, and nothing else."""

import contextlib
import os
import shutil
import stat
import tarfile
import zipfile
from typing import BinaryIO, Callable, Iterator, NamedTuple

from paddleseg.cvlibs.errors import WeightsError

_MAX_MEMBERS = 1000
_MAX_UNPACKED_BYTES = 8 << 30
_MAX_HEADER_BYTES = 1 << 16
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
    """Unpack the archive's only file that ends with `suffix` beside the archive; returns its path.

    It is named after the archive (x.tar.gz -> x.tar.gz.pdparams) and kept until the archive is newer. The
    whole archive is refused if a member is a link, a device, or named to lie outside, or if it is too big.

    Raises:
        WeightsError: refused, damaged, without such a file or with several, or the folder can't be written.
    """
    target = archive + suffix
    if os.path.isfile(target) and os.path.getmtime(target) >= os.path.getmtime(archive):
        return target
    temporary = f"{target}.{os.getpid()}.tmp"
    try:
        with _members(archive) as members:
            member = _choose(members, suffix)
            with open(temporary, "wb") as out, member.open() as stream:
                shutil.copyfileobj(stream, out, 1 << 20)
                out.flush()
                os.fsync(out.fileno())
        if os.path.getsize(temporary) != member.nbytes:
            raise _Refused(f"is truncated: {member.name} ends early")
        os.replace(temporary, target)
    except _Refused as reason:
        raise WeightsError(f"{archive} {reason}") from None
    except PermissionError:
        raise WeightsError(f"{archive} can't be unpacked to {target}: the folder isn't writable; "
                           f"unpack it elsewhere and name the {suffix} file") from None
    except Exception as error:  # a damaged archive raises errors of zlib, struct, …
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise WeightsError(f"{archive} can't be unpacked ({reason:.120})") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
    return target


def _choose(members: Iterator[_Member], suffix: str) -> _Member:
    """The one file with the suffix; every member is checked."""
    chosen, total_bytes = [], 0
    for count, member in enumerate(members, start=1):
        parts = member.name.replace("\\", "/").split("/")
        if parts[0] == "" or ":" in parts[0] or ".." in parts:
            raise _Refused(f"holds {member.name!r:.80}, a path outside its folder: refused")
        if not (member.is_regular or member.is_folder):
            raise _Refused(f"holds {member.name!r:.80}, a link or a device: refused")
        total_bytes += member.nbytes
        if count > _MAX_MEMBERS or total_bytes > _MAX_UNPACKED_BYTES:
            raise _Refused(f"holds more than {_MAX_MEMBERS} files "
                           f"or {_MAX_UNPACKED_BYTES >> 30} GiB: refused")
        if member.is_regular and member.name.endswith(suffix) and not parts[-1].startswith("."):
            chosen.append(member)
    if len(chosen) != 1:
        raise _Refused(f"holds {len(chosen)} {suffix} files, not one; "
                       f"unpack it and name the {suffix} file")
    return chosen[0]


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
    return _Member(info.filename, info.file_size, is_folder, is_regular, lambda: opened.open(info))


def _tar_member(opened: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    is_regular = info.isreg() and not info.issparse()
    return _Member(info.name, info.size, info.isdir(), is_regular, lambda: opened.extractfile(info))
