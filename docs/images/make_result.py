"""Draw result.png for the READMEs: some val scenes of `make demo`, each as image, ground truth and prediction.

    make demo
    .venv/bin/python docs/images/make_result.py
"""

import sys
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from paddleseg.datasets.cityscapes import train_labels  # noqa: E402
from paddleseg.report.pictures import Shown, panels  # noqa: E402
from paddleseg.transforms.image_io import read_image, read_label  # noqa: E402

DATA, LABELS = ROOT / "data" / "scenes", ROOT / "output" / "demo" / "result" / "label"
ROWS, WIDTH_PX, GAP_PX = 3, 320, 4  # of the sheet; a panel's width


def row(predicted: Path, palette: np.ndarray) -> np.ndarray:
    """One scene, RGB."""
    name = predicted.relative_to(LABELS).with_suffix(".png")
    label = str(name).replace("leftImg8bit", "gtFine_labelTrainIds")
    shown = Shown(str(name), read_image(str(DATA / "leftImg8bit" / "val" / name)),
                  read_label(str(DATA / "gtFine" / "val" / label)), read_label(str(predicted)))
    pictures = panels(shown, palette, 255, WIDTH_PX)
    height = WIDTH_PX * shown.label.shape[0] // shown.label.shape[1]
    wide = [cv2.resize(pictures[key], (WIDTH_PX, height), interpolation=method) for key, method in
            (("image", cv2.INTER_CUBIC), ("ground truth", cv2.INTER_NEAREST), ("prediction", cv2.INTER_NEAREST))]
    gap = np.full([height, GAP_PX, 3], 255, np.uint8)
    return np.concatenate([wide[0], gap, wide[1], gap, wide[2]], axis=1)


def main() -> None:
    palette = np.array([label.color for label in train_labels()], np.uint8)
    predicted = sorted(LABELS.rglob("*.png"))
    spread = np.linspace(0, len(predicted) - 1, ROWS).round().astype(int)
    rows = [row(predicted[index], palette) for index in spread]
    gap = np.full([GAP_PX, rows[0].shape[1], 3], 255, np.uint8)
    sheet = np.concatenate([part for item in rows for part in (item, gap)][:-1])
    path = Path(__file__).with_name("result.png")
    cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    print(f"{path}: {path.stat().st_size >> 10} KiB")


if __name__ == "__main__":
    main()
