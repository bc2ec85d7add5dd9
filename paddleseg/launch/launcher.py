"""The files of `paddle.distributed.launch`: kept from others' eyes, for some hold the whole environment.

    workerlog.N                         the output of a process
    envlog.N  backup_env.RANK.json      its environment, passwords and tokens included
    JOB.POD.log                         the environment of the launcher, a pod being one launcher's processes
    JOB.gpu.log                         what nvidia-smi says

The launcher writes them by the umask, so that others may read them until `protect_logs` is through; after
`umask 077` they never can.
"""

import contextlib
import errno
import os
import re
import shutil
import stat
from typing import Iterator, Optional

from paddleseg.utils import logger

_PRIVATE = re.compile(r"workerlog\.\d+|envlog\.(init\.)?\d+|backup_env\.\d+\.json")
_POD_LOG = re.compile(r".+\.[a-z]{6}\.log")
_POD_LOG_START = b"environ({"
_GPU_LOG = re.compile(r".+\.gpu\.log")


def log_dir() -> Optional[str]:
    """Where the launcher of this process keeps its files; None without a launcher."""
    return os.environ.get("PADDLE_LOG_DIR") if "POD_NAME" in os.environ else None


def protect_logs(save_dir: Optional[str] = None) -> None:
    """Make the launcher's files, and their directory, the owner's alone; call it before all that takes time.

    Only regular files that the launcher wrote are changed, and the directory only if there are no others in it and
    it isn't `save_dir`, whose readers are the user's choice. Several processes may do so at once.
    """
    directory = log_dir()
    if directory is None:
        return
    with contextlib.suppress(OSError), _opened(directory) as folder:
        launchers_alone = all([_protect(folder, name) for name in os.listdir(folder)])
        if launchers_alone and os.fstat(folder).st_uid == os.geteuid() and not _same(directory, save_dir):
            os.fchmod(folder, 0o700)


def move_dumps(save_dir: str) -> None:
    """Move this process's dumps of the environment to `save_dir`/log, unless the launcher's files are in `save_dir`.

    Its workerlog stays where the launcher, which still writes to it, says that it is.
    """
    directory = log_dir()
    if directory is None or _within(directory, save_dir):
        return
    rank, first = os.environ["PADDLE_TRAINER_ID"], os.environ.get("PADDLE_LOCAL_RANK", "0")
    backup = f"backup_env.{rank}.json"
    target = os.path.join(save_dir, "log")
    with contextlib.suppress(OSError), _opened(directory) as folder:
        os.makedirs(save_dir, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(target, 0o700)
        names = [f"envlog.{first}", backup]
        if first == "0":
            names += [name for name in os.listdir(folder) if name.endswith(f".{os.environ['POD_NAME']}.log")]
        with _opened(target, os.O_NOFOLLOW) as target_folder:
            moved = [name for name in names if _protect(folder, name) and _move(name, folder, target_folder)]
        if backup in moved:  # Paddle looks there for variables that are too long for an environment
            os.environ["PADDLE_BACKUP_ENV_PATH"] = os.path.abspath(os.path.join(target, backup))
        if moved:
            logger.info(f"the environment that the launcher wrote to {directory} is in {target} now")


def _protect(folder: int, name: str) -> bool:
    """Make a file the owner's alone if it is the launcher's; returns whether it is, or is no more."""
    if not (_PRIVATE.fullmatch(name) or _POD_LOG.fullmatch(name) or _GPU_LOG.fullmatch(name)):
        return False
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        facts = os.fstat(file)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_nlink > 1:
            return False
        if _GPU_LOG.fullmatch(name):
            return True
        if not _PRIVATE.fullmatch(name) and os.read(file, len(_POD_LOG_START)) != _POD_LOG_START:
            return False
        os.fchmod(file, 0o600)
        return True
    finally:
        os.close(file)


def _move(name: str, folder: int, target: int) -> bool:
    """Move a file between open directories; False if it is no more."""
    try:
        os.rename(name, name, src_dir_fd=folder, dst_dir_fd=target)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(name, folder, target)
        os.unlink(name, dir_fd=folder)
    return True


def _copy(name: str, folder: int, target: int) -> None:
    """Copy a file to another file system, never to be read by others and never through a link."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=target)
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
    copy = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=target)
    with open(source, "rb") as reader, open(copy, "wb") as writer:
        shutil.copyfileobj(reader, writer)


@contextlib.contextmanager
def _opened(directory: str, flags: int = 0) -> Iterator[int]:
    """A directory's descriptor: what is done through it happens there, whoever renames or links what meanwhile."""
    folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | flags)
    try:
        yield folder
    finally:
        os.close(folder)


def _same(one: str, other: Optional[str]) -> bool:
    return other is not None and os.path.realpath(one) == os.path.realpath(other)


def _within(path: str, directory: str) -> bool:
    whole = os.path.realpath(directory)
    return os.path.commonpath([os.path.realpath(path), whole]) == whole
