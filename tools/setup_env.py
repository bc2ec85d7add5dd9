"""Make the virtual environment that the Makefile's targets run in; needs a Python and nothing else.

    python3 tools/setup_env.py
    python3 tools/setup_env.py --venv .venv-2.6.2 --paddle 2.6.2 --device cpu
    python3 tools/setup_env.py --dry_run

Takes requirements.txt where an NVIDIA GPU is visible and requirements-cpu.txt elsewhere, or the list it is given,
installs it with pip, tries it, and stamps the environment. A stamped environment that still fits is left alone;
anything else at that path is made anew. Its syntax is Python 3.6's, so that an old Python can read that it is too old.
"""

import argparse
import ctypes
import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import sys

import gpus

ROOT = pathlib.Path(__file__).resolve().parent.parent
OLDEST_PYTHON = 9
STAMP = "setup_env.txt"  # the Python, then the list that was installed
GPU_ADVICE = ("add Paddle's own package index to pip's configuration, as Paddle's install guide says for your CUDA "
              "version, or go on without the GPU by DEVICE=cpu")


class SetupError(Exception):
    """Something that the user has to change, in one line."""


def read_requirements(path):
    """The requirement lines of a pip requirements file, with those of its `-r` lines in their place."""
    lines = []
    for line in path.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            lines += read_requirements(path.parent / line[3:].strip())
        elif line:
            lines.append(line)
    return lines


def requirements_of(device):
    return read_requirements(ROOT / ("requirements.txt" if device == "gpu" else "requirements-cpu.txt"))


def package_name(requirement):
    return re.match(r"[\w.-]+", requirement).group().lower()


def version_tuple(text):
    return tuple(map(int, text.split(".")))


def choose_requirements(device, version, with_gui, listed=None):
    """The requirement lines for a device, Paddle's first.

    Args:
        version: of Paddle; None for the one that the device's list pins.
        with_gui: whether the plain build of OpenCV can be loaded here.
        listed: a requirements file in place of the device's.
    """
    pinned = next(line for line in requirements_of(device) if line.startswith("paddlepaddle"))
    version = version or pinned.split("==")[1]
    if not re.match(r"\d+\.\d+\.\d+$", version) or version_tuple(version) < (2, 6, 2):
        raise SetupError(f"PADDLE={version} can't be used: a version from 2.6.2 on is needed, such as 3.3.1")
    # requirements.txt has the limits that go with Paddle 2. Paddle 3 declares its CUDA libraries itself.
    lines = read_requirements(listed) if listed else requirements_of("gpu" if version_tuple(version) < (3,) else "cpu")
    chosen = [f"{package_name(pinned)}=={version}"]
    for line in lines:
        name = package_name(line)
        if name == "opencv-python" and not with_gui:
            line = line.replace("opencv-python", "opencv-python-headless", 1)
        if not name.startswith("paddlepaddle") and (device == "gpu" or not name.startswith("nvidia-")):
            chosen.append(line)
    return chosen


def can_load(library):
    try:
        ctypes.CDLL(library)
    except OSError:
        return not sys.platform.startswith("linux")
    return True


def check_gpus(version, cards):
    """Raise SetupError where PyPI's GPU build would leave every card unused."""
    unusable = gpus.unusable(cards) if version_tuple(version) < (3,) else []
    if unusable and len(unusable) == len(cards):
        raise SetupError(f"{gpus.why_unusable(cards[0])}; for a newer one as PADDLE=..., {GPU_ADVICE}")


def check_python(version, may_switch):
    """Raise SetupError, or go over to another Python on PATH, where Paddle has no wheel for this one."""
    number, minor = version_tuple(version), sys.version_info[1]
    newest = 12 if number < (3,) else 13 if number < (3, 4) else max(minor, 13)
    if OLDEST_PYTHON <= minor <= newest:
        return
    error = f"Paddle {version} runs on Python 3.{OLDEST_PYTHON} to 3.{newest}, and this is 3.{minor}"
    for program in (f"python3.{other}" for other in range(newest, OLDEST_PYTHON - 1, -1)):
        # A name on PATH may be a version manager's shim for a Python that isn't switched on.
        if shutil.which(program) is None or subprocess.call(
                [program, "-c", "import venv, ensurepip"], stderr=subprocess.DEVNULL):
            continue
        if not may_switch:
            raise SetupError(f"{error}; PYTHON={program} works")
        print(f"setup_env: {error}; going on with {program}", flush=True)
        os.execvp(program, [program, str(pathlib.Path(__file__).resolve())] + sys.argv[1:] + ["--this_python"])
    raise SetupError(f"{error}; install one and give it as PYTHON=...")


def is_ready(venv, requirements, this_python):
    """Return True if `venv` was finished for these requirements, and its Python is still there."""
    if not (venv / STAMP).is_file() or not (venv / "bin/python").exists():
        return False
    python, *lines = (venv / STAMP).read_text().splitlines()
    return lines == requirements and (not this_python or python == python_version())


def python_version():
    return "Python {}.{}".format(*sys.version_info[:2])


def run(command, error):
    """Run a command; SetupError, below its own words, if it fails."""
    # PIP_USER=1 in a user's configuration would make pip refuse to install into an environment.
    environment = dict(os.environ, PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1")
    if subprocess.call([str(word) for word in command], env=environment):
        raise SetupError(error)


def install(venv, requirements):
    """Make an empty environment, in place of whatever half-made or outdated one is there, and fill it."""
    if venv.exists():
        if not (venv / "pyvenv.cfg").exists() and any(venv.iterdir()):
            raise SetupError(f"{venv} is there and not a virtual environment; move it away")
        shutil.rmtree(str(venv))
    run([sys.executable, "-m", "venv", venv],
        f"{sys.executable} can't make {venv}; `apt-get install python3-venv` (Debian, Ubuntu) cures that, or give "
        "another Python as PYTHON=...")
    (venv / "requirements.txt").write_text("\n".join(requirements) + "\n")
    pip, error = [venv / "bin/python", "-m", "pip"], "pip can't install the list; its own words are above"
    if requirements[0].startswith("paddlepaddle-gpu"):
        error += f". If it found no such Paddle: {GPU_ADVICE}"
    run([*pip, "install", "-qq", "--no-input", "-r", venv / "requirements.txt"], error)
    headless = [line for line in requirements if package_name(line) == "opencv-python-headless"]
    if headless and list(venv.glob("lib/python*/site-packages/opencv_python-*.dist-info")):
        # Another package asked for the plain build, and the two lie in the same folder.
        run([*pip, "uninstall", "-qq", "--yes", "opencv-python", "opencv-python-headless"], error)
        run([*pip, "install", "-qq", "--no-input", *headless], error)


def set_up(venv, requirements):
    """Make the environment, try it, and stamp it."""
    print(f"setup_env: making {venv} with {python_version()}, {requirements[0]} and "
          f"{len(requirements) - 1} packages (some GB, once)", flush=True)
    install(venv, requirements)
    if requirements[0].startswith("paddlepaddle-gpu==2"):
        run([venv / "bin/python", ROOT / "tools/link_cuda.py"], "the CUDA libraries can't be linked")
    run([venv / "bin/python", ROOT / "tools/check_env.py", "--errors"],
        f"{venv} was installed, but doesn't work, as said above")
    (venv / STAMP).write_text("\n".join([python_version()] + requirements))
    print(f"setup_env: {venv} is ready", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=pathlib.Path, default=pathlib.Path(".venv"), help="where to make it")
    parser.add_argument("--device", choices=["cpu", "gpu"], help="default: gpu where an NVIDIA GPU is visible")
    parser.add_argument("--paddle", help="the Paddle version; default: that of the requirements file")
    parser.add_argument("--requirements", type=pathlib.Path, help="the list to install; default: the device's")
    parser.add_argument("--this_python", action="store_true",
                        help="build on the Python that runs this file and on no other")
    parser.add_argument("--dry_run", action="store_true", help="print what would be installed, and stop")
    args = parser.parse_args()
    cards = gpus.visible_gpus()
    device = args.device or ("gpu" if cards else "cpu")
    with_gui = can_load("libGL.so.1") and can_load("libgthread-2.0.so.0")
    requirements = choose_requirements(device, args.paddle, with_gui, args.requirements)
    version = requirements[0].split("==")[1]
    if device == "gpu":
        check_gpus(version, cards)
    if args.dry_run:
        return print("\n".join(requirements))
    args.venv.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{args.venv}.lock", "w") as lock:  # a second `make` waits
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_ready(args.venv, requirements, args.this_python):
            check_python(version, may_switch=not args.this_python)
            set_up(args.venv, requirements)


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(f"setup_env: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
