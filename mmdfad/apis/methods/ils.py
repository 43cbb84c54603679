"""Inversion and least squares (ILS): images moved towards the teacher's statistics, a start in closed form, imitation.

The rounds have three parts. First each round is a sweep over a bank of images, which moves their pixels. Then the
student's layers are solved for. Then the student imitates the teacher on these images.
"""

import math
from dataclasses import dataclass

from torch import nn

from mmdfad.models.checks import check_networks
from mmdfad.models.generators import RandomImageGenerator
from mmdfad.models.objectives import Objective
from mmdfad.models.parts import build_part
from mmdfad.utils import DistillError
from mmdfad.utils.model import evaluating

from ..choices import Choices, Task, has_batch_norms, has_layer_norms, hook_settings, noise_settings
from ..cost import Cost, measure_cost

# Images in a step: so many of so many pixels, and fewer of larger ones.
SMALL_BATCH, LARGE_BATCH, LEAST_BATCH = (128, 32 * 32), (32, 96 * 128), 8
# Images of the bank, in batches, if nothing limits the time; and the fewest and most images, and their steps.
BATCHES, FEWEST_IMAGES, MOST_IMAGES, IMAGES_STEP = 8, 48, 2048, 16
SWEEPS, FEWEST_SWEEPS, MOST_SWEEPS = 40, 20, 60
# Share of --minutes that steps may take, beside validation, checkpoints and checks; and the share of this for images
# and the start. The rest is for imitation.
STEPS_SHARE, IMAGES_SHARE = 0.95, 0.5
# Validations of a run, and checkpoints, pictures and checks.
VALIDATIONS, CHECKS = 5, 10
# Rounds of imitation if nothing limits the time, and the steps of each.
ROUNDS, STEPS = 200, 10
# Images that the start sees, and how often it runs both networks on them for each layer of the student.
START_IMAGES, START_PASSES = 256, 0.6
PIXEL_OPTIMIZER = dict(type='Adam', lr=0.03, betas=(0.5, 0.9))
VARIATION_WEIGHT, STAGES_WEIGHT = 0.05, 3.0
SGD = dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4)
ADAMW = dict(type='AdamW', lr=1e-3, weight_decay=0.05)
MAX_NORM = 0.5
TEMPERATURE = 4.0
FLIP, SHIFT, SMALL_SHIFT = 0.5, 4, 2


@dataclass(frozen=True)
class Recipe:
    """How much of each part.

    Attributes:
        images (int): Images in the bank. 0 without a bank.
        sweeps (int): Rounds that move their pixels.
        rounds (int): Rounds of imitation.
    """

    images: int
    sweeps: int
    rounds: int


def ils_settings(choices: Choices, task: Task) -> dict:
    """All settings of ILS for a teacher and a student.

    Args:
        choices (Choices): Takes the reasons.
        task (Task): The networks, the image size, and the flags.
    """
    _check(task)
    batch_size = _batch_size(choices, task)
    model = dict(_image_settings(choices, task, count=batch_size), imitation=_imitation(choices, task))
    reason = 'solves layer by layer for what the teacher computes, on these images'
    model['start'] = dict(type=f'mmdfad.{choices.make("start", "LeastSquaresStart", reason)}', images=START_IMAGES)
    optim_wrapper = dict(
        constructor='mmdfad.DistillOptimWrapperConstructor',
        student=dict(optimizer=_optimizer(choices, task), clip_grad=dict(max_norm=MAX_NORM)),
        generator=dict(optimizer=PIXEL_OPTIMIZER),
    )
    cost = measure_cost(task, model, optim_wrapper, batch_size)
    layers = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in task.student.logits.modules())
    recipe = choose_recipe(task, cost, batch_size, layers)
    _explain(choices, task, cost, batch_size, layers, recipe)
    if recipe.images:
        model['generator']['generator']['count'] = recipe.images
    model['start']['begin'] = recipe.sweeps
    return dict(model=model, **noise_settings(batch_size), optim_wrapper=optim_wrapper, **_schedule(recipe))


def _check(task: Task) -> None:
    """Check that the networks fit together, as building the distiller does, before their stages are compared."""
    images = RandomImageGenerator(task.size, task.image_settings['channels'])
    task.student.take_pixels_of(task.teacher)
    with evaluating(task.teacher):
        check_networks(task.teacher, task.student, images)


def _batch_size(choices: Choices, task: Task) -> int:
    if task.batch_size is not None:
        return task.batch_size
    batch, pixels = LARGE_BATCH if task.large else SMALL_BATCH
    fitting = 2 ** int(math.log2(max(LEAST_BATCH, batch * pixels / math.prod(task.size))))
    reason = f'{batch} of {pixels} pixels, in inverse proportion to the area; --batch-size changes it'
    return choices.make('batch_size', min(SMALL_BATCH[0], fitting), reason)


def _image_settings(choices: Choices, task: Task, count: int) -> dict:
    """The generator, and what makes an image good."""
    shift = SHIFT if task.large else SMALL_SHIFT
    if not has_batch_norms(task.teacher):
        reason = 'procedural images; the teacher has no batch norm whose statistics could improve them'
        images = dict(type=f'mmdfad.{choices.make("generator", "DeadLeaves", reason)}', **task.image_settings)
        return dict(generator=_augmented(images, shift))
    reason = "procedural images, whose pixels move towards the teacher's batch norm statistics"
    bank = dict(
        type=f'mmdfad.{choices.make("generator", "ImageBank", reason)}',
        **task.image_settings,
        count=count,
        flip=FLIP,
        shift=shift,
    )
    generation = [
        dict(type='mmdfad.BNStatisticsPrior', distance='kl'),
        dict(type='mmdfad.TotalVariationPrior', weight=VARIATION_WEIGHT),
    ]
    return dict(generator=_augmented(bank, shift), generation=generation)


def _augmented(generator: dict, shift: int) -> dict:
    return dict(type='mmdfad.AugmentedGenerator', generator=generator, flip=FLIP, shift=shift)


def _imitation(choices: Choices, task: Task) -> list[dict]:
    """What the student imitates: logits, and stages where both have these."""
    logits = dict(type='mmdfad.KLDiscrepancy')
    if task.teacher.logits.multi_label:
        logits = dict(type='mmdfad.L1Discrepancy')
    elif not task.dense:
        logits['temperature'] = TEMPERATURE
    stages = dict(type='mmdfad.StageImitation', weight=STAGES_WEIGHT)
    try:
        build_part(stages, 'model.imitation[1]', Objective).bind(task.teacher, task.student)
    except DistillError as error:
        choices.make('imitation', 'logits', f'without stages: {str(error).splitlines()[0]}')
        return [logits]
    choices.make('imitation', 'logits and stages', 'the outputs of stages say more of an image than its label')
    return [logits, stages]


def _optimizer(choices: Choices, task: Task) -> dict:
    reason = 'with clipped gradients and a low learning rate, which keeps what the start has found'
    if has_layer_norms(task.student):
        choices.make('optimizer', 'AdamW', f'the student has layer norms; {reason}')
        return ADAMW
    choices.make('optimizer', 'SGD', reason)
    return SGD


def choose_recipe(task: Task, cost: Cost, batch_size: int, layers: int) -> Recipe:
    """The images, sweeps and rounds that the flags ask for.

    Args:
        task (Task): The flags.
        cost (Cost): Seconds for one batch.
        batch_size (int): Images in a step.
        layers (int): Layers of the student that the start solves for.
    """
    learns = cost.generation > 0
    if task.minutes is None:
        images, sweeps = (_limited(BATCHES * batch_size), SWEEPS) if learns else (0, 0)
        if task.rounds is None:
            return Recipe(images, sweeps, ROUNDS)
        sweeps = min(sweeps, task.rounds // 2)
        return Recipe(images, sweeps, task.rounds - sweeps)
    seconds, start = STEPS_SHARE * 60 * task.minutes, _start_seconds(cost, batch_size, layers)
    images, sweeps = _fit_images(IMAGES_SHARE * seconds - start, cost, batch_size) if learns else (0, 0)
    left = seconds - start - _images_seconds(images, sweeps, cost, batch_size)
    return Recipe(images, sweeps, max(1, int(left / (STEPS * cost.imitation))))


def _fit_images(seconds: float, cost: Cost, batch_size: int) -> tuple[int, int]:
    """Images and sweeps for so many seconds: first the number of images, then, at its limits, that of sweeps."""
    images = _limited(int(seconds / _images_seconds(1, SWEEPS, cost, batch_size)))
    sweeps = int((seconds * batch_size / images - cost.making) / cost.generation)
    at_limit = images in (FEWEST_IMAGES, MOST_IMAGES)
    return images, max(FEWEST_SWEEPS, min(MOST_SWEEPS, sweeps)) if at_limit else SWEEPS


def _limited(images: int) -> int:
    return max(FEWEST_IMAGES, min(MOST_IMAGES, images // IMAGES_STEP * IMAGES_STEP))


def _images_seconds(images: int, sweeps: int, cost: Cost, batch_size: int) -> float:
    return images / batch_size * (cost.making + sweeps * cost.generation)


def _start_seconds(cost: Cost, batch_size: int, layers: int) -> float:
    return START_PASSES * layers * START_IMAGES / batch_size * cost.forward


def _explain(choices: Choices, task: Task, cost: Cost, batch_size: int, layers: int, recipe: Recipe) -> None:
    """Say what was chosen, and what it costs."""
    given = '--minutes' if task.minutes is not None else '--rounds' if task.rounds is not None else None
    why = f'to fit {given}' if given else 'the default; --minutes and --rounds change it'
    if recipe.images:
        choices.make('images', recipe.images, why)
        choices.make('sweeps', recipe.sweeps, f'rounds that move the pixels of all images; {why}')
    choices.make('rounds of imitation', recipe.rounds, f'{STEPS} steps each; {why}')
    making = _images_seconds(recipe.images, recipe.sweeps, cost, batch_size)
    start = _start_seconds(cost, batch_size, layers)
    imitation = recipe.rounds * STEPS * cost.imitation
    parts = f'{making:.0f} s for the images, {start:.0f} s for the start, {imitation:.0f} s for imitation'
    minutes = f'{(making + start + imitation) / 60:.1f} minutes'
    choices.make('expected time', minutes, f'{parts}, by a timed step of each {cost.place}; validation comes on top')


def _schedule(recipe: Recipe) -> dict:
    """Phases, learning rates and intervals."""
    begin, rounds = recipe.sweeps, recipe.sweeps + recipe.rounds
    phases, pixels = [dict(name='imitation', steps=STEPS, begin=begin)], []
    if begin:
        phases.insert(0, dict(name='generation', end=begin))
        pixels = [dict(type='CosineAnnealingLR', by_epoch=False, end=begin)]
    interval = math.ceil(rounds / CHECKS)
    return dict(
        train_cfg=dict(
            type='mmdfad.AdversarialDistillLoop',
            max_iters=rounds,
            phases=phases,
            # Before its start there is nothing to validate.
            val_begin=begin + 1,
            val_interval=math.ceil(recipe.rounds / VALIDATIONS),
        ),
        param_scheduler=dict(
            student=[dict(type='CosineAnnealingLR', by_epoch=False, begin=begin, end=rounds + 1)],
            generator=pixels,
        ),
        **hook_settings(interval, log_interval=10),
    )
