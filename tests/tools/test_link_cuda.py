import importlib.util
import os
import shutil
import subprocess
import sys

import link_cuda
import pytest


@pytest.fixture
def site_packages(tmp_path):
    """What pip leaves of paddlepaddle-gpu and two of the CUDA packages."""
    libs = tmp_path / "site-packages/paddle/libs"
    libs.mkdir(parents=True)
    (libs / "libphi.so").write_text("paddle's")
    for path in ("cudnn/lib/libcudnn.so.8", "cudnn/lib/libcudnn_ops_infer.so.8", "cudnn/lib/libcudnn_static.a",
                 "cuda_nvrtc/lib/libnvrtc.so.11.2"):
        library = tmp_path / "site-packages/nvidia" / path
        library.parent.mkdir(parents=True, exist_ok=True)
        library.write_text(path)
    return tmp_path / "site-packages"


def test_links_under_both_names(site_packages):
    names = ["libcudnn.so", "libcudnn.so.8", "libcudnn_ops_infer.so", "libcudnn_ops_infer.so.8", "libnvrtc.so",
             "libnvrtc.so.11.2"]
    assert link_cuda.link_libraries(site_packages) == names
    libs = site_packages / "paddle/libs"
    assert sorted(os.listdir(libs)) == sorted([*names, "libphi.so"])
    assert (libs / "libcudnn.so").read_text() == "cudnn/lib/libcudnn.so.8"
    assert (libs / "libnvrtc.so").read_text() == "cuda_nvrtc/lib/libnvrtc.so.11.2"


def test_links_outlive_a_move_of_the_environment(site_packages, tmp_path):
    link_cuda.link_libraries(site_packages)
    moved = tmp_path / "elsewhere"
    shutil.move(str(site_packages), str(moved))
    assert (moved / "paddle/libs/libcudnn.so").read_text() == "cudnn/lib/libcudnn.so.8"


def test_renews_its_links_and_keeps_paddles_files(site_packages):
    libs = site_packages / "paddle/libs"
    (libs / "libcudnn.so").symlink_to("gone.so.7")
    (libs / "libnvrtc.so").write_text("paddle's")
    link_cuda.link_libraries(site_packages)
    names = link_cuda.link_libraries(site_packages)
    assert "libnvrtc.so" not in names
    assert (libs / "libnvrtc.so").read_text() == "paddle's"
    assert (libs / "libcudnn.so").read_text() == "cudnn/lib/libcudnn.so.8"


@pytest.mark.parametrize("removed, lacking", [("paddle", "no paddle/libs"), ("nvidia", "no nvidia/")])
def test_says_what_is_not_installed(site_packages, removed, lacking):
    shutil.rmtree(site_packages / removed)
    with pytest.raises(link_cuda.LinkError, match=lacking):
        link_cuda.link_libraries(site_packages)


@pytest.mark.skipif(importlib.util.find_spec("nvidia") is not None, reason="this environment has CUDA libraries")
def test_the_command_refuses_an_environment_without_the_libraries():
    result = subprocess.run([sys.executable, link_cuda.__file__], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("link_cuda: ") and result.stderr.count("\n") == 1
    assert "nvidia-*-cu11" in result.stderr
