"""Data-free adversarial distillation (DFAD, arXiv 1912.11006), with a prior and a start where they help."""

import math

import torch

from mmdfad.models.network import Network
from mmdfad.models.pixels import PixelSpace
from mmdfad.models.probes import has_batch_norms

from ..choices import LARGE, Choices, Task, decay_settings, hook_settings, layer_norms, noise_settings
from ..cost import STEPS_SHARE, explain_memory, explain_time, measure_cost

# One round in so many is warm-up.
_WARM_UP = 30


def dfad_settings(choices: Choices, task: Task) -> dict:
    """All settings of DFAD for a teacher and a student.

    Args:
        choices (Choices): Takes the reasons.
        task (Task): The networks, the image size, and the flags.
    """
    model = dict(generator=adversarial_generator(choices, task), **_objectives(choices, task))
    batch_size = _batch_size(choices, task)
    phases = _phases(choices, task)
    optim_wrapper = dict(
        constructor='mmdfad.DistillOptimWrapperConstructor',
        student=dict(optimizer=_optimizer(choices, task.student), clip_grad=dict(max_norm=1.0)),
        generator=dict(optimizer=dict(type='Adam', lr=1e-3)),
    )
    rounds = task.rounds
    cost = measure_cost(task, model, optim_wrapper, batch_size)
    seconds = sum(phase['steps'] * getattr(cost, phase['name']) for phase in phases)
    if task.minutes is not None:
        reason = f'as many as take {task.minutes:g} minutes, at {seconds:.2g} s a round {cost.place}'
        rounds = choices.make('rounds', max(1, int(STEPS_SHARE * 60 * task.minutes / seconds)), reason)
    elif rounds is None:
        reason = "the paper's for images of that size (one of its epochs has 50 rounds); --rounds changes it"
        rounds = choices.make('rounds', 15000 if task.large else 25000, reason)
    explain_time(choices, rounds * seconds, f'{rounds} rounds of {seconds:.2g} s', cost)
    explain_memory(choices, cost)
    interval = max(1, rounds // 20)
    return dict(
        model=model,
        **noise_settings(batch_size),
        train_cfg=dict(type='mmdfad.AdversarialDistillLoop', max_iters=rounds, phases=phases, val_interval=interval),
        optim_wrapper=optim_wrapper,
        param_scheduler=dict(student=_student_schedule(choices, rounds), generator=decay_settings(0, rounds)),
        **hook_settings(interval, log_interval=50),
    )


def adversarial_generator(choices: Choices, task: Task) -> dict:
    """The paper's generator for images of this size."""
    if not task.large:
        reason = f"the paper's A, for images below {LARGE} pixels; its output is standardised, as normalised data is"
        kind = choices.make('generator', 'UpsampleGenerator', reason)
        return dict(type=f'mmdfad.{kind}', **task.image_settings)
    kind = choices.make('generator', 'DCGANGenerator', f"the paper's B, for images of {LARGE} pixels and more")
    settings = dict(type=f'mmdfad.{kind}', **task.image_settings)
    reach = _pixel_reach(task.teacher.pixel_space)
    if reach != 1:
        reason = "the largest value of the teacher's normalised pixels, by its mean and std"
        settings['output_scale'] = choices.make('output_scale', reach, reason)
    return settings


def adversarial_objective(choices: Choices, task: Task) -> dict:
    """What the paper's generator maximises."""
    discrepancy = 'L1Discrepancy'
    if task.dense:
        discrepancy = choices.make('generation[0]', 'LogL1Discrepancy', "log(1 + L1), the paper's for segmentation")
    return dict(type=f'mmdfad.{discrepancy}')


def _pixel_reach(space: PixelSpace) -> float:
    """The largest absolute value of a normalised pixel, rounded up to two digits after the point."""
    return math.ceil(100 * float((torch.maximum(space.mean, 255 - space.mean) / space.std).max())) / 100


def _objectives(choices: Choices, task: Task) -> dict:
    """The objectives of both phases, and the start."""
    generation = [adversarial_objective(choices, task)]
    if has_batch_norms(task.teacher):
        reason = (
            "makes images whose statistics are those of the teacher's training data; without it, the generator of a "
            'deep teacher may collapse to one texture'
        )
        prior = choices.make('generation[1]', 'BNStatisticsPrior', reason)
        generation.append(dict(type=f'mmdfad.{prior}', distance='kl', weight=10.0))
    method = dict(generation=generation, imitation=[dict(type='mmdfad.L1Discrepancy')])
    if task.student.is_version_of(task.teacher):
        reason = (
            "the student is a narrower or shallower version of the teacher, so it starts from the teacher's weights"
        )
        method['start'] = dict(type=f'mmdfad.{choices.make("start", "ChannelSelection", reason)}')
    return method


def _batch_size(choices: Choices, task: Task) -> int:
    if task.batch_size is not None:
        return task.batch_size
    if not task.large:
        return choices.make('batch_size', 256, "the paper's at 32x32; --batch-size changes it")
    fitting = max(4, 2 ** int(math.log2(64 * 128 * 128 / math.prod(task.size))))
    reason = "the paper's 64 at 128x128, in inverse proportion to the area; --batch-size changes it"
    return choices.make('batch_size', min(256, fitting), reason)


def _phases(choices: Choices, task: Task) -> list[dict]:
    imitation, generation = 5, 1
    if task.dense and has_batch_norms(task.teacher):
        imitation = generation = 2
        reason = "the generator has to follow the prior, too; the paper's 5 and 1 did worse on CamVid"
        choices.make('steps in a round', '2 of imitation and 2 of generation', reason)
    return [dict(name='imitation', steps=imitation), dict(name='generation', steps=generation)]


def _optimizer(choices: Choices, student: Network) -> dict:
    if layer_norms(student):
        reason = 'the student has layer norms, as transformers do, and SGD does worse on these'
        return dict(type=choices.make('optimizer', 'AdamW', reason), lr=1e-3, weight_decay=0.05)
    reason = "the paper's, with clipped gradients and cosine decay, so that the last student is a good one"
    return dict(type=choices.make('optimizer', 'SGD', reason), lr=0.1, momentum=0.9, weight_decay=5e-4)


def _student_schedule(choices: Choices, rounds: int) -> list[dict]:
    """Warm-up and cosine decay of the student's learning rate."""
    warm_up = rounds // _WARM_UP
    if warm_up < 2:
        choices.make('warm_up', 'none', f'{rounds} rounds are too few: one round in {_WARM_UP} would be warm-up')
    return decay_settings(0, rounds, warm_up)
