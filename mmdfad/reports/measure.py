"""How large and how fast teacher and student are."""

import copy
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from statistics import median

import torch
from torch import Tensor

from mmdfad.models.network import Network
from mmdfad.utils.model import evaluating, model_size
from mmdfad.utils.timing import seconds_of

BATCHES = (1, 16)
# A batch whose pass is expected to take so many times its share of the time is not measured.
_PATIENCE = 10
# Passes of a quick model.
_MOST = 50
_Models = Mapping[str, tuple[torch.nn.Module, Tensor]]


def measure(networks: Mapping[str, Network], images: Tensor, dtypes: list[torch.dtype], seconds: float) -> dict:
    """Sizes and latencies of networks, as the plain models that stock tools would load.

    Args:
        networks (Mapping[str, Network]): Teacher and student by name.
        images (Tensor): Images [N, C, H, W] in the teacher's pixel space, two or more.
        dtypes (list[torch.dtype]): Types to compute in.
        seconds (float): Time for all latencies together. Slow models may take a few times longer.

    Returns:
        dict: For each network ``model`` (names of its parts), ``params``, ``flops`` (a multiply-add as one),
        ``file_bytes``, ``image_size`` and ``latency``: median seconds of a forward pass by type and batch size, None
        if it was not measured.
    """
    found, models = {}, {}
    share = seconds / (len(networks) * len(dtypes) * len(BATCHES))
    for name, network in networks.items():
        with torch.no_grad(), evaluating(network):
            own = network.pixels(images)
            size = model_size(network.logits, own[:2])
        models[name] = (copy.copy(network.logits), own)  # the copy is not compiled
        found[name] = dict(
            model=_architecture(network.model), **size._asdict(), image_size=[*own.shape[2:]], latency={}
        )
    with torch.no_grad(), evaluating(torch.nn.ModuleList(networks.values())):
        for dtype in dtypes:
            for name, latency in _latencies(models, dtype, share).items():
                found[name]['latency'][str(dtype).removeprefix('torch.')] = latency
    return found


def _latencies(models: _Models, dtype: torch.dtype, share: float) -> dict[str, dict[str, float | None]]:
    """Seconds for each model and batch size, of about so many seconds of passes each."""
    found: dict[str, dict[str, float | None]] = {name: {} for name in models}
    per_image = dict.fromkeys(models, 0.0)
    for batch in BATCHES:
        passes = {
            name: partial(_timed_pass, model, images[torch.arange(batch) % len(images)], dtype)
            for name, (model, images) in models.items()
            if batch * per_image[name] <= _PATIENCE * share
        }
        seconds = _alternate(passes, share)
        for name in models:
            found[name][str(batch)] = seconds.get(name)
            per_image[name] = seconds.get(name, 0.0) / batch
    return found


def _alternate(passes: Mapping[str, Callable[[], float]], share: float) -> dict[str, float]:
    """Medians of passes, after one to warm up. They take turns, so that other work of the machine slows all alike."""
    seconds: dict[str, list[float]] = {}
    for name, timed_pass in passes.items():
        try:
            timed_pass()
            seconds[name] = [timed_pass()]
        except (RuntimeError, ValueError):  # the model does not take this batch, or memory is short
            continue
    for _ in range(_MOST):
        for name, own in seconds.items():
            if sum(own) < share:
                own.append(passes[name]())
    return {name: median(own) for name, own in seconds.items()}


def _timed_pass(model: torch.nn.Module, images: Tensor, dtype: torch.dtype) -> float:
    with nullcontext() if dtype == torch.float32 else torch.autocast(images.device.type, dtype):
        return seconds_of(lambda: model(images), images.device)


def _architecture(model: torch.nn.Module) -> str:
    """Names of backbone and head, or of a model that has no such parts."""
    parts = [getattr(model, name, None) for name in ('backbone', 'decode_head')]
    return ' + '.join(type(part).__name__ for part in parts if part is not None) or type(model).__name__
