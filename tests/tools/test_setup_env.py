"""Making the environment: setup_env.py, gpus.py and link_cuda.py."""

import os
import subprocess
import sys

import gpus
import link_cuda
import pytest
import setup_env
from gpus import Gpu
from setup_env import SetupError

A100, H100 = Gpu("A100", (8, 0), "535"), Gpu("H100", (9, 0), "550")


def add_program(folder, name, script):
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("device, version, has_paddle_2_limits, has_cuda", [
    ("cpu", None, False, False), ("cpu", "2.6.2", True, False), ("gpu", None, True, True),
    ("gpu", "3.3.1", False, False)])
def test_the_set_of_a_device_and_version(device, version, has_paddle_2_limits, has_cuda):
    lines = setup_env.choose_requirements(device, version, with_gui=True)
    version = version or ("2.6.2" if device == "gpu" else "3.3.1")
    assert lines[0] == f"{'paddlepaddle-gpu' if device == 'gpu' else 'paddlepaddle'}=={version}"
    assert sum(line.startswith("paddlepaddle") for line in lines) == 1
    for limit in ("numpy<2", "opencv-python<=4.11.0.86", "setuptools<81"):
        assert (limit in lines) == has_paddle_2_limits
    assert any(line.startswith("nvidia-") for line in lines) == has_cuda
    assert {"pyyaml", "visualdl", "pytest", "ruff"} <= set(lines)


def test_a_list_in_place_of_the_devices_and_opencv_without_libgl():
    listed = setup_env.ROOT / "requirements-align.txt"
    names = list(map(setup_env.package_name, setup_env.choose_requirements("cpu", "3.3.1", False, listed)))
    assert names[0] == "paddlepaddle" and names.count("paddlepaddle") == 1 and "opencv-python" not in names
    assert {"torch", "mmcv-lite", "opencv-python-headless", "pytest"} <= set(names)


@pytest.mark.parametrize("version", ["3.3", "newest", "2.5.2"])
def test_versions_that_are_none(version):
    with pytest.raises(SetupError, match=f"PADDLE={version}"):
        setup_env.choose_requirements("cpu", version, True)


@pytest.mark.parametrize("script, expected", [
    ("echo '8.0, 535, A100'; echo '9.0, 550, H100'", [A100, H100]),
    ('case "$1" in *compute_cap*) echo "Field is not valid"; exit 2;; esac; echo "450.80, V100"',
     [Gpu("V100", None, "450.80")]),
    ("echo 'could not talk to the driver'; exit 9", []), ("echo 'No devices were found'", [])])
def test_cards_that_nvidia_smi_reports(tmp_path, monkeypatch, script, expected):
    add_program(tmp_path, "nvidia-smi", script)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert gpus.visible_gpus(tmp_path) == expected


def test_a_driver_without_nvidia_smi(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.visible_gpus(tmp_path) == []
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    assert gpus.visible_gpus(tmp_path) == [Gpu("NVIDIA GPU", None, None)]


@pytest.mark.parametrize("capability, verdict", [
    ((6, 0), "too old"), ((6, 1), None), ((8, 9), None), ((9, 0), "too new"), (None, None)])
def test_only_cards_that_the_wheel_can_not_use_stop_it(capability, verdict):
    card = Gpu("Card", capability, "535")
    assert gpus.unusable([card]) == ([card] if verdict else [])
    if verdict:
        assert verdict in gpus.why_unusable(card)
        with pytest.raises(SetupError, match="Card.*DEVICE=cpu"):
            setup_env.check_gpus("2.6.2", [card])
    for version, cards in (("2.6.2", [A100, card]), ("2.6.2", []), ("3.3.1", [H100])):
        setup_env.check_gpus(version, cards)


@pytest.mark.parametrize("card, flags, expected", [
    ("8.6, 535.1, RTX 3090", (), "paddlepaddle-gpu==2.6.2"),
    ("8.6, 535.1, RTX 3090", ("--device", "cpu"), "paddlepaddle==3.3.1"),
    ("9.0, 550.54, H100", ("--paddle", "3.3.1"), "paddlepaddle-gpu==3.3.1"),
    ("9.0, 550.54, H100", (), None)])
def test_a_visible_card_decides(tmp_path, monkeypatch, card, flags, expected):
    add_program(tmp_path, "nvidia-smi", f"echo '{card}'")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    done = subprocess.run([sys.executable, setup_env.__file__, "--dry_run", *flags], capture_output=True, text=True)
    assert done.stdout.partition("\n")[0] == (expected or "")
    assert done.returncode == (0 if expected else 1) and done.stderr.count("\n") == (0 if expected else 1)


@pytest.mark.parametrize("version, minor, fits", [
    ("3.3.1", 8, False), ("3.3.1", 9, True), ("3.3.1", 14, False), ("2.6.2", 13, False), ("3.4.0", 14, True)])
def test_a_python_without_wheels_gives_way_to_one_on_the_path(tmp_path, monkeypatch, version, minor, fits):
    switches = []
    add_program(tmp_path, "python3.12", "exit 127")  # a shim that doesn't run
    add_program(tmp_path, "python3.10", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(setup_env.sys, "version_info", (3, minor, 0))
    monkeypatch.setattr(setup_env.os, "execvp", lambda *call: switches.append(call) or sys.exit())
    if fits:
        return setup_env.check_python(version, may_switch=True)
    with pytest.raises(SystemExit):
        setup_env.check_python(version, may_switch=True)
    assert switches[0][0] == "python3.10" and switches[0][1][-1] == "--this_python"
    with pytest.raises(SetupError, match="PYTHON=python3.10"):
        setup_env.check_python(version, may_switch=False)
    (tmp_path / "python3.10").unlink()
    with pytest.raises(SetupError, match="PYTHON="):
        setup_env.check_python(version, may_switch=True)


def test_which_environments_are_ready(tmp_path, monkeypatch):
    lines = ["paddlepaddle==3.3.1", "numpy>=1.22"]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    assert not setup_env.is_ready(tmp_path, lines, False)
    monkeypatch.setattr(setup_env, "install", lambda *_: None)
    monkeypatch.setattr(setup_env, "run", lambda *_: None)
    setup_env.set_up(tmp_path, lines)
    assert setup_env.is_ready(tmp_path, lines, True) and not setup_env.is_ready(tmp_path, [*lines, "tqdm"], False)
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 99, 0))
    assert setup_env.is_ready(tmp_path, lines, False) and not setup_env.is_ready(tmp_path, lines, True)
    (tmp_path / "bin/python").unlink()
    assert not setup_env.is_ready(tmp_path, lines, False)


def test_a_directory_of_someone_elses_is_kept(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(SetupError, match="not a virtual environment"):
        setup_env.install(tmp_path, [])
    assert (tmp_path / "thesis.tex").exists()


def test_links_under_both_names_and_keeps_paddles_files(tmp_path):
    libs = tmp_path / "paddle/libs"
    libs.mkdir(parents=True)
    assert link_cuda.link_libraries(tmp_path) == []
    (libs / "libnvrtc.so").write_text("paddle's")
    (libs / "libcudnn.so").symlink_to("gone.so.7")
    for path in ("cudnn/lib/libcudnn.so.8", "cudnn/lib/libcudnn_static.a", "cuda_nvrtc/lib/libnvrtc.so.11.2"):
        library = tmp_path / "nvidia" / path
        library.parent.mkdir(parents=True, exist_ok=True)
        library.write_text(path)
    for _ in range(2):
        assert link_cuda.link_libraries(tmp_path) == ["libcudnn.so", "libcudnn.so.8", "libnvrtc.so.11.2"]
    assert (libs / "libcudnn.so").read_text() == "cudnn/lib/libcudnn.so.8"
    assert not os.path.isabs(os.readlink(libs / "libcudnn.so")) and (libs / "libnvrtc.so").read_text() == "paddle's"
