"""Find the NVIDIA GPUs of this machine, and those that the GPU wheel of requirements.txt can use."""

import collections
import pathlib
import re
import subprocess

# Compute capabilities that run the machine code in PyPI's paddlepaddle-gpu 2.6.2: it holds
# sm_61, 70, 75, 80 and 86, and code runs on later minor versions of the same major only.
OLDEST = (6, 1)
TOO_NEW = (9, 0)

# capability: (major, minor); driver: text. Both are None where only the driver's files were found.
Gpu = collections.namedtuple("Gpu", "name capability driver")


def visible_gpus(root="/"):
    """The NVIDIA GPUs of this machine: from nvidia-smi, else from what the driver leaves under `root`."""
    # Drivers older than 2022 don't know compute_cap and refuse the whole query.
    rows = _query("compute_cap,driver_version,name") or [f"?,{row}" for row in _query("driver_version,name")]
    cells = [[cell.strip() for cell in row.split(",", 2)] for row in rows]
    found = [Gpu(name, _capability(capability), driver) for capability, driver, name in cells]
    # Containers often have the driver but not nvidia-smi.
    return found or [Gpu("NVIDIA GPU", None, None) for _ in pathlib.Path(root, "dev").glob("nvidia[0-9]*")]


def _query(fields):
    try:
        output = subprocess.check_output(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"],
                                         stderr=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = output.decode(errors="replace").splitlines()
    return [row for row in rows if row.count(",") >= fields.count(",")]


def _capability(text):
    match = re.match(r"(\d+)\.(\d+)$", text)
    return match and (int(match.group(1)), int(match.group(2)))


def describe(gpu):
    """`NVIDIA A100 (compute capability 8.0)`, as far as known."""
    return f"{gpu.name} (compute capability {'.'.join(map(str, gpu.capability))})" if gpu.capability else gpu.name


def unusable(gpus):
    """Return those of `gpus` that the GPU wheel of requirements.txt has no machine code for."""
    return [gpu for gpu in gpus if gpu.capability and not OLDEST <= gpu.capability < TOO_NEW]


def why_unusable(gpu):
    """Return the reason why that wheel can't use `gpu`."""
    side = "new" if gpu.capability >= TOO_NEW else "old"
    return f"{describe(gpu)} is too {side} for paddlepaddle-gpu 2.6.2, which runs on 6.1 to 8.9"
