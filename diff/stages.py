"""Outputs of a network's stages, collected by hooks. Also imported by PaddleSeg's process: it needs no toolkit."""

import contextlib
from typing import Dict, Iterator, Mapping

import numpy as np

TERMS = ("seg", "aux", "se")  # the outputs of the network in training, and their losses


@contextlib.contextmanager
def watched(layers: Mapping, register: str) -> Iterator[Dict]:
    """Collect copies of what `layers` give, by name; those of the backbone are layer1 to layer4.

    Args:
        layers: name -> layer.
        register: the method of a layer that registers a hook after its forward pass.
    """
    found: Dict = {}

    def put(name: str):
        def hook(layer, args, output) -> None:
            if name == "backbone":  # copies, since operations in place follow
                found.update({f"layer{number}": feat.clone() for number, feat in enumerate(output, start=1)})
            else:
                found[name] = (output[0] if name == "encoding" else output).clone()
        return hook

    hooks = [getattr(layer, register)(put(name)) for name, layer in layers.items()]
    yield found
    for hook in hooks:
        hook.remove()


def paddle_stages(model, images: np.ndarray, train: bool) -> Dict[str, np.ndarray]:
    """Run an EncNet on Paddle, ours or PaddleSeg's, whose layers have the same names.

    Returns:
        Every stage by name; aux_logits, aux and se in training only. Running statistics stay as they are.
    """
    import paddle

    model.train() if train else model.eval()
    stem = max(name for name, _ in model.backbone.named_children() if name.startswith("conv1_"))
    layers = {"stem": getattr(model.backbone, stem), "backbone": model.backbone, "bottleneck": model.bottleneck,
              "encoding": model.enc_module, "logits": model.head, **({"aux_logits": model.fcn_head} if train else {})}
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    with watched(layers, "register_forward_post_hook") as found, paddle.no_grad():
        found.update(zip(TERMS, model(paddle.to_tensor(images))))
    model.set_state_dict(kept)
    return {name: value.numpy() for name, value in found.items()}


def paddle_gradients(model) -> Dict[str, np.ndarray]:
    """The gradient of every parameter of a model on Paddle."""
    return {name: parameter.grad.numpy() for name, parameter in model.named_parameters()
            if not parameter.stop_gradient}


def paddle_state(model) -> Dict[str, np.ndarray]:
    """Every parameter and buffer of a model on Paddle."""
    return {name: value.numpy() for name, value in model.state_dict().items()}
