"""Batch norms that are folded into the convolutions before them."""

import copy
import logging
from collections import Counter

import torch
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmdfad.utils.model import keeps_statistics, key_of

# Largest error, as a share of the largest logit. Deep networks in fp32 keep some 1e-6; a wrong fold is off by whole
# logits.
FOLD_TOLERANCE = 1e-3


def fold_norms(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy of a model for inference, with batch norms folded into the convolutions before them.

    The model runs once to find the convolution before each batch norm, so this works for any architecture. Parts with
    ``switch_to_deploy``, as in RepVGG, are reparameterised, too. The copy shares the tensors that do not change with
    the model, unless parts are reparameterised. Its logits on the images are compared with the model's.

    Args:
        model (nn.Module): In eval mode, with images as input and logits as output.
        images (Tensor): Images [N, C, H, W] to run it on.

    Returns:
        nn.Module: The copy, or the model itself if there is nothing to fold or the copy gives other logits.
    """
    shared = {} if _reparameterisable(model) else {id(t): t for t in (*model.parameters(), *model.buffers())}
    try:
        folded = _folded(copy.deepcopy(model, shared), images)
        if folded is None:
            return model
        with torch.no_grad():
            exact, found = model(images), folded(images)
    except Exception as error:  # each model has its own way to fail; it runs as it is then
        print_log(f'The teacher is not folded: {type(error).__name__}: {error}', 'current')
        return model
    error = (exact - found).abs().max() / exact.abs().max().clamp(min=1e-6)
    if error > FOLD_TOLERANCE:
        message = f'The teacher is not folded: its logits would be off by {error:.1e} of the largest'
        print_log(message, 'current', logging.WARNING)
        return model
    return folded


def _folded(model: nn.Module, images: Tensor) -> nn.Module | None:
    """Fold a model in place; None if there is nothing to fold."""
    reparameterisable = _reparameterisable(model)
    for part in reparameterisable:
        part.switch_to_deploy()
    pairs = _convolutions_before_norms(model, images)
    if not pairs and not reparameterisable:
        return None
    names = {module: name for name, module in model.named_modules()}
    for norm, convolution in pairs.items():
        model.set_submodule(names[convolution], fuse_conv_bn_eval(convolution, norm))
        model.set_submodule(names[norm], nn.Identity())
    return model.eval().requires_grad_(False)


def _reparameterisable(model: nn.Module) -> list[nn.Module]:
    """The outermost parts that can be reparameterised."""
    if hasattr(model, 'switch_to_deploy'):
        return [model]
    return [part for child in model.children() for part in _reparameterisable(child)]


def _convolutions_before_norms(model: nn.Module, images: Tensor) -> dict[nn.Module, nn.Module]:
    """Each batch norm with the convolution before it, if both run just once in a forward pass."""
    calls: Counter[nn.Module] = Counter()
    makers: dict[tuple, tuple[nn.Module, Tensor]] = {}
    pairs: dict[nn.Module, nn.Module] = {}

    def after_convolution(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        calls[module] += 1
        makers[key_of(output)] = module, output  # which keeps the tensor alive

    def before_norm(module: nn.Module, inputs: tuple) -> None:
        calls[module] += 1
        if made := makers.get(key_of(inputs[0])):
            pairs[module], _ = made

    handles = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after_convolution))
        elif keeps_statistics(module):
            handles.append(module.register_forward_pre_hook(before_norm))
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    followers = Counter(pairs.values())
    return {n: c for n, c in pairs.items() if calls[n] == calls[c] == followers[c] == 1}
