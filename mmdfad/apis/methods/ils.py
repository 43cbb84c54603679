"""Inversion and least squares (ILS): images of the teacher's statistics, a start in closed form, imitation.

For a teacher with batch norms, the rounds have three parts. First generators learn to make images with the teacher's
batch norm statistics; a pool keeps them. Then the student's layers are solved for. Then the student imitates the
teacher on these images. Transformers imitate on procedural images that the teacher is sure of. For other teachers, an
adversary makes images while the student imitates, as in DFAD.
"""

import math
from dataclasses import dataclass

import torch
from mmengine.device import get_device
from torch import nn

from mmdfad.models.checks import check_networks
from mmdfad.models.generators import Generator, RandomImageGenerator
from mmdfad.models.generators.selection import CANDIDATES
from mmdfad.models.objectives import Objective
from mmdfad.models.parts import build_part
from mmdfad.models.probes import chooses_images
from mmdfad.utils import DistillError
from mmdfad.utils.model import evaluating
from mmdfad.utils.timing import median_seconds

from ..choices import Choices, Task, decay_settings, hook_settings, layer_norms, noise_settings
from ..cost import STEPS_SHARE, Cost, explain_memory, explain_time, measure_cost
from .dfad import adversarial_objective
from .ils_images import BANK_BATCHES, POOL_STEPS, Images, bank_images, bytes_kept, image_generator, procedural

# Images in a step: so many of so many pixels, and fewer of larger ones.
SMALL_BATCH, LARGE_BATCH, LEAST_BATCH = (64, 32 * 32), (16, 96 * 128), 8
# Rounds of images and of imitation if nothing limits the time; the fewest and the most of images in a given time; and
# the steps in each round.
IMAGE_ROUNDS, ROUNDS = 180, 100
FEWEST_IMAGE_ROUNDS, MOST_IMAGE_ROUNDS = 10, 240
STEPS = 10
# The largest share of the time for images and the start. The rest is for imitation.
IMAGES_SHARE = 0.5
# The largest share of the time for choosing procedural images.
SELECTION_SHARE = 0.25
# Validations of a run, and checkpoints, pictures and checks.
VALIDATIONS, CHECKS = 5, 10
# Images that the start sees; and how often it runs both networks on them: for each layer of a student that is a version
# of its teacher, or for all of another student.
START_IMAGES, START_PASSES, OTHER_PASSES = 256, 0.6, 2.0
INVERTER, ADVERSARY = dict(type='Adam', lr=2e-3, betas=(0.5, 0.999)), dict(type='Adam', lr=3e-4)
SPECTRUM_WEIGHT, STAGES_WEIGHT = 0.02, 6.0
# Of convolutional classifiers. Transformers do worse with it, and segmentors no better: see docs/tries.md.
CONVOLUTIONAL_STAGES_WEIGHT = 20.0
# SGD learns more slowly: see docs/tries.md.
ADAMW, DENSE_LR, MAX_NORM = dict(type='AdamW', lr=2e-3, weight_decay=0.01), 1e-3, 5.0
# Students with layer norms need a higher learning rate, and a warm-up of this share of their rounds. The rate was
# measured at this width. It is lower for wider ones (Tensor Programs V, arXiv 2203.03466).
NORMED, NORMED_WIDTH, WARM_UP = dict(type='AdamW', lr=5e-3, weight_decay=0.05), 32, 0.1
# Against an adversary.
SGD, LOW_MAX_NORM = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4), 1.0
TEMPERATURE = 4.0


@dataclass(frozen=True)
class Recipe:
    """How much of each part.

    Attributes:
        images (int): Rounds in which the generator learns to make images. 0 if it learns nothing.
        imitation (int): Rounds of imitation.
    """

    images: int
    imitation: int


def ils_settings(choices: Choices, task: Task) -> dict:
    """All settings of ILS for a teacher and a student.

    Args:
        choices (Choices): Takes the reasons.
        task (Task): The networks, the image size, and the flags.
    """
    _check(task)
    batch_size = _batch_size(choices, task)
    images = Images.of(task.teacher)
    # While steps are timed, little is made in advance.
    generator = image_generator(Choices(), task, images, batch_size, batches=1)
    model = dict(generator=generator, **_objectives(choices, task, images))
    related = task.student.is_version_of(task.teacher)
    what = 'layers, one by one' if related else 'classifier; it is not a version of the teacher'
    reason = f"on these images, solves for the student's {what}"
    kind = choices.make('start', 'LeastSquaresStart', reason)
    model['start'] = dict(type=f'mmdfad.{kind}', images=START_IMAGES, residual='sum')
    layers = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in task.student.logits.modules())
    passes = START_PASSES * layers if related else OTHER_PASSES
    inverts = images is Images.INVERTED
    optim_wrapper = dict(
        constructor='mmdfad.DistillOptimWrapperConstructor',
        amp_dtype='auto',
        student=_optimizer(choices, task, images),
        generator=dict(optimizer=INVERTER if inverts else ADVERSARY),
    )
    cost = measure_cost(task, model, optim_wrapper, batch_size)
    start = passes * START_IMAGES / batch_size * cost.forward
    candidates, selection = _candidates(task, batch_size) if chooses_images(task.teacher) else (1, 0.0)
    recipe = choose_recipe(task, cost, start + selection, inverts)
    batches = recipe.images if inverts else BANK_BATCHES
    model['generator'] = image_generator(choices, task, images, batch_size, batches, candidates)
    _explain(choices, task, cost, recipe, start, selection, images)
    explain_memory(choices, cost, bytes_kept(task, model['generator']) - bytes_kept(task, generator))
    model['start']['begin'] = recipe.images
    schedule = _schedule(task, recipe, images)
    return dict(model=model, **noise_settings(batch_size), optim_wrapper=optim_wrapper, **schedule)


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


def _objectives(choices: Choices, task: Task, images: Images) -> dict:
    """What the images are made for, and what the student imitates."""
    if images is Images.ADVERSARIAL:
        return dict(generation=[adversarial_objective(choices, task)], imitation=[dict(type='mmdfad.L1Discrepancy')])
    imitation = _imitation(choices, task)
    if images is Images.PROCEDURAL:
        return dict(imitation=imitation)
    statistics = dict(type='mmdfad.BNStatisticsPrior', distance='kl')
    return dict(generation=[statistics, dict(type='mmdfad.SpectrumPrior', weight=SPECTRUM_WEIGHT)], imitation=imitation)


def _imitation(choices: Choices, task: Task) -> list[dict]:
    """What the student imitates: logits, and stages where both have these."""
    logits = dict(type='mmdfad.KLDiscrepancy')
    if task.teacher.logits.multi_label:
        logits = dict(type='mmdfad.L1Discrepancy')
    elif not task.dense:
        logits['temperature'] = TEMPERATURE
    convolutional = not task.dense and not layer_norms(task.student)
    weight = CONVOLUTIONAL_STAGES_WEIGHT if convolutional else STAGES_WEIGHT
    stages = dict(type='mmdfad.StageImitation', weight=weight)
    try:
        build_part(stages, 'model.imitation[1]', Objective).bind(task.teacher, task.student)
    except DistillError as error:
        choices.make('imitation', 'logits', f'without stages: {str(error).splitlines()[0]}')
        return [logits]
    choices.make('imitation', 'logits and stages', 'stage outputs say more about an image than its label does')
    return [logits, stages]


def _optimizer(choices: Choices, task: Task, images: Images) -> dict:
    """The student's optimizer, with clipped gradients."""
    reason = 'with clipped gradients and a decaying learning rate, so that the last student is a good one'
    if norms := layer_norms(task.student):
        width = max(norm.normalized_shape[-1] for norm in norms)
        lr = float(f'{NORMED["lr"] * min(1.0, NORMED_WIDTH / width):.1e}')
        choices.make('optimizer', 'AdamW', f'the student has layer norms, at most {width} wide; {reason}')
        return dict(optimizer=NORMED | dict(lr=lr), clip_grad=dict(max_norm=LOW_MAX_NORM))
    if images is Images.ADVERSARIAL:
        choices.make('optimizer', 'SGD', reason)
        return dict(optimizer=SGD, clip_grad=dict(max_norm=LOW_MAX_NORM))
    choices.make('optimizer', 'AdamW', reason)
    lr = DENSE_LR if task.dense else ADAMW['lr']
    return dict(optimizer=ADAMW | dict(lr=lr), clip_grad=dict(max_norm=MAX_NORM))


def choose_recipe(task: Task, cost: Cost, start: float, inverts: bool) -> Recipe:
    """The rounds that the flags ask for.

    Args:
        task (Task): The flags.
        cost (Cost): Seconds for one batch.
        start (float): Seconds of the start.
        inverts (bool): Whether there are rounds of images first. If not, each round has one step of the adversary, if
            there is one.
    """
    if task.minutes is None:
        if task.rounds is None:
            return Recipe(IMAGE_ROUNDS if inverts else 0, ROUNDS)
        images = min(IMAGE_ROUNDS, task.rounds // 2) if inverts else 0
        return Recipe(images, task.rounds - images)
    seconds = STEPS_SHARE * 60 * task.minutes
    if not inverts:
        return Recipe(0, max(1, int((seconds - start) / _round_seconds(cost, inverts))))
    fitting = int((IMAGES_SHARE * seconds - start) / cost.generation)
    images = min(MOST_IMAGE_ROUNDS, max(FEWEST_IMAGE_ROUNDS, fitting))
    left = seconds - start - images * cost.generation
    return Recipe(images, max(1, int(left / _round_seconds(cost, inverts))))


def _round_seconds(cost: Cost, inverts: bool) -> float:
    """Of a round in which the student learns. Without an adversary, ``cost.generation`` is 0 in it."""
    return STEPS * cost.imitation + (0.0 if inverts else cost.generation)


@torch.no_grad()
def _candidates(task: Task, batch_size: int) -> tuple[int, float]:
    """How many procedural images to draw for each one that is kept, and seconds until these are chosen."""
    device = torch.device(get_device())
    source = build_part(procedural(task), 'model.generator.init', Generator).to(device)
    source.bind_pixels(task.teacher.pixel_space)
    noise = torch.randn(batch_size, source.noise_dim, device=device)
    seconds = median_seconds(lambda: task.teacher.predict(source.sample(noise)), device)
    each = bank_images(task, batch_size, BANK_BATCHES) / batch_size * seconds
    if task.minutes is None:
        return CANDIDATES, CANDIDATES * each
    fitting = int(SELECTION_SHARE * STEPS_SHARE * 60 * task.minutes / each)
    candidates = max(1, min(CANDIDATES, fitting))
    return candidates, candidates * each if candidates > 1 else 0.0  # a single one is not chosen


def _explain(
    choices: Choices, task: Task, cost: Cost, recipe: Recipe, start: float, selection: float, images: Images
) -> None:
    """Say what was chosen, and what it costs."""
    given = '--minutes' if task.minutes is not None else '--rounds' if task.rounds is not None else None
    why = f'to fit {given}' if given else 'the default; --minutes and --rounds change it'
    if recipe.images:
        choices.make('rounds of images', recipe.images, f'a batch of images and {POOL_STEPS} steps each; {why}')
    steps = f'{STEPS} steps, and one of the adversary,' if images is Images.ADVERSARIAL else f'{STEPS} steps'
    choices.make('rounds of imitation', recipe.imitation, f'{steps} each; {why}')
    making = recipe.images * cost.generation + selection
    imitation = recipe.imitation * _round_seconds(cost, images is Images.INVERTED)
    parts = f'{making:.0f} s for the images, {start:.0f} s for the start, {imitation:.0f} s for imitation'
    explain_time(choices, making + start + imitation, parts, cost)


def _schedule(task: Task, recipe: Recipe, images: Images) -> dict:
    """Phases, learning rates and intervals."""
    begin, rounds = recipe.images, recipe.images + recipe.imitation
    phases = [dict(name='imitation', steps=STEPS, begin=begin)]
    if images is Images.ADVERSARIAL:
        phases.append(dict(name='generation'))
    elif begin:
        phases.insert(0, dict(name='generation', end=begin))
    warm_up = int(WARM_UP * recipe.imitation) if layer_norms(task.student) else 0
    return dict(
        train_cfg=dict(
            type='mmdfad.AdversarialDistillLoop',
            max_iters=rounds,
            phases=phases,
            # Before its start there is nothing to validate.
            val_begin=begin + 1,
            val_interval=math.ceil(recipe.imitation / VALIDATIONS),
        ),
        # The rate of a generator that inverts is constant.
        param_scheduler=dict(
            student=decay_settings(begin, rounds, warm_up),
            generator=decay_settings(begin, rounds) if images is Images.ADVERSARIAL else [],
        ),
        **hook_settings(math.ceil(rounds / CHECKS), log_interval=10),
    )
