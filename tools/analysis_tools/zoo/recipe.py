"""A short run of the recipe that tools/distill.py uses by default, with a model of another package."""

import torch
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper

from mmdfad.apis.choices import Choices, Task
from mmdfad.apis.methods import METHODS
from mmdfad.apis.shrink import shrink
from mmdfad.models import AdversarialDistiller
from mmdfad.models.network import Network
from mmdfad.utils import DistillError

from .models import load, small_partner, smallest_images
from .rounds import ROLES, check_export, run_checked

_START_IMAGES = 4
# Images in a bank. The teacher chooses each of them from several.
_BANK_IMAGES = 4


def run_recipe(config: str, role: str, options: dict | None = None) -> str:
    """Run a step of images, the start, and a step of imitation with a model, and check them.

    The checks are those of :func:`~zoo.rounds.run_round`. ``auto:0.5`` of a teacher is its student, where mmdfad can
    make one.

    Args:
        config (str): The model's config.
        role (str): ``'teacher'``: the model teaches a smaller one. ``'student'``: it learns from a small teacher.
        options (dict, optional): ``cfg_options`` for the config.

    Returns:
        str: The image size, and the student if it is not half of the teacher.

    Raises:
        Refused: If mmdfad refuses the model when it is built.
        AssertionError: If a check fails.
        Exception: If the model's own code fails.
    """
    size, channels, classes = smallest_images(load(dict(cfg_path=config, cfg_options=options or {}), role))
    # Choosing settings times steps of the networks, which are good for nothing else afterwards.
    task = Task(*_pair(config, role, options, channels, classes)[:2], size, rounds=2, batch_size=2)
    settings = METHODS['ils'](Choices(), task)
    teacher, student, note = _pair(config, role, options, channels, classes)
    if settings['model'].get('start'):
        settings['model']['start']['images'] = _START_IMAGES
    generator = settings['model']['generator']
    for part in generator.get('generators', [generator.get('generator', {})]):
        if 'count' in part:
            part['count'] = _BANK_IMAGES
    distiller = AdversarialDistiller(teacher, student, **settings['model'])
    optim_wrapper = build_optim_wrapper(distiller, ConfigDict(settings['optim_wrapper']))
    distiller.prepare()
    learns = distiller.generator.learns and 'generation' in settings['model']
    run_checked(distiller, optim_wrapper, ('generation', 'imitation') if learns else ('imitation',))
    if role == 'student' or not note:
        check_export(distiller, torch.randn(2, channels, *size))
    return f'{size[0]}x{size[1]}{note}'


def _pair(config: str, role: str, options: dict | None, channels: int, classes: int) -> tuple[Network, Network, str]:
    """Teacher, student, and a note if the student is not half of the teacher."""
    cfg = dict(cfg_path=config, cfg_options=options or {})
    network, note = load(cfg, role), ''
    other = ROLES[1 - ROLES.index(role)]
    partner = small_partner(network, channels, classes)
    if role == 'teacher':
        try:
            halved = shrink(network.cfg, width=0.5)
            partner = dict(cfg_path=config, cfg_options={**cfg['cfg_options'], **halved})
        except DistillError as error:
            note = f', a small ResNet as student: {str(error).splitlines()[0]}'
    networks = {role: network, other: load(partner, other)}
    networks['teacher'].checkpoint = 'random weights'  # the recipe wants a teacher that was trained
    return networks['teacher'], networks['student'], note
