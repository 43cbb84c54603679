"""The settings of a distillation that :func:`~mmdfad.apis.write_distillation` chooses, with the reasons."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.config import Config
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdfad.models.network import Network
from mmdfad.models.pixels import PixelSpace, image_channels
from mmdfad.models.starts.selection import missing_weights
from mmdfad.utils.config import innermost_dataset

from .image_size import Size

NOISE_DIM = 256
# From this many pixels on, the paper's generator B makes the images.
LARGE = 64
# The warm-up of the learning rate takes one round of this many.
_WARM_UP = 30
_VALIDATION = ('val_dataloader', 'val_evaluator', 'val_cfg', 'test_dataloader', 'test_evaluator', 'test_cfg')


@dataclass
class Choices:
    """What was chosen, and why.

    Attributes:
        lines (list[str]): A line for each choice.
    """

    lines: list[str] = field(default_factory=list)

    def make(self, name: str, value: Any, reason: str) -> Any:
        """Remember why ``name`` has this value, and return the value."""
        self.lines.append(f'{name} = {value}: {reason}')
        return value


def generator_settings(choices: Choices, teacher: Network, size: Size) -> dict:
    """The generator for images of a size."""
    settings = dict(noise_dim=NOISE_DIM, image_size=size, channels=image_channels(teacher.model))
    if max(size) < LARGE:
        reason = f"the paper's A, for images below {LARGE} pixels; its output is standardised, as normalised data is"
        return dict(type=f'mmdfad.{choices.make("generator", "UpsampleGenerator", reason)}', **settings)
    kind = choices.make('generator', 'DCGANGenerator', f"the paper's B, for images of {LARGE} pixels and more")
    reach = _pixel_reach(teacher.pixel_space)
    if reach != 1:
        reason = "the largest value of the teacher's normalised pixels, by its mean and std"
        settings['output_scale'] = choices.make('output_scale', reach, reason)
    return dict(type=f'mmdfad.{kind}', **settings)


def _pixel_reach(space: PixelSpace) -> float:
    """The largest absolute value of a normalised pixel, rounded up to two digits after the point."""
    return math.ceil(100 * float((torch.maximum(space.mean, 255 - space.mean) / space.std).max())) / 100


def method_settings(choices: Choices, teacher: Network, student: Network) -> dict:
    """The objectives of both phases, and the start."""
    discrepancy = 'L1Discrepancy'
    if teacher.logits.ndim == 4:
        discrepancy = choices.make('generation[0]', 'LogL1Discrepancy', "log(1 + L1), the paper's for segmentation")
    generation = [dict(type=f'mmdfad.{discrepancy}')]
    if _has_norms(teacher):
        reason = (
            "makes images whose statistics are those of the teacher's training data; without it, the generator of a "
            'deep teacher may collapse to one texture'
        )
        prior = choices.make('generation[1]', 'BNStatisticsPrior', reason)
        generation.append(dict(type=f'mmdfad.{prior}', distance='kl', weight=10.0))
    method = dict(generation=generation, imitation=[dict(type='mmdfad.L1Discrepancy')])
    if not missing_weights(student.plain_state(), teacher.plain_state()):
        reason = (
            "the student is a narrower or shallower version of the teacher, so it starts from the teacher's weights"
        )
        method['start'] = dict(type=f'mmdfad.{choices.make("start", "ChannelSelection", reason)}')
    return method


def _has_norms(network: Network) -> bool:
    return any(isinstance(m, _BatchNorm) for m in network.logits.modules())


def noise_settings(choices: Choices, size: Size, batch_size: int | None) -> dict:
    """The dataloader of noise."""
    if batch_size is None and max(size) < LARGE:
        batch_size = choices.make('batch_size', 256, "the paper's at 32x32; --batch-size changes it")
    elif batch_size is None:
        fitting = max(4, 2 ** int(math.log2(64 * 128 * 128 / math.prod(size))))
        reason = "the paper's 64 at 128x128, in inverse proportion to the area; --batch-size changes it"
        batch_size = choices.make('batch_size', min(256, fitting), reason)
    return dict(
        train_dataloader=dict(
            batch_size=batch_size,
            num_workers=0,
            dataset=dict(type='mmdfad.NoiseDataset'),
            sampler=dict(type='mmdfad.NoiseSampler'),
        ),
        auto_scale_lr=dict(enable=False, base_batch_size=batch_size),
    )


def schedule_settings(choices: Choices, teacher: Network, student: Network, size: Size, rounds: int | None) -> dict:
    """Rounds, phases, optimizers and learning rates, and the intervals of hooks."""
    if rounds is None:
        reason = "the paper's for images of that size (one of its epochs has 50 rounds); --rounds changes it"
        rounds = choices.make('rounds', 15000 if max(size) >= LARGE else 25000, reason)
    interval = max(1, rounds // 20)
    return dict(
        train_cfg=dict(
            type='mmdfad.AdversarialDistillLoop',
            max_iters=rounds,
            phases=_phases(choices, teacher),
            val_interval=interval,
        ),
        optim_wrapper=dict(
            constructor='mmdfad.DistillOptimWrapperConstructor',
            student=dict(optimizer=_optimizer(choices, student), clip_grad=dict(max_norm=1.0)),
            generator=dict(optimizer=dict(type='Adam', lr=1e-3)),
        ),
        param_scheduler=dict(
            student=_student_schedule(choices, rounds),
            generator=[dict(type='CosineAnnealingLR', by_epoch=False, end=rounds)],
        ),
        default_hooks=dict(
            logger=dict(interval=min(50, interval)),
            **{name: dict(interval=interval) for name in ('checkpoint', 'synthetic_images', 'health')},
        ),
    )


def _phases(choices: Choices, teacher: Network) -> list[dict]:
    imitation, generation = 5, 1
    if teacher.logits.ndim == 4 and _has_norms(teacher):
        imitation = generation = 2
        reason = "the generator has to follow the prior, too; the paper's 5 and 1 did worse on CamVid"
        choices.make('steps in a round', '2 of imitation and 2 of generation', reason)
    return [dict(name='imitation', steps=imitation), dict(name='generation', steps=generation)]


def _optimizer(choices: Choices, student: Network) -> dict:
    if any(isinstance(m, nn.LayerNorm) for m in student.logits.modules()):
        reason = 'the student has layer norms, as transformers do, and SGD does worse on these'
        return dict(type=choices.make('optimizer', 'AdamW', reason), lr=1e-3, weight_decay=0.05)
    reason = "the paper's, with clipped gradients and cosine decay, so that the last student is a good one"
    return dict(type=choices.make('optimizer', 'SGD', reason), lr=0.1, momentum=0.9, weight_decay=5e-4)


def _student_schedule(choices: Choices, rounds: int) -> list[dict]:
    """Warm-up and cosine decay of the student's learning rate."""
    warm_up = rounds // _WARM_UP
    if warm_up < 2:  # mmengine's LinearLR over a single round stays at its first factor
        choices.make('warm_up', 'none', f'{rounds} rounds are too few for it; it takes one round of {_WARM_UP}')
        return [dict(type='CosineAnnealingLR', by_epoch=False, end=rounds + 1)]
    return [
        dict(type='LinearLR', by_epoch=False, start_factor=0.01, end=warm_up),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=warm_up, end=rounds + 1),
    ]


def validation_settings(choices: Choices, plain: Config) -> dict:
    """The validation and test data of the teacher's config."""
    found = {key: plain[key] for key in _VALIDATION if plain.get(key) is not None}
    if not {'val_dataloader', 'val_evaluator', 'val_cfg'} <= found.keys():
        choices.make('validation', 'agreement', "on generated images: the teacher's config has no validation data")
        return {}
    kind = innermost_dataset(found['val_dataloader']['dataset']).get('type')
    choices.make('validation', kind, "the teacher's; if its data are missing, the agreement on generated images")
    return found
