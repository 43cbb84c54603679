"""Four ways to run the same rounds."""

from collections.abc import Callable

import torch
from mmengine.config import Config
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdfad.engine import BFloat16OptimWrapper
from mmdfad.models.distiller import AdversarialDistiller
from mmdfad.models.generators.upsample import UpsampledConv2d
from mmdfad.models.step import Step

from .runs import Round, make_config, make_runner, mmdfad_round

_FLOAT32 = {'optim_wrapper.amp_dtype': 'float32'}


def make_ways(pair: str, seed: int, **changes) -> tuple[dict[str, Round], Runner]:
    """All ways to run a pair's rounds, and the runner of the default way. See :func:`make_config` for ``changes``."""
    default = make_runner(make_config(pair, **changes), seed)
    exact = make_config(pair, **changes, **_FLOAT32)
    ways = dict(
        naive=naive_round(exact, seed),
        fp32=mmdfad_round(make_runner(exact, seed)),
        default=mmdfad_round(default),
        bare=bare_round(default),
    )
    return ways, default


def make_way(pair: str, way: str, seed: int, **changes) -> Round:
    """The naive or the default way alone."""
    if way == 'naive':
        return naive_round(make_config(pair, **changes, **_FLOAT32), seed)
    return mmdfad_round(make_runner(make_config(pair, **changes), seed))


def naive_round(cfg: Config, seed: int) -> Round:
    """A round as the paper's algorithm reads, without acceleration.

    Args:
        cfg (Config): A config in fp32.
        seed (int): Seed of weights and noise.
    """
    plain = Config(cfg.to_dict())
    plain.default_hooks.pop('acceleration')
    runner = make_runner(plain, seed)
    distiller: AdversarialDistiller = runner.model
    generator, student, teacher = distiller.generator, distiller.student, distiller.teacher
    teacher.requires_grad_(True)
    _upsample_separately(generator)
    batch_size = runner.train_loop.dataloader.batch_size
    optim = {
        name: OPTIMIZERS.build(dict(cfg.optim_wrapper[name].optimizer, params=list(part.parameters())))
        for name, part in dict(student=student, generator=generator).items()
    }

    def draw() -> Step:
        noise = torch.randn(batch_size, generator.noise_dim, device=distiller.device)
        return Step(generator(noise), noise)

    def imitate() -> None:
        optim['student'].zero_grad()
        step = draw()
        step.images = step.images.detach()
        step.teacher, step.student = teacher(step.images), student(step.images)
        step.teacher.logits = step.teacher.logits.detach()
        distiller.imitation(step)[0].backward()
        optim['student'].step()

    def generate() -> None:
        optim['generator'].zero_grad()
        step = draw()
        step.teacher, step.student = teacher(step.images), student(step.images)
        distiller.generation(step)[0].backward()
        optim['generator'].step()

    return _round_of(runner, dict(imitation=imitate, generation=generate))


def _upsample_separately(generator: nn.Module) -> None:
    """Let a generator upsample its maps before it convolves them, as in the paper."""
    for name, module in list(generator.named_modules()):
        if isinstance(module, UpsampledConv2d):
            device = module.weight.device
            plain = nn.Conv2d(module.in_channels, module.out_channels, 3, padding=1, device=device)
            plain.load_state_dict(module.state_dict())
            generator.set_submodule(name, nn.Sequential(nn.Upsample(scale_factor=2), plain))


def bare_round(runner: Runner) -> Round:
    """The forward and backward passes and optimizer steps of a runner's rounds, with its networks and types."""
    distiller: AdversarialDistiller = runner.model
    generator, student, teacher = distiller.generator, distiller.student, distiller.teacher
    optim_wrapper = dict(runner.optim_wrapper.items())
    noise = torch.randn(runner.train_loop.dataloader.batch_size, generator.noise_dim, device=distiller.device)

    def computing() -> torch.autocast:
        return torch.autocast(distiller.device.type, torch.bfloat16, enabled=computes_in_bfloat16(runner))

    def update(name: str, loss: Tensor) -> None:
        loss.backward()
        optim, clip = optim_wrapper[name].optimizer, optim_wrapper[name].clip_grad_kwargs
        if clip:
            nn.utils.clip_grad_norm_(optim.param_groups[0]['params'], **clip)
        optim.step()
        optim.zero_grad()

    def imitate() -> None:
        with computing():
            with torch.no_grad():
                step = Step(generator(noise).float(), noise)
                step.teacher = teacher(step.images)
            step.student = student(step.images)
            loss, _ = distiller.imitation(step)
        update('student', loss)

    def generate() -> None:
        student.requires_grad_(False)
        with computing():
            step = Step(generator(noise).float(), noise)
            step.student, step.teacher = student(step.images), teacher(step.images)
            loss, _ = distiller.generation(step)
        update('generator', loss)
        student.requires_grad_(True)

    return _round_of(runner, dict(imitation=imitate, generation=generate))


def computes_in_bfloat16(runner: Runner) -> bool:
    """Whether a runner updates the student in bf16."""
    return isinstance(runner.optim_wrapper['student'], BFloat16OptimWrapper)


def _round_of(runner: Runner, steps: dict[str, Callable[[], None]]) -> Round:
    """A round of a runner's phases, each of whose steps is a call."""

    def run() -> None:
        for phase in runner.train_loop.phases:
            for _ in range(phase.steps):
                steps[phase.name]()

    return run
