"""From a teacher's config and checkpoint to the config of a distillation, with a reason for each choice."""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor

from mmdfad.models.build import build_network, plain_config
from mmdfad.models.checks import wrong_channels
from mmdfad.models.network import Network
from mmdfad.models.pixels import image_channels, resize_images
from mmdfad.utils import DistillError, as_pair, require_count, require_positive
from mmdfad.utils.config import custom_imports
from mmdfad.utils.generated import require_replaceable, write_config
from mmdfad.utils.model import evaluating, model_size
from mmdfad.utils.quiet import quiet

from .choices import Choices, Task, validation_settings
from .image_size import Size, config_size, training_size
from .methods import METHODS
from .preflight import check_teacher
from .shrink import shrink

BASE = 'mmdfad::_base_/default_runtime.py'


def write_distillation(
    out: str | Path,
    teacher: str,
    checkpoint: str,
    student: str,
    image_size: Size | None = None,
    rounds: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    method: str = 'ils',
    minutes: float | None = None,
) -> list[str]:
    """Write the config of a distillation for ``tools/train.py``.

    The teacher is checked first. What looks wrong stands among the lines that are returned, as a ``WARNING``.

    Args:
        out (str | Path): The file to write. The run's work directory will be the path without ``.py``.
        teacher (str): The teacher's config, a path or ``'package::folder/config.py'``.
        checkpoint (str): The teacher's checkpoint, a path or URL.
        student (str): The student's config, a path or ``'package::folder/config.py'``. Or ``'auto:0.5'`` for the
            teacher at half the width, ``'auto:depth=0.5'`` at half the depth, ``'auto:width=0.5,depth=0.5'`` for both.
        image_size (Size, optional): Height and width to generate, in pixels. Defaults to the size in the teacher's
            config, for example in its test pipeline.
        rounds (int, optional): Rounds to run. Defaults to the method's.
        batch_size (int, optional): Images in a step. Defaults to the method's for images of that size.
        seed (int): Seed of the run. Defaults to 0.
        method (str): ``'ils'`` (inversion and least squares) or ``'dfad'`` (data-free adversarial distillation).
            Defaults to ``'ils'``.
        minutes (float, optional): Choose the amounts of the method so that a run on this machine takes about as long.

    Returns:
        list[str]: A line for each choice, with the reason. They are also the comments of the written config.

    Raises:
        DistillError: If the models do not fit, nothing tells the image size, or the file is somebody else's work.
    """
    _check_flags(method, rounds, batch_size, minutes)
    require_count('--seed', seed)
    require_replaceable(out)
    choices = Choices()
    with quiet():
        teacher_cfg = dict(cfg_path=absolute_path(teacher), checkpoint=absolute_path(checkpoint))
        network = build_network(teacher_cfg, 'teacher')
        size = choose_image_size(choices, network, teacher, image_size)
        images = torch.zeros(2, image_channels(network.model), *size)
        classes = count_classes(network, images)
        for warning in check_teacher(network, images, classes):
            choices.warn(warning)
        student_cfg, student_network = _student(choices, student, teacher_cfg['cfg_path'], network, images, classes)
        _report_sizes(choices, network, student_network, images)
        chosen = METHODS[method](choices, Task(network, student_network, size, rounds, batch_size, minutes))
    settings = dict(
        _base_=BASE,
        custom_imports=_imports(network, student_network),
        default_scope=network.cfg.default_scope,
        work_dir=str(Path(out).with_suffix('')),
        randomness=dict(seed=seed),
        model=dict(type='mmdfad.AdversarialDistiller', teacher=teacher_cfg, student=student_cfg, **chosen.pop('model')),
        **chosen,
        **validation_settings(choices, network.cfg),
    )
    write_config(out, f'{_header(out, choices)}{Config(settings).pretty_text}')
    return choices.lines


def _check_flags(method: str, rounds: int | None, batch_size: int | None, minutes: float | None) -> None:
    if method not in METHODS:
        raise DistillError(f'--method must be one of {", ".join(METHODS)}, but found {method!r}')
    for name, value in dict(rounds=rounds, batch_size=batch_size).items():
        if value is not None:
            require_positive(f'--{name.replace("_", "-")}', **{name: value})
    if minutes is not None and not minutes > 0:
        raise DistillError(f'--minutes must be a positive number, but found {minutes!r}')
    if minutes is not None and rounds is not None:
        raise DistillError('give either --minutes or --rounds, not both: the minutes decide how many rounds fit')


def _header(out: str | Path, choices: Choices) -> str:
    lines = [
        'Written by tools/distill.py. Run it, as it is or changed, with',
        f'  python tools/train.py {out}',
        'Each choice and its reason:',
        *(f'  {line}' for line in choices.lines),
    ]
    return ''.join(f'# {line}\n' for line in lines)


def absolute_path(path: str) -> str:
    """A path that holds in any folder. URLs and ``package::...`` do so already."""
    return path if '://' in path or '::' in path else str(Path(path).absolute())


def _imports(*networks: Network) -> dict:
    names = {'mmdfad', *(name for network in networks for name in custom_imports(network.cfg))}
    return dict(imports=sorted(names), allow_failed_imports=False)


def choose_image_size(choices: Choices, teacher: Network, path: str, given: Size | None) -> Size:
    """Height and width of the images: the given ones, or else what the teacher's config says.

    Args:
        choices (Choices): Takes the reason.
        teacher (Network): The teacher.
        path (str): Its config, for messages.
        given (Size, optional): ``--image-size``.

    Raises:
        DistillError: If nothing gives the size.
    """
    if given is not None:
        return choices.make('image_size', as_pair(given, '--image-size'), '--image-size')
    found = training_size(teacher)
    if found is None:
        raise DistillError(
            f'{path} does not give the image size: neither its test nor its training pipeline ends with a size, '
            'and its backbone has no img_size. Give --image-size HEIGHT WIDTH'
        )
    return choices.make('image_size', *found)


def _student(
    choices: Choices, student: str, teacher_path: str, teacher: Network, images: Tensor, classes: int
) -> tuple[dict, Network]:
    """The student, and its part of the config."""
    if student.startswith('auto:'):
        ratios = parse_ratios(student)
        cfg = dict(cfg_path=teacher_path, cfg_options=shrink(teacher.cfg, **ratios))
        what = ' and '.join(f'{name} times {ratio:g}' for name, ratio in ratios.items())
        choices.make('student', student, f'the teacher, its {what}')
        return cfg, build_network(cfg, 'student')
    cfg = dict(cfg_path=absolute_path(student))
    options = dict(_class_options(plain_config(cfg, 'student').model, classes))
    if options:
        choices.make('classes of the student', classes, f"the teacher's, by {', '.join(options)}")
        cfg['cfg_options'] = options
    network = build_network(cfg, 'student')
    own_size = _own_size(choices, network, teacher)
    if own_size is not None:
        cfg['image_size'] = network.image_size = own_size
    found = count_classes(network, images)
    if found != classes:
        raise DistillError(
            f'--student {student} has {found} classes and the teacher has {classes}, but its config has no num_classes '
            f'to change; give it a head with {classes} classes'
        )
    return cfg, network


def parse_ratios(student: str) -> dict[str, float]:
    """The ratios in auto:0.5, auto:width=0.5, auto:depth=0.5 or auto:width=0.5,depth=0.5.

    Args:
        student (str): ``--student``.

    Returns:
        dict[str, float]: ``width``, ``depth`` or both, for :func:`~mmdfad.apis.shrink.shrink`.

    Raises:
        DistillError: If there is no ratio in it.
    """
    number = r'(\d*\.?\d+)'
    found = re.fullmatch(rf'auto:{number}|auto:(?:width={number})?,?(?:depth={number})?', student)
    ratios = dict(width=found[1] or found[2], depth=found[3]) if found else {}
    ratios = {name: float(ratio) for name, ratio in ratios.items() if ratio}
    if not ratios:
        raise DistillError(
            '--student takes a config, or auto:0.5 for half the width, auto:depth=0.5, or auto:width=0.5,depth=0.5, '
            f'but found {student!r}'
        )
    return ratios


def _class_options(cfg: dict, wanted: int, prefix: str = 'model') -> Iterator[tuple[str, int]]:
    """``cfg_options`` for every number of classes in a model's config that is not the wanted one."""
    for key, value in cfg.items():
        where = f'{prefix}.{key}'
        if key == 'num_classes' and isinstance(value, int) and 0 < value != wanted:  # -1 means no classes
            yield where, wanted
        elif isinstance(value, dict) and key != 'data_preprocessor':
            yield from _class_options(value, wanted, where)
        elif isinstance(value, list) and all(isinstance(v, dict) for v in value):
            yield from _class_options(dict(enumerate(value)), wanted, where)


def _own_size(choices: Choices, student: Network, teacher: Network) -> Size | None:
    """The size in a classifier's own config, if it differs from the teacher's. Segmentors take any size."""
    if student.logits.ndim == 4:
        return None
    own, of_teacher = config_size(student), config_size(teacher)
    if own is None or (of_teacher is not None and own[0] == of_teacher[0]):
        return None
    return choices.make('image_size of the student', own[0], f'{own[1]}; images are resized for it')


def _at_own_size(network: Network, images: Tensor) -> Tensor:
    return images if network.image_size is None else resize_images(images, network.image_size)


def count_classes(network: Network, images: Tensor) -> int:
    """The number of classes, by the logits of images.

    Args:
        network (Network): The teacher or the student.
        images (Tensor): Images [N, C, H, W] of the teacher's size, two or more.

    Raises:
        DistillError: If the network cannot take them.
    """
    images = _at_own_size(network, images)
    try:
        with torch.no_grad(), evaluating(network):
            return network.logits(images).shape[1]
    except DistillError:
        raise
    except Exception as error:  # each model has its own way to refuse images
        channels = network.role == 'student' and wrong_channels(error, images.shape[1])
        remedy = f'a --student whose backbone takes {images.shape[1]} channels' if channels else 'another --image-size'
        raise DistillError(
            f'model.{network.role} cannot take images of shape {list(images.shape[1:])} ({type(error).__name__}: '
            f'{error}); give {remedy}'
        ) from error


def _report_sizes(choices: Choices, teacher: Network, student: Network, images: Tensor) -> None:
    for network in (teacher, student):
        with torch.no_grad(), evaluating(network):
            size = model_size(network.logits, _at_own_size(network, images))
        flops = f'{size.flops / 1e6:,.2f} M multiply-adds for each image'
        choices.make(f'size of the {network.role}', f'{size.params:,} parameters', flops)
