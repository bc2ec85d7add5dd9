"""Names of paddleseg.utils for code written for PaddleSeg, and the unpacking of data sets."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from paddleseg.cvlibs.errors import DataError, WeightsError
from paddleseg.utils import download
from paddleseg.utils.download import DownloadError, download_file_and_uncompress, unpack_folder

URL = "https://example.org/sets/tiny.{}"


def make_archive(path: Path, members: dict) -> Path:
    """Write a .zip or .tar.gz of name -> bytes; a member "link" is one."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as opened:
            for name, content in members.items():
                opened.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz") as opened:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if name == "link":
                info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0
            opened.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder whose files `download` fetches by the last part of a URL; tells what was fetched."""
    folder, fetched = tmp_path / "server", []
    folder.mkdir()

    def fetch(url, target):
        fetched.append(url)
        shutil.copy(folder / url.rpartition("/")[2], target)

    monkeypatch.setattr(download, "download", fetch)
    monkeypatch.chdir(tmp_path)
    return folder, fetched


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("own_folder", [True, False])
def test_a_data_set_is_fetched_and_unpacked_once(server, tmp_path, kind, own_folder):
    folder, fetched = server
    inside = "tiny/" if own_folder else ""
    make_archive(folder / f"tiny.{kind}", {f"{inside}images/a.png": b"a", f"{inside}list.txt": b"a.png"})
    for _ in range(2):
        found = download_file_and_uncompress(url=URL.format(kind), savepath="data", extrapath="data", extraname="mine",
                                             filename="list.txt")
        assert Path(found, "images", "a.png").read_bytes() == b"a"
    assert found == os.path.join("data", "mine") and len(fetched) == 1
    assert sorted(os.listdir("data")) == ["mine", "mine.lock"]


def test_what_is_there_is_never_deleted_and_a_file_goes_into_the_folder(server, tmp_path):
    (server[0] / "tiny.pdparams").write_bytes(b"weights")
    assert Path(download_file_and_uncompress(URL.format("pdparams")), "tiny.pdparams").read_bytes() == b"weights"
    with pytest.raises(DownloadError, match="tiny is there and would be replaced"):
        download_file_and_uncompress(URL.format("zip"), cover=True)
    with pytest.raises(DataError, match="tiny holds no list.txt"):
        download_file_and_uncompress(URL.format("zip"), filename="list.txt")
    assert (tmp_path / "tiny" / "tiny.pdparams").exists()


@pytest.mark.parametrize("kind, members", [
    *(("tar.gz", {"a": b"1", name: b"2"}) for name in ("../b", "a/../../b", "link")), ("tar.gz", {"a": bytes(3 << 20)}),
    ("zip", {"a": b"1", "a/b": b"2"}), ("tar.gz", None)])
def test_what_a_hostile_or_damaged_archive_would_unpack_is_gone(tmp_path, kind, members):
    path = make_archive(tmp_path / f"bad.{kind}", members or {"a": b"1"})
    if members is None:
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError):
        unpack_folder(str(path), "bad", str(tmp_path / "out"))
    assert os.listdir(tmp_path) == [path.name]


def test_names_of_paddleseg_are_found_without_paddle_at_import():
    code = ("import sys\nfrom paddleseg import utils\nfrom paddleseg.utils import logger, utils as inner\n"
            "assert utils.utils is inner and utils.logger is logger\n"
            "assert utils.load_entire_model is inner.load_entire_model is inner.load_pretrained_model\n"
            "assert utils.seg_env.DATA_HOME.startswith(utils.seg_env.HOME)\n"
            "assert not hasattr(utils, 'no_such_name') and 'paddle' not in sys.modules\n")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])


def test_loading_is_strict(tmp_path):
    import paddle.nn as nn

    from paddleseg.utils import utils
    from paddleseg.weights.write import write_weights

    layer, path = nn.Linear(2, 3), str(tmp_path / "w.pdparams")
    utils.load_entire_model(layer, None)
    write_weights(path, {"weight": layer.weight.numpy()})
    with pytest.raises(WeightsError, match="missing: bias"):
        utils.load_pretrained_model(layer, path)
    assert utils.download_pretrained_model(path) == path
