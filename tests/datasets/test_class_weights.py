import math

import pytest
import yaml

from paddleseg.datasets.class_weights import class_weights, weights_in_words


def test_the_formula():
    assert class_weights([900, 100, 0]) == pytest.approx(
        [1 / math.log(1.92), 1 / math.log(1.12), 1 / math.log(1.02)], rel=1e-12)
    assert class_weights([0, 0]) == pytest.approx([1 / math.log(1.02)] * 2)


def test_the_last_line_goes_into_a_recipe_as_it_is():
    *lines, last = weights_in_words(["road", "traffic light"], [750, 250]).splitlines()
    assert [line.split() for line in lines] == [["class", "share", "weight"], ["road", "75.000%", "1.751"],
                                                ["traffic", "light", "25.000%", "4.184"]]
    assert yaml.safe_load(last) == [{"type": "CrossEntropyLoss", "weight": [1.751, 4.184]}]
