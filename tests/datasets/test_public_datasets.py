from pathlib import Path

import numpy as np
import pytest
from fake_data import SIZE, write_label
from fake_layouts import AUG, LAYOUTS, TRAIN, VAL

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError, DataError, LabelValueError
from paddleseg.datasets.ade20k import ADE20K
from paddleseg.datasets.pascal_context import CLASS_NAMES as CONTEXT_NAMES
from paddleseg.datasets.pascal_voc import PascalVOC
from paddleseg.utils.palette import color_map

NAMES = list(LAYOUTS)
DEVKITS = [name for name in NAMES if name != "ADE20K"]


@pytest.fixture(params=NAMES)
def made(request, tmp_path):
    """(its class, its facts, the stand-in's root)"""
    layout = LAYOUTS[request.param]
    return manager.DATASETS[request.param], layout, layout.make(tmp_path / "data set")


def first_label(dataset):
    return Path(dataset.file_list[0][1])


def test_facts(made):
    kind, layout, root = made
    dataset = kind([], str(root), "val")
    assert (dataset.num_classes, dataset.ignore_index, dataset.mode) == (layout.num_classes, 255, "val")
    assert kind.num_classes == len(dataset.class_names) == len(set(dataset.class_names)) == layout.num_classes
    assert dataset.class_names[0] == layout.first_name and all(name.strip() == name for name in dataset.class_names)
    assert dataset.palette.shape == (layout.num_classes, 3) and dataset.palette.dtype == np.uint8


def test_files_and_labels_are_those_of_the_split(made):
    kind, layout, root = made
    for mode, count in (("train", len(TRAIN)), ("val", len(VAL))):
        dataset = kind([], str(root), mode)
        assert len(dataset) == count
        assert all(Path(image).stem == Path(label).stem for image, label in dataset.file_list)
        data = dataset.sample(0, np.random.default_rng(0))
        assert data["img"].shape == (3, *SIZE) and data["gt_fields"] == (["label"] if mode == "train" else [])
        stripes = data["label"][0, ::SIZE[1] // len(layout.classes)]
        assert data["label"].dtype == np.uint8 and stripes.tolist() == list(layout.classes)


def test_every_class_and_no_other_value_is_legal(made):
    kind, layout, root = made
    highest = layout.num_classes - (layout.classes[0] == 0)
    dataset = kind([], str(root))
    write_label(first_label(dataset), (highest,))
    assert (dataset[0]["label"] == layout.num_classes - 1).all()
    write_label(first_label(dataset), (highest + 1,))
    with pytest.raises(LabelValueError, match=rf"holds \{{{highest + 1}\}}; legal are 0.*\b{highest} and 255 \(ign"):
        dataset[0]


def test_missing_label_is_named(made):
    kind, _, root = made
    path = first_label(kind([], str(root)))
    path.unlink()
    with pytest.raises(DataError, match=path.name) as error:
        kind([], str(root))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["ADE20K", "PascalVOC"])
def test_test_mode_has_images_alone(tmp_path, name):
    dataset = manager.DATASETS[name]([], str(LAYOUTS[name].make(tmp_path)), "test")
    assert [len(entry) for entry in dataset.file_list] == [1] and "label" not in dataset[0]


@pytest.mark.parametrize("name", DEVKITS)
def test_the_folder_above_the_release_will_do(tmp_path, name):
    release = "VOC2012" if name == "PascalVOC" else "VOC2010"
    LAYOUTS[name].make(tmp_path / release)
    assert len(manager.DATASETS[name]([], str(tmp_path))) == len(TRAIN)


@pytest.mark.parametrize("name", DEVKITS)
def test_errors_name_the_line_of_the_list(tmp_path, name):
    root = LAYOUTS[name].make(tmp_path)
    path = next((root / "ImageSets").rglob("val.txt"))
    path.write_text("d\nd extra\n")
    with pytest.raises(DataError, match=r"val\.txt:2 is not the name of an image"):
        manager.DATASETS[name]([], str(root), "val")
    path.write_text("\nd\n")
    dataset = manager.DATASETS[name]([], str(root), "val")
    write_label(first_label(dataset), (200,))
    with pytest.raises(LabelValueError, match=r"val\.txt:2\)$"):
        dataset[0]


def test_aug_adds_its_list_and_its_labels(tmp_path):
    root = LAYOUTS["PascalVOC"].make(tmp_path)
    dataset = PascalVOC([], str(root), "trainaug")  # PaddleSeg's name of it
    assert dataset.mode == "train" and dataset.file_list == PascalVOC([], str(root), aug=True).file_list
    assert len(dataset) == len(TRAIN) + len(AUG)
    folders = [label.split("/")[-2] for _, label in dataset.file_list]
    assert folders == ["SegmentationClass"] * len(TRAIN) + ["SegmentationClassAug"] * len(AUG)
    write_label(Path(dataset.file_list[-1][1]), (77,))
    with pytest.raises(LabelValueError, match=r"aug\.txt:2\)$"):
        dataset[len(dataset) - 1]
    with pytest.raises(ConfigError, match="aug: True is for mode train, not val"):
        PascalVOC([], str(root), "val", aug=True)
    (root / "ImageSets/Segmentation/aug.txt").unlink()
    with pytest.raises(DataError, match=r"aug\.txt is not there; mmsegmentation's .*voc_aug\.py"):
        PascalVOC([], str(root), aug=True)
    assert len(PascalVOC([], str(root))) == len(TRAIN)


def test_paddlesegs_layout_of_context_will_do(tmp_path):
    root = LAYOUTS["PascalContext"].make(tmp_path)
    (root / "SegmentationClassContext").rename(root / "Context")
    (root / "ImageSets/Segmentation").mkdir()
    (root / "ImageSets/SegmentationContext/train.txt").rename(root / "ImageSets/Segmentation/train_context.txt")
    assert first_label(manager.DATASETS["PascalContext"]([], str(root))).parent.name == "Context"
    (root / "Context").rename(root / "elsewhere")
    with pytest.raises(DataError, match="has no folder SegmentationClassContext or Context; .*pascal_context.py"):
        manager.DATASETS["PascalContext59"]([], str(root))


def test_colors_are_the_published_ones():
    assert ADE20K.palette[[0, 2, 149]].tolist() == [[120, 120, 120], [6, 230, 230], [92, 0, 255]]
    colors = manager.DATASETS["PascalContext59"].palette
    np.testing.assert_array_equal(colors[CONTEXT_NAMES.index("wood") - 1], color_map(60)[59])
