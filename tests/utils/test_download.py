import hashlib
import http.server
import multiprocessing
import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from paddleseg.cvlibs.errors import WeightsError
from paddleseg.utils import download
from paddleseg.weights.load import find_weights
from paddleseg.weights.write import write_weights

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LENGTHS = {"length below 0": "-1", "length in words": "many", "long length": "9" * 5000}


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; the server's `faults` corrupt the first answers, its `log` keeps the ranges asked for."""

    def do_GET(self):
        fault = self.server.faults.pop(0) if self.server.faults else None
        self.server.log.append(self.headers["Range"])
        start = int(self.headers["Range"][6:-1]) if self.headers["Range"] else 0
        if isinstance(fault, int) or start >= len(CONTENT):
            self.send_error(fault or 416)
            return
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.server.redirect)
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        if fault != "no length":
            self.send_header("Content-Length", LENGTHS.get(fault, str(len(CONTENT) - start)))
        self.end_headers()
        self.wfile.write(CONTENT[start:start + 100_000] if fault == "cut" else CONTENT[start:])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "_PAUSE_SEC", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.faults, running.log, running.redirect = [], [], None
        running.url = f"http://127.0.0.1:{running.server_port}/files/x.bin"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path):
    return str(tmp_path / "cache" / "x.bin")


def expect_whole(target):
    with open(target, "rb") as stream:
        assert stream.read() == CONTENT
    assert sorted(os.listdir(os.path.dirname(target))) == ["x.bin", "x.bin.lock"]


@pytest.mark.parametrize("name", ["x.bin", f"x.bin#sha256={SHA256}", f"x.bin#sha256={SHA256.upper()}",
                                  f"x-{SHA256[:8]}.pth"])
def test_downloads_once(server, target, name):
    for _ in range(2):
        download.download(server.url.replace("x.bin", name), target)
        expect_whole(target)
    assert server.log == [None]


@pytest.mark.parametrize("fragment", ["", f"#sha256={SHA256}"])
def test_resumes_after_cut_connections_and_with_a_checksum_in_a_later_run(server, target, fragment):
    server.faults = ["cut", "cut"]
    with pytest.raises(download.DownloadError, match="200000 of 300000 bytes, 2 attempts"):
        download.download(server.url + fragment, target, attempts=2)
    assert not os.path.exists(target)
    download.download(server.url + fragment, target)
    expect_whole(target)
    assert server.log == [None, "bytes=100000-", "bytes=200000-" if fragment else None]


def test_a_part_longer_than_the_file_is_dropped(server, target):
    os.makedirs(os.path.dirname(target))
    with open(target + ".part", "wb") as stream:
        stream.write(b"x" * (len(CONTENT) + 1))
    download.download(f"{server.url}#sha256={SHA256}", target)
    expect_whole(target)


@pytest.mark.parametrize("name", [f"x.bin#sha256={'0' * 64}", "x-0badc0de.pth"])
def test_wrong_sha256_leaves_nothing(server, target, name):
    with pytest.raises(download.DownloadError, match=SHA256):
        download.download(server.url.replace("x.bin", name), target)
    assert os.listdir(os.path.dirname(target)) == ["x.bin.lock"]


def test_a_file_put_there_by_hand_is_checked_too(server, target):
    os.makedirs(os.path.dirname(target))
    with open(target, "wb") as stream:
        stream.write(b"other")
    with pytest.raises(download.DownloadError, match="SHA-256"):
        download.download(f"{server.url}#sha256={SHA256}", target)
    download.download(server.url, target)
    assert server.log == []


@pytest.mark.parametrize("faults, word", [([404], "404"), ([500, 503, 503], "503"),
                                          *(([fault], "size") for fault in ("no length", "length below 0",
                                                                            "length in words"))])
def test_errors_of_the_server(server, target, faults, word):
    server.faults = list(faults)
    with pytest.raises(download.DownloadError, match=word):
        download.download(server.url, target)
    assert len(server.log) == len(faults) and not os.path.exists(target)


def test_no_more_is_received_than_the_disk_has_room_for(server, target, monkeypatch):
    server.faults = ["long length"]
    with pytest.raises(download.DownloadError):
        download.download(server.url, target)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(download.DownloadError, match="300000 bytes more, 10 are free"):
        download.download(server.url, target)


def test_redirects_lead_to_https_only(server, target):
    url = server.url.replace("/files/", "/to/")
    for server.redirect in ("http://example.com/x", "file:///etc/passwd", "ftp://h/x"):
        with pytest.raises(download.DownloadError):
            download.download(url, target)
        assert not os.path.exists(target)
    server.redirect = "/files/x.bin"
    download.download(url, target)
    expect_whole(target)
    request = download.urllib.request.Request("https://example.com/x")
    with pytest.raises(download.DownloadError, match="only https"):
        download._HttpsRedirects().redirect_request(request, None, 302, "", {}, "http://127.0.0.1/x")


@pytest.mark.parametrize("url", ["http://example.com/x", "ftp://example.com/x", "file:///etc/passwd", "https:///x",
                                 "http://127.0.0.1.example.com/x", "https://example.com/x#sha256=12",
                                 "https://example.com/x#md5=0", "https://[/x", "https://a..b/x",
                                 "https://example.com/\u00fc", "https://exam ple.com/x", "https://example.com:port/x"])
def test_addresses_that_are_refused_at_once(target, url, tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLESEG_HOME", str(tmp_path))
    monkeypatch.setattr(download.time, "sleep", lambda seconds: pytest.fail("tried again"))
    with pytest.raises(download.DownloadError):
        download.download(url, target)
    with pytest.raises(WeightsError):
        find_weights(url)
    assert not os.path.exists(target)


def _download_in_a_process(url, target, barrier):
    barrier.wait()
    download.download(url, target)
    expect_whole(target)


def test_two_processes_download_once(server, target):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    processes = [context.Process(target=_download_in_a_process, args=(server.url, target, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [0, 0]
    assert server.log == [None]


def test_cache_path(monkeypatch):
    monkeypatch.setenv("PADDLESEG_HOME", "/home/cache")
    for url, expected in [
            ("https://a.com/b/c/model.pdparams", "/home/cache/a.com/b/c/model.pdparams"),
            ("https://a.com:8/x.pth#sha256=00", "/home/cache/a.com_8/x.pth"),
            ("https://u:secret@a.com/x.pth", "/home/cache/a.com/x.pth"),
            ("https://a.com/../../etc/x", "/home/cache/a.com/_/_/etc/x"),
            ("https://a.com/%2e%2e/x y", "/home/cache/a.com/_2e_2e/x_y"),
            ("https://a.com/get?id=1", "/home/cache/a.com/id_1/get")]:
        assert download.cache_path(url) == expected
    monkeypatch.delenv("PADDLESEG_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert download.cache_path("https://a.com/x") == "/home/someone/.paddleseg/weights/a.com/x"
    with pytest.raises(download.DownloadError, match="no file"):
        download.cache_path("https://a.com/")


def test_find_weights_downloads_to_the_cache_or_says_where_to_put_the_file(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLESEG_HOME", str(tmp_path))
    server.faults = [503] * 3
    with pytest.raises(WeightsError) as caught:
        find_weights(server.url)
    message, path = str(caught.value), download.cache_path(server.url)
    assert server.url in message and path in message and "\n" not in message
    assert "--opts model.backbone.pretrained=None" in message
    assert find_weights(server.url) == path
    with open(path, "rb") as stream:
        assert stream.read() == CONTENT
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/resnet.pdparams"
    with pytest.raises(WeightsError, match="not reachable"):
        find_weights(url)
    write_weights(download.cache_path(url), {"x": np.ones(1)})
    assert find_weights(url) == download.cache_path(url)
