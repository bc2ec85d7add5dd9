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
        if isinstance(fault, int):
            self.send_error(fault)
            return
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.server.redirect)
            self.end_headers()
            return
        fresh = self.headers["If-Range"] in (None, self.server.tag)
        start = int(self.headers["Range"][6:-1]) if self.headers["Range"] and fresh else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        if self.server.tag:
            self.send_header("ETag", self.server.tag)
        if fault != "no length":
            self.send_header("Content-Length", LENGTHS.get(fault, str(len(CONTENT) - start)))
        self.end_headers()
        self.wfile.write(CONTENT[start:start + 100_000] if fault == "cut" else CONTENT[start:])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.faults, running.log, running.tag, running.redirect = [], [], '"v1"', None
        running.url = f"http://127.0.0.1:{running.server_port}/files/x.bin"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path):
    return str(tmp_path / "cache" / "x.bin")


def fetch(url, target, attempts=3):
    download.download(url, target, attempts=attempts, pause_sec=0.0, timeout_sec=5.0)


def expect_whole(target):
    with open(target, "rb") as stream:
        assert stream.read() == CONTENT
    assert sorted(os.listdir(os.path.dirname(target))) == ["x.bin", "x.bin.lock"]


@pytest.mark.parametrize("fragment", ["", f"#sha256={SHA256}", f"#sha256={SHA256.upper()}"])
def test_downloads_once(server, target, fragment):
    fetch(server.url + fragment, target)
    expect_whole(target)
    fetch(server.url + fragment, target)
    assert server.log == [None]


def test_resumes_after_cut_connections(server, target):
    server.faults = ["cut", "cut"]
    fetch(server.url, target)
    expect_whole(target)
    assert server.log == [None, "bytes=100000-", "bytes=200000-"]


def test_resumes_in_a_later_run(server, target):
    server.faults = ["cut"]
    with pytest.raises(download.DownloadError, match="ended after 100000 of 300000 bytes, 1 attempt"):
        fetch(server.url, target, attempts=1)
    assert not os.path.exists(target)
    fetch(server.url, target)
    expect_whole(target)
    assert server.log == [None, "bytes=100000-"]


def test_starts_again_when_the_file_has_changed(server, target):
    server.faults = ["cut"]
    with pytest.raises(download.DownloadError):
        fetch(server.url, target, attempts=1)
    with open(target + ".part", "r+b") as stream:
        stream.write(b"old bytes")
    server.tag = '"v2"'
    fetch(server.url, target)
    expect_whole(target)


@pytest.mark.parametrize("fragment, asked", [("", None), (f"#sha256={SHA256}", "bytes=100000-")])
def test_without_a_tag_only_a_known_sha256_allows_to_resume(server, target, fragment, asked):
    server.faults, server.tag = ["cut"], None
    fetch(server.url + fragment, target)
    expect_whole(target)
    assert server.log == [None, asked]


def test_a_part_longer_than_the_file_is_dropped(server, target):
    os.makedirs(os.path.dirname(target))
    with open(target + ".part", "wb") as stream:
        stream.write(b"x" * (len(CONTENT) + 1))
    fetch(f"{server.url}#sha256={SHA256}", target)
    expect_whole(target)


def test_wrong_sha256_leaves_nothing(server, target):
    with pytest.raises(download.DownloadError, match=SHA256):
        fetch(f"{server.url}#sha256={'0' * 64}", target)
    assert os.listdir(os.path.dirname(target)) == ["x.bin.lock"]


def test_the_digits_in_a_hub_name_are_checked(server, target):
    fetch(server.url.replace("x.bin", f"x-{SHA256[:8]}.pth"), target)
    expect_whole(target)
    os.remove(target)
    with pytest.raises(download.DownloadError, match="0badc0de"):
        fetch(server.url.replace("x.bin", "x-0badc0de.pth"), target)


def test_a_file_put_there_by_hand_is_checked_too(server, target):
    os.makedirs(os.path.dirname(target))
    with open(target, "wb") as stream:
        stream.write(b"other")
    with pytest.raises(download.DownloadError, match="SHA-256"):
        fetch(f"{server.url}#sha256={SHA256}", target)
    fetch(server.url, target)
    assert server.log == []


@pytest.mark.parametrize("faults, word, requests", [
    ([404], "HTTP 404", 1), ([500, 503, 503], "HTTP 503", 3),  (["no length"], "size", 1), *(([fault], "size", 1)
                                                                                      for fault in LENGTHS)])
def test_errors_of_the_server(server, target, faults, word, requests):
    server.faults = faults
    with pytest.raises(download.DownloadError, match=word):
        fetch(server.url, target)
    assert len(server.log) == requests and not os.path.exists(target)


@pytest.mark.parametrize("redirect, allowed", [
    ("/files/x.bin", True), ("http://example.com/x", False), ("file:///etc/passwd", False),
    ("ftp://h/x", False)])
def test_redirects(server, target, redirect, allowed):
    server.redirect = redirect
    url = server.url.replace("/files/", "/to/")
    if allowed:
        fetch(url, target)
        expect_whole(target)
        return
    with pytest.raises(download.DownloadError):
        fetch(url, target)
    assert not os.path.exists(target)


def test_no_redirect_from_https_to_http():
    request = download.urllib.request.Request("https://example.com/x")
    with pytest.raises(download.DownloadError, match="only https"):
        download._HttpsRedirects().redirect_request(request, None, 302, "", {}, "http://127.0.0.1/x")


@pytest.mark.parametrize("url", ["http://example.com/x", "ftp://example.com/x", "file:///etc/passwd", "https:///x",
                                 "http://127.0.0.1.example.com/x", "https://example.com/x#sha256=12",
                                 "https://example.com/x#md5=0", "https://[/x"])
def test_addresses_that_are_refused(target, url):
    with pytest.raises(download.DownloadError):
        fetch(url, target)
    assert not os.path.exists(os.path.dirname(target))


@pytest.mark.parametrize("url", ["https://a..b/x", "https://example.com/\u00fc", "https://exam ple.com/x",
                                 "https://example.com:port/x"])
def test_addresses_that_cannot_be_sent_are_tried_once(target, url, tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLESEG_HOME", str(tmp_path))
    monkeypatch.setattr(download.time, "sleep", lambda seconds: pytest.fail("tried again"))
    with pytest.raises(download.DownloadError):
        fetch(url, target)
    with pytest.raises(WeightsError):
        find_weights(url)
    assert not os.path.exists(target)


def test_disk_without_room(server, target, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(download.DownloadError, match="300000 bytes more, 10 are free"):
        fetch(server.url, target)


def _download_in_a_process(url, target, barrier):
    barrier.wait()
    fetch(url, target)
    expect_whole(target)


def test_two_processes_download_once(server, target):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    processes = [context.Process(target=_download_in_a_process, args=(server.url, target, barrier))
                 for _ in range(2)]
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


def test_find_weights_downloads_to_the_cache(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLESEG_HOME", str(tmp_path))
    path = find_weights(server.url)
    assert path == download.cache_path(server.url)
    with open(path, "rb") as stream:
        assert stream.read() == CONTENT


def test_offline_the_error_says_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLESEG_HOME", str(tmp_path))
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/resnet.pdparams"
    with pytest.raises(WeightsError) as caught:
        find_weights(url)
    message = str(caught.value)
    assert url in message and download.cache_path(url) in message and "not reachable" in message
    assert "--opts model.backbone.pretrained=None" in message and "\n" not in message
    write_weights(download.cache_path(url), {"x": np.ones(1)})
    assert find_weights(url) == download.cache_path(url)
