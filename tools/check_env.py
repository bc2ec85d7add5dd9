"""Print what a bug report needs to say about this machine, and the cure of what is wrong with it.

    .venv/bin/python tools/check_env.py

An error keeps the toolkit from working and makes the exit code 1; a note doesn't. Every check returns its
findings as a list of ("error" or "note", text). Runs without Paddle too, and says so.
"""

import argparse
import contextlib
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
# What NVIDIA's guide of NCCL gives a container.
ENOUGH_SHARED_MEMORY = 1e9


def installed(package):
    """The installed version of `package`, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_packages():
    """Import each package; returns (lines of the report, findings)."""
    lines, findings = [], []
    for module, packages in PACKAGES.items():
        found = [f"{package} {installed(package)}" for package in packages if installed(package)]
        lines.append((module, ", ".join(found) or "not installed"))
        if not found:
            findings.append(("error", f"{packages[0]} is not installed: `make env`, or `pip install {packages[0]}`"))
            continue
        if len(found) > 1:
            findings.append(("error", f"{' and '.join(found)} overwrite each other: uninstall both, then install one"))
        try:
            importlib.import_module(module)
        except PermissionError as error:  # VisualDL makes ~/.visualdl at import, and is imported for --use_vdl only
            findings.append(("note", f"{module} can't be imported ({error}): set HOME to a directory that you may "
                                     "write to"))
        except Exception as error:  # a broken wheel may raise anything at import
            cures = {"libGL": "install opencv-python-headless in its place", "libgomp": "`apt-get install libgomp1`"}
            cure = next((cure for library, cure in cures.items() if library in str(error)),
                        "install it anew; `make distclean env` makes the whole environment anew")
            findings.append(("error", f"{module} can't be imported ({error}): {cure}"))
    return lines, findings


def check_versions(paddle, numpy):
    if paddle is None or numpy is None:
        return []
    number = tuple(map(int, paddle.split(".")[:2]))
    if number < (2, 6):
        return [("error", f"Paddle {paddle} is too old: install 2.6.2 or newer")]
    if number < (3,) and not numpy.startswith("1."):
        return [("note", f"Paddle {paddle} was built for NumPy 1, not {numpy}: `pip install 'numpy<2'`")]
    return []


def check_gpu_build(cards, is_gpu_build, cudnn, version):
    """Hold the cards of the machine against the build of Paddle; `cudnn` is None where Paddle finds none."""
    if not is_gpu_build:
        return [("note", "a GPU is visible, but this is Paddle's CPU build: `make env` without DEVICE=cpu "
                         "installs the GPU build")] if cards else []
    if not cards:
        return [("note", "this is Paddle's GPU build, but no NVIDIA GPU is visible: install the driver (in a "
                         "container: start it with --gpus all), or go on on the CPU")]
    unusable = gpus.unusable(cards) if version.startswith("2.") else []
    kind, cure = ("note", "leave it out with CUDA_VISIBLE_DEVICES")
    if len(unusable) == len(cards):
        kind, cure = ("error", "install a newer Paddle from Paddle's own package index")
    findings = [(kind, f"{gpus.why_unusable(card)}: {cure}") for card in unusable]
    if cudnn is None:
        findings.append(("error", "Paddle finds no cuDNN: `pip install -r requirements.txt`, then "
                                  "`python tools/link_cuda.py`"))
    return findings


def check_computing(cards):
    """Compute on the GPU."""
    import paddle

    try:
        paddle.set_device("gpu")
        assert float((paddle.ones([8, 8]) @ paddle.ones([8, 8])).sum()) == 512
    except Exception as error:  # CUDA's errors come as many types
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        return [("error", f"Paddle can't compute on {gpus.describe(cards[0])} ({reason}): driver "
                          f"{cards[0].driver or '?'} must be 450.80 or newer for CUDA 11, 525.60 for CUDA 12")]
    return []


def main(errors_only):
    warnings.simplefilter("ignore")  # Paddle's import warns about compilers that only its own builders need
    cards, is_gpu_build, cuda, cudnn = gpus.visible_gpus(), False, None, None
    package_lines, findings = check_packages()
    version = installed("paddlepaddle-gpu") or installed("paddlepaddle")
    with contextlib.suppress(Exception):  # check_packages has said why
        import paddle
        is_gpu_build, cuda, cudnn = paddle.is_compiled_with_cuda(), paddle.version.cuda(), paddle.get_cudnn_version()
    findings += check_versions(version, installed("numpy"))
    findings += check_gpu_build(cards, is_gpu_build, cudnn, version)
    if cards and is_gpu_build and all(kind != "error" for kind, _ in findings):
        findings += check_computing(cards)
    free = shutil.disk_usage(SHARED_MEMORY).free if os.path.isdir(SHARED_MEMORY) else None
    if free is not None and free < ENOUGH_SHARED_MEMORY:  # NCCL exchanges the data of a machine's GPUs in it
        findings.append(("note", f"{SHARED_MEMORY} has {free / 1e6:.0f} MB free, too little for NCCL between "
                                 "several GPUs: start the container with --shm-size=1g"))
    errors = [text for kind, text in findings if kind == "error"]
    if errors_only:
        print(*errors, sep="\n", end="\n" if errors else "")
        return 1 if errors else 0
    for name, value in [
            ("system", platform.platform()),
            ("cores", f"{usable_cores()} of {os.cpu_count()} usable"),
            (SHARED_MEMORY, "none" if free is None else f"{free / 1e9:.1f} GB free"),
            ("GPUs", "; ".join(f"{gpus.describe(card)}, driver {card.driver or '?'}" for card in cards) or "none"),
            ("Python", f"{platform.python_version()}, {sys.executable}"),
            *package_lines,
            ("CUDA", f"{cuda}, cuDNN {cudnn or 'not found'}" if is_gpu_build else "not in this build of Paddle")]:
        print(f"{name + ':':<19}{value}")
    for kind, text in findings:
        print(f"{kind}: {text}")
    print(f"errors: {len(errors)}")
    return 1 if errors else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--errors", "--faults", action="store_true", help="print the errors alone")
    sys.exit(main(parser.parse_args().errors))
