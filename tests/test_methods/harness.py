"""Runs a shipped config with tiny models, and compares the weights with those of a plain rendering of the method.

The rendering takes a :class:`Plain`, which has copies of the networks as they were before the first round, and trains
them in place. It uses no objective, no update rule and no step of mmdfad.

Both compute in fp64. In fp32 a learning rate of 0.1 turns the rounding of two equal formulas into differences of 1e-4
within three rounds.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from conftest import ROOT, TINY, TINY_SEG, build_runner
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdfad.datasets import NoiseDataset
from mmdfad.models.generators import Generator
from mmdfad.registry import DATASETS
from mmdfad.utils.model import evaluating

NORM = nn.modules.batchnorm._BatchNorm
TOLERANCE = 1e-9
ROUNDS = 3


@DATASETS.register_module()
class DoubleNoise(NoiseDataset):
    """The noise of a run in fp64."""

    def __getitems__(self, indices) -> Tensor:
        return super().__getitems__(indices).double()


def shrink(path: str, checkpoints: dict[Path, str], work_dir: Path, rounds: int = ROUNDS, batch: int = 8) -> Config:
    """A shipped config with the tests' networks, a small generator, few rounds, small batches and no acceleration.

    Objectives, phases, optimizers and the wrappers of the generator stay those of the config.
    """
    cfg = Config.fromfile(ROOT / 'configs' / path)
    tiny = TINY_SEG if cfg.default_scope == 'mmseg' else TINY
    tiny_cfg = Config.fromfile(tiny)
    cfg.model.teacher, cfg.model.student = tiny_cfg.model.teacher, tiny_cfg.model.student
    cfg.model.teacher.checkpoint = checkpoints[tiny]
    innermost(cfg.model.generator).update(noise_dim=16, image_size=tiny_cfg.model.generator.image_size, width=8)
    cfg.train_dataloader.batch_size = batch
    cfg.train_dataloader.dataset.type = 'mmdfad.DoubleNoise'
    cfg.train_cfg.max_iters = rounds
    for name in [name for name in cfg if name.startswith(('val_', 'test_'))]:
        cfg.pop(name)
    cfg.default_hooks = dict(param_scheduler=cfg.default_hooks.param_scheduler, checkpoint=None)
    cfg.work_dir = str(work_dir)
    return cfg


def innermost(generator: dict) -> dict:
    """The config of the generator inside all wrappers."""
    return innermost(generator['generator']) if 'generator' in generator else generator


@dataclass
class Plain:
    """Copies of the networks before the first round, and the noise of the run.

    Attributes:
        teacher (nn.Module): The plain teacher, in eval mode.
        student (nn.Module): The plain student, in train mode.
        generator (nn.Module): The generator inside all wrappers, in train mode.
        pixels (nn.Module): From the teacher's pixels to the student's.
        noise (Iterator[Tensor]): A batch of noise at each ``next``.
    """

    teacher: nn.Module
    student: nn.Module
    generator: nn.Module
    pixels: nn.Module
    noise: Iterator[Tensor]

    def teach(self, images: Tensor) -> Tensor:
        """The teacher's logits."""
        return logits_of(self.teacher, images)

    def study(self, images: Tensor) -> Tensor:
        """The student's logits."""
        return logits_of(self.student, self.pixels(images))


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Class logits [N, K] of a classifier, [N, K, H, W] of a segmentor."""
    if hasattr(model, 'head'):
        return model(images, mode='tensor')
    dense = model.decode_head(model.backbone(images))
    return F.interpolate(dense, images.shape[2:], mode='bilinear', align_corners=model.decode_head.align_corners)


def prepare(cfg: Config) -> tuple[Runner, Plain]:
    """Build a runner, and copy what it starts with."""
    runner = build_runner(cfg)
    distiller = runner.model.double()
    for network in (distiller.teacher, distiller.student):
        diversify(network.model, distiller.generator)
    networks = distiller.teacher.model, distiller.student.model, distiller.generator.learner
    teacher, student, generator = (without_hooks(copy.deepcopy(network)) for network in networks)
    assert all(has_norms(network) for network in (teacher, student, generator))
    noise = noise_of(DoubleNoise(distiller.generator.noise_dim, runner.seed), cfg.train_dataloader.batch_size)
    return runner, Plain(teacher.eval(), student.train(), generator.train(), distiller.student.pixels, noise)


@torch.no_grad()
def diversify(model: nn.Module, generator: Generator) -> None:
    """Let a model that is not trained give different labels to different images."""
    torch.manual_seed(1)
    images = torch.randn(32, generator.channels, *generator.image_size, dtype=torch.float64)
    classifier = model.head.fc if hasattr(model, 'head') else model.decode_head.conv_seg
    nn.init.normal_(classifier.weight, 0, 0.5)
    with evaluating(model):
        logits = logits_of(model, images).transpose(0, 1).flatten(1)  # [K, N * H * W]
    std, mean = torch.std_mean(logits, dim=1)
    classifier.weight.div_(std.view(-1, *[1] * (classifier.weight.ndim - 1)))
    classifier.bias.sub_(mean).div_(std)


def without_hooks(model: nn.Module) -> nn.Module:
    """Remove the hooks that mmdfad has installed."""
    for module in model.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return model


def has_norms(model: nn.Module) -> bool:
    return any(isinstance(module, NORM) for module in model.modules())


def noise_of(dataset: NoiseDataset, batch: int) -> Iterator[Tensor]:
    """The noise in batches."""
    start = 0
    while True:
        yield dataset.__getitems__(range(start, start + batch))
        start += batch


def differences(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest difference in each tensor; of tensors with values above 1, as a share of the largest value."""
    assert ours.keys() == theirs.keys()
    return {
        name: float((ours[name] - value).abs().max().detach()) / max(1.0, float(value.abs().max().detach()))
        for name, value in theirs.items()
    }


def assert_equal(ours: nn.Module, theirs: nn.Module, buffers: bool = True) -> None:
    """Check that two networks have the same weights, and the same batch norm statistics."""
    states = [model.state_dict() if buffers else dict(model.named_parameters()) for model in (ours, theirs)]
    compared = differences(*states)
    for name in biases_without_effect(theirs):
        del compared[name]
    wrong = {name: value for name, value in compared.items() if not value <= TOLERANCE}
    assert compared
    assert not wrong, wrong


def biases_without_effect(model: nn.Module) -> list[str]:
    """Biases that the next batch norm removes. Their gradient is rounding, which Adam turns into steps of any size."""
    return [
        f'{name}.{i}.bias'
        for name, layers in model.named_modules()
        if isinstance(layers, nn.Sequential)
        for i, (layer, following) in enumerate(pairwise(layers))
        if isinstance(layer, nn.Conv2d) and layer.bias is not None and isinstance(following, NORM)
    ]


def assert_as_rendered(runner: Runner, plain: Plain) -> None:
    """Check the student, and the weights of the generator.

    A generator's batch norm statistics do not take part in training, and depend on how often its images are made.
    """
    assert_equal(runner.model.student.model, plain.student)
    assert_equal(runner.model.generator.learner, plain.generator, buffers=False)


def cosine(start: float, i: int, total: int, end: float = 0.0) -> float:
    """The learning rate in round i of a cosine schedule."""
    return end + (start - end) * (1 + math.cos(math.pi * i / total)) / 2


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group['lr'] = lr


def divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL divergence [N] or [N, H, W] of the softmax over classes, times the squared temperature."""
    student = F.log_softmax(student_logits / temperature, dim=1)
    teacher = F.softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(student, teacher, reduction='none').sum(1) * temperature**2


class NormStatistics:
    """The distance of a teacher's batch norm inputs from its running statistics, by hooks (DeepInversion)."""

    def __init__(self, teacher: nn.Module) -> None:
        self.norms = [m for m in teacher.modules() if isinstance(m, NORM)]
        self.terms = {}
        for norm in self.norms:
            norm.register_forward_hook(self.hook)

    def hook(self, norm: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        channels = inputs[0].shape[1]
        mean = inputs[0].mean([0, 2, 3])
        var = inputs[0].permute(1, 0, 2, 3).contiguous().view([channels, -1]).var(1, unbiased=False)
        self.terms[norm] = torch.norm(norm.running_var - var, 2) + torch.norm(norm.running_mean - mean, 2)

    def loss(self) -> Tensor:
        """The sum over all batch norms in the last forward pass."""
        return sum(self.terms[norm] for norm in self.norms)
