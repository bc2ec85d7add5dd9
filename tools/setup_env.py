"""Make the virtual environment that the Makefile's targets run in; needs a Python and nothing else.

    python3 tools/setup_env.py
    python3 tools/setup_env.py --venv .venv-2.6.2 --paddle 2.6.2 --device cpu
    python3 tools/setup_env.py --dry_run

Takes requirements.txt where an NVIDIA GPU is visible and requirements-cpu.txt elsewhere, or the list it is given,
installs it with pip, tries it, and stamps the environment. A stamped environment that still fits is left alone;
anything else at that path is made anew.

Pythons too old for the toolkit must be able to read this file, to say so: its syntax is Python 3.6's.
"""

import argparse
import ctypes
import fcntl
import hashlib
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys

import gpus

ROOT = pathlib.Path(__file__).resolve().parent.parent
OLDEST_PYTHON = 9
STAMP = "setup_env.json"
CPU_ADVICE = "DEVICE=cpu goes on without the GPU"
INDEX_ADVICE = ("add Paddle's own package index to pip's configuration, as Paddle's install guide says for your CUDA "
                "version")
COMPUTE = "import paddle; paddle.set_device('gpu'); x = paddle.ones([8, 8]); assert (x @ x).sum() == 512"


class SetupError(Exception):
    """Something that the user has to change, in one line."""


# ---- what to install ----------------------------------------------------------------------------------

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


def default_version(device):
    """The Paddle version that the requirements file of `device` pins."""
    return next(line for line in requirements_of(device) if line.startswith("paddlepaddle")).split("==")[1]


def version_tuple(text):
    match = re.match(r"(\d+)\.(\d+)\.(\d+)$", text)
    if match is None:
        raise SetupError(f"PADDLE={text} is not a version such as {default_version('cpu')}")
    return tuple(int(number) for number in match.groups())


def choose_requirements(device, version, with_gui, listed=None):
    """The requirement lines for a device, Paddle's first.

    Args:
        with_gui: whether the plain build of OpenCV can be loaded here.
        listed: a requirements file in place of the device's.
    """
    number = version_tuple(version)
    if number < (2, 6, 2):
        raise SetupError(f"PADDLE={version} is too old; the toolkit needs 2.6.2 or newer")
    # requirements.txt has the limits that go with Paddle 2. Paddle 3 declares its CUDA libraries itself.
    lines = read_requirements(listed) if listed else requirements_of("gpu" if number < (3,) else "cpu")
    chosen = [f"{'paddlepaddle-gpu' if device == 'gpu' else 'paddlepaddle'}=={version}"]
    for line in lines:
        name = package_name(line)
        if name == "opencv-python" and not with_gui:
            line = line.replace("opencv-python", "opencv-python-headless", 1)
        if not name.startswith("paddlepaddle") and (device == "gpu" or not name.startswith("nvidia-")):
            chosen.append(line)
    return chosen


# ---- what this machine has ----------------------------------------------------------------------------

def can_load(library):
    try:
        ctypes.CDLL(library)
    except OSError:
        return not sys.platform.startswith("linux")
    return True


def check_gpus(version, cards):
    """Raise SetupError where PyPI's GPU build can't be installed, or would leave every card unused."""
    if version_tuple(version) >= (3,):
        return
    advice = f"a newer Paddle runs on it: {INDEX_ADVICE}, and give PADDLE={default_version('cpu')}; {CPU_ADVICE}"
    unusable = gpus.unusable(cards)
    if platform.machine() != "x86_64":
        raise SetupError(f"requirements.txt is for GPUs on x86_64, not {platform.machine()}; {advice}")
    if unusable and len(unusable) == len(cards):
        raise SetupError("; ".join([*map(gpus.why_unusable, unusable), advice]))


def check_python(version, may_switch):
    """Raise SetupError, or go over to another Python on PATH, where Paddle has no wheel for this one."""
    number, minor = version_tuple(version), sys.version_info[1]
    newest = 12 if number < (3,) else 13 if number < (3, 4) else None
    if OLDEST_PYTHON <= minor <= (newest or minor):
        return
    fault = (f"Python 3.{minor} can't be used: Paddle {version} needs Python 3.{OLDEST_PYTHON} "
             + (f"to 3.{newest}" if newest else "or newer"))
    for other in range(newest or 13, OLDEST_PYTHON - 1, -1):
        program = shutil.which(f"python3.{other}")
        # A name on PATH may be a version manager's shim for a Python that isn't switched on.
        if program is None or subprocess.call([program, "-c", "import venv, ensurepip"], stderr=subprocess.DEVNULL):
            continue
        if not may_switch:
            raise SetupError(f"{fault}; PYTHON=python3.{other} works")
        print(f"setup_env: {fault}; going on with {program}", flush=True)
        os.execv(program, [program, str(pathlib.Path(__file__).resolve())] + sys.argv[1:] + ["--this_python"])
    raise SetupError(f"{fault}; install one and give it as PYTHON=...")


# ---- making the environment ---------------------------------------------------------------------------

def python_of(venv):
    return venv / "bin" / "python"


def make_stamp(requirements):
    """The content of the stamp of a finished environment."""
    key = hashlib.sha256("\n".join(requirements).encode()).hexdigest()
    return {"requirements": key, "python": "{}.{}".format(*sys.version_info[:2])}


def is_ready(venv, requirements, this_python):
    """Whether `venv` was finished for these requirements, and its Python is still there."""
    try:
        stamp = json.loads((venv / STAMP).read_text())
    except (OSError, ValueError):
        return False
    wanted = make_stamp(requirements)
    keys = ["requirements", "python"] if this_python else ["requirements"]
    return python_of(venv).exists() and all(stamp.get(key) == wanted[key] for key in keys)


def run(arguments, fault):
    """Run a command; if it fails, raise SetupError below its own words."""
    # PIP_USER=1 in a user's configuration would make pip refuse to install into an environment.
    environment = dict(os.environ, PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1")
    if subprocess.call([str(argument) for argument in arguments], env=environment):
        raise SetupError(fault)


def make_venv(venv):
    """An empty environment with pip, in place of whatever half-made or outdated one is there."""
    if venv.exists():
        if not (venv / "pyvenv.cfg").exists() and any(venv.iterdir()):
            raise SetupError(f"{venv} is there and not a virtual environment; move it away")
        shutil.rmtree(str(venv))
    run([sys.executable, "-m", "venv", venv],
        f"{sys.executable} could not make {venv}; `apt-get install python3.{sys.version_info[1]}-venv` (Debian, "
        "Ubuntu) cures that, or give another Python as PYTHON=...")


def install(venv, requirements):
    wanted = venv / "requirements.txt"
    wanted.write_text("\n".join(requirements) + "\n")
    pip, quiet = [python_of(venv), "-m", "pip"], ["-qq", "--no-input"]
    fault = "pip could not install the list; its own words are above. The next run starts afresh"
    if requirements[0].startswith("paddlepaddle-gpu==3"):
        fault += f". If it found no such version: {INDEX_ADVICE}"
    run(pip + ["install"] + quiet + ["-r", wanted], fault)
    headless = [line for line in requirements if package_name(line) == "opencv-python-headless"]
    if headless and list(venv.glob("lib/python*/site-packages/opencv_python-*.dist-info")):
        # Another package asked for the plain build, and the two lie in the same folder.
        run(pip + ["uninstall", "-qq", "--yes", "opencv-python", "opencv-python-headless"], fault)
        run(pip + ["install"] + quiet + headless, fault)


def try_out(venv, requirements, cards):
    """Import everything; for a GPU link the CUDA libraries, and compute on it where there is one."""
    if requirements[0].startswith("paddlepaddle-gpu==2"):
        run([python_of(venv), ROOT / "tools" / "link_cuda.py"], "the CUDA libraries can't be linked")
    run([python_of(venv), ROOT / "tools" / "check_env.py", "--faults"],
        f"{venv} was installed, but doesn't work, as said above")
    if cards and requirements[0].startswith("paddlepaddle-gpu"):
        run([python_of(venv), "-c", COMPUTE],
            f"Paddle can't compute on {gpus.describe(cards[0])}, driver {cards[0].driver or 'unknown'}. CUDA 11 needs "
            f"driver 450.80 or newer; for cards newer than compute capability 8.9 {INDEX_ADVICE}; {CPU_ADVICE}")


def set_up(venv, requirements, cards):
    print(f"setup_env: making {venv} with Python {platform.python_version()}, {requirements[0]} and "
          f"{len(requirements) - 1} packages (some GB, once)", flush=True)
    make_venv(venv)
    install(venv, requirements)
    try_out(venv, requirements, cards)
    (venv / STAMP).write_text(json.dumps(make_stamp(requirements)) + "\n")
    print(f"setup_env: {venv} is ready", flush=True)


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=pathlib.Path, default=pathlib.Path(".venv"), help="where to make it")
    parser.add_argument("--device", choices=["cpu", "gpu"], help="default: gpu where an NVIDIA GPU is visible")
    parser.add_argument("--paddle", help="the Paddle version; default: that of the requirements file")
    parser.add_argument("--requirements", type=pathlib.Path, help="the list to install; default: the device's")
    parser.add_argument("--this_python", action="store_true",
                        help="build on the Python that runs this file and on no other")
    parser.add_argument("--dry_run", action="store_true", help="print what would be installed, and stop")
    return parser.parse_args(argv)


def main():
    arguments = parse_arguments()
    try:
        cards = gpus.visible_gpus()
        device = arguments.device or ("gpu" if cards else "cpu")
        version = arguments.paddle or default_version(device)
        with_gui = can_load("libGL.so.1") and can_load("libgthread-2.0.so.0")
        requirements = choose_requirements(device, version, with_gui, arguments.requirements)
        if device == "gpu":
            check_gpus(version, cards)
        if arguments.dry_run:
            print("\n".join(requirements))
            return 0
        arguments.venv.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{arguments.venv}.lock", "w") as lock:  # a second `make` waits
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_ready(arguments.venv, requirements, arguments.this_python):
                check_python(version, may_switch=not arguments.this_python)
                if not can_load("libgomp.so.1"):
                    raise SetupError("the system lacks libgomp.so.1, which Paddle loads; `apt-get install libgomp1` "
                                     "(Debian, Ubuntu) brings it")
                set_up(arguments.venv, requirements, cards)
    except SetupError as error:
        print(f"setup_env: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
