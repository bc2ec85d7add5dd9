"""Print what a bug report needs to say about this machine, and the cure of what is wrong with it.

    .venv/bin/python tools/check_env.py

A fault keeps the toolkit from working and makes the exit code 1; a note doesn't. Every check returns its
findings as a list of ("fault" or "note", text). Runs without Paddle too, and says so.
"""

import argparse
import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import warnings
from pathlib import Path

import gpus

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paddleseg.utils.cores import usable_cores

# Module name -> the packages of which any one brings it.
PACKAGES = {
    "paddle": ("paddlepaddle", "paddlepaddle-gpu"),
    "numpy": ("numpy",),
    "cv2": ("opencv-python", "opencv-python-headless"),
    "PIL": ("pillow",),
    "yaml": ("pyyaml",),
    "prettytable": ("prettytable",),
    "tqdm": ("tqdm",),
    "visualdl": ("visualdl",),
    "cityscapesscripts": ("cityscapesscripts",),
    "setuptools": ("setuptools",),
}
SHARED_MEMORY = "/dev/shm"
# Room for the batches that a few loader workers hold ready at Cityscapes' sizes.
ENOUGH_SHARED_MEMORY_GB = 1


def installed(package):
    """The installed version of `package`, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def major(version):
    return int(version.split(".")[0])


def check_packages():
    """Import each package; returns (lines of the report, findings)."""
    lines, findings = [], []
    for module, packages in PACKAGES.items():
        found = [(package, installed(package)) for package in packages if installed(package)]
        lines.append((module, ", ".join(f"{package} {version}" for package, version in found) or "not installed"))
        if not found:
            cure = f"run `make env`, or `pip install {packages[0]}`"
            findings.append(("fault", f"{packages[0]} is not installed: {cure}"))
            continue
        if len(found) > 1:
            names = " and ".join(package for package, _ in found)
            findings.append(("fault", f"{names} overwrite each other: uninstall both, then install one"))
        try:
            importlib.import_module(module)
        except Exception as error:  # a broken wheel may raise anything at import
            # VisualDL makes ~/.visualdl at import, and is imported for --use_vdl only.
            kind = "note" if isinstance(error, PermissionError) else "fault"
            findings.append((kind, f"{found[0][0]} can't be imported ({error}): {import_cure(module, error)}"))
    return lines, findings


def import_cure(module, error):
    if isinstance(error, PermissionError):
        return "set HOME to a directory that you may write to"
    if module == "cv2" and ".so" in str(error):
        return "uninstall it and install opencv-python-headless, which needs no such library"
    if "libgomp" in str(error):
        return "`apt-get install libgomp1` (Debian, Ubuntu)"
    return "install it anew; `make distclean env` makes the whole environment anew"


def check_versions(paddle_version, numpy_version):
    if paddle_version is None or numpy_version is None:
        return []
    if tuple(int(part) for part in paddle_version.split(".")[:2]) < (2, 6):
        return [("fault", f"Paddle {paddle_version} is too old: install 2.6.2 or newer")]
    if major(paddle_version) == 2 and major(numpy_version) >= 2:
        return [("note", f"Paddle {paddle_version} was built for NumPy 1, not {numpy_version}: "
                         "`pip install 'numpy<2'`")]
    return []


def check_gpu_build(cards, is_gpu_build, cudnn, paddle_version):
    """Hold the cards of the machine against the build of Paddle; `cudnn` is None where Paddle finds none."""
    if not is_gpu_build:
        return [("note", "a GPU is visible, but this is Paddle's CPU build: `make env` without DEVICE=cpu "
                         "installs the GPU build")] if cards else []
    if not cards:
        return [("note", "this is Paddle's GPU build, but no NVIDIA GPU is visible: install the driver (in a "
                         "container: start it with --gpus all), or go on on the CPU")]
    findings = []
    if cudnn is None:
        findings.append(("fault", "Paddle finds no cuDNN: `pip install -r requirements.txt`, then "
                                  "`python tools/link_cuda.py`"))
    if major(paddle_version) == 2:
        unusable = gpus.unusable(cards)
        kind, cure = ("fault", "install a newer Paddle from Paddle's own package index")
        if len(unusable) < len(cards):
            kind, cure = ("note", "leave it out with CUDA_VISIBLE_DEVICES")
        findings += [(kind, f"{gpus.why_unusable(card)}: {cure}") for card in unusable]
    return findings


def check_shared_memory(free_bytes):
    """Loader workers hand batches over in shared memory; `free_bytes` is None where the system has none."""
    if free_bytes is None or free_bytes >= ENOUGH_SHARED_MEMORY_GB * 1e9:
        return []
    return [("note", f"{SHARED_MEMORY} has {free_bytes / 1e6:.0f} MB free, too little for loader workers: start "
                     "the container with --shm-size=8g, or train with --num_workers 0")]


def probe_paddle():
    """What Paddle says of itself: (is the GPU build, its CUDA, the cuDNN it found)."""
    try:
        import paddle
    except Exception:  # check_packages has said why
        return False, None, None
    return paddle.is_compiled_with_cuda(), paddle.version.cuda(), paddle.get_cudnn_version()


def main(faults_only):
    warnings.simplefilter("ignore")  # Paddle's import warns about compilers that only its own builders need
    cards = gpus.visible_gpus()
    free = shutil.disk_usage(SHARED_MEMORY).free if os.path.isdir(SHARED_MEMORY) else None
    package_lines, findings = check_packages()
    is_gpu_build, cuda, cudnn = probe_paddle()
    paddle_version = installed("paddlepaddle-gpu") or installed("paddlepaddle")
    findings += check_versions(paddle_version, installed("numpy"))
    findings += check_gpu_build(cards, is_gpu_build, cudnn, paddle_version)
    findings += check_shared_memory(free)
    lines = [
        ("system", platform.platform()),
        ("cores", f"{usable_cores()} of {os.cpu_count()} usable"),
        (SHARED_MEMORY, "none" if free is None else f"{free / 1e9:.1f} GB free"),
        ("GPUs", "; ".join(f"{gpus.describe(card)}, driver {card.driver or '?'}" for card in cards) or "none"),
        ("Python", f"{platform.python_version()}, {sys.executable}"),
        *package_lines,
        ("CUDA", f"{cuda}, cuDNN {cudnn or 'not found'}" if is_gpu_build else "not in this build of Paddle"),
    ]
    faults = [text for kind, text in findings if kind == "fault"]
    if not faults_only:
        for name, value in lines:
            print(f"{name + ':':<19}{value}")
        for kind, text in findings:
            print(f"{kind}: {text}")
        print(f"faults: {len(faults)}")
    elif faults:
        print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", action="store_true", help="print the faults alone")
    sys.exit(main(parser.parse_args().faults))
