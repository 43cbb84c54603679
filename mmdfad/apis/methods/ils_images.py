"""The images of ILS."""

import math
from enum import Enum

from mmdfad.models.generators.decoder import upsamplings
from mmdfad.models.generators.selection import SHARES
from mmdfad.models.network import Network
from mmdfad.models.probes import has_batch_norms

from ..choices import Choices, Task, layer_norms
from .dfad import adversarial_generator

# Steps on each batch of images of a pool.
POOL_STEPS = 5
# Rounds of one generator, about; the share of them at its beginning whose images are bad and not kept; and the most
# bytes of those that the pool keeps.
RENEW, WARMUP_SHARE, POOL_BYTES = 60, 1 / 3, 2**30
# Teachers without batch norm: batches of procedural images, which stay as they are; how many images an adversary makes
# for each of them; and its channels for small images.
BANK_BATCHES, ADVERSARY_SHARE, ADVERSARY_WIDTH = 64, 3, 16
FLIP, SHIFT, SMALL_SHIFT = 0.5, 4, 2
# Share of the images with a box of another one, for classifiers. It was not tried for segmentors.
CUT = 0.5


class Images(Enum):
    """Where the images come from."""

    INVERTED = 'decoders that learn before the student does'
    PROCEDURAL = 'procedural images'
    ADVERSARIAL = 'an adversary, and procedural images'

    @classmethod
    def of(cls, teacher: Network) -> 'Images':
        """What was measured to be best for a teacher."""
        if has_batch_norms(teacher):
            return cls.INVERTED
        return cls.PROCEDURAL if layer_norms(teacher) else cls.ADVERSARIAL


def image_generator(
    choices: Choices, task: Task, images: Images, batch_size: int, batches: int, candidates: int = 1
) -> dict:
    """The generator.

    Args:
        choices (Choices): Takes the reasons.
        task (Task): The networks and the image size.
        images (Images): Where the images come from.
        batch_size (int): Images in a step.
        batches (int): Batches of images of a pool or a bank.
        candidates (int): Procedural images that are drawn for each one that is kept. Defaults to 1.
    """
    if images is Images.INVERTED:
        reason = "images of decoders with the teacher's batch norm statistics and the spectrum of photographs"
        choices.make('generator', 'InversionPool', reason)
        return _pool(task, batch_size, batches)
    count = bank_images(task, batch_size, batches)
    bank = dict(type='mmdfad.ImageBank', **task.image_settings, count=count, fixed=True, init=procedural(task))
    what = 'dead leaves' if task.dense else 'strokes and dead leaves'
    if candidates > 1:
        bank['candidates'] = candidates
        what += f' (one in {candidates}, chosen by the confidence of the teacher)'
    without = 'the teacher has no batch norm statistics that describe its training images'
    if images is Images.PROCEDURAL:
        choices.make('images', what, without)
        return dict(type='mmdfad.AugmentedGenerator', generator=bank, flip=FLIP, shift=_shift(task))
    choices.make('images', f'{ADVERSARY_SHARE} of an adversary to 1 of {what}', without)
    adversary = adversarial_generator(choices, task)
    if not task.large:
        adversary['width'] = ADVERSARY_WIDTH
    return dict(type='mmdfad.MixtureGenerator', generators=[adversary, bank], shares=[ADVERSARY_SHARE, 1])


def procedural(task: Task) -> dict:
    """The generator of procedural images. Strokes were not tried for segmentors."""
    strokes, leaves = (dict(type=f'mmdfad.{kind}', **task.image_settings) for kind in ('Strokes', 'DeadLeaves'))
    if task.dense:
        return leaves
    return dict(type='mmdfad.MixtureGenerator', generators=[strokes, leaves], shares=[*SHARES])


def bank_images(task: Task, batch_size: int, batches: int) -> int:
    """Procedural images that are kept: so many batches, if there is memory for them."""
    return max(batch_size, min(batches * batch_size, _most_images(task)))


def _shift(task: Task) -> int:
    return SHIFT if task.large else SMALL_SHIFT


def _most_images(task: Task) -> int:
    """As many as are kept in memory."""
    return POOL_BYTES // _image_bytes(task)


def bytes_kept(task: Task, generator: dict) -> int:
    """Bytes of the images in a generator's pools and banks.

    Args:
        task (Task): The image size.
        generator (dict): The generator's config, from :func:`image_generator`.
    """
    own = generator.get('capacity', generator.get('count', 0)) * _image_bytes(task)
    inner = [*generator.get('generators', ()), generator.get('generator', {})]
    return own + sum(bytes_kept(task, part) for part in inner if part)


def _image_bytes(task: Task) -> int:
    return 4 * task.image_settings['channels'] * math.prod(task.size)


def _pool(task: Task, batch_size: int, rounds: int) -> dict:
    """The generator, and the pool of what it makes in so many rounds."""
    shift = _shift(task)
    decoder = dict(type='mmdfad.DecoderGenerator', **task.image_settings, upsamplings=upsamplings(task.size))
    pool = dict(type='mmdfad.InversionPool', generator=decoder, steps=POOL_STEPS, shift=shift)
    pool.update(pool_settings(task, batch_size, rounds))
    augmented = dict(type='mmdfad.AugmentedGenerator', generator=pool, flip=FLIP, shift=shift)
    return augmented if task.dense else dict(augmented, cut=CUT)


def pool_settings(task: Task, batch_size: int, rounds: int) -> dict:
    """Rounds of each generator, so that all have about as many; and images that are kept."""
    renew = max(1, math.ceil(rounds / max(1, round(rounds / RENEW))))
    warmup = int(WARMUP_SHARE * renew)
    kept = sum(i % renew >= warmup for i in range(rounds))
    return dict(capacity=max(batch_size, min(_most_images(task), kept * batch_size)), renew=renew, warmup=warmup)
