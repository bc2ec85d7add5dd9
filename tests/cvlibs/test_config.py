from typing import Callable, Dict, List, Optional, Sequence, Tuple, Union

import pytest
import yaml

from paddleseg.cvlibs.config import Leaf, Resolver, load_config, matches
from paddleseg.cvlibs.errors import ConfigError
from paddleseg.cvlibs.manager import ComponentManager


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write YAML files and work beside them, so that messages hold their short names."""
    monkeypatch.chdir(tmp_path)

    def write(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.yml").write_text(text, encoding="utf-8")
        return f"{next(iter(files))}.yml"

    return write


def values(config):
    return {key: config[key] for key in config.tree}


# ---- files and bases ------------------------------------------------------------------------------

@pytest.mark.parametrize("child, base, expected", [
    ("model: {b: 2}\niters: 5", "model: {a: 1, b: 1}\niters: 1", {"model": {"a": 1, "b": 2}, "iters": 5}),
    ("o: {_inherited_: False, type: AdamW}", "o: {type: SGD, momentum: 0.9}", {"o": {"type": "AdamW"}}),
    ("o: {p: {_inherited_: False, a: 1}}", "o: {p: {b: 1}, q: 1}", {"o": {"p": {"a": 1}, "q": 1}}),
    ("a: {_inherited_: True, y: 1}", "a: {x: 1}", {"a": {"x": 1, "y": 1}}),
    ("a: {_inherited_: False}", "a: {x: 1}", {"a": {}}), ("_inherited_: False", "a: 1", {}),
    ("t: [{type: B}]", "t: [{type: A}, {type: C}]", {"t": [{"type": "B"}]}), ("a: {x: 1}", "a: 3", {"a": {"x": 1}})])
def test_a_file_overrides_its_base_key_by_key(write, child, base, expected):
    assert values(load_config(write(child=f"_base_: base.yml\n{child}", base=base))) == expected


def test_every_value_knows_its_file(write, tmp_path):
    """Bases are relative to the file that names them, the first of several wins, and all may be dropped."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "middle.yml").write_text("_base_: [../one.yml, ../two.yml]\nm: {b: 2}\ne: {_inherited_: False}")
    write(top="_base_: sub/middle.yml\nn: {_inherited_: False}", one="a: 1\nm: {a: 1}\ne: {x: 1}",
          two="a: 2\nc: 3\nm: {d: 4}\nn: {x: 1}")
    config = load_config("top.yml")
    assert values(config) == {"a": 1, "m": {"a": 1, "b": 2, "d": 4}, "e": {}, "c": 3, "n": {}}
    origins = {"a": "one.yml", "m.a": "one.yml", "m.b": "sub/middle.yml", "m.d": "two.yml", "e": "sub/middle.yml",
               "c": "two.yml", "n": "top.yml"}
    assert {key: config.origin(key) for key in origins} == origins


@pytest.mark.parametrize("files, message", [
    ({"a": "_base_: b.yml", "b": "_base_: a.yml"}, "in a circle"),
    ({"a": "_base_: gone.yml"}, "gone.yml: No such file .*named as _base_ in"),
    ({"a": "x: [1"}, "a.yml: not valid YAML"),
    ({"a": "x: 1\nx: 2"}, "the key x stands twice"),
    ({"a": "- 1"}, "holds no mapping"),
    ({"a": "x: !!python/object/apply:os.system ['true']"}, "not valid YAML"),
    ({"a": "_base_: {b: 1}"}, "a.yml: _base_ must be the path of a file"),
    ({"a": "_base_: [1]"}, "a.yml: _base_ must be the path of a file"),
    ({"a": "_base_:"}, "a.yml: _base_ must be the path of a file"),
    ({"a": "_base_: ."}, "not a file .*named as _base_ in"),
    ({"a": "_base_: /dev/zero"}, "/dev/zero: not a file"),
    ({"a": "x: 2026-11-21"}, "in quotes"), ({"a": "x: 2026-13-45"}, "not valid YAML"),
    ({"a": "x: !!timestamp tomorrow"}, "not valid YAML"), ({"a": "x: !!bool perhaps"}, "not valid YAML"),
    ({"a": "x: !!map scalar"}, "not valid YAML"), ({"a": "x: !!set {a}"}, "neither text nor a number"),
    ({"a": f"x: {'7' * 5000}"}, "not valid YAML"), ({"a": f"x: 0x{'f' * 5000}"}, "32 digits"),
    ({"a": 'x: "a\\nb"'}, "control character"), ({"a": '"a\\eb": 1'}, "control character"),
    ({"a": 'x: "\\uD800"'}, "control character"),
    ({"a": "x: &a [*a]"}, "nested deeper than 32"), ({"a": "x: &a {<<: *a}"}, "nested deeper than 32"),
    ({"a": f"x: {'[' * 3000}{']' * 3000}"}, "recursion depth"), ({"a": "y" * 300_000}, "256 KiB"),
    ({"a": f"x: &a {'[' * 20}{']' * 20}\ny: {'[' * 20}*a{']' * 20}"}, "nested deeper than 32"),
    ({"a": "x: {[a]: 1}"}, "a key must be a word"),
])
def test_bad_files_are_named(write, files, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(**files))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("level", ["&a{0} [{1}]", "&a{0} {{x: {2}, y: {2}, z: {2}}}", "&a{0} {{<<: [{1}]}}"])
def test_a_few_aliases_cannot_stand_for_more_than_memory_holds(write, level):
    lines = [f"a{i}: " + level.format(i, ", ".join([f"*a{i - 1}"] * 9), f"*a{i - 1}") for i in range(1, 25)]
    with pytest.raises(ConfigError, match="more than 10000 values"):
        load_config(write(a="\n".join(["a0: &a0 {k: 1}", *lines])))
    assert values(load_config(write(a="a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]"))) == {
        "a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": [{"x": 1}, {"x": 1}]}


def test_each_base_is_read_once(write):
    files = {f"f{i}": f"_base_: [f{i + 1}.yml, f{i + 1}.yml]\nk{i}: {i}" for i in range(25)}  # 2^25 ways
    assert values(load_config(write(**files, f25="a: 1"))) == {"a": 1, **{f"k{i}": i for i in range(25)}}


# ---- overrides ------------------------------------------------------------------------------------

@pytest.mark.parametrize("option, key, value", [
    ("batch_size=1e-4", "batch_size", 1e-4), ("batch_size=5E3", "batch_size", 5e3),
    ("batch_size=Nonesuch", "batch_size", "Nonesuch"), ("batch_size=True", "batch_size", True),
    ("model.backbone.pretrained=None", "model.backbone.pretrained", None),
    ("model.backbone.output_stride=16", "model.backbone.output_stride", 16),
    ("loss.types.1.type=SELoss", "loss.types.1.type", "SELoss"),
    ("loss.coef=[1,0.4]", "loss.coef", [1, 0.4]),
    ("test_config.scales=0.5,1.0,2", "test_config.scales", [0.5, 1.0, 2]),
    ("model.pretrained=https://host/a=b.pdparams", "model.pretrained", "https://host/a=b.pdparams"),
])
def test_opts_override(write, option, key, value):
    path = write(a="batch_size: 1\nmodel: {pretrained: x, backbone: {output_stride: 8}}\n"
                   "loss: {types: [{type: A}, {type: B}], coef: [1]}")
    config = load_config(path, [option])
    assert config.node(key).value == value
    assert config.origin(key) == "--opts"


@pytest.mark.parametrize("option, message", [
    ("batch_size", "write key=value"), ("=1", "write key=value"), ("x.y=1", "x is the value 1"),
    ("l.7.type=A", "items 0 to 0"), ("l.first.type=A", "items 0 to 0"), ("x=[1", "can't be read"),
    ("l.²=1", "items 0 to 0"), ("l.0.type.x=1", "is the value 'A'"), ("m.1.x=1", "m.1 is the value 3"),
    ("x=!!python/name:os.system", "can't be read"), ("x=2026-01-01", "in quotes"),
])
def test_bad_opts(write, option, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(a="x: 1\nl: [{type: A}]\nm: [{type: A}, 3]"), [option])


def test_a_flag_wins_over_opts_and_an_absent_flag_changes_nothing(write):
    flags = [("--iters", "iters", 3), ("--seed", "seed", None), ("--n", "n", 0), ("--b", "b", False)]
    config = load_config(write(a="iters: 1\nseed: 1\nn: 4\nb: True"), ["iters=2"], flags)
    assert values(config) == {"iters": 3, "seed": 1, "n": 0, "b": False}
    assert (config.origin("iters"), config.origin("seed")) == ("--iters", "a.yml")


# ---- sections against constructors ------------------------------------------------------------------

NETS, BACKBONES = ComponentManager("models"), ComponentManager("backbones")


@BACKBONES.add_component
def Backbone(depth: int = 18):
    return f"Backbone{depth}"


@NETS.add_component
class Net:
    def __init__(self, num_classes: int, backbone: object, size: Sequence[int] = (1, 2), rate: float = 0.1,
                 name: Optional[str] = None, flag: bool = False, nets: Sequence = (), layer=Backbone):
        if rate < 0:
            raise ValueError("below 0")
        self.__dict__.update(locals())


@NETS.add_component
def Other(speed=1):
    pass


def group(name: str, factor: float = 1.0):
    """The signature of the items of `groups`."""


@NETS.add_component
def Grouped(groups: Optional[Sequence[dict]] = None, **rest):
    return groups, rest


def resolve(write, model, **shared):
    """The config with the resolved model in place of what the files say, which stays as it was."""
    config = load_config(write(cfg=f"_base_: base.yml\nmodel: {{{model}}}", base="model: {type: Net}"))
    before = config.dump()
    leaves = {NETS: {key: Leaf(value, "elsewhere") for key, value in shared.items()}}
    resolved = Resolver({"backbone": BACKBONES, "groups": group}, leaves).resolve(NETS, config.tree["model"], "model")
    assert config.dump() == before
    config.tree["model"] = resolved
    return config


def test_a_component_holds_every_argument_with_its_origin(write):
    config = resolve(write, "backbone: {type: Backbone}, rate: 1, nets: [{type: Other, speed: 2}]", num_classes=2)
    assert config["model"] == {
        "type": "Net", "num_classes": 2, "backbone": {"type": "Backbone", "depth": 18}, "rate": 1, "size": [1, 2],
        "name": None, "flag": False, "nets": [{"type": "Other", "speed": 2}]}
    origins = {key: config.origin(f"model.{key}") for key in ("type", "rate", "size", "num_classes", "backbone.depth")}
    assert origins == {"type": "base.yml", "rate": "cfg.yml", "size": "default", "num_classes": "elsewhere",
                       "backbone.depth": "default"}
    net = config.tree["model"].build(name="supplied")
    assert (net.backbone, net.rate, net.name, net.nets, net.layer) == ("Backbone18", 1, "supplied", [None], Backbone)


def test_what_a_constructor_refuses_is_a_config_error(write):
    config = resolve(write, "num_classes: 2, backbone: {type: Backbone}, rate: -1")
    with pytest.raises(ConfigError, match="Net can't be built from .*rate=-1.*: ValueError: below 0"):
        config.tree["model"].build()


def test_items_without_a_type_are_read_by_their_signature(write):
    config = resolve(write, "type: Grouped, groups: [{name: a}, {name: b, factor: 2}], other: 3")
    assert config.origin("model.groups.0.factor") == "default"
    assert config.tree["model"].build() == ([{"name": "a", "factor": 1.0}, {"name": "b", "factor": 2}], {"other": 3})
    with pytest.raises(ConfigError, match=r"model.groups.0.factr is not an argument of .* did you mean factor\?"):
        resolve(write, "type: Grouped, groups: [{name: a, factr: 1}]")


@pytest.mark.parametrize("text, message", [
    ("num_clases: 3", r"^cfg.yml: model.num_clases is not an argument of Net; did you mean num_classes\?$"),
    ("xyz: 3", "its arguments are num_classes, backbone, size, rate, name, flag, nets, layer"),
    ("rate: high", r"^cfg.yml: model.rate of Net must be a number, not 'high' \(str\)$"),
    ("rate: True", "must be a number, not True"), ("flag: 1", "must be True or False"),
    ("size: 3", "must be a list of a whole number"), ("size: [1, a]", "must be a list of a whole number"),
    ("name: 3", "must be text or None"), ("rate: .nan", "not nan"), ("size: [1, .inf]", "must be a list"),
    ("rate: {a: 1}", "must be a number, not {'a': 1}"), ("flag: [{a: 1}]", "must be True or False"),
    ("rate: {type: Backbone}", "must be a number"), ("size: {a: 1}", "must be a list of a whole number"),
    ("size: [{type: Backbone}]", "must be a list of a whole number"), ("nets: [{depth: 1}]", "nets.0 needs a mapping"),
    ("nets: [{type: Other}, 3]", "nets.1 needs a mapping"), ("name: {}", "must be text or None, not {}"),
    (f"flag: {'x' * 999}", r"not 'x{78}… \(str\)"), ("type: [Net]", "cfg.yml: model needs a mapping with a type"),
    ("type: {type: Net}", "model needs a mapping with a type"), ("type: Ned", r"model.type: Ned .*did you mean Net\?"),
    ("backbone: {depth: 1}", "with a type"), ("backbone: resnet", "model.backbone of Net must be a mapping with a"),
    ("backbone: {type: Backbon}", r"^cfg.yml: model.backbone.type: Backbon is not one of backbones; did you mean Bac"),
    ("backbone: {type: Backbone, dept: 1}", "model.backbone.dept is not an argument .*did you mean depth"),
    ("backbone: {type: Backbone}", "base.yml: model.num_classes is missing; Net needs it"),
    ("type: Other, flag: 1", r"cfg.yml: model.flag .*; its arguments are speed$"),
    ("_inherited_: False, flag: 1", "cfg.yml: model needs a mapping with a type"),
])
def test_errors_name_file_key_and_nearest(write, text, message):
    with pytest.raises(ConfigError, match=message):
        resolve(write, text)


@pytest.mark.parametrize("reader, text, message", [
    (NETS, "_base_: base.yml\nm: {type: Other}", "base.yml: m.flag .*_inherited_: False under m drops"),
    *((group, text, "a.yml: m must be a mapping, not") for text in ("m: 3", "m: [1]", "m: {}", "m: [{type: A}]"))])
def test_sections_that_a_base_or_a_list_spoils(write, reader, text, message):
    path = write(a=text, base="m: {type: Net, flag: True}")
    with pytest.raises(ConfigError, match=message):
        Resolver().resolve(reader, load_config(path).tree["m"], "m")


@pytest.mark.parametrize("value, hint, expected", [
    (1, float, True), (1.0, int, False), (True, int, False), (None, Optional[int], True),
    ([1, 2], Tuple[int, int], True), ([1], Tuple[int, int], False), ([1, 2.5], Sequence[float], True),
    (3, Union[float, Sequence[float]], True), ("a", List[str], False), ({"a": 1}, Dict[str, int], True),
    ({"a": 1}, dict, True), ((1, 2, 3), Tuple[int, ...], True), (5, object, False), ([1], Callable, False),
    (float("nan"), float, False), (float("inf"), float, False), (2 ** 63, int, False), (2 ** 63, float, False),
    (Leaf([1], "x"), List[int], True), ({"type": Leaf("A", "x")}, object, True), ({"type": "A"}, dict, False),
    ([{"type": "A"}], Sequence[object], True), ([{"a": 1}], Sequence[object], False), ([{"a": 1}], List[dict], True),
])
def test_matches(value, hint, expected):
    assert matches(value, hint) is expected


# ---- writing --------------------------------------------------------------------------------------

def test_dump_reads_back_equal_and_names_origins(write):
    path = write(child="_base_: base.yml\na: {s: '# no: comment', f: 1e-5, l: [1, 2], n: None, e: {}}\n"
                       "t: [{type: A, x: {y: [0.5]}}, {type: B}]\nu: 'Größe'", base="b: [one, 'two, three']\nv: true")
    config = load_config(path, ["b=[x]"])
    config.set("c", 3, "a\ny: 2")  # a file may be called so
    dumped = config.dump()
    assert yaml.safe_load(dumped) == values(config)
    write(again=dumped)
    assert values(load_config("again.yml")) == values(config)
    assert [line.split("#")[-1].strip() for line in dumped.splitlines() if line.startswith(("b:", "v:", "u:"))] == [
        "--opts", "base.yml", "child.yml"]
