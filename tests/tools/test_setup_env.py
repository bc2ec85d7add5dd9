import json
import os
import subprocess
import sys
import zipfile

import gpus
import link_cuda
import pytest
import setup_env
from gpus import Gpu
from setup_env import SetupError

A100, H100, GTX980 = Gpu("A100", (8, 0), "535"), Gpu("H100", (9, 0), "550"), Gpu("GTX 980", (5, 2), "450")
REQUIREMENTS = ["paddlepaddle==3.3.1", "numpy>=1.22"]


# ---- what to install ----------------------------------------------------------------------------------

@pytest.mark.parametrize("device, version, has_paddle_2_limits, has_cuda", [
    ("cpu", "3.3.1", False, False), ("cpu", "2.6.2", True, False), ("gpu", "2.6.2", True, True),
    ("gpu", "3.3.1", False, False)])
def test_the_set_of_a_device_and_version(device, version, has_paddle_2_limits, has_cuda):
    requirements = setup_env.choose_requirements(device, version, with_gui=True)
    assert requirements[0] == f"{'paddlepaddle-gpu' if device == 'gpu' else 'paddlepaddle'}=={version}"
    assert sum(line.startswith("paddlepaddle") for line in requirements) == 1
    for limit in ("numpy<2", "opencv-python<=4.11.0.86", "setuptools<81"):
        assert (limit in requirements) == has_paddle_2_limits
    assert any(line.startswith("nvidia-") for line in requirements) == has_cuda
    assert {"pyyaml", "visualdl", "pytest", "ruff"} <= set(requirements)


def test_a_list_in_place_of_the_devices_and_opencv_without_libgl():
    listed = setup_env.ROOT / "requirements-align.txt"
    names = list(map(setup_env.package_name, setup_env.choose_requirements("cpu", "3.3.1", False, listed)))
    assert names[0] == "paddlepaddle" and names.count("paddlepaddle") == 1 and "opencv-python" not in names
    assert {"torch", "mmcv-lite", "opencv-python-headless", "pytest"} <= set(names)


@pytest.mark.parametrize("version", ["3.3", "newest", "2.5.2"])
def test_versions_that_are_none(version):
    with pytest.raises(SetupError, match=f"PADDLE={version}"):
        setup_env.choose_requirements("cpu", version, True)


# ---- what this machine has ----------------------------------------------------------------------------

def test_cards_that_the_wheel_can_not_use_stop_it(monkeypatch):
    for card in (H100, GTX980):
        with pytest.raises(SetupError, match=f"{card.name}.*DEVICE=cpu"):
            setup_env.check_gpus("2.6.2", [card])
    setup_env.check_gpus("2.6.2", [A100, H100])
    setup_env.check_gpus("2.6.2", [])
    setup_env.check_gpus("3.3.1", [H100])
    monkeypatch.setattr(setup_env.platform, "machine", lambda: "aarch64")
    with pytest.raises(SetupError, match="aarch64"):
        setup_env.check_gpus("2.6.2", [A100])


@pytest.mark.parametrize("capability, verdict", [
    ((6, 0), "too old"), ((6, 1), None), ((8, 9), None), ((9, 0), "too new"), (None, None)])
def test_which_cards_the_wheel_runs_on(capability, verdict):
    card = Gpu("Card", capability, "535")
    assert gpus.unusable([card]) == ([card] if verdict else [])
    assert verdict is None or verdict in gpus.why_unusable(card)


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Put a program named nvidia-smi first on PATH; it runs the given shell lines."""
    def write(script):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return write


@pytest.mark.parametrize("script, expected", [
    ("echo '8.0, 535.1, A100'; echo '9.0, 550, H100'", [A100._replace(driver="535.1"), H100]),
    ('case "$1" in *compute_cap*) echo "Field is not valid"; exit 2;; esac; echo "450.80, V100"',
     [Gpu("V100", None, "450.80")]),
    ("echo 'could not talk to the driver'; exit 9", []), ("echo 'No devices were found'", []), ("kill -9 $$", [])])
def test_cards_that_nvidia_smi_reports(nvidia_smi, tmp_path, script, expected):
    nvidia_smi(script)
    assert gpus.visible_gpus(tmp_path) == expected


def test_the_driver_files_do_without_nvidia_smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.visible_gpus(tmp_path) == []
    folder = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0"
    folder.mkdir(parents=True)
    (folder / "information").write_text("Model: \t\t NVIDIA L4\nIRQ:   \t\t 88\n")
    assert gpus.visible_gpus(tmp_path) == [Gpu("NVIDIA L4", None, None)]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the GPU wheel is for x86_64")
@pytest.mark.parametrize("card, flags, expected", [
    ("8.6, 535.1, RTX 3090", (), "paddlepaddle-gpu==2.6.2"),
    ("8.6, 535.1, RTX 3090", ("--device", "cpu"), "paddlepaddle==3.3.1"),
    ("9.0, 550.54, H100", ("--paddle", "3.3.1"), "paddlepaddle-gpu==3.3.1"),
    ("9.0, 550.54, H100", (), None)])
def test_a_visible_card_decides(nvidia_smi, card, flags, expected):
    nvidia_smi(f"echo '{card}'")
    done = subprocess.run([sys.executable, setup_env.__file__, "--dry_run", *flags], capture_output=True, text=True)
    assert done.stdout.partition("\n")[0] == (expected or "")
    assert done.returncode == (0 if expected else 1) and done.stderr.count("\n") == (0 if expected else 1)


@pytest.fixture
def pythons(tmp_path, monkeypatch):
    """PATH with python3.12, a shim that doesn't run, and python3.10, which does."""
    for name, script in (("python3.12", "exit 127"), ("python3.10", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("version, minor, fits", [
    ("3.3.1", 8, False), ("3.3.1", 9, True), ("3.3.1", 14, False), ("2.6.2", 13, False), ("3.4.0", 14, True)])
def test_a_python_without_wheels_is_refused(pythons, monkeypatch, version, minor, fits):
    monkeypatch.setattr(setup_env.sys, "version_info", (3, minor, 0))
    if fits:
        return setup_env.check_python(version, may_switch=False)
    with pytest.raises(SetupError, match=f"Python 3.{minor}.*PYTHON=python3.10 works"):
        setup_env.check_python(version, may_switch=False)
    (pythons / "python3.10").unlink()
    with pytest.raises(SetupError, match="give it as PYTHON="):
        setup_env.check_python(version, may_switch=True)


def test_a_python_with_wheels_is_taken_instead(pythons, monkeypatch):
    class Switched(Exception):
        pass

    def switch(program, arguments):
        raise Switched(program, arguments[-1])
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 8, 10))
    monkeypatch.setattr(setup_env.os, "execv", switch)
    with pytest.raises(Switched) as caught:
        setup_env.check_python("3.3.1", may_switch=True)
    assert caught.value.args == (f"{pythons}/python3.10", "--this_python")


# ---- making the environment ---------------------------------------------------------------------------

def test_which_environments_are_ready(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    assert not setup_env.is_ready(tmp_path, REQUIREMENTS, False)
    (tmp_path / setup_env.STAMP).write_text(json.dumps(setup_env.make_stamp(REQUIREMENTS)))
    assert setup_env.is_ready(tmp_path, REQUIREMENTS, True)
    assert not setup_env.is_ready(tmp_path, [*REQUIREMENTS, "tqdm"], False)
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 99, 0))
    assert setup_env.is_ready(tmp_path, REQUIREMENTS, False) and not setup_env.is_ready(tmp_path, REQUIREMENTS, True)
    (tmp_path / "bin/python").unlink()
    assert not setup_env.is_ready(tmp_path, REQUIREMENTS, False)


def test_a_directory_of_someone_elses_is_kept(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SetupError, match="not a virtual environment"):
        setup_env.make_venv(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def add_wheel(folder, name, module, code="", requires=""):
    """A wheel `name` 1.0 that holds one module."""
    stem = f"{name.replace('-', '_')}-1.0"
    with zipfile.ZipFile(str(folder / f"{stem}-py3-none-any.whl"), "w") as wheel:
        wheel.writestr(f"{module}.py", code)
        wheel.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}")
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", f"{module}.py,,\n{stem}.dist-info/METADATA,,\n"
                       f"{stem}.dist-info/WHEEL,,\n{stem}.dist-info/RECORD,,\n")


@pytest.mark.slow
def test_making_an_environment_from_beginning_to_end(tmp_path, monkeypatch, capfd):
    """With the few wheels that pip sees here; the headless OpenCV stays where a package asks for the plain one."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in (("CONFIG_FILE", os.devnull), ("NO_INDEX", "1"), ("FIND_LINKS", str(tmp_path)), ("USER", "1")):
        monkeypatch.setenv(f"PIP_{name}", value)
    add_wheel(tmp_path, "probe", "probe", requires="Requires-Dist: opencv-python\n")
    add_wheel(tmp_path, "opencv-python", "cv2", "BUILD = 'plain'")
    add_wheel(tmp_path, "opencv-python-headless", "cv2", "BUILD = 'headless'")
    venv = tmp_path / ".venv"
    with pytest.raises(SetupError, match="pip could not install"):
        setup_env.set_up(venv, ["probe==2.0"], [])
    with pytest.raises(SetupError, match="doesn't work"):  # Paddle and all else is missing
        setup_env.set_up(venv, ["probe==1.0"], [])
    assert "paddlepaddle is not installed" in capfd.readouterr().out
    assert (venv / "pyvenv.cfg").exists() and not (venv / setup_env.STAMP).exists()

    monkeypatch.setattr(setup_env, "try_out", lambda *_: None)
    requirements = ["probe==1.0", "opencv-python-headless"]
    setup_env.set_up(venv, requirements, [])
    assert setup_env.is_ready(venv, requirements, True)
    code = "import probe, cv2; assert cv2.BUILD == 'headless'"
    assert subprocess.call([str(venv / "bin/python"), "-c", code]) == 0


# ---- the CUDA libraries -------------------------------------------------------------------------------

@pytest.fixture
def site_packages(tmp_path):
    """A copy of what pip leaves of paddlepaddle-gpu and two of the CUDA packages."""
    libs = tmp_path / "paddle/libs"
    libs.mkdir(parents=True)
    (libs / "libphi.so").write_text("paddle's")
    (libs / "libnvrtc.so").write_text("paddle's")
    (libs / "libcudnn.so").symlink_to("gone.so.7")
    for path in ("cudnn/lib/libcudnn.so.8", "cudnn/lib/libcudnn_static.a", "cuda_nvrtc/lib/libnvrtc.so.11.2"):
        library = tmp_path / "nvidia" / path
        library.parent.mkdir(parents=True, exist_ok=True)
        library.write_text(path)
    return tmp_path


def test_links_under_both_names_and_keeps_paddles_files(site_packages):
    for _ in range(2):
        assert link_cuda.link_libraries(site_packages) == ["libcudnn.so", "libcudnn.so.8", "libnvrtc.so.11.2"]
    libs = site_packages / "paddle/libs"
    assert (libs / "libcudnn.so").read_text() == "cudnn/lib/libcudnn.so.8"
    assert not os.path.isabs(os.readlink(libs / "libcudnn.so")) and (libs / "libnvrtc.so").read_text() == "paddle's"


def test_says_what_is_not_installed(tmp_path):
    for folder, lacking in (("x", "no paddle/libs"), ("paddle/libs", "no nvidia/")):
        (tmp_path / folder).mkdir(parents=True)
        with pytest.raises(link_cuda.LinkError, match=lacking):
            link_cuda.link_libraries(tmp_path)
