"""ADE20K's scene parsing benchmark: 150 classes, in the layout of ADEChallengeData2016.zip.

    <root>/images/{training,validation}/<name>.jpg
    <root>/annotations/{training,validation}/<name>.png   0 is no class, 1..150 are the classes
    <root>/images/testing/<name>.jpg                      for mode test: unpacked from release_test.zip
"""

import os
from pathlib import Path

import numpy as np

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import DataError
from paddleseg.datasets.base import LabelValues, PublicDataset
from paddleseg.datasets.listing import Listing

NUM_CLASSES, IGNORE_INDEX = 150, 255
FOLDERS = {"train": "training", "val": "validation", "test": "testing"}
_SOURCE = "ADEChallengeData2016.zip from sceneparsing.csail.mit.edu"

# The first name that the benchmark's objectInfo150.txt has for each class, and the colors of its color150.mat.
CLASS_NAMES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person,
earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea,
mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion,
base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace,
refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door, stairway,
river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove,
palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light,
truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane, dirt track,
apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship,
fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall,
tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal,
bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
""".replace("\n", " ").strip().split(", ")
PALETTE = np.array([list(bytes.fromhex(color)) for color in """
787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 08ff33
ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff
08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff
eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff
0bc8c8 ff5200 00fff5 003dff 00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad
0a00ff adff00 00ff99 ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2
00ff52 000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa
8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3
ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff
00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
""".split()], np.uint8)


def find_ade20k(root: str, mode: str) -> Listing:
    """List a split from its folders; in mode "test" images alone.

    Raises:
        DataError: a folder is missing, or holds no image.
    """
    split = FOLDERS[mode]
    source = "release_test.zip's folder testing there" if mode == "test" else f"{_SOURCE} and name its folder"
    for kind in ("images",) if mode == "test" else ("images", "annotations"):
        if not os.path.isdir(os.path.join(root, kind, split)):
            raise DataError(f"{root} has no folder {kind}/{split}; unpack {source}")
    listing = Listing()
    for image in sorted(Path(root, "images", split).glob("*.jpg")):
        label = Path(root, "annotations", split, image.stem + ".png")
        if mode != "test" and not label.is_file():
            listing.errors.append(DataError(f"{image} has no label {label}; unpack {source}"))
            continue
        listing.pairs.append([str(image)] if mode == "test" else [str(image), str(label)])
    if not listing.pairs and not listing.errors:
        raise DataError(f"{os.path.join(root, 'images', split)} holds no *.jpg; unpack {source}")
    return listing


@manager.DATASETS.add_component
class ADE20K(PublicDataset):
    """ADE20K, 150 classes; what the files mark as 0, no class, is ignored.

    Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017; sceneparsing.csail.mit.edu.
    """

    num_classes, ignore_index = NUM_CLASSES, IGNORE_INDEX
    class_names, palette = CLASS_NAMES, PALETTE
    label_values = {"": LabelValues.indices_from_one(NUM_CLASSES)}
    find = staticmethod(find_ade20k)
