import json
import logging

import pytest

from paddleseg.cvlibs.errors import RunError
from paddleseg.utils import logger
from paddleseg.utils.recorder import RunRecorder


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_go_on_after_those_that_are_kept(tmp_path):
    path = tmp_path / "log.jsonl"
    recorder = RunRecorder(str(path))
    for iteration in (1, 2, 3):
        recorder.record("train", iteration, loss=0.5 if iteration < 3 else float("nan"))
    recorder.close()
    assert [record["loss"] for record in lines(path)] == [0.5, 0.5, None]
    with open(path, "a") as file:
        file.write('{"mode": "train", "it')  # cut off by a crash
    recorder = RunRecorder(str(path), keep=lambda record: record["iter"] < 3)
    recorder.record("eval", 2, mIoU=0.25)
    recorder.close()
    assert lines(path) == [{"mode": "train", "iter": 1, "loss": 0.5}, {"mode": "train", "iter": 2, "loss": 0.5},
                           {"mode": "eval", "iter": 2, "mIoU": 0.25}]


def test_visualdl_is_written_anew_from_what_is_kept(tmp_path):
    from visualdl import LogReader

    for keep in (None, lambda record: record["iter"] < 2):
        recorder = RunRecorder(str(tmp_path / "log.jsonl"), str(tmp_path), keep)
        for iteration in (1, 2) if keep is None else (2,):
            recorder.record("train", iteration, loss=iteration / 4)
        recorder.close()
    file, = tmp_path.glob("vdlrecords*")
    shown = LogReader(file_path=str(file)).get_data("scalar", "Train/loss")
    assert [(value.id, value.value) for value in shown] == [(1, 0.25), (2, 0.5)]


def test_a_full_disk_is_said_once_and_ends_nothing(capsys):
    file = logger.LineFile("/dev/full")
    file.write("one")
    file.write("two")
    file.close()
    assert capsys.readouterr().err.count("/dev/full can't be written") == 1


def test_the_file_has_what_was_logged_before_it_was_there(tmp_path, capsys):
    logger.setup_logging(0)
    logger.info("early")
    logger.setup_logging(0, str(tmp_path / "train.log"))
    logging.getLogger("paddleseg").info("late")
    written = (tmp_path / "train.log").read_text().splitlines()
    assert [line.split("\t")[1] for line in written] == ["early", "late"]
    with pytest.raises(RunError, match="can't be written"):
        logger.setup_logging(0, str(tmp_path / "gone" / "train.log"))


def test_only_rank_0_speaks(capsys):
    logger.setup_logging(1)
    logger.info("hello")
    logger.warning("careful")
    assert "hello" not in (printed := capsys.readouterr().out) and "careful" in printed
