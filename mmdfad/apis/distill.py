"""From a teacher's config and checkpoint to the config of a distillation, with a reason for each choice."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmdfad.models.logits import LogitModel, as_logits, detach_auxiliary_heads
from mmdfad.models.pixels import PixelSpace, resize_images
from mmdfad.models.players import build_player, plain_config
from mmdfad.utils import DistillError, require_positive
from mmdfad.utils.atomic import atomic_write
from mmdfad.utils.config import custom_imports
from mmdfad.utils.model import evaluating, model_size
from mmdfad.utils.state_dict import select_weights

from .shrink import shrink

NOISE_DIM = 256
# From this many pixels on the paper's generator B makes the images.
LARGE = 64
# A generator has little to gain from the sizes that segmentors are tested at, and its costs grow with the area.
LARGEST_SEGMENTATION = 256
_VALIDATION = ('val_dataloader', 'val_evaluator', 'val_cfg', 'test_dataloader', 'test_evaluator', 'test_cfg')


@dataclass
class Player:
    """A teacher or a student as the written config names it.

    Attributes:
        path (str): Its config: an absolute path, or ``'package::...'``.
        options (dict): ``cfg_options`` for it.
        plain (Config): Both, read.
        logits (LogitModel): The model, in eval mode.
        weights (dict[str, Tensor]): Its weights, with those of auxiliary heads.
        image_size (tuple[int, int], optional): Height and width that a student works at, where not at the teacher's.
    """

    path: str
    options: dict
    plain: Config
    logits: LogitModel
    weights: dict[str, Tensor]
    image_size: tuple[int, int] | None = None

    def resized(self, images: Tensor) -> Tensor:
        """Images of the teacher's size at its own."""
        return images if self.image_size is None else resize_images(images, self.image_size)


@dataclass
class Choices:
    """What was chosen, and why; the comments of the written config."""

    reasons: dict[str, str] = field(default_factory=dict)

    def make(self, name: str, value: object, reason: str) -> object:
        """Remember why ``name`` is ``value``, and return the value."""
        self.reasons[name] = f'{name} = {value}: {reason}'
        return value


def write_distillation(
    out: str | Path,
    teacher: str,
    checkpoint: str,
    student: str,
    image_size: tuple[int, int] | None = None,
    rounds: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> list[str]:
    """Write the config of a distillation, which ``tools/train.py`` runs as it is.

    Args:
        out (str | Path): The file to write. The run's work directory will be the path without ``.py``.
        teacher (str): The teacher's config, a path or ``'package::folder/config.py'``.
        checkpoint (str): Its checkpoint, a path or URL.
        student (str): Likewise the student's config; or ``'auto:0.5'`` for the teacher at half the width,
            ``'auto:depth=0.5'`` at half the depth, ``'auto:width=0.5,depth=0.5'`` at half of both.
        image_size (tuple[int, int], optional): Height and width to generate. Defaults to what the teacher's config
            tells: the size that its test pipeline ends with.
        rounds (int, optional): Rounds to play. Defaults to the paper's for images of that size.
        batch_size (int, optional): Images in a step. Defaults to the paper's, in inverse proportion to the area.
        seed (int): Seed of the run. Defaults to 0.

    Returns:
        list[str]: A line for each choice that was made, with the reason.

    Raises:
        DistillError: If the models do not fit, or something that is needed is not given anywhere.
    """
    for name, value in dict(rounds=rounds, batch_size=batch_size).items():
        if value is not None:
            require_positive(f'--{name.replace("_", "-")}', **{name: value})
    choices = Choices()
    with _quietly():
        teacher_player = _player(teacher, 'teacher', checkpoint=checkpoint)
        channels = _channels(teacher_player)
        size = _image_size(choices, teacher_player, image_size)
        images = torch.zeros(2, channels, *size)
        classes = _classes(teacher_player, images, 'teacher')
        student_player = _student(choices, student, teacher_player, images, classes)
        _report_sizes(choices, teacher_player, student_player, images)
    text = _header(out, teacher_player, student_player, seed)
    text += _models(choices, teacher_player, student_player, checkpoint)
    text += _generator(choices, teacher_player, channels, size)
    text += _schedule(choices, student_player, size, rounds, batch_size)
    text += _validation(choices, teacher_player.plain)
    compile(text, str(out), 'exec')
    atomic_write(out, text.encode())
    return list(choices.reasons.values())


# The players


def _player(path: str, role: str, options: dict | None = None, checkpoint: str | None = None) -> Player:
    path = path if '::' in path else str(Path(path).absolute())
    built = build_player(dict(cfg_path=path, cfg_options=options or {}, checkpoint=checkpoint), role)
    weights = built.model.state_dict(keep_vars=True)
    detach_auxiliary_heads(built.model)
    try:
        return Player(path, options or {}, built.cfg, as_logits(built.model).eval(), weights)
    except DistillError as error:
        raise DistillError(f'--{role} {path}: {error}') from error


def _student(choices: Choices, student: str, teacher: Player, images: Tensor, classes: int) -> Player:
    if student.startswith('auto:'):
        ratios = _ratios(student)
        player = _player(teacher.path, 'student', shrink(teacher.plain, **ratios))
        what = ' and '.join(f'{name} times {ratio:g}' for name, ratio in ratios.items())
        choices.make('student', student, f'the teacher, its {what}')
        return player
    cfg = plain_config(dict(cfg_path=student), 'student').model
    options = dict(_class_counts(cfg, classes))
    if options:
        choices.make('classes of the student', classes, f"the teacher's, by {', '.join(options)}")
    player = _player(student, 'student', options)
    player.image_size = _students_size(choices, player, teacher)
    found = _classes(player, player.resized(images), 'student')
    if found != classes:
        raise DistillError(
            f'--student {student} has {found} classes and the teacher has {classes}, but its config has no num_classes '
            'that could be changed; make its head one of as many'
        )
    return player


def _ratios(student: str) -> dict[str, float]:
    """Of auto:0.5, auto:width=0.5, auto:depth=0.5 or auto:width=0.5,depth=0.5."""
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


def _class_counts(cfg: dict, wanted: int, prefix: str = 'model') -> Iterator[tuple[str, int]]:
    """Options that set every count of classes in a model's config."""
    for key, value in cfg.items():
        where = f'{prefix}.{key}'
        if key == 'num_classes' and isinstance(value, int) and 0 < value != wanted:  # -1 is for none
            yield where, wanted
        elif isinstance(value, dict) and key != 'data_preprocessor':
            yield from _class_counts(value, wanted, where)
        elif isinstance(value, list) and all(isinstance(v, dict) for v in value):
            yield from _class_counts(dict(enumerate(value)), wanted, where)


def _classes(player: Player, images: Tensor, role: str) -> int:
    """The number of classes, by the logits of two images."""
    try:
        with torch.no_grad(), evaluating(player.logits):
            return player.logits(images).shape[1]
    except DistillError:
        raise
    except Exception as error:  # each model has its own way to refuse images
        raise DistillError(
            f'--{role} {player.path} cannot take images of shape {list(images.shape[1:])} ({type(error).__name__}: '
            f'{error}); give another --image-size'
        ) from error


def _channels(player: Player) -> int:
    """Channels of the images: one for each mean of the preprocessor, or if that is one for all, by the first layer."""
    mean = PixelSpace.of(player.logits.model).mean
    first = next((m for m in player.logits.modules() if isinstance(m, nn.Conv2d)), None)
    return len(mean) if len(mean) > 1 or first is None else first.in_channels


def _report_sizes(choices: Choices, teacher: Player, student: Player, images: Tensor) -> None:
    for name, player in dict(teacher=teacher, student=student).items():
        with torch.no_grad():
            size = model_size(player.logits, player.resized(images))
        flops = f'{size.flops / 1e6:,.2f} M multiply-adds for an image'
        choices.make(f'size of the {name}', f'{size.params:,} parameters', flops)


# The images


def _image_size(choices: Choices, teacher: Player, given: tuple[int, int] | None) -> tuple[int, int]:
    if given is not None:
        require_positive('--image-size', height=given[0], width=given[1])
        return choices.make('image_size', tuple(given), '--image-size')
    found = _segmentor_size(teacher.plain) if teacher.logits.ndim == 4 else _classifier_size(teacher.plain)
    if found is None:
        raise DistillError(
            f'nothing in {teacher.path} tells the size of images: neither its test nor its training pipeline ends '
            'with a size, and its backbone has no img_size. Give --image-size HEIGHT WIDTH'
        )
    size, reason = found
    halvings = 0
    while teacher.logits.ndim == 4 and max(size) > LARGEST_SEGMENTATION:
        size, halvings = (size[0] // 2, size[1] // 2), halvings + 1
    if halvings:
        # A multiple of 16, which is what most backbones reduce images by.
        size = tuple(max(16, round(s / 16) * 16) for s in size)
        reason += f', halved until the longer side has at most {LARGEST_SEGMENTATION} pixels, and to a multiple of 16'
    return choices.make('image_size', size, reason)


def _students_size(choices: Choices, student: Player, teacher: Player) -> tuple[int, int] | None:
    """The size of a classifier's own config; segmentors take any."""
    if student.logits.ndim == 4:
        return None
    own, of_teacher = _classifier_size(student.plain), _classifier_size(teacher.plain)
    if own is None or (of_teacher is not None and own[0] == of_teacher[0]):
        return None
    size, reason = own
    reason = reason.replace("the teacher's", 'its')
    return choices.make('image_size of the student', size, f'{reason}; images are resized for it')


def _classifier_size(plain: Config) -> tuple[tuple[int, int], str] | None:
    for words in ('test', 'val', 'train'):
        for step in reversed(_pipeline(plain, f'{words}_dataloader')):
            size = _size_of(step)
            if size is not None:
                return size, f"{step['type']} in the teacher's {words}_dataloader"
    size = plain.model.get('backbone', {}).get('img_size')
    return None if size is None else (_pair(size), "img_size of the teacher's backbone")


def _segmentor_size(plain: Config) -> tuple[tuple[int, int], str] | None:
    for where, size in (
        ('data_preprocessor.size', plain.model.get('data_preprocessor', {}).get('size')),
        ('test_cfg.crop_size', (plain.model.get('test_cfg') or {}).get('crop_size')),
    ):
        if size is not None:
            return _pair(size), f"the teacher's {where}"
    return _classifier_size(plain)


def _pipeline(plain: Config, loader: str) -> list[dict]:
    dataset = (plain.get(loader) or {}).get('dataset') or {}
    while 'pipeline' not in dataset and isinstance(dataset.get('dataset'), dict):  # wrappers such as RepeatDataset
        dataset = dataset['dataset']
    return dataset.get('pipeline') or []


def _size_of(step: dict) -> tuple[int, int] | None:
    """Height and width of what a transform gives, if its settings tell."""
    kind = str(step.get('type')).rpartition('.')[2]
    size = step.get('crop_size', step.get('scale')) if kind.endswith(('Crop', 'Resize', 'ResizeEdge')) else None
    if size is None or (isinstance(size, list | tuple) and len(size) != 2):
        return None
    # mmcv's own transforms say (width, height), mmpretrain's and mmseg's crops (height, width).
    return _pair(size)[::-1] if kind in ('Resize', 'RandomResize', 'CenterCrop') else _pair(size)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


# The written config, section by section


def _header(out: str | Path, teacher: Player, student: Player, seed: int) -> str:
    imports = sorted({'mmdfad', *custom_imports(teacher.plain), *custom_imports(student.plain)})
    return (
        f'# Written by tools/distill.py. Run it, as it is or changed, with\n#   python tools/train.py {out}\n'
        "_base_ = ['mmdfad::_base_/default_runtime.py']\n"
        f'custom_imports = dict(imports={imports}, allow_failed_imports=False)\n'
        f'default_scope = {teacher.plain.default_scope!r}\n'
        f'work_dir = {str(Path(out).with_suffix(""))!r}\n'
        f'randomness = dict(seed={seed}, deterministic=False)\n\n'
    )


def _models(choices: Choices, teacher: Player, student: Player, checkpoint: str) -> str:
    checkpoint = checkpoint if '://' in checkpoint else str(Path(checkpoint).absolute())
    text = "model = dict(\n    type='mmdfad.AdversarialDistiller',\n"
    text += _comment(choices, 'size of the teacher')
    text += f'    teacher=dict(\n        cfg_path={teacher.path!r},\n        checkpoint={checkpoint!r},\n    ),\n'
    text += _comment(choices, 'student', 'size of the student', 'classes of the student', 'image_size of the student')
    text += f'    student=dict(\n        cfg_path={student.path!r},\n'
    if student.image_size is not None:
        text += f'        image_size={student.image_size},\n'
    if student.options:
        lines = ''.join(f'            {key!r}: {value!r},\n' for key, value in student.options.items())
        text += f'        cfg_options={{\n{lines}        }},\n'
    text += '    ),\n'
    if _is_part(student, teacher):
        choices.make(
            'init_student_from_teacher', True, "its weights start as some of the teacher's, which has them all and more"
        )
        text += _comment(choices, 'init_student_from_teacher') + '    init_student_from_teacher=True,\n'
    if any(isinstance(m, _BatchNorm) for m in teacher.logits.modules()):
        choices.make(
            'generation_priors',
            'BNStatisticsPrior',
            "images whose statistics are those of the teacher's training data; "
            'without it the generator of a deep teacher may end in a single texture',
        )
        text += _comment(choices, 'generation_priors')
        text += "    generation_priors=[dict(type='mmdfad.BNStatisticsPrior', distance='kl', weight=10.0)],\n"
    if teacher.logits.ndim == 4:
        choices.make('generation_loss', 'log(1 + L1)', "the paper's for segmentation")
        text += _comment(choices, 'generation_loss') + "    generation_loss=dict(type='mmdfad.LogL1Discrepancy'),\n"
    return text


def _is_part(student: Player, teacher: Player) -> bool:
    """Whether for each weight of the student the teacher has one of that name that is at least as large."""
    own = {name for name, weight in student.weights.items() if isinstance(weight, nn.Parameter)}
    return own <= select_weights(student.weights, teacher.weights).keys()


def _generator(choices: Choices, teacher: Player, channels: int, size: tuple[int, int]) -> str:
    settings = dict(noise_dim=NOISE_DIM, image_size=size, channels=channels)
    if max(size) < LARGE:
        reason = f"the paper's A, for images below {LARGE} pixels; its output is standardised, as normalised data is"
        kind = choices.make('generator', 'UpsampleGenerator', reason)
    else:
        kind = choices.make('generator', 'DCGANGenerator', f"the paper's B, for images of {LARGE} pixels and more")
        scale = _reach(PixelSpace.of(teacher.logits.model))
        if scale != 1:
            settings['output_scale'] = choices.make(
                'output_scale', scale, "as far as the teacher's normalised pixels reach, by its mean and std"
            )
    lines = ''.join(f'        {key}={value!r},\n' for key, value in settings.items())
    text = _comment(choices, 'generator', 'image_size', 'output_scale')
    return text + f"    generator=dict(\n        type='mmdfad.{kind}',\n{lines}    ),\n)\n"


def _reach(space: PixelSpace) -> float:
    """The largest absolute value of a normalised pixel, to two digits after the point."""
    return math.ceil(100 * float((torch.maximum(space.mean, 255 - space.mean) / space.std).max())) / 100


def _schedule(
    choices: Choices, student: Player, size: tuple[int, int], rounds: int | None, batch_size: int | None
) -> str:
    large = max(size) >= LARGE
    if batch_size is None:
        area = size[0] * size[1]
        fitting = max(4, 2 ** int(math.log2(64 * 128 * 128 / area))) if large else 256
        reason = "the paper's 64 at 128x128, in inverse proportion to the area" if large else "the paper's at 32x32"
        batch_size = choices.make('batch_size', min(256, fitting), f'{reason}; --batch-size for another')
    if rounds is None:
        reason = "the paper's for images of that size (an epoch of it is 50 rounds); --rounds for another"
        rounds = choices.make('rounds', 15000 if large else 25000, reason)
    if any(isinstance(m, nn.LayerNorm) for m in student.logits.modules()):
        optimizer = "dict(type='AdamW', lr=1e-3, weight_decay=0.05)"
        choices.make('optimizer', 'AdamW', 'the student has layer norms, as transformers do; SGD serves those badly')
    else:
        optimizer = "dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)"
        choices.make('optimizer', 'SGD', "the paper's, with clipped gradients and cosine decay, so that it ends calm")
    steps, generation_steps = 5, 1
    if student.logits.ndim == 4 and 'generation_priors' in choices.reasons:
        reason = "to 2 of the generator, which has the prior to follow; the paper's 5 to 1 did worse on CamVid"
        steps, generation_steps = choices.make('imitation_steps', 2, reason), 2
    interval, warm_up = max(1, rounds // 20), max(1, rounds // 30)
    return f"""train_dataloader = dict(
{_comment(choices, 'batch_size')}    batch_size={batch_size},
    num_workers=0,
    dataset=dict(type='mmdfad.NoiseDataset', noise_dim={NOISE_DIM}),
    sampler=dict(type='mmdfad.NoiseSampler'),
)

# Everything counts rounds: of imitation_steps updates of the student and generation_steps of the generator.
{_comment(choices, 'rounds', indent='')}rounds = {rounds}
interval = {interval}  # between validations, checkpoints and pictures
train_cfg = dict(
    type='mmdfad.AdversarialDistillLoop',
    max_iters=rounds,
{_comment(choices, 'imitation_steps')}    imitation_steps={steps},
    generation_steps={generation_steps},
    val_interval=interval,
)
{_comment(choices, 'optimizer', indent='')}optim_wrapper = dict(
    constructor='mmdfad.PlayerOptimWrapperConstructor',
    student=dict(optimizer={optimizer}, clip_grad=dict(max_norm=1.0)),
    generator=dict(optimizer=dict(type='Adam', lr=1e-3)),
)
param_scheduler = dict(
    student=[
        dict(type='LinearLR', by_epoch=False, start_factor=0.01, end={warm_up}),
        dict(type='CosineAnnealingLR', by_epoch=False, begin={warm_up}, end=rounds + 1),
    ],
    generator=[dict(type='CosineAnnealingLR', by_epoch=False, end=rounds)],
)
auto_scale_lr = dict(enable=False, base_batch_size={batch_size})
default_hooks = dict(checkpoint=dict(interval=interval), logger=dict(interval={min(50, interval)}))
custom_hooks = [
    dict(type='mmdfad.SyntheticImageHook', interval=interval),
    dict(type='mmdfad.TrainingHealthHook', interval=interval),
    dict(type='mmdfad.ExportStudentHook'),
    dict(type='mmdfad.DistillSummaryHook'),
    dict(type='mmdfad.PreemptionHook'),
]
"""


def _validation(choices: Choices, plain: Config) -> str:
    found = {key: plain[key] for key in _VALIDATION if plain.get(key) is not None}
    if not {'val_dataloader', 'val_evaluator', 'val_cfg'} <= found.keys():
        choices.make('validation', 'agreement', "on generated images: the teacher's config has no validation data")
        return '\n' + _comment(choices, 'validation', indent='')
    kind = _kind_of_data(found['val_dataloader'])
    choices.make('validation', kind, "the teacher's; where its data are not, the agreement on generated images")
    text = '\n' + _comment(choices, 'validation', indent='')
    for key in (key for key in _VALIDATION if key in found):
        of_validation = key.replace('test', 'val')
        same = key != of_validation and found[key] == found.get(of_validation)
        text += f'{key} = {of_validation}\n' if same else Config({key: found[key]}).pretty_text
    return text


def _kind_of_data(loader: dict) -> str:
    dataset = loader['dataset']
    while isinstance(dataset.get('dataset'), dict):
        dataset = dataset['dataset']
    return str(dataset.get('type'))


def _comment(choices: Choices, *names: str, indent: str = '    ') -> str:
    return ''.join(f'{indent}# {choices.reasons[name]}\n' for name in names if name in choices.reasons)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the line that mmengine logs for each parameter that a model initialises."""
    logger = MMLogger.get_instance('mmdfad', log_level='WARNING')
    try:
        yield
    finally:
        logger.setLevel('INFO')
