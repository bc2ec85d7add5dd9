import html
import logging
import re
import shutil
import sys

import cv2
import numpy as np
import paddle
import pytest
from PIL import Image
from tiny import arrays, run

from paddleseg.core.infer import InferOptions
from paddleseg.core.metrics import Scores, confusion_matrix
from paddleseg.core.val import class_rows, evaluate, headline
from paddleseg.cvlibs.errors import RunError
from paddleseg.datasets import Dataset
from paddleseg.report import pictures, plots, report
from paddleseg.report.objects import BIN_NAMES, EDGES_PX, ObjectSizes
from paddleseg.transforms import Normalize

# ---- objects ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ignore_index", [255, 0])
def test_counts_of_all_sizes_are_those_of_the_confusion_matrix(ignore_index):
    rng, sizes, matrix = np.random.default_rng(0), ObjectSizes(4, ignore_index), np.zeros([4, 4], int)
    for side in (1, 2, 5, 30):
        label, pred = (np.kron(rng.integers(0, 4, (7, 9)), np.ones([side, side])).astype("uint8") for _ in "ab")
        label[rng.random(label.shape) < 0.1] = ignore_index
        sizes.add(pred, label)
        matrix += confusion_matrix(pred, label, 4, ignore_index)
    hits = np.diag(matrix)
    np.testing.assert_array_equal(sizes.hits.sum(axis=1), hits)
    np.testing.assert_array_equal(sizes.labelled.sum(axis=1), matrix.sum(axis=1))
    np.testing.assert_array_equal(sizes.false.sum(axis=1), matrix.sum(axis=0) - hits)
    assert np.count_nonzero(sizes.objects.sum(axis=0)) >= 4


def test_iou_of_a_small_and_a_large_object():
    label = np.zeros([64, 64], "uint8")
    label[:20, :20], label[50:54, 50:54] = 1, 1  # 400 and 16 pixels
    pred = np.zeros_like(label)
    pred[:20, :10], pred[50:54, 50:56], pred[40, 0] = 1, 1, 1  # half of one; 8 beside the other; one pixel alone
    sizes = ObjectSizes(2, 255)
    sizes.add(pred, label)
    small, large = 0, np.searchsorted(EDGES_PX, 20)
    assert BIN_NAMES[large] == "16-32 px" and sizes.objects[1].sum() == 2
    assert sizes.iou[1, large] == 200 / 400 and sizes.iou[1, small] == 16 / (16 + 8 + 1)
    assert np.isnan(np.delete(sizes.iou[1], [small, large])).all()
    assert sizes.mean_iou[small] == sizes.iou[1, small]
    diagonal = ObjectSizes(2, 255)
    diagonal.add(np.zeros([4, 4], "uint8"), np.eye(4, dtype="uint8"))
    assert diagonal.objects.sum(axis=1).tolist() == [1, 1]


@pytest.mark.parametrize("side", EDGES_PX)
def test_an_object_as_large_as_an_edge_is_in_the_upper_bin(side):
    sizes, label = ObjectSizes(1, 255), np.full([side + 1, side + 1], 255, "uint8")
    label[:side, :side] = 0
    sizes.add(np.zeros_like(label), label)
    label[0, 0] = 255
    sizes.add(np.zeros_like(label), label)
    upper = EDGES_PX.index(side) + 1
    assert sizes.objects[0].tolist() == [int(place in (upper - 1, upper)) for place in range(len(EDGES_PX) + 1)]


# ---- the page ---------------------------------------------------------------------------------------

class Brightest(paddle.nn.Layer):
    def forward(self, x):
        return [x]


def make_dataset(folder, count, class_names=("red", "<b>green</b>", "blue & co")):
    """One image under many names; labels are the brightest channel, but for as many columns as the name says."""
    lines, image = [], cv2.resize(np.random.default_rng(0).integers(0, 255, (6, 8, 3)).astype("uint8"), (32, 24))
    for number in range(count):
        label = image.argmax(axis=2).astype("uint8")
        label[:, :number] = (label[:, :number] + 1) % 3
        label[:2, 29:] = 255
        Image.fromarray(image).save(folder / f"{number}.png")
        Image.fromarray(label).save(folder / f"{number}_label.png")
        lines.append(f"{number}.png {number}_label.png")
    (folder / "val.txt").write_text("\n".join(lines))
    return Dataset([Normalize()], str(folder), 3, "val", val_path=str(folder / "val.txt"), class_names=class_names)


@pytest.fixture
def without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def make_report(folder, dataset):
    model, options, gathered = Brightest(), InferOptions(), report.Report(str(folder), dataset)
    scores = evaluate(model, dataset, options, on_image=gathered.add)
    gathered.write(scores, model, options, "runs/first/model.pdparams", "iters: 7  # </pre><script>")
    return scores, gathered, (folder / "report.html").read_text(encoding="utf-8")


def cells(text, table):
    rows = re.findall("<tr>(.*?)</tr>", re.search(rf'<table id="{table}".*?</table>', text, re.DOTALL)[0], re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def counts(text, what):
    return [int(count.replace(",", "")) for count in re.findall(rf'title="([\d,]+) {what}', text)]


def test_the_page_has_the_numbers_of_the_log(tmp_path, without_matplotlib):
    dataset = make_dataset(tmp_path, 10)
    scores, gathered, text = make_report(tmp_path / "r", dataset)
    assert cells(text, "scores")[1:] == class_rows(scores, dataset.class_names)
    for name, value in headline(scores).items():
        assert f"<div>{name}<b>{value}</b></div>" in text
    objects = gathered.sizes.objects
    assert counts(text, "objects") == [*objects.sum(axis=0).tolist(), *objects.ravel().tolist()]
    assert counts(text, "pixels") == scores.matrix.ravel().tolist()
    shares = scores.matrix / scores.matrix.sum(axis=1, keepdims=True) * 100
    assert cells(text, "matrix")[1][1:] == [f"{share:.0f}" if share >= 0.5 else "" for share in shares[0]]
    assert cells(text, "sizes")[1][1:] == [f"{iou:.4f}" if iou == iou else "-" for iou in gathered.sizes.mean_iou]
    assert 0 < scores.miou < 1


def test_the_page_needs_nothing_else_and_escapes_what_it_shows(tmp_path):
    _, _, text = make_report(tmp_path / "r", make_dataset(tmp_path, 3))
    assert not re.findall(r"(?:src|href)=\"(?!data:)|https?://|@import|url\(", text)
    assert "&lt;b&gt;green" in text and "<b>green" not in text and "blue &amp; co" in text
    assert "&lt;/pre&gt;&lt;script&gt;" in text and "<script" not in text
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text


@pytest.mark.parametrize("count, worst, best", [(10, [9, 8, 7, 6], [0, 1, 2, 3]), (8, [7, 6, 5, 4], [0, 1, 2, 3]),
                                                (3, [2, 1], [0]), (1, [0], [])])
def test_best_and_worst_images(tmp_path, without_matplotlib, count, worst, best):
    dataset = make_dataset(tmp_path, count)
    _, gathered, text = make_report(tmp_path / "r", dataset)
    ranked = gathered.worst_and_best()
    assert [[index for _, index in end] for end in ranked] == [worst, best]
    shown = re.findall(r"<h3>\S*?(\d+)\.png: mIoU ([\d.]+)</h3>", text)
    assert shown == [(str(index), f"{miou:.4f}") for miou, index in sum(ranked, [])]
    assert text.count("<img ") == 4 * len(shown)


def test_images_without_a_labelled_pixel_are_not_ranked(tmp_path, without_matplotlib):
    dataset = make_dataset(tmp_path, 2)
    Image.fromarray(np.full([24, 32], 255, "uint8")).save(tmp_path / "1_label.png")
    _, gathered, _ = make_report(tmp_path / "r", dataset)
    assert [index for _, index in sum(gathered.worst_and_best(), [])] == [0]
    shutil.copy(tmp_path / "1_label.png", tmp_path / "0_label.png")
    _, _, text = make_report(tmp_path / "r", dataset)
    assert "there is nothing to score" in text and "would give" not in text
    assert "Worst images" not in text and 'class="legend"' not in text


def test_equal_images_are_each_at_one_end(tmp_path):
    gathered = report.Report(str(tmp_path / "r"), make_dataset(tmp_path, 10))
    gathered.mious[:] = 1
    assert [[index for _, index in end] for end in gathered.worst_and_best()] == [[0, 1, 2, 3], [9, 8, 7, 6]]


def test_two_processes_together_see_what_one_sees(tmp_path, monkeypatch):
    dataset, images, shares = make_dataset(tmp_path, 11), [], []
    evaluate(Brightest(), dataset, on_image=lambda *image: images.append(image))

    def collect(images):
        gathered = report.Report(str(tmp_path / "r"), dataset)
        for image in images:
            gathered.add(*image)
        gathered.share()
        return gathered

    alone = collect(images)
    monkeypatch.setattr("paddleseg.utils.distributed.sum_over_ranks", lambda array: shares.append(array) or array)
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    for rank in (0, 1):
        monkeypatch.setenv("PADDLE_TRAINER_ID", str(rank))
        collect(images[rank::2])
    together = iter([shares[0] + shares[2], shares[1] + shares[3]])
    monkeypatch.setattr("paddleseg.utils.distributed.sum_over_ranks", lambda array: next(together))
    last = collect([])
    np.testing.assert_array_equal(last.sizes.counts, alone.sizes.counts)
    assert last.worst_and_best() == alone.worst_and_best() and len(last.worst_and_best()[1]) == 4


def test_the_commonest_confusions_are_the_largest_cells_off_the_diagonal():
    matrix = np.array([[50, 7, 0], [3, 0, 9], [0, 0, 1]])
    assert cells("".join(report._confusion_table(matrix, ["a", "b", "c"], most=2)), "confusions")[1:] == [
        ["b", "c", "9", "75.0 %"], ["a", "b", "7", "12.3 %"]]
    assert report._confusion_table(np.diag([3, 0]), ["a", "b"]) == []


def test_the_legend_has_the_classes_of_the_shown_images_alone(tmp_path, without_matplotlib):
    dataset = make_dataset(tmp_path, 1)
    Image.fromarray(np.full([24, 32, 3], (0, 0, 255), "uint8")).save(tmp_path / "0.png")
    Image.fromarray(np.full([24, 32], 1, "uint8")).save(tmp_path / "0_label.png")
    scores, _, text = make_report(tmp_path / "r", dataset)
    legend = re.search('class="legend">(.*?)</div>', text)[1]
    assert re.findall(">([^<]+)</span>", legend) == ["&lt;b&gt;green&lt;/b&gt;", "blue &amp; co", "wrong", "ignored"]
    assert cells(text, "scores")[1][1:] == ["-", "-", "-", "-", "0"] and ">nan<" not in text  # no red pixel


# ---- plots, pictures --------------------------------------------------------------------------------

def share_of(png, color):
    """The share of a PNG file's pixels that have a colour."""
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert min(pixels.shape[:2]) > 300
    return (pixels == [int(color[place:place + 2], 16) for place in (1, 3, 5)]).all(axis=2).mean()


def test_the_plots_show_the_numbers(tmp_path):
    pytest.importorskip("matplotlib")
    _, _, text = make_report(tmp_path / "r", make_dataset(tmp_path, 2, ("red", "\u80cc\u666f", "blue")))
    assert {path.name for path in (tmp_path / "r").iterdir()} == {
        "report.html", "class_iou.png", "confusion_matrix.png", "object_sizes.png"}
    assert text.count('class="chart"') == 2
    filled = []
    for right in (200, 800):
        drawn = plots.report_plots(Scores(np.array([[right, 1000 - right], [0, 0]])), ["a", "b"], ObjectSizes(2, 255))
        filled.append(share_of(drawn["class_iou.png"], plots.LINE_COLORS[0]))
        assert share_of(drawn["object_sizes.png"], plots.LINE_COLORS[0]) == 0
    assert filled[1] / filled[0] == pytest.approx(4, rel=0.1)


def test_every_run_has_its_colour_in_the_curves():
    pytest.importorskip("matplotlib")
    lines = [plots.Line(f"run {number}", [(0, number), (10, number + 1), (20, number)], color, style)
             for number, (color, style) in enumerate(zip(plots.LINE_COLORS, ("-", "--", ":", "-")))]
    drawn = plots.curves([("loss", lines), ("one dot", [plots.Line("run 0", [(5, 1.0)], "#0072b2")])], "iteration")
    assert min(share_of(drawn, line.color) for line in lines) > 1e-5


def test_without_matplotlib_the_page_keeps_its_tables_and_says_what_is_missing(tmp_path, without_matplotlib, caplog):
    with caplog.at_level(logging.INFO):
        _, _, text = make_report(tmp_path / "r", make_dataset(tmp_path, 2))
    assert [path.name for path in (tmp_path / "r").iterdir()] == ["report.html"]
    assert "pip install matplotlib" in caplog.text and "pip install matplotlib" in text
    assert all(cells(text, name) for name in ("scores", "sizes", "matrix"))
    with pytest.raises(RunError, match=r"--report \S+report.html/r: "):
        report.Report(str(tmp_path / "r" / "report.html" / "r"), make_dataset(tmp_path, 1))


def test_the_panels_show_errors_and_ignored_pixels():
    label, pred = np.zeros([4, 6], "uint8"), np.zeros([4, 6], "uint8")
    label[0], pred[1] = 255, 1
    shown = pictures.Shown("a.png", np.full([4, 6, 3], 90, "uint8"), label, pred)
    drawn = pictures.panels(shown, np.array([[1, 2, 3], [4, 5, 6]], "uint8"), 255, 640)
    assert list(drawn) == ["image", "ground truth", "prediction", "errors"]
    assert (drawn["ground truth"][0] == pictures.IGNORED).all() and (drawn["ground truth"][1:] == [1, 2, 3]).all()
    assert (drawn["prediction"][1] == [4, 5, 6]).all()
    assert (drawn["errors"][0] == pictures.IGNORED).all() and (drawn["errors"][1] == pictures.WRONG).all()
    assert (drawn["errors"][2:] == 155).all()
    assert pictures.panels(shown, np.zeros([2, 3], "uint8"), 255, 3)["errors"].shape == (2, 3, 3)


# ---- VisualDL -----------------------------------------------------------------------------------------

def shown_in_visualdl(folder):
    """{tag: [(iteration, picture)]}"""
    from visualdl import LogReader

    reader = LogReader(file_path=str(next(folder.glob("vdlrecords*"))))
    return {tag: [(value.id, cv2.imdecode(np.frombuffer(value.image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR))
                  for value in reader.get_data("image", tag)] for tag in reader.get_tags().get("image", ())}


def test_visualdl_shows_images_with_predictions_at_each_evaluation(tmp_path):
    """They change nothing in the training, and a resumed run shows each once."""
    dataset = make_dataset(tmp_path, 9)
    settings = {"do_eval": True, "val_dataset": dataset, "save_interval": 2}
    without, shows = (arrays(run(tmp_path / str(use), use_vdl=use, **settings)[0]) for use in (False, True))
    assert all((without[name] == shows[name]).all() for name in without)
    before = shown_in_visualdl(tmp_path / "True")
    assert sorted(before) == [f"Evaluate/{index} {index}.png" for index in (0, 3, 5, 8)]
    for values in before.values():
        assert [iteration for iteration, _ in values] == [2, 4, 6]
        assert all(picture.shape == (2 * 24, 2 * 32, 3) for _, picture in values)
    ground_truth = before["Evaluate/0 0.png"][0][1][2:24, 32:, ::-1]
    np.testing.assert_array_equal(ground_truth, dataset.palette[dataset.sample(0, None)["label"][2:]])
    run(tmp_path / "True", resume_model=tmp_path / "True" / "iter_4", use_vdl=True, **settings)
    for tag, values in shown_in_visualdl(tmp_path / "True").items():
        assert [iteration for iteration, _ in values] == [4, 6]  # 4 is evaluated again, its best model being gone
        np.testing.assert_array_equal([picture for _, picture in values], [picture for _, picture in before[tag][1:]])
