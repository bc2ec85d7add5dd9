import pytest

from paddleseg.cvlibs.errors import ConfigError
from paddleseg.cvlibs.manager import ComponentManager


@pytest.fixture
def registry():
    return ComponentManager("things")


def test_registers_under_name_and_aliases_one_or_a_list(registry):
    @registry.add_component(aliases=("Other",))
    class Thing:
        pass

    assert registry["Thing"] is registry["Other"] is Thing
    assert len(registry) == 2 and "Thing" in registry and sorted(registry) == ["Other", "Thing"]
    listed = [type("First", (), {}), type("Second", (), {})]  # as PaddleSeg's code does
    assert registry.add_component(listed) == listed and registry["Second"] is listed[1]


def test_refuses_a_name_that_is_taken(registry):
    registry.add_component(type("Thing", (), {}))
    with pytest.raises(ValueError, match="Thing is registered"):
        registry.add_component(type("Thing", (), {}))


def test_unknown_name_suggests_the_nearest(registry):
    registry.add_component(type("ResNet101_vd", (), {}))
    with pytest.raises(ConfigError, match="resnet101_VD is not one of things; did you mean ResNet101_vd?"):
        registry["resnet101_VD"]
    with pytest.raises(ConfigError, match="known are ResNet101_vd"):
        registry["xyz"]
