import numpy as np
import pytest
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import CArgs, getPrediction
from cityscapesscripts.helpers.labels import trainId2label

from paddleseg.cvlibs.errors import DataError
from paddleseg.datasets.cityscapes_server import check_frames, class_label_ids, frame_of, server_name

IMAGE = "leftImg8bit/test/berlin/berlin_000123_000019_leftImg8bit.png"


def test_label_ids_are_cityscapesscripts():
    ids = class_label_ids()
    assert ids.dtype == np.uint8 and ids.tolist() == [trainId2label[index].id for index in range(19)]


def test_the_official_evaluation_finds_the_file(tmp_path):
    for frame in ("berlin_000123_000019", "berlin_000123_000020", "bonn_000123_000019"):
        (tmp_path / server_name(f"x/{frame}_leftImg8bit.png")).touch()
    args = CArgs()
    args.predictionPath, args.predictionWalk = str(tmp_path), None
    assert getPrediction(args, "berlin_000123_000019_gtFine_labelIds.png") == str(tmp_path / server_name(IMAGE))


@pytest.mark.parametrize("name, frame", [
    (IMAGE, "berlin_000123_000019"), ("berlin_000123_000019.png", "berlin_000123_000019"),
    ("berlin_123_000019_leftImg8bit.png", None), ("berlin_000123_0000190.png", None), ("photo.jpg", None)])
def test_frames(name, frame):
    assert frame_of(name) == frame


def test_images_that_the_server_can_not_tell():
    check_frames([IMAGE, IMAGE, "bonn_000123_000019_leftImg8bit.png"])
    with pytest.raises(DataError, match="a/photo.jpg is not named <city>_<sequence>_<frame>"):
        check_frames([IMAGE, "a/photo.jpg"])
    with pytest.raises(DataError, match="are the same frame, berlin_000123_000019"):
        check_frames([IMAGE, "other/" + IMAGE])
