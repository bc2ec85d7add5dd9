import json
import os
import pathlib
import subprocess
import sys
import threading
import zipfile

import pytest
import setup_env
from gpus import Gpu
from setup_env import Plan, SetupError

A100, H100, GTX980 = Gpu("A100", (8, 0), "535"), Gpu("H100", (9, 0), "550"), Gpu("GTX 980", (5, 2), "450")
CPU_PLAN = Plan("cpu", "3.3.1", ["paddlepaddle==3.3.1", "numpy>=1.22"])
THIS_PYTHON = sys.version_info[:2]


# What to install.


def test_requirement_files_are_read_with_what_they_include(tmp_path):
    (tmp_path / "base.txt").write_text("# why\nnumpy>=1.22  # arrays\n\n")
    (tmp_path / "all.txt").write_text("-r base.txt\npaddlepaddle==3.3.1\n")
    assert setup_env.read_requirements(tmp_path / "all.txt") == ["numpy>=1.22", "paddlepaddle==3.3.1"]


@pytest.mark.parametrize("device, version, first, has_paddle_2_limits, has_cuda", [
    ("cpu", None, "paddlepaddle==3.3.1", False, False),
    ("cpu", "3.0.0", "paddlepaddle==3.0.0", False, False),
    ("cpu", "2.6.2", "paddlepaddle==2.6.2", True, False),
    ("gpu", None, "paddlepaddle-gpu==2.6.2", True, True),
    ("gpu", "3.3.1", "paddlepaddle-gpu==3.3.1", False, False),
])
def test_the_set_of_a_device_and_version(device, version, first, has_paddle_2_limits, has_cuda):
    requirements = setup_env.make_plan(device, version).requirements
    assert requirements[0] == first
    assert sum(line.startswith("paddlepaddle") for line in requirements) == 1
    for limit in ("numpy<2", "opencv-python<=4.11.0.86", "setuptools<81"):
        assert (limit in requirements) == has_paddle_2_limits
    assert ("nvidia-cudnn-cu11==8.6.0.163" in requirements) == has_cuda
    assert any(line.startswith("nvidia-") for line in requirements) == has_cuda
    assert {"pyyaml", "visualdl", "pytest", "ruff"} <= set(requirements)


def test_a_list_in_place_of_the_devices():
    plan = setup_env.make_plan("cpu", with_gui=False, listed=setup_env.ROOT / "requirements-align.txt")
    names = [setup_env.package_name(line) for line in plan.requirements]
    assert plan.requirements[0] == "paddlepaddle==3.3.1" and names.count("paddlepaddle") == 1
    assert {"torch", "mmcv-lite", "opencv-python-headless", "pytest"} <= set(names)


@pytest.mark.parametrize("version", [None, "2.6.2"])
def test_opencv_is_headless_without_libgl(version, monkeypatch):
    monkeypatch.setattr(setup_env, "GUI_LIBRARIES", ("libno-such-library.so.1",))
    plan = setup_env.make_plan("cpu", version, setup_env.opencv_has_gui())
    names = [setup_env.package_name(line) for line in plan.requirements]
    assert "opencv-python-headless" in names and "opencv-python" not in names
    assert ("opencv-python-headless<=4.11.0.86" in plan.requirements) == (version == "2.6.2")


@pytest.mark.parametrize("version, text", [("3.3", "not a version"), ("newest", "not a version"),
                                           ("2.5.2", "too old"), ("1.8.5", "too old")])
def test_versions_that_are_none(version, text):
    with pytest.raises(SetupError, match=f"PADDLE={version} is {text}"):
        setup_env.make_plan("cpu", version)


# What this machine has.


@pytest.mark.parametrize("cards, words", [
    ([H100], ["H100 (compute capability 9.0) is too new", "Paddle's own package index", "DEVICE=cpu"]),
    ([GTX980], ["GTX 980 (compute capability 5.2) is too old", "DEVICE=cpu"])])
def test_cards_that_the_wheel_can_not_use_stop_it(cards, words):
    with pytest.raises(SetupError) as caught:
        setup_env.check_gpus(setup_env.make_plan("gpu"), cards)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


def test_cards_that_can_be_used():
    gpu_plan = setup_env.make_plan("gpu")
    assert setup_env.check_gpus(gpu_plan, [A100]) == []
    assert setup_env.check_gpus(setup_env.make_plan("gpu", "3.3.1"), [H100]) == []
    assert setup_env.check_gpus(setup_env.make_plan("cpu"), [H100]) == []
    assert "CUDA_VISIBLE_DEVICES" in setup_env.check_gpus(gpu_plan, [A100, H100])[0]
    assert "no NVIDIA GPU is visible" in setup_env.check_gpus(gpu_plan, [])[0]


def test_the_gpu_set_is_for_linux_on_x86_64(monkeypatch):
    monkeypatch.setattr(setup_env.platform, "machine", lambda: "aarch64")
    with pytest.raises(SetupError, match="aarch64"):
        setup_env.check_gpus(setup_env.make_plan("gpu"), [A100])


def test_a_library_that_the_system_lacks(monkeypatch):
    setup_env.check_system(CPU_PLAN)
    monkeypatch.setattr(setup_env, "SYSTEM_LIBRARIES", {"libno-such-library.so.1": "libno1"})
    monkeypatch.setattr(setup_env.sys, "platform", "linux")
    with pytest.raises(SetupError, match="lacks libno-such-library.so.1.*apt-get install libno1"):
        setup_env.check_system(CPU_PLAN)


def dry_run(tmp_path, *arguments, cards=()):
    """Run the command with an nvidia-smi that reports `cards` (compute_cap, driver_version, name)."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{card}'\n" for card in cards) + f"exit {0 if cards else 9}\n")
    program.chmod(0o755)
    return subprocess.run([sys.executable, setup_env.__file__, "--dry_run", "--this_python", *arguments],
                          env=dict(os.environ, PATH=f"{tmp_path}:{os.environ['PATH']}"), cwd=str(tmp_path),
                          capture_output=True, text=True)


@pytest.mark.skipif(THIS_PYTHON > (3, 12), reason="the GPU wheel is for Python 3.9 to 3.12")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the GPU wheel is for x86_64")
def test_a_visible_card_decides(tmp_path):
    usable = dry_run(tmp_path, cards=["8.6, 535.1, NVIDIA GeForce RTX 3090"])
    assert usable.returncode == 0 and usable.stdout.startswith("paddlepaddle-gpu==2.6.2\n"), usable.stderr
    on_cpu = dry_run(tmp_path, "--device", "cpu", cards=["8.6, 535.1, NVIDIA GeForce RTX 3090"])
    assert on_cpu.stdout.startswith("paddlepaddle==3.3.1\n")


def test_a_card_that_is_too_new(tmp_path):
    too_new = ["9.0, 550.54, NVIDIA H100 80GB HBM3"]
    refused = dry_run(tmp_path, cards=too_new)
    assert refused.returncode == 1 and refused.stdout == ""
    assert refused.stderr.startswith("setup_env: NVIDIA H100 80GB HBM3") and refused.stderr.count("\n") == 1
    assert dry_run(tmp_path, "--device", "cpu", cards=too_new).stdout.startswith("paddlepaddle==3.3.1\n")
    assert dry_run(tmp_path, "--paddle", "3.3.1", cards=too_new).stdout.startswith("paddlepaddle-gpu==3.3.1\n")


def test_an_unknown_device(tmp_path):
    refused = dry_run(tmp_path, "--device", "cuda")
    assert (refused.returncode, refused.stderr) == (1, "setup_env: DEVICE=cuda is neither cpu nor gpu\n")


# On which Python.


@pytest.mark.parametrize("version, minor, fits", [
    ("3.3.1", 8, False), ("3.3.1", 9, True), ("3.3.1", 13, True), ("3.3.1", 14, False),
    ("2.6.2", 12, True), ("2.6.2", 13, False), ("3.4.0", 14, True)])
def test_which_pythons_have_wheels(version, minor, fits):
    assert setup_env.fits_python(version, minor) == fits


@pytest.fixture
def pythons(tmp_path, monkeypatch):
    """PATH with python3.12, a shim that doesn't run, and python3.10, which does."""
    for name, script in (("python3.12", "exit 127"), ("python3.10", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_a_python_without_wheels_is_refused(pythons, monkeypatch):
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 14, 0))
    expected = "Python 3.14 can't be used: Paddle 3.3.1 needs Python 3.9 to 3.13; PYTHON=python3.10 works"
    with pytest.raises(SetupError, match=expected):
        setup_env.check_python(CPU_PLAN, may_switch=False)
    (pythons / "python3.10").unlink()
    with pytest.raises(SetupError, match="install one and give it as PYTHON="):
        setup_env.check_python(CPU_PLAN, may_switch=True)


def test_a_python_with_wheels_is_taken_instead(pythons, monkeypatch):
    class Switched(Exception):
        pass

    def switch(program, arguments):
        raise Switched(program, arguments[-1])
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 8, 10))
    monkeypatch.setattr(setup_env.os, "execv", switch)
    with pytest.raises(Switched) as caught:
        setup_env.check_python(CPU_PLAN, may_switch=True)
    assert caught.value.args == (f"{pythons}/python3.10", "--this_python")


# Making the environment.


@pytest.fixture
def ready(tmp_path):
    """A directory that looks like a finished environment for CPU_PLAN."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    (tmp_path / ".venv" / setup_env.STAMP).write_text(json.dumps(setup_env.make_stamp(CPU_PLAN, THIS_PYTHON)))
    return tmp_path / ".venv"


def test_a_finished_environment_is_left_alone(ready):
    assert setup_env.is_ready(ready, CPU_PLAN, this_python=True)
    setup_env.set_up(ready, CPU_PLAN, [], this_python=True)
    assert sorted(os.listdir(ready)) == ["bin", setup_env.STAMP]


def test_other_requirements_need_another_environment(ready):
    changed = CPU_PLAN._replace(requirements=[*CPU_PLAN.requirements, "tqdm"])
    assert not setup_env.is_ready(ready, changed, this_python=False)


def test_another_python_counts_only_if_asked_for(ready, monkeypatch):
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 99, 0))
    assert setup_env.is_ready(ready, CPU_PLAN, this_python=False)
    assert not setup_env.is_ready(ready, CPU_PLAN, this_python=True)


@pytest.mark.parametrize("damage", [
    lambda venv: (venv / setup_env.STAMP).unlink(),
    lambda venv: (venv / setup_env.STAMP).write_text("{"),
    lambda venv: (venv / "bin/python").unlink()])
def test_a_damaged_environment_is_not_ready(ready, damage):
    damage(ready)
    assert not setup_env.is_ready(ready, CPU_PLAN, this_python=False)


def test_a_directory_of_someone_elses_is_kept(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SetupError, match="not a virtual environment"):
        setup_env.make_venv(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_a_python_that_can_not_make_environments(tmp_path, monkeypatch):
    monkeypatch.setattr(setup_env.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"apt-get install python3\.\d+-venv"):
        setup_env.make_venv(tmp_path / ".venv")


def test_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(setup_env, "NEEDED_GB", {"cpu": 10 ** 9})
    with pytest.raises(SetupError, match="GB of free disk; 1000000000 GB are needed"):
        setup_env.install(tmp_path, CPU_PLAN)


def test_a_failing_command_shows_its_words(capfd):
    with pytest.raises(SetupError, match="^it failed$"):
        setup_env.run([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], "it failed")
    assert "the reason" in capfd.readouterr().err


def test_a_users_pip_settings_do_not_lead_out_of_the_environment(monkeypatch):
    monkeypatch.setenv("PIP_USER", "1")
    setup_env.run([sys.executable, "-c", "import os; assert os.environ['PIP_USER'] == '0'"], "PIP_USER got through")


def test_a_second_run_waits(ready):
    with setup_env.locked(ready):
        other = threading.Thread(target=setup_env.set_up, args=(ready, CPU_PLAN, [], True))
        other.start()
        other.join(0.2)
        assert other.is_alive()
    other.join(10)
    assert not other.is_alive()


def add_wheel(folder, name, module, code="", requires=""):
    """A wheel `name` 1.0 that holds one module."""
    stem = f"{name.replace('-', '_')}-1.0"
    with zipfile.ZipFile(str(folder / f"{stem}-py3-none-any.whl"), "w") as wheel:
        wheel.writestr(f"{module}.py", code)
        wheel.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}")
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", f"{module}.py,,\n{stem}.dist-info/METADATA,,\n"
                       f"{stem}.dist-info/WHEEL,,\n{stem}.dist-info/RECORD,,\n")


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """Let pip see one wheel of one module, and nothing else."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "wheels"
    folder.mkdir()
    add_wheel(folder, "probe", "probe")
    for name, value in (("CONFIG_FILE", os.devnull), ("NO_INDEX", "1"), ("FIND_LINKS", str(folder))):
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setattr(setup_env, "NEEDED_GB", {"cpu": 0})
    monkeypatch.setattr(setup_env, "IMPORT_ALL", "import probe")
    return folder


def test_making_an_environment_from_beginning_to_end(tmp_path, wheels, capsys):
    venv, plan = tmp_path / ".venv", Plan("cpu", "3.3.1", ["probe==2.0"])
    with pytest.raises(SetupError, match="pip could not install probe 2.0"):
        setup_env.set_up(venv, plan, [], this_python=True)
    assert (venv / "pyvenv.cfg").exists() and not (venv / setup_env.STAMP).exists()

    plan = plan._replace(requirements=["probe==1.0"])
    setup_env.set_up(venv, plan, [], this_python=True)
    assert subprocess.call([str(venv / "bin/python"), "-c", "import probe"]) == 0
    out = capsys.readouterr().out
    assert "installing probe 1.0" in out and "is ready after" in out

    setup_env.set_up(venv, plan, [], this_python=True)
    assert capsys.readouterr().out == ""


def test_the_headless_opencv_stays_where_a_package_asks_for_the_plain_one(tmp_path, wheels, monkeypatch):
    add_wheel(wheels, "opencv-python", "cv2", "BUILD = 'plain'")
    add_wheel(wheels, "opencv-python-headless", "cv2", "BUILD = 'headless'")
    add_wheel(wheels, "mm", "mm", requires="Requires-Dist: opencv-python\n")
    monkeypatch.setattr(setup_env, "IMPORT_ALL", "import cv2, mm; assert cv2.BUILD == 'headless'")
    plan = Plan("cpu", "3.3.1", ["probe==1.0", "opencv-python-headless", "mm"])
    setup_env.set_up(tmp_path / ".venv", plan, [], this_python=True)


def test_paddle_3_for_gpus_is_not_on_pypi(tmp_path, wheels, monkeypatch):
    monkeypatch.setattr(setup_env, "NEEDED_GB", {"gpu": 0})
    monkeypatch.setattr(setup_env, "python_of", lambda venv: pathlib.Path(sys.executable))
    with pytest.raises(SetupError, match="If it found no such version: add Paddle's own package index"):
        setup_env.install(tmp_path, Plan("gpu", "3.3.1", ["paddlepaddle-gpu==3.3.99"]))


def test_what_does_not_import_is_not_stamped(tmp_path, wheels, monkeypatch):
    monkeypatch.setattr(setup_env, "IMPORT_ALL", "import no_such_module")
    monkeypatch.setattr(setup_env, "make_venv", lambda venv: venv.mkdir())
    monkeypatch.setattr(setup_env, "install", lambda venv, plan: None)
    monkeypatch.setattr(setup_env, "python_of", lambda venv: pathlib.Path(sys.executable))
    with pytest.raises(SetupError, match="importing fails"):
        setup_env.set_up(tmp_path / ".venv", CPU_PLAN, [], this_python=True)
    assert os.listdir(tmp_path / ".venv") == []
