"""Folding, the traced graph and its comparison with the model, on narrow networks."""

import os

import numpy as np
import paddle
import paddle.nn as nn
import pytest

from deploy import export_graph as export
from diff.inputs import random_weights
from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import RunError
from paddleseg.models import EncNet
from paddleseg.weights.load import load_into


def encnet(**changes):
    """An EncNet with random weights and running statistics, in evaluation mode."""
    backbone = manager.BACKBONES["ResNet18_vd"](output_stride=8, base_channels=4)
    model = EncNet(5, backbone, num_codes=4, mid_channels=8, aux_channels=6, **changes)
    load_into(model, random_weights({name: value.shape for name, value in model.state_dict().items()}), "random")
    model.eval()
    return model


def images(*shape):
    return paddle.to_tensor(export.check_images(shape).astype(paddle.get_default_dtype()))


@pytest.mark.parametrize("changes", [{}, {"conv_bias": False, "add_lateral": True, "unbiased_variance": True}], ids=str)
def test_folding_changes_rounding_only(float64, changes):
    model = encnet(**changes)
    model.to(dtype="float64")
    x, before = images(2, 3, 40, 56), {name: value.numpy() for name, value in model.state_dict().items()}
    expected = model(x)[0].numpy()
    model.train()  # the copy is in evaluation mode whatever the model is in
    folded = export.folded(model)
    np.testing.assert_allclose(folded(x)[0].numpy(), expected, rtol=1e-10, atol=1e-10)
    assert model.training and not any(layer.training for layer in folded.sublayers(include_self=True))
    assert all(np.array_equal(value.numpy(), before[name]) for name, value in model.state_dict().items())
    kinds = [type(layer).__name__ for layer in folded.sublayers()]
    assert "BatchNorm2D" not in kinds and kinds.count("BatchNorm1D") == 1


def test_folds_in_a_sequential_and_replaces_sync_batch_norm(float64):
    def network(norm):
        paddle.seed(3)
        model = nn.Sequential(nn.Conv2D(3, 4, 3), norm(4), nn.ReLU(), norm(4))
        for layer in (model[1], model[3]):
            layer._mean.set_value(paddle.to_tensor([0.5, -0.5, 1.0, 0.0]))
            layer._variance.set_value(paddle.to_tensor([0.5, 2.0, 1.0, 3.0]))
        model.eval()
        return model

    x = images(2, 3, 9, 11)
    folded = export.folded(network(nn.SyncBatchNorm))
    assert [type(layer).__name__ for layer in folded] == ["Conv2D", "Identity", "ReLU", "EvalBatchNorm"]
    np.testing.assert_allclose(folded(x).numpy(), network(nn.BatchNorm2D)(x).numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("output", list(export.OUTPUTS))
def test_the_graph_computes_at_any_size(tmp_path, output, wide):
    model = encnet(add_lateral=True)
    interpolate = nn.functional.interpolate
    path = export.save_graph(export.folded(model), str(tmp_path / "model"), output, [None, 3, None, None], wide)
    assert nn.functional.interpolate is interpolate
    assert sorted(os.listdir(tmp_path)) == sorted([os.path.basename(path), "model.pdiparams"])
    graph = paddle.jit.load(str(tmp_path / "model"))
    for shape in ((1, 3, 64, 96), (2, 3, 33, 47)):
        logits, found = model(images(*shape))[0], graph(images(*shape)).numpy()
        if output == "argmax":
            assert found.dtype == np.int32 and len(np.unique(found)) > 1
            assert np.mean(found != logits.argmax(axis=1).numpy()) <= export.TOLERANCE
        else:
            expected = nn.functional.softmax(logits, axis=1) if output == "softmax" else logits
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_compare_counts_the_labels_that_differ():
    model = encnet()

    def graph(x):
        labels = model(paddle.to_tensor(x))[0].argmax(axis=1).numpy().astype("int32")
        labels[:, :8] += 1
        return labels

    row, = export.compare(model, graph, [(1, 3, 32, 48)], runs=1)
    assert row.shape == (1, 3, 32, 48) and row.differing == 0.25 and row.graph_sec > 0
    wrong_size, = export.compare(model, lambda x: graph(x)[:, 1:], [(1, 3, 32, 48)], runs=1)
    assert wrong_size.differing == 1.0


def test_refuses_what_paddle_cannot_translate(tmp_path):
    class Broken(nn.Layer):
        def forward(self, x):
            raise ValueError("no such thing")

    with pytest.raises(RunError, match="Broken.*no such thing"):
        export.save_graph(Broken(), str(tmp_path / "model"), "argmax", [None, 3, None, None], True)
