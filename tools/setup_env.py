"""Make the virtual environment that the Makefile's targets run in; needs a Python and nothing else.

    python3 tools/setup_env.py
    python3 tools/setup_env.py --venv .venv-2.6.2 --paddle 2.6.2 --device cpu
    python3 tools/setup_env.py --dry_run

Takes requirements.txt where an NVIDIA GPU is visible and requirements-cpu.txt elsewhere, or the list it is
given, fits it to this machine, installs it with pip, tries it, and stamps the environment. A stamped
environment that still fits is left alone; anything else at that path is made anew.

Pythons too old for the toolkit must be able to read this file, to say so: its syntax is Python 3.6's.
"""

import argparse
import collections
import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import time

import gpus

ROOT = pathlib.Path(__file__).resolve().parent.parent
OLDEST_PYTHON = 9
OLDEST_PADDLE = (2, 6, 2)
PADDLE_3 = (3, 0, 0)
STAMP = "setup_env.json"
CPU_ADVICE = "DEVICE=cpu goes on without the GPU"

# What Paddle loads from the system, and the Debian package that has it.
SYSTEM_LIBRARIES = {"libgomp.so.1": "libgomp1", "libstdc++.so.6": "libstdc++6"}
# What the wheel opencv-python loads from the system and its headless build does without.
GUI_LIBRARIES = ("libGL.so.1", "libgthread-2.0.so.0")

# What an environment takes on the disk, and the free space that making it needs, in GB.
SIZE_GB = {"cpu": 1.4, "gpu": 6.5}
NEEDED_GB = {"cpu": 3, "gpu": 12}
TORCH_GB = 1

Plan = collections.namedtuple("Plan", "device version requirements")


class SetupError(Exception):
    """Something that the user has to change, in one line."""


# What to install.


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


def requirements_of(device, root=ROOT):
    return read_requirements(root / ("requirements.txt" if device == "gpu" else "requirements-cpu.txt"))


def package_name(requirement):
    return re.match(r"[\w.-]+", requirement).group().lower()


def default_version(device, root=ROOT):
    """The Paddle version that the requirements file of `device` pins."""
    line = next(line for line in requirements_of(device, root) if line.startswith("paddlepaddle"))
    return line.split("==")[1]


def version_tuple(text):
    match = re.match(r"(\d+)\.(\d+)\.(\d+)$", text)
    if match is None:
        raise SetupError(f"PADDLE={text} is not a version such as {default_version('cpu')}")
    return tuple(int(number) for number in match.groups())


def make_plan(device, version=None, with_gui=True, root=ROOT, listed=None):
    """What to install for `device`, with Paddle `version` or else that of the device's requirements file.

    `with_gui` is whether the plain build of OpenCV can be loaded here; `listed`, if given, is the
    requirements file to take instead of the device's.
    """
    version = version or default_version(device, root)
    if version_tuple(version) < OLDEST_PADDLE:
        raise SetupError(f"PADDLE={version} is too old; the toolkit needs 2.6.2 or newer")
    # requirements.txt has the limits that go with Paddle 2. Paddle 3 declares its CUDA libraries itself.
    lines = (read_requirements(listed) if listed
             else requirements_of("gpu" if version_tuple(version) < PADDLE_3 else "cpu", root))
    requirements = [f"{'paddlepaddle-gpu' if device == 'gpu' else 'paddlepaddle'}=={version}"]
    for line in lines:
        name = package_name(line)
        if name.startswith("paddlepaddle") or (name.startswith("nvidia-") and device == "cpu"):
            continue
        if name == "opencv-python" and not with_gui:
            line = line.replace("opencv-python", "opencv-python-headless", 1)
        requirements.append(line)
    return Plan(device, version, requirements)


# What this machine has.


def can_load(library):
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def opencv_has_gui():
    """Whether the plain build of OpenCV can be loaded; a bare server lacks libGL."""
    return not sys.platform.startswith("linux") or all(can_load(name) for name in GUI_LIBRARIES)


def check_system(plan):
    """Stop where Paddle could be installed but not imported."""
    missing = [name for name in SYSTEM_LIBRARIES if sys.platform.startswith("linux") and not can_load(name)]
    if missing:
        packages = " ".join(SYSTEM_LIBRARIES[name] for name in missing)
        raise SetupError(f"the system lacks {' and '.join(missing)}, which Paddle {plan.version} loads; "
                         f"`apt-get install {packages}` (Debian, Ubuntu) brings it")


def index_advice():
    return ("add Paddle's own package index to pip's configuration, as Paddle's install guide says for your CUDA "
            "version")


def paddle_3_advice():
    return f"a newer Paddle runs on it: {index_advice()}, and give PADDLE={default_version('cpu')}"


def check_gpus(plan, cards):
    """Stop where the GPU build can't be installed, or would leave every card idle.

    Returns:
        lines to tell the user.
    """
    if plan.device == "cpu" or version_tuple(plan.version) >= PADDLE_3:
        return []
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SetupError(f"requirements.txt is for GPUs under Linux on x86_64, not {platform.system()} on "
                         f"{platform.machine()}; {paddle_3_advice()}; {CPU_ADVICE}")
    unusable = gpus.unusable(cards)
    reasons = "; ".join(gpus.why_unusable(card) for card in unusable)
    if unusable and len(unusable) == len(cards):
        is_new = any(card.capability >= gpus.TOO_NEW for card in unusable)
        raise SetupError("; ".join([reasons] + [paddle_3_advice()] * is_new + [CPU_ADVICE]))
    if unusable:
        return [f"{reasons}; leave such cards out with CUDA_VISIBLE_DEVICES"]
    return [] if cards else ["no NVIDIA GPU is visible here; the GPU set is installed all the same"]


# On which Python.


def newest_python(version):
    """The newest 3.x that Paddle `version` has wheels for, or None for versions not known here."""
    number = version_tuple(version)
    if number < PADDLE_3:
        return 12
    return 13 if number < (3, 4, 0) else None


def fits_python(version, minor):
    return OLDEST_PYTHON <= minor <= (newest_python(version) or minor)


def other_python(version):
    """The newest Python on PATH that Paddle `version` has wheels for, or None."""
    for minor in range(newest_python(version) or 13, OLDEST_PYTHON - 1, -1):
        program = shutil.which(f"python3.{minor}")
        # A name on PATH may be a version manager's shim for a Python that isn't switched on.
        if program and subprocess.call([program, "-c", "import venv, ensurepip"],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
            return program
    return None


def check_python(plan, may_switch):
    """Stop, or go over to another Python, where Paddle has no wheel for this one."""
    minor = sys.version_info[1]
    if fits_python(plan.version, minor):
        return
    newest = newest_python(plan.version)
    fault = (f"Python 3.{minor} can't be used: Paddle {plan.version} needs Python 3.{OLDEST_PYTHON} "
             + (f"to 3.{newest}" if newest else "or newer"))
    found = other_python(plan.version)
    if found and may_switch:
        say(f"{fault}; going on with {found}")
        os.execv(found, [found, str(pathlib.Path(__file__).resolve())] + sys.argv[1:] + ["--this_python"])
    advice = f"PYTHON={os.path.basename(found)} works" if found else "install one and give it as PYTHON=..."
    raise SetupError(f"{fault}; {advice}")


# Making the environment.


def say(text):
    print(f"setup_env: {text}", flush=True)


def python_of(venv):
    return venv / "bin" / "python"


def make_stamp(plan, python):
    """What a finished environment is known by; `python` is (major, minor)."""
    key = hashlib.sha256("\n".join(plan.requirements).encode()).hexdigest()
    return {"requirements": key, "python": ".".join(str(number) for number in python)}


def is_ready(venv, plan, this_python):
    """Whether `venv` was finished for this plan, and its Python still runs."""
    try:
        stamp = json.loads((venv / STAMP).read_text())
        answer = subprocess.check_output(
            [str(python_of(venv)), "-c", "import sys; print(*sys.version_info[:2])"], stderr=subprocess.DEVNULL)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return False
    python = tuple(int(number) for number in answer.split())
    return stamp == make_stamp(plan, python) and (python == sys.version_info[:2] or not this_python)


def run(arguments, fault):
    """Run a command in silence; if it fails, show what it said and raise a SetupError with the text `fault`."""
    # PIP_USER=1 in a user's configuration would make pip refuse to install into an environment.
    environment = dict(os.environ, PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1")
    result = subprocess.run([str(argument) for argument in arguments], env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if result.returncode != 0:
        print("\n".join(result.stdout.decode(errors="replace").splitlines()[-40:]), file=sys.stderr)
        raise SetupError(fault)


def make_venv(venv):
    """An empty environment with pip, in place of whatever half-made or outdated one is there."""
    if venv.exists():
        if not (venv / "pyvenv.cfg").exists() and any(venv.iterdir()):
            raise SetupError(f"{venv} is there and not a virtual environment; move it away")
        shutil.rmtree(str(venv))
    advice = (f"`apt-get install python3.{sys.version_info[1]}-venv` (Debian, Ubuntu) cures that, or give "
              "another Python as PYTHON=...")
    if importlib.util.find_spec("ensurepip"):
        run([sys.executable, "-m", "venv", venv], f"{sys.executable} could not make {venv}; {advice}")
    elif importlib.util.find_spec("pip"):
        # Debian without python3-venv: its own pip fills an environment from outside.
        fault = f"{sys.executable} has no ensurepip; {advice}"
        run([sys.executable, "-m", "venv", "--without-pip", venv], fault)
        run([sys.executable, "-m", "pip", "--python", python_of(venv), "install", "--quiet", "pip"], fault)
    else:
        raise SetupError(f"{sys.executable} has neither ensurepip nor pip; {advice}")


def install(venv, plan):
    free_gb = shutil.disk_usage(str(venv)).free / 1e9
    torch_gb = TORCH_GB if "torch" in map(package_name, plan.requirements) else 0
    needed_gb = NEEDED_GB[plan.device] + torch_gb
    if free_gb < needed_gb:
        raise SetupError(f"{venv.resolve()} has {free_gb:.1f} GB of free disk; {needed_gb} GB are needed")
    wanted = venv / "requirements.txt"
    wanted.write_text("\n".join(plan.requirements) + "\n")
    paddle = plan.requirements[0].replace("==", " ")
    others = len({package_name(line) for line in plan.requirements[1:]})
    say(f"installing {paddle} and {others} packages into {venv} (about {SIZE_GB[plan.device] + torch_gb} GB, once)")
    fault = f"pip could not install {paddle} and the rest; its own words are above. The next run starts afresh"
    if plan.device == "gpu" and version_tuple(plan.version) >= PADDLE_3:
        fault += f". If it found no such version: {index_advice()}"
    pip = [python_of(venv), "-m", "pip"]
    run(pip + ["install", "--quiet", "--no-input", "-r", wanted], fault)
    headless = [line for line in plan.requirements if package_name(line) == "opencv-python-headless"]
    if headless and list(venv.glob("lib/python*/site-packages/opencv_python-*.dist-info")):
        # Another package asked for the plain build, and the two lie in the same folder.
        run(pip + ["uninstall", "--quiet", "--yes", "opencv-python", "opencv-python-headless"], fault)
        run(pip + ["install", "--quiet", "--no-input"] + headless, fault)


# Not VisualDL, which is imported for --use_vdl only and needs a home directory to write to.
IMPORT_ALL = "import cityscapesscripts, cv2, numpy, paddle, PIL, prettytable, tqdm, yaml"
FIND_CUDNN = "import paddle; assert paddle.get_cudnn_version(), 'Paddle finds no cuDNN'"
# Fails where the wheel has no machine code for the card, or the driver is too old.
COMPUTE = "import paddle; paddle.set_device('gpu'); x = paddle.ones([8, 8]); assert (x @ x).sum() == 512"


def try_out(venv, plan, cards):
    """Import everything; for a GPU find the CUDA libraries, and compute on it where there is one."""
    run([python_of(venv), "-c", IMPORT_ALL], f"{venv} was installed, but importing fails as shown above")
    if plan.device == "cpu":
        return
    if version_tuple(plan.version) < PADDLE_3:
        run([python_of(venv), ROOT / "tools" / "link_cuda.py"], "the CUDA libraries can't be linked")
        run([python_of(venv), "-c", FIND_CUDNN], "the CUDA libraries are linked, but Paddle loads no cuDNN")
    if cards:
        run([python_of(venv), "-c", COMPUTE],
            f"Paddle can't compute on {gpus.describe(cards[0])}, driver {cards[0].driver or 'unknown'}. "
            "CUDA 11 needs driver 450.80 or newer; if the card is newer than compute capability 8.9, "
            f"{paddle_3_advice()}; {CPU_ADVICE}")


@contextlib.contextmanager
def locked(venv):
    """Keep a second `make` waiting while the environment is being made."""
    with open(f"{venv}.lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say(f"waiting for another run that is making {venv}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def set_up(venv, plan, cards, this_python):
    """Make `venv` unless it is ready."""
    venv.parent.mkdir(parents=True, exist_ok=True)
    with locked(venv):
        if is_ready(venv, plan, this_python):
            return
        check_python(plan, may_switch=not this_python)
        check_system(plan)
        start = time.monotonic()
        say(f"making {venv} with Python {platform.python_version()}")
        make_venv(venv)
        install(venv, plan)
        try_out(venv, plan, cards)
        (venv / STAMP).write_text(json.dumps(make_stamp(plan, sys.version_info[:2])) + "\n")
        say(f"{venv} is ready after {time.monotonic() - start:.0f} s")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=pathlib.Path, default=pathlib.Path(".venv"), help="where to make it")
    parser.add_argument("--device", help="cpu or gpu; default: gpu where an NVIDIA GPU is visible")
    parser.add_argument("--paddle", help="the Paddle version; default: that of the requirements file")
    parser.add_argument("--requirements", type=pathlib.Path, help="the list to install; default: the device's")
    parser.add_argument("--this_python", action="store_true",
                        help="build on the Python that runs this file and on no other")
    parser.add_argument("--dry_run", action="store_true", help="print what would be installed, and stop")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    try:
        if arguments.device not in (None, "cpu", "gpu"):
            raise SetupError(f"DEVICE={arguments.device} is neither cpu nor gpu")
        cards = gpus.visible_gpus()
        plan = make_plan(arguments.device or ("gpu" if cards else "cpu"), arguments.paddle, opencv_has_gui(),
                         listed=arguments.requirements)
        notes = check_gpus(plan, cards)
        if arguments.dry_run:
            check_python(plan, may_switch=not arguments.this_python)
            print("\n".join([f"# {note}" for note in notes] + plan.requirements))
            return 0
        for note in notes:
            say(note)
        set_up(arguments.venv, plan, cards, arguments.this_python)
    except SetupError as error:
        print(f"setup_env: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
