import numpy as np
import pytest
from fake_data import make_cityscapes, make_lists
from PIL import Image

from paddleseg import builder
from paddleseg.cvlibs.config import load_config
from paddleseg.cvlibs.errors import SizeMismatchError
from paddleseg.datasets import Dataset
from paddleseg.datasets.loader import train_batches
from tools import browse_data
from tools.browse_data import main

RECIPE = """
batch_size: 2
iters: 4
repeats: 2
train_dataset:
  type: Cityscapes
  dataset_root: %s
  transforms:
    - {type: ResizeStepScaling, min_scale_factor: 0.5, max_scale_factor: 2.0, scale_step_size: 0.25}
    - {type: RandomPaddingCrop, crop_size: [24, 16]}
    - {type: RandomDistort, brightness_range: 0.4}
    - {type: Normalize, mean: [0.4, 0.5, 0.6], std: [0.2, 0.3, 0.4]}
model: {type: FCN, backbone: {type: ResNet18_v1c, base_channels: 4}}
"""


@pytest.fixture
def recipe(tmp_path):
    make_cityscapes(tmp_path / "cityscapes")
    (tmp_path / "recipe.yml").write_text(RECIPE % (tmp_path / "cityscapes"))
    return str(tmp_path / "recipe.yml")


def trained_on(recipe, count):
    """The files and the normalized images of the first batches of the run."""
    config = builder.resolve(load_config(recipe), ("train_dataset", "model"))
    dataset = builder.build_dataset(config, "train_dataset")
    batches = [batch for _, batch in train_batches(dataset, 2, config["seed"], repeats=2, num_batches=count // 2)]
    return dataset, [path for batch in batches for path in batch["path"]], np.concatenate(
        [batch["img"].numpy() for batch in batches]), np.concatenate([batch["label"].numpy() for batch in batches])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_shows_what_the_run_trains_on(recipe, num_workers):
    dataset, paths, images, labels = trained_on(recipe, 8)
    samples = browse_data.first_samples(dataset, 8, 42, 2, num_workers)
    assert [sample.path for sample in samples] == paths and len(set(paths)) > 1
    np.testing.assert_array_equal([sample.label for sample in samples], labels)
    mean, std = (np.reshape(values, (3, 1, 1)) for values in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    drawn = [sample.image.transpose(2, 0, 1) for sample in samples]
    np.testing.assert_allclose(drawn, np.clip((images * std + mean) * 255, 0, 255), atol=0.51)


def test_labels_lie_over_the_image():
    image = np.full((4, 80, 3), 100, np.uint8)
    label = np.zeros((4, 80), np.uint8)
    label[:, 20:40], label[:, 40:] = 1, 255
    over = browse_data.with_label(image, label, np.array([[0, 0, 0], [200, 0, 100]], np.uint8), 255)
    assert over[0, 0].tolist() == [50, 50, 50] and over[0, 30].tolist() == [150, 50, 100]
    assert {tuple(pixel) for pixel in over[:, 40:].reshape(-1, 3).tolist()} == {(50, 50, 50), (100, 100, 100)}


def test_draws_all_of_a_small_data_set(recipe, tmp_path, capsys):
    path, sheets = tmp_path / "new folder" / "sheet.png", []
    for seed in ("42", "42", "2"):
        assert main(["--config", recipe, "--save_path", str(path), "--num_workers", "0", "--opts", f"seed={seed}"]) == 0
        sheets.append(np.asarray(Image.open(path)))
    assert capsys.readouterr().out.startswith(f"8 samples of 4, seed 42: {path}\n")
    assert sheets[0].shape[1] == 2 * 12 + 3 * 2 * (300 + 6)
    first, over = sheets[0][12:12 + 200, 12:312], sheets[0][12:12 + 200, 318:618]
    assert first.std() > 10 and not np.array_equal(first, over)
    assert np.array_equal(sheets[0], sheets[1]) and not np.array_equal(sheets[0], sheets[2])


def test_names_in_other_scripts_no_palette_and_labels_that_do_not_cover(tmp_path):
    root = make_lists(tmp_path / "data", 3)
    lists = {"train_path": str(root / "train.txt")}
    dataset = Dataset([], str(root), 3, class_names=["路", "дом", "é"], **lists)
    samples = browse_data.first_samples(dataset, 3, 0, 1, 0)
    samples[0] = samples[0]._replace(path="图像.png")
    assert [name for name, _ in browse_data.class_legend(samples, dataset, dataset.palette)] == ["路", "дом", "é"]
    expected = browse_data.contact_sheet(samples, dataset)
    del dataset.palette  # as data sets of other toolkits have none
    np.testing.assert_array_equal(browse_data.contact_sheet(samples, dataset), expected)

    dataset = Dataset([lambda data: {**data, "img": data["img"][::2]}], str(root), 3, **lists)
    with pytest.raises(SizeMismatchError, match=r"\.png becomes 8x32 and its label 16x32 .*'gt_fields'"):
        browse_data.contact_sheet(browse_data.first_samples(dataset, 1, 0, 1, 0), dataset)


@pytest.mark.parametrize("flags, message", [
    (["--count", "0"], "--count 0 is below 1"),
    (["--save_path", "sheet.jpg"], "let the name end with .png"),
    (["--save_path", "/proc/none/sheet.png"], "can't be written"),
    (["--opts", "train_dataset.dataset_root=nowhere"], "nowhere")])
def test_what_cannot_be_drawn_is_one_line(recipe, capsys, flags, message):
    assert main(["--config", recipe, "--num_workers", "0", *flags]) != 0
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
