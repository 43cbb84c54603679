"""Time rounds of mmdfad against the paper's loop as naively written, and against their bare passes.

Four ways to play the same rounds take turns in one process, from random weights:

    naive    fp32, a teacher with gradients, a generator that upsamples before it convolves and whose graph is built
             and thrown away, torch's default layout
    fp32     mmdfad with --amp-dtype float32
    default  mmdfad as its config runs
    bare     the passes and optimizer steps of `default`, by hand, without mmdfad's or mmengine's loop around them

Times are medians of the repeats, whose order changes. Peak memory is that of processes of their own.
"""

import argparse
import json
import multiprocessing
import platform
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import LOOPS, OPTIMIZERS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmdfad.apis.config import set_amp
from mmdfad.engine import AdversarialDistillLoop
from mmdfad.engine.optim import BFloat16OptimWrapper, fastest_dtype
from mmdfad.models import AdversarialDistiller
from mmdfad.models.generators.upsample import UpsampledConv2d
from mmdfad.utils import readable_errors
from mmdfad.utils.atomic import atomic_write

CONFIGS = Path(__file__).resolve().parents[2] / 'configs/dfad'
# name -> config, changes
PAIRS: dict[str, tuple[str, dict]] = {
    'lenet': ('lenet5_mnist5k.py', {}),
    'resnet34_resnet18': ('resnet34_resnet18_cifar10.py', {'train_dataloader.batch_size': 64}),
    'resnet56_resnet20': (
        'resnet32_resnet20_cifar10.py',
        {'train_dataloader.batch_size': 128, 'model.teacher.cfg_options': {'model.kwargs.depth': 56}},
    ),
    'deeplab': ('deeplab_camvid.py', {'train_dataloader.batch_size': 4}),
    'vit': (
        'resnet34_resnet18_caltech101.py',
        {
            'train_dataloader.batch_size': 8,
            'model.generator.image_size': 224,
            'model.teacher': dict(cfg_path='mmpretrain::deit/deit-tiny_4xb256_in1k.py'),
            'model.student': dict(
                cfg_path='mmpretrain::deit/deit-tiny_4xb256_in1k.py',
                cfg_options={
                    'model.backbone.arch': dict(
                        embed_dims=96, num_layers=6, num_heads=3, feedforward_channels=384, _delete_=True
                    ),
                    'model.head.in_channels': 96,
                },
            ),
        },
    ),
}
WAYS = ('naive', 'fp32', 'default', 'bare')
Round = Callable[[], None]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--pair', required=True, choices=sorted(PAIRS), help='teacher and student')
    parser.add_argument('--repeats', type=int, default=7, help='rounds of each way that are timed')
    parser.add_argument('--scaling', action='store_true', help='also time other batches, image areas and step counts')
    parser.add_argument('--json', type=Path, help='results')
    parser.add_argument('--seed', type=int, default=0, help='of weights, noise and the order of the ways')
    return parser.parse_args()


# The ways to play a round


def make_config(pair: str, **changes) -> Config:
    """The config of a pair without data and checkpoints."""
    path, options = PAIRS[pair]
    cfg = Config.fromfile(CONFIGS / path)
    for player in ('teacher', 'student'):
        if f'model.{player}' in options:
            cfg.model[player] = {}
    cfg.merge_from_dict({**options, **changes})
    cfg.model.teacher.pop('checkpoint', None)
    cfg.model.allow_random_teacher = True
    for key in ('dataloader', 'evaluator', 'cfg'):
        cfg[f'val_{key}'] = cfg[f'test_{key}'] = None
    cfg.log_level = 'ERROR'
    cfg.visualizer = None
    return cfg


@LOOPS.register_module()
class PausedLoop(AdversarialDistillLoop):
    """Gets ready, and leaves it to others to play the rounds."""

    def run(self) -> nn.Module:
        """Begin."""
        self.begin()
        return self.runner.model


def make_runner(cfg: Config, seed: int) -> Runner:
    """A runner that is about to play its first round."""
    cfg = Config(cfg.to_dict())
    cfg.work_dir = tempfile.mkdtemp(prefix='benchmark_rounds_')
    cfg.train_cfg.type = 'PausedLoop'
    cfg.randomness = dict(seed=seed)
    cfg.experiment_name = Path(cfg.work_dir).name
    runner = Runner.from_cfg(cfg)
    runner.train()
    for hook in runner.hooks:
        if hasattr(hook, 'release'):  # of signals: Ctrl-C is to end this program
            hook.release()
    return runner


def mmdfad_round(runner: Runner) -> Round:
    """A round of the loop, with all that its hooks do."""
    return runner.train_loop.run_round


def naive_round(cfg: Config, seed: int) -> Round:
    """A round as the paper's algorithm reads."""
    plain = Config(cfg.to_dict())
    plain.model.update(fold_teacher=False, channels_last=False, hasten_dilations=False)
    runner = make_runner(plain, seed)
    distiller, device = runner.model, runner.model.device
    distiller.teacher.requires_grad_(True)
    upsample_apart(distiller.generator)
    optim = {
        player: OPTIMIZERS.build(
            dict(cfg.optim_wrapper[player].optimizer, params=list(getattr(distiller, player).parameters()))
        )
        for player in ('student', 'generator')
    }
    batch, loop = cfg.train_dataloader.batch_size, cfg.train_cfg

    def draw() -> Tensor:
        return distiller.generator(torch.randn(batch, distiller.generator.noise_dim, device=device))

    def play() -> None:
        for _ in range(loop.imitation_steps):
            optim['student'].zero_grad()
            images = draw().detach()
            teacher_logits = distiller.teacher(images)
            distiller.imitation_loss(distiller.student_logits(images), teacher_logits.detach()).backward()
            optim['student'].step()
        optim['generator'].zero_grad()
        images = draw()
        teacher_logits = distiller.teacher(images)
        (-distiller.generation_loss(distiller.student_logits(images), teacher_logits)).backward()
        optim['generator'].step()

    return play


def upsample_apart(generator: nn.Module) -> None:
    """Let a generator upsample its maps, and then convolve them, as the paper has it."""
    for name, module in list(generator.named_modules()):
        if isinstance(module, UpsampledConv2d):
            device = module.weight.device
            plain = nn.Conv2d(module.in_channels, module.out_channels, 3, padding=1, device=device)
            plain.load_state_dict(module.state_dict())
            generator.set_submodule(name, nn.Sequential(nn.Upsample(scale_factor=2), plain))


def bare_round(cfg: Config, runner: Runner) -> Round:
    """The passes of a runner's rounds, with its players and in its types, and their optimizers' steps."""
    distiller: AdversarialDistiller = runner.model
    generator, student, teacher = distiller.generator, distiller.student, distiller.folded_teacher
    optim = {player: wrapper.optimizer for player, wrapper in runner.optim_wrapper.items()}
    clips = {player: wrapper.clip_grad_kwargs for player, wrapper in runner.optim_wrapper.items()}
    low = isinstance(runner.optim_wrapper['student'], BFloat16OptimWrapper)
    batch, loop, device = cfg.train_dataloader.batch_size, cfg.train_cfg, distiller.device
    noise = torch.randn(batch, generator.noise_dim, device=device)

    def computing() -> torch.autocast | nullcontext:
        return torch.autocast(device.type, torch.bfloat16) if low else nullcontext()

    def update(player: str, loss: Tensor) -> None:
        loss.backward()
        if clips[player]:
            nn.utils.clip_grad_norm_(optim[player].param_groups[0]['params'], **clips[player])
        optim[player].step()
        optim[player].zero_grad()

    def play() -> None:
        for _ in range(loop.imitation_steps):
            with computing():
                with torch.no_grad():
                    images = generator(noise).float()
                    teacher_logits = teacher(images)
                loss = distiller.imitation_loss(distiller.student_logits(images), teacher_logits)
            update('student', loss)
        student.requires_grad_(False)
        with computing():
            images = generator(noise).float()
            loss = -distiller.generation_loss(distiller.student_logits(images), teacher(images))
        update('generator', loss)
        student.requires_grad_(True)

    return play


def make_ways(cfg: Config, seed: int) -> tuple[dict[str, Round], Runner]:
    """All ways to play, and the runner of the default one."""
    exact = Config(cfg.to_dict())
    set_amp(exact, 'float32')
    default = make_runner(cfg, seed)
    ways = dict(
        naive=naive_round(exact, seed),
        fp32=mmdfad_round(make_runner(exact, seed)),
        default=mmdfad_round(default),
        bare=bare_round(cfg, default),
    )
    return ways, default


# Measurements


def wait() -> None:
    """Until the device has done all that it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(play: Round) -> float:
    wait()
    start = time.perf_counter()
    play()
    wait()
    return time.perf_counter() - start


def time_ways(ways: dict[str, Round], repeats: int, seed: int) -> dict[str, float]:
    """Median seconds of a round of each way, which take turns."""
    order, times = random.Random(seed), defaultdict(list)
    for repeat in range(-1, repeats):  # one to warm up
        names = list(ways)
        order.shuffle(names)
        for name in names:
            seconds = seconds_of(ways[name])
            if repeat >= 0:
                times[name].append(seconds)
    return {name: statistics.median(times[name]) for name in ways}


class Stopwatch:
    """Tells what a runner's round spends its seconds on, by step and player.

    Backward passes of a generation step go through student and teacher at once, and then through the generator: what
    separates them is when the images get their gradient.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.total: dict[str, float] = {}
        self.step = ''

    def add(self, name: str, seconds: float) -> None:
        """Add to a share of the present round."""
        key = f'{self.step}: {name}'
        self.total[key] = self.total.get(key, 0.0) + seconds

    def measure(self, repeats: int) -> dict[str, float]:
        """Median seconds a round of each share; the rest is what the loop and its hooks take, and the losses."""
        distiller = self.runner.model
        with self._instrumented(distiller):
            for _ in range(repeats):
                self.total = {}
                whole = seconds_of(self.runner.train_loop.run_round)
                for key, value in self.total.items():
                    self.seconds[key].append(value)
                self.seconds['rest'].append(whole - sum(self.total.values()))
        return {key: round(statistics.median(values), 5) for key, values in self.seconds.items()}

    @contextmanager
    def _instrumented(self, distiller: AdversarialDistiller) -> Iterator[None]:
        handles = []
        teachers = {distiller.teacher, distiller.folded_teacher}
        players = [('generator', distiller.generator), ('student', distiller.student)]
        for name, player in (*players, *(('teacher', teacher) for teacher in teachers)):
            handles.append(player.register_forward_pre_hook(lambda *_, name=name: self._start(name)))
            handles.append(player.register_forward_hook(lambda *args, name=name: self._end(name, args[2])))
        for step in ('imitation', 'generation'):
            setattr(distiller, f'{step}_step', self._named(step, getattr(distiller, f'{step}_step')))
        wrappers = dict(self.runner.optim_wrapper.items())
        for wrapper in wrappers.values():
            wrapper.backward = self._backward(wrapper.backward)
            wrapper.step = self._timed('optimizer step', wrapper.step)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for part, names in (
                (distiller, ('imitation_step', 'generation_step')),
                *((wrapper, ('backward', 'step')) for wrapper in wrappers.values()),
            ):
                for name in names:
                    delattr(part, name)

    def _named(self, step: str, play: Callable) -> Callable:
        def named(*args) -> dict:
            self.step = step
            return play(*args)

        return named

    def _start(self, name: str) -> None:
        wait()
        self.started = time.perf_counter()

    def _end(self, name: str, output: Tensor) -> None:
        wait()
        self.add(f'{name} forward', time.perf_counter() - self.started)
        if name == 'generator' and output.requires_grad:
            output.register_hook(self._images_have_gradient)

    def _images_have_gradient(self, gradient: Tensor) -> None:
        wait()
        self.at_images = time.perf_counter()

    def _backward(self, backward: Callable) -> Callable:
        def timed(*args, **kwargs) -> None:
            wait()
            start = time.perf_counter()
            backward(*args, **kwargs)
            wait()
            end = time.perf_counter()
            if self.step == 'imitation':
                self.add('student backward', end - start)
            else:
                self.add('student and teacher backward', self.at_images - start)
                self.add('generator backward', end - self.at_images)

        return timed

    def _timed(self, name: str, call: Callable) -> Callable:
        def timed(*args, **kwargs) -> None:
            self.add(name, seconds_of(lambda: call(*args, **kwargs)))

        return timed


def flops_of(play: Round) -> int:
    """Floating-point operations of a round, a multiply-add as two; of convolutions and matrix products alone."""
    with FlopCounterMode(display=False) as counter:
        play()
    return counter.get_total_flops()


def attainable_flops(dtype: torch.dtype, device: torch.device) -> float:
    """The most operations a second that a bare convolution of common sizes reaches."""
    best = 0.0
    for batch, channels, side in ((64, 64, 32), (64, 128, 16), (64, 256, 8), (64, 512, 4), (16, 256, 32)):
        convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False, device=device, dtype=dtype)
        convolution.to(memory_format=torch.channels_last).requires_grad_(False)
        images = torch.randn(batch, channels, side, side, device=device, dtype=dtype)
        images = images.contiguous(memory_format=torch.channels_last)
        flops = flops_of(lambda c=convolution, x=images: c(x))
        best = max(best, flops / min(seconds_of(lambda c=convolution, x=images: c(x)) for _ in range(10)))
    return best


def peak_memory(pair: str, way: str, seed: int) -> int:
    """Bytes that three rounds take at most, in a new process, beyond its imports."""
    context = multiprocessing.get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_peak_memory, args=(pair, way, seed, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def _send_peak_memory(pair: str, way: str, seed: int, sender: object) -> None:
    MMLogger.get_instance('mmengine', log_level='ERROR')
    cfg = make_config(pair)
    if way == 'naive':
        set_amp(cfg, 'float32')
    before = _resident('VmRSS')
    play = naive_round(cfg, seed) if way == 'naive' else mmdfad_round(make_runner(cfg, seed))
    for _ in range(3):
        play()
    if torch.cuda.is_available():
        sender.send(torch.cuda.max_memory_allocated())
    else:
        sender.send(_resident('VmHWM') - before)


def _resident(key: str) -> int:
    """Bytes of resident memory: now (``VmRSS``), or at most (``VmHWM``; getrusage's has the parent's in it)."""
    line = next(line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def scaling(pair: str, seed: int, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of default rounds with other batches, image areas and imitation steps."""
    cfg = make_config(pair)
    batch, steps = cfg.train_dataloader.batch_size, cfg.train_cfg.imitation_steps
    size = cfg.model.generator.image_size
    side = size if isinstance(size, int) else size[0]
    changes = dict(batch={n: {'train_dataloader.batch_size': n} for n in (batch // 2, batch, 2 * batch)})
    if pair not in ('lenet', 'vit'):  # which take images of one size only
        sides = (side, 3 * side // 2, 2 * side)
        changes['area'] = {n * n: {'model.generator.image_size': n} for n in sides}
    changes['imitation_steps'] = {n: {'train_cfg.imitation_steps': n} for n in (steps, 2 * steps, 3 * steps)}
    return {
        name: time_ways(
            {str(n): mmdfad_round(make_runner(make_config(pair, **change), seed)) for n, change in values.items()},
            repeats,
            seed,
        )
        for name, values in changes.items()
    }


def machine() -> dict[str, object]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return dict(
        device=device, threads=torch.get_num_threads(), torch=torch.__version__, python=platform.python_version()
    )


def measure(args: argparse.Namespace) -> dict[str, object]:
    cfg = make_config(args.pair)
    ways, runner = make_ways(cfg, args.seed)
    seconds = time_ways(ways, args.repeats, args.seed)
    device = runner.model.device
    low = isinstance(runner.optim_wrapper['student'], BFloat16OptimWrapper)
    flops = flops_of(ways['default'])
    attainable = attainable_flops(torch.bfloat16 if low else torch.float32, device)
    memory = {way: peak_memory(args.pair, way, args.seed) for way in ('naive', 'default')}
    result = dict(
        pair=args.pair,
        machine=machine(),
        dtype='bfloat16' if low else 'float32',
        fastest_dtype=fastest_dtype(device),
        ratio_fp32=seconds['naive'] / seconds['fp32'],
        ratio_default=seconds['naive'] / seconds['default'],
        overhead=seconds['default'] / seconds['bare'] - 1,
        memory_ratio=memory['default'] / memory['naive'],
        seconds=seconds,
        split=Stopwatch(runner).measure(args.repeats),
        flops_per_round=flops,
        achieved_gflops=flops / seconds['default'] / 1e9,
        attainable_gflops=attainable / 1e9,
        peak_memory_bytes=memory,
    )
    if args.scaling:
        result['scaling'] = scaling(args.pair, args.seed, args.repeats)
    return result


def main() -> None:
    args = parse_args()
    with readable_errors():
        result = measure(args)
    text = json.dumps(result, indent=1)
    print(text)
    if args.json:
        atomic_write(args.json, text.encode())


if __name__ == '__main__':
    sys.exit(main())
