"""Private logs: files of `paddle.distributed.launch` that hold the whole environment, passwords and tokens included.

The launcher writes them by the umask, so that others may read them until `protect_logs` is through; after `umask 077`
they never can.
"""

import contextlib
import os
import re
from typing import Optional

# workerlog: a process's output; envlog, backup_env: its environment; NAME.POD.log: the launcher's; NAME.gpu.log: GPUs.
_FILES = re.compile(r"workerlog\.\d+|envlog\.(init\.)?\d+|backup_env\.\d+\.json|.+\.(gpu|[a-z]{6})\.log")


def protect_logs(save_dir: Optional[str] = None) -> None:
    """Make the launcher's files the owner's alone; call it before all that takes time.

    So does their directory become, unless others' files are in it or it is `save_dir`, whose readers the user chose.
    """
    folder = os.environ.get("PADDLE_LOG_DIR") if "POD_NAME" in os.environ else None
    if folder is None or not os.path.isdir(folder):
        return
    names = os.listdir(folder)
    own = [os.path.join(folder, name) for name in names if _FILES.fullmatch(name)]
    if len(own) == len(names) and not (save_dir and os.path.realpath(save_dir) == os.path.realpath(folder)):
        own.append(folder)
    for path in own:
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            os.chmod(path, 0o700 if path == folder else 0o600)
