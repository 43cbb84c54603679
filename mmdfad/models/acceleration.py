"""What makes players faster or smaller without changing what they compute, but for rounding."""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from types import MethodType

import torch
from mmcv.cnn.bricks import wrappers
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.checkpoint import checkpoint

from mmdfad.utils import DistillError

# Of the largest logit. Deep networks in fp32 keep some 1e-6; a wrong fold is off by whole logits.
FOLD_TOLERANCE = 1e-3
# Those that do nothing with their weights but what autocast would cast them for.
_CASTABLE = (nn.Conv2d, nn.Linear, wrappers.Conv2d, wrappers.Linear)


def fold_norms(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy of a model for inference, with batch norms folded into the convolutions before them.

    Which convolution a batch norm follows is seen from what it is given as the model runs, so any architecture will
    do. Parts that can be reparameterised (``switch_to_deploy``, as in RepVGG) are, in a model of its own; other copies
    share with the model all that is not folded. The copy is checked to give the model's logits on the images.

    Args:
        model (nn.Module): In eval mode, with images as input and logits as output.
        images (Tensor): Images [N, C, H, W] to run it on.

    Returns:
        nn.Module: The copy, or the model itself where there is nothing to fold or the copy gives other logits.
    """
    shared = {} if _reparameterisable(model) else {id(t): t for t in (*model.parameters(), *model.buffers())}
    try:
        folded = _folded(copy.deepcopy(model, shared), images)
        if folded is None:
            return model
        with torch.no_grad():
            exact, found = model(images), folded(images)
    except Exception as error:  # of a model's own code: what cannot be made faster is left as it is
        print_log(f'The teacher is not folded: {type(error).__name__}: {error}', 'current')
        return model
    error = (exact - found).abs().max() / exact.abs().max().clamp(min=1e-6)
    if error > FOLD_TOLERANCE:
        print_log(f'The teacher is not folded: its logits would be off by {error:.1e} of the largest', 'current', 30)
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
    """Batch norms with the convolution whose output each normalises, where both run once in a forward pass."""
    calls: Counter[nn.Module] = Counter()
    makers: dict[int, tuple[nn.Module, Tensor]] = {}
    pairs: dict[nn.Module, nn.Module] = {}

    def after_convolution(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        calls[module] += 1
        makers[id(output)] = module, output  # which holds the tensor, so that no other gets its id

    def before_norm(module: nn.Module, inputs: tuple) -> None:
        calls[module] += 1
        maker, _ = makers.get(id(inputs[0]), (None, None))
        if maker is not None:
            pairs[module] = maker

    handles = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, _BatchNorm) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(before_norm))
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    followers = Counter(pairs.values())
    return {n: c for n, c in pairs.items() if calls[n] == calls[c] == followers[c] == 1}


def to_channels_last(model: nn.Module, inputs: Tensor) -> None:
    """Let a model compute with channels last, which convolutions of most widths are faster in, if it suits.

    Args:
        model (nn.Module): The model, in eval mode; changed in place.
        inputs (Tensor): Images [N, C, H, W], or noise, to try it on.
    """
    model.to(memory_format=torch.channels_last)
    if not suits_channels_last(model, inputs):
        model.to(memory_format=torch.contiguous_format)


def suits_channels_last(model: nn.Module, inputs: Tensor) -> bool:
    """Whether a model can compute with channels last.

    One with strided 1x1 convolutions of few channels cannot: their backward pass in this layout and fp32 corrupts
    memory in torch 2.14 on CPUs. Nor can one that makes views of features for which there are none then, as DMNet does.

    Args:
        model (nn.Module): The model, in eval mode.
        inputs (Tensor): Images [N, C, H, W], or noise, to try it on.
    """
    if any(isinstance(m, nn.Conv2d) and _is_narrow_shortcut(m) for m in model.modules()):
        return False
    if inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            model(inputs)
    except RuntimeError as error:
        print_log(f'{type(model).__name__} does not compute with channels last: {error}', 'current')
        return False
    return True


def _is_narrow_shortcut(module: nn.Conv2d) -> bool:
    narrow = min(module.in_channels, module.out_channels) < 16
    return narrow and module.kernel_size == (1, 1) and max(module.stride) > 1


def hasten_dilations(model: nn.Module, only_in_training: bool = False) -> None:
    """Let dilated convolutions compute what they compute in less time.

    Taps that see nothing but padding are left out. On images smaller than a model was made for, the outer taps of its
    widest dilations reach beyond every edge: in DeepLab's pyramid at 128x128, those of dilations 24 and 36, where eight
    ninths of the products are with zeros.

    Depthwise ones whose gradients are wanted on a CPU, where torch's backward pass takes up to fifty times longer with
    a dilation than without, are computed without it, on the grids of pixels that are the dilation apart.

    Args:
        model (nn.Module): The model; changed in place, but not in its weights.
        only_in_training (bool): Convolve as usual in eval mode. Defaults to False.
    """
    convolve = partial(_convolve_dilated, only_in_training=only_in_training)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _is_dilated(module):
            module._conv_forward = MethodType(convolve, module)


def _is_dilated(module: nn.Conv2d) -> bool:
    plain = type(module)._conv_forward is nn.Conv2d._conv_forward
    zeros = module.padding_mode == 'zeros' and not isinstance(module.padding, str)
    return plain and zeros and max(module.dilation) > 1 and max(module.stride) == 1


def _convolve_dilated(
    module: nn.Conv2d, images: Tensor, weight: Tensor, bias: Tensor | None, only_in_training: bool
) -> Tensor:
    """In place of ``Conv2d._conv_forward``."""
    padding = list(module.padding)
    if module.training or not only_in_training:
        for axis, dilation in enumerate(module.dilation):
            size, taps = images.shape[2 + axis], weight.shape[2 + axis]
            useless = _useless_taps(size, taps, dilation, padding[axis])
            if useless:
                weight = weight.narrow(2 + axis, useless, taps - 2 * useless)
                padding[axis] -= useless * dilation
        if _learns_slowly(module, images, weight, padding):
            return _convolve_grids(images, weight, bias, module.dilation)
    return F.conv2d(images, weight, bias, module.stride, padding, module.dilation, module.groups)


def _learns_slowly(module: nn.Conv2d, images: Tensor, weight: Tensor, padding: Sequence[int]) -> bool:
    """Whether it is one for :func:`_convolve_grids`, where its gradients are wanted."""
    depthwise = module.groups == module.in_channels > 1
    keeps_size = all(2 * p == d * (k - 1) for p, d, k in zip(padding, module.dilation, weight.shape[2:], strict=True))
    with_gradients = torch.is_grad_enabled() and (images.requires_grad or weight.requires_grad)
    return depthwise and keeps_size and with_gradients and images.device.type == 'cpu'


def _useless_taps(size: int, taps: int, dilation: int, padding: int) -> int:
    """How many taps at either end see only padding, for outputs at stride 1, and can be left out with that padding.

    Tap i of output o is at o - padding + i * dilation of the input.
    """
    outputs = size + 2 * padding - dilation * (taps - 1)
    first_useful = -((outputs - 1 - padding) // dilation)
    return max(0, min(first_useful, padding // dilation))


def _convolve_grids(images: Tensor, weight: Tensor, bias: Tensor | None, dilation: tuple[int, int]) -> Tensor:
    """A depthwise dilated convolution that keeps the size of its maps: an output sees one grid of pixels only."""
    (_, channels, height, width), (rows, columns) = images.shape, dilation
    images = F.pad(images, (0, -width % columns, 0, -height % rows)).movedim(1, -1)
    grids = images.unflatten(2, (-1, columns)).unflatten(1, (-1, rows)).permute(0, 2, 4, 5, 1, 3)
    padding = [taps // 2 for taps in weight.shape[2:]]
    outputs = F.conv2d(grids.flatten(0, 2), weight, bias, padding=padding, groups=channels)
    outputs = outputs.unflatten(0, grids.shape[:3]).permute(0, 4, 1, 5, 2, 3).flatten(3, 4).flatten(1, 2)
    return outputs.movedim(-1, 1)[:, :, :height, :width]


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep the weights of a frozen model in the type that autocast casts them to, in each pass anew.

    Its logits under autocast stay the same to the bit. Other modules may still share the weights in their own type.

    Args:
        model (nn.Module): The model; of no use without autocast to ``dtype`` then.
        dtype (torch.dtype): Such as ``torch.bfloat16``.
    """
    for module in model.modules():
        if type(module) in _CASTABLE:
            for name, parameter in module.named_parameters(recurse=False):
                setattr(module, name, nn.Parameter(parameter.to(dtype), requires_grad=False))


def checkpoint_activations(model: nn.Module, names: Sequence[str], key: str) -> None:
    """Let parts of a model forget their activations, and compute them again in the backward pass.

    Unlike mmengine's ``activation_checkpointing``, batch norms count a batch once, so that nothing else changes.

    Args:
        model (nn.Module): The model; changed in place.
        names (Sequence[str]): Of the parts, as in its state dict, such as ``'backbone.layer1'``.
        key (str): Where they come from in the config, for messages.

    Raises:
        DistillError: If it has no part of such a name.
    """
    parts = dict(model.named_modules())
    for name in names:
        if name not in parts:
            some = ', '.join(n for n in parts if n and n.count('.') < 2)
            raise DistillError(f'{key} names {name!r}, but the model has no such part; among its parts are {some}')
        part = parts[name]
        part.forward = partial(_checkpointed, part, part.forward)


def _checkpointed(part: nn.Module, forward: object, *args, **kwargs) -> object:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    contexts = partial(_contexts, part)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _contexts(part: nn.Module) -> tuple:
    return nullcontext(), _without_counting(part)


@contextmanager
def _without_counting(part: nn.Module) -> Iterator[None]:
    """Let batch norms in train mode keep their running statistics, though they see a batch again."""
    norms = [m for m in part.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    kept = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            for name, buffer in buffers.items():
                getattr(norm, name).copy_(buffer)
