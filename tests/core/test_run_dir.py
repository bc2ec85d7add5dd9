"""The directory of a run, beyond what tests/core/test_train.py does with whole runs."""

import os

import pytest

from paddleseg.core import run_dir
from paddleseg.utils import files


def test_of_an_old_run_whose_deletion_is_cut_off_nothing_can_be_resumed(tmp_path, monkeypatch):
    for name in ("iter_2", "iter_4", "best_model", "iter_6.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.pdparams").touch()
    (tmp_path / "mine").mkdir()
    removed = []

    def cut_off(path):
        if removed:
            raise KeyboardInterrupt
        removed.append(path)

    with monkeypatch.context() as context:
        context.setattr(files, "remove_tree", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run_dir.open_save_dir(str(tmp_path), None)
    assert sorted(os.listdir(tmp_path)) == ["best_model.tmp", "iter_2.tmp", "iter_4.tmp", "iter_6.tmp", "mine"]
    run_dir.open_save_dir(str(tmp_path), None)
    assert os.listdir(tmp_path) == ["mine"]
