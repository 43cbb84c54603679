"""Seconds, operations and memory of rounds."""

import multiprocessing
import random
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.device import get_device
from mmengine.logging import MMLogger
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmdfad.engine.loop import DFAD_PHASES
from mmdfad.utils import timing

from .runs import Round, make_config, make_runner, mmdfad_round
from .ways import make_way


def wait() -> None:
    """Wait until the device has finished its work."""
    timing.wait(torch.device(get_device()))


def seconds_of(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    return timing.seconds_of(call, torch.device(get_device()))


def time_ways(ways: dict[str, Round], repeats: int, seed: int) -> dict[str, float]:
    """Median seconds of a round of each way. The ways take turns in a random order, after a round to warm up."""
    order, times = random.Random(seed), defaultdict(list)
    for repeat in range(-1, repeats):
        names = list(ways)
        order.shuffle(names)
        for name in names:
            seconds = seconds_of(ways[name])
            if repeat >= 0:
                times[name].append(seconds)
    return {name: statistics.median(times[name]) for name in ways}


def time_scaling(pair: str, seed: int, repeats: int, **options) -> dict[str, dict[str, float]]:
    """Seconds of default rounds with other batches, image areas and imitation steps."""
    cfg = make_config(pair, **options)
    batch = cfg.train_dataloader.batch_size
    size = cfg.model.generator.image_size
    side = size if isinstance(size, int) else size[0]
    imitation, *others = map(dict, cfg.train_cfg.get('phases', DFAD_PHASES))
    steps = imitation['steps']
    changes = dict(
        batch={n: {'train_dataloader.batch_size': n} for n in sorted({max(1, batch // 2), batch, 2 * batch})}
    )
    if pair not in ('lenet', 'vit'):  # these take images of one size only
        sides = (side, 3 * side // 2, 2 * side)
        changes['area'] = {n * n: {'model.generator.image_size': n} for n in sides}
    changes['imitation_steps'] = {
        n: {'train_cfg.phases': [dict(imitation, steps=n), *others]} for n in (steps, 2 * steps, 3 * steps)
    }
    return {
        name: time_ways(
            {
                str(n): mmdfad_round(make_runner(make_config(pair, **{**options, **change}), seed))
                for n, change in values.items()
            },
            repeats,
            seed,
        )
        for name, values in changes.items()
    }


def flops_of(call: Callable[[], object]) -> int:
    """Floating-point operations of convolutions and matrix products, a multiply-add as two."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def attainable_flops(dtype: torch.dtype, device: torch.device) -> float:
    """The most operations a second that a single convolution of a common size reaches."""
    best = 0.0
    for batch, channels, side in ((64, 64, 32), (64, 128, 16), (64, 256, 8), (64, 512, 4), (16, 256, 32)):
        convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False, device=device, dtype=dtype)
        convolution.to(memory_format=torch.channels_last).requires_grad_(False)
        images = torch.randn(batch, channels, side, side, device=device, dtype=dtype)
        images = images.contiguous(memory_format=torch.channels_last)
        flops = flops_of(lambda c=convolution, x=images: c(x))
        best = max(best, flops / min(seconds_of(lambda c=convolution, x=images: c(x)) for _ in range(10)))
    return best


def peak_memory(pair: str, way: str, seed: int, **changes) -> int:
    """Bytes that three rounds take at most, in a new process, without its imports."""
    context = multiprocessing.get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_peak_memory, args=(pair, way, seed, changes, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def _send_peak_memory(pair: str, way: str, seed: int, changes: dict, sender: object) -> None:
    MMLogger.get_instance('mmengine', log_level='ERROR')
    before = _resident('VmRSS')
    run = make_way(pair, way, seed, **changes)
    for _ in range(3):
        run()
    if torch.cuda.is_available():
        sender.send(torch.cuda.max_memory_allocated())
    else:
        sender.send(_resident('VmHWM') - before)


def _resident(key: str) -> int:
    """Bytes of resident memory: now (``VmRSS``), or at most (``VmHWM``).

    getrusage gives a maximum that includes the parent's.
    """
    line = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024
