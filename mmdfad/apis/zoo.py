"""Does a model of another package distil? One real round, in a process of its own."""

import math
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmdfad.engine.optim import PlayerOptimWrapperConstructor
from mmdfad.models.distillers import AdversarialDistiller
from mmdfad.models.logits import LogitModel, as_logits
from mmdfad.models.players import Player, build_player, plain_config
from mmdfad.utils import DistillError
from mmdfad.utils.export import student_config, write_student
from mmdfad.utils.state_dict import remade_names

from .shrink import with_settings

ROLES = ('teacher', 'student')
# Tried from the smallest on to the largest that the model's own config names, or _ENOUGH, which no other needs more of.
SIZES = (32, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 1024)
_ENOUGH = 320
_OWN_SIZES = ('img_size', 'pretrain_img_size', 'image_size', 'input_size', 'crop_size', 'size')
_NOISE_DIM = 8
_DRAWS = 2**20 - 3  # a prime, so that no two rows of a matrix are the same draws


class Refused(Exception):
    """The model cannot be distilled for a reason that lies in it."""


def play_round(config: str, role: str, options: dict | None = None) -> str:
    """Play one full round with a model, and check all that a round promises.

    Args:
        config (str): The model's config.
        role (str): ``'teacher'``, of a small student; or ``'student'``, of a small teacher.
        options (dict, optional): ``cfg_options`` for the config.

    Returns:
        str: The image size that it was played at.

    Raises:
        Refused: If the model is refused when it is built.
        Exception: Whatever else goes wrong.
    """
    player, logits = _load(dict(cfg_path=config, cfg_options=options or {}))
    size, channels, classes = _smallest_images(logits, player.cfg, role)
    partner = _small_segmentor(channels, classes) if logits.ndim == 4 else _small_classifier(channels, classes)
    if getattr(logits, 'multi_label', False):
        partner['head']['type'] = 'MultiLabelLinearClsHead'
    distiller = AdversarialDistiller(
        **{role: player, _other(role): partner},
        generator=dict(type='UpsampleGenerator', noise_dim=_NOISE_DIM, image_size=size, channels=channels, width=8),
        allow_random_teacher=True,
    )
    revert_sync_batchnorm(distiller)
    distiller.train()
    # Clipped, as the gradients of a deep untrained model on two small images can be such that a step destroys it.
    student_optim = dict(optimizer=dict(type='SGD', lr=1e-3), clip_grad=dict(max_norm=1.0))
    generator_optim = dict(optimizer=dict(type='Adam', lr=1e-3))
    optim_wrapper = PlayerOptimWrapperConstructor(dict(student=student_optim, generator=generator_optim))(distiller)
    gradients = {name: _watch_gradients(getattr(distiller, name)) for name in ('student', 'generator')}
    before = {key: value.clone() for key, value in distiller.teacher_player.model.state_dict().items()}
    log = distiller.imitation_step(torch.randn(2, _NOISE_DIM), optim_wrapper['student'])
    log |= distiller.generation_step(torch.randn(2, _NOISE_DIM), optim_wrapper['generator'])
    for name in ('imitation_loss', 'generation_loss'):
        _require(log[name].isfinite(), f'{name} is {log[name].item()}')
    for name, norms in gradients.items():
        _require(bool(norms) and all(map(math.isfinite, norms)) and max(norms) > 0, f'{name} gets no usable gradient')
    after = distiller.teacher_player.model.state_dict()
    _require(all(torch.equal(before[key], after[key]) for key in before | after), 'the teacher has changed')
    if role == 'student':
        _check_export(distiller, (2, channels, *size))
    return f'{size[0]}x{size[1]}'


def fewer_layers(config: str) -> dict[str, object]:
    """Options that leave a backbone two layers, or as many as it has outputs, or one in each stage.

    Args:
        config (str): The model's config.

    Raises:
        Refused: If its settings do not tell the layers.
    """
    plain = plain_config(dict(cfg_path=config), 'teacher')
    backbone = plain.model.get('backbone', {})
    with MODELS.switch_scope_and_registry(plain.default_scope) as registry:
        arch = with_settings(backbone, registry).get('arch', backbone)
    if 'depths' in arch:
        fewer, outputs = dict(depths=[1] * len(arch['depths'])), None
    elif 'num_layers' in arch:
        outputs = backbone.get('out_indices')
        outputs = list(range(len(outputs))) if isinstance(outputs, list | tuple) else None
        fewer = dict(num_layers=max(2, len(outputs or ())))
    else:
        raise Refused('its config does not tell how to leave out layers')
    changes = fewer if arch is backbone else dict(arch=dict(arch, _delete_=True, **fewer))
    if outputs:
        changes['out_indices'] = outputs
    return {f'model.backbone.{key}': value for key, value in changes.items()}


def run_isolated(
    jobs: Iterator[tuple], function: Callable[..., str], workers: int, seconds: float, memory: float
) -> Iterator[tuple[tuple, str, str, float]]:
    """Call a function in a process of its own for each of some jobs, forked from this one, which is warm.

    Args:
        jobs (Iterator[tuple]): Arguments.
        function (Callable[..., str]): Called with them.
        workers (int): Processes at a time.
        seconds (float): Time limit of each, in seconds.
        memory (float): Limit of each one's resident memory, in GiB.

    Yields:
        tuple[tuple, str, str, float]: The arguments; ``'passed'``, ``'refused'``, ``'failed'`` or ``'memory'``; what
        the function returned, or the error; and the seconds it took. In the order in which they end.
    """
    context = multiprocessing.get_context('fork')
    jobs, running = iter(jobs), []
    while True:
        while len(running) < workers and (job := next(jobs, None)) is not None:
            receiver, sender = context.Pipe(duplex=False)
            folder = tempfile.mkdtemp()  # removed from here, as a process that is killed leaves its files behind
            process = context.Process(target=_in_child, args=(function, job, sender, folder))
            process.start()
            sender.close()
            running.append((job, process, receiver, folder, time.monotonic()))
        if not running:
            return
        time.sleep(0.05)
        for entry in list(running):
            job, process, receiver, folder, start = entry
            outcome = _outcome(process, receiver, time.monotonic() - start, seconds, memory)
            if outcome is not None:
                running.remove(entry)
                process.kill()
                process.join()
                shutil.rmtree(folder)
                yield (job, *outcome, round(time.monotonic() - start, 1))


def _outcome(
    process: multiprocessing.Process, receiver: object, elapsed: float, seconds: float, memory: float
) -> tuple[str, str] | None:
    """Status and reason of a process that has ended or must end; None for one that may go on."""
    ended = not process.is_alive()
    if receiver.poll():
        try:
            return receiver.recv()
        except EOFError:
            process.join()
            return 'failed', f'its process ended with exit code {process.exitcode}'
    if ended:
        return 'failed', f'its process ended with exit code {process.exitcode}'
    if elapsed > seconds:
        return 'failed', f'took more than {seconds:g} s'
    if _resident(process.pid) > memory * 2**30:
        return 'memory', f'took more than {memory:g} GiB of memory'
    return None


def _resident(pid: int) -> int:
    """Bytes of resident memory of a process."""
    try:
        return int(Path(f'/proc/{pid}/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    except (OSError, IndexError):
        return 0


def _in_child(function: Callable[..., str], job: tuple, sender: object, folder: str) -> None:
    """Call, and send what came of it; what the model prints is of no interest."""
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    tempfile.tempdir = folder
    MMLogger.get_instance('zoo', log_level='CRITICAL')
    torch.set_num_threads(1)
    torch.manual_seed(0)
    try:
        result = ('passed', function(*job))
    except Refused as error:
        result = ('refused', str(error))
    except BaseException as error:  # a model can fail in any way, and each is a result
        result = ('failed', f'{type(error).__name__}: {error}')
    sender.send(result)
    sender.close()


def _load(cfg: dict) -> tuple[Player, LogitModel]:
    """The model, by itself; a refusal is an error of mmdfad's own, or a package that is missing."""
    try:
        with _repeated_draws():
            player = build_player(cfg, 'teacher')
        return player, as_logits(player.model).eval()
    except DistillError as error:
        if error.__cause__ is None or isinstance(error.__cause__, ImportError):
            raise Refused(str(error)) from error
        raise


def _smallest_images(logits: LogitModel, plain: Config, role: str) -> tuple[tuple[int, int], int, int]:
    """The smallest image size that the model takes, its channels and its classes."""
    mean = plain.model.get('data_preprocessor', {}).get('mean') or [0]
    first = next((m for m in logits.modules() if isinstance(m, nn.Conv2d)), None)
    channels = len(mean) if len(mean) > 1 or first is None else first.in_channels
    own = set(_sizes_in(plain.model))
    largest = max(math.prod(size) for size in {*own, (_ENOUGH, _ENOUGH)})
    errors = []
    for size in sorted(own | {(s, s) for s in SIZES if s * s <= largest}, key=math.prod):
        images = torch.randn(2, channels, *size)
        try:
            with torch.no_grad():
                classes = logits.eval()(images).shape[1]
                if role == 'student':
                    logits.train()(images)
            return size, channels, classes
        except DistillError:  # these are not the logits, whatever the size
            raise
        except Exception as error:  # each model has its own way to refuse a size
            errors.append(f'{size[0]}x{size[1]}: {type(error).__name__}: {error}')
    raise ValueError('takes no image size; ' + errors[0] + '; ' + errors[-1])


def _sizes_in(cfg: dict) -> Iterator[tuple[int, int]]:
    for key, value in cfg.items():
        if isinstance(value, dict):
            yield from _sizes_in(value)
        elif key in _OWN_SIZES and value:
            size = (value, value) if isinstance(value, int) else tuple(value)
            if len(size) == 2:
                yield size


def _check_export(distiller: AdversarialDistiller, shape: tuple[int, ...]) -> None:
    """The exported student is a plain model that loads strictly and gives the same logits."""
    plain = distiller.student_player.cfg
    with tempfile.TemporaryDirectory() as folder:
        state = distiller.plain_student_state(distiller.state_dict())
        config, checkpoint = write_student(folder, student_config(Config(), plain), state, {})
        cfg = Config.fromfile(config)
        with DefaultScope.overwrite_default_scope(cfg.default_scope), _repeated_draws():
            model = MODELS.build(cfg.model)
        state = torch.load(checkpoint, weights_only=True, mmap=True)['state_dict']
        missing, unexpected = model.load_state_dict(state, strict=False)
    _require(
        not unexpected and (not missing or {*missing} <= remade_names(model)), 'the exported student does not load'
    )
    reloaded = as_logits(revert_sync_batchnorm(model)).eval()
    images = torch.randn(shape)
    logits = []
    for player in (distiller.student.eval(), reloaded):
        torch.manual_seed(0)  # for heads that draw even when tested
        with torch.no_grad():
            logits.append(player(images))
    _require(bool(logits[0].isfinite().all()), 'the student has become NaN or infinite')
    _require(torch.equal(*logits), 'the exported student gives other logits')


def _watch_gradients(module: nn.Module) -> list[float]:
    """The largest absolute values of the gradients that parameters will get."""
    norms: list[float] = []

    def watch(parameter: nn.Parameter) -> None:
        norms.append(torch.linalg.vector_norm(parameter.grad, math.inf).item())

    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(watch)
    return norms


@contextmanager
def _repeated_draws() -> Iterator[None]:
    """Initialise large parameters with draws that repeat; to draw a billion of them takes minutes."""

    def repeating(fill: Callable) -> Callable:
        def repeated(tensor: Tensor, *args: object, **kwargs: object) -> Tensor:
            if tensor.numel() <= _DRAWS or not tensor.is_contiguous():
                return fill(tensor, *args, **kwargs)
            draws = fill(tensor.new_empty(_DRAWS), *args, **kwargs)
            for part in tensor.view(-1).split(_DRAWS):
                part.copy_(draws[: len(part)])
            return tensor

        return repeated

    with patch.multiple(Tensor, uniform_=repeating(Tensor.uniform_), normal_=repeating(Tensor.normal_)):
        yield


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _other(role: str) -> str:
    return ROLES[1 - ROLES.index(role)]


def _small_classifier(channels: int, classes: int) -> dict:
    # Of 16 channels: the backward pass of strided 1x1 convolutions of 4, 8 or 12 channels in channels_last corrupts
    # memory in torch 2.14.1 on CPUs with AVX-512.
    return dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, in_channels=channels, base_channels=16, stem_channels=16),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', in_channels=128, num_classes=classes),
        data_preprocessor=dict(mean=[127.5] * channels, std=[127.5] * channels),
    )


def _small_segmentor(channels: int, classes: int) -> dict:
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(
            type='ResNetV1c',
            depth=18,
            in_channels=channels,
            base_channels=16,
            stem_channels=16,
            norm_cfg=dict(type='BN'),
        ),
        decode_head=dict(
            type='FCNHead', in_channels=128, channels=8, num_convs=1, num_classes=classes, norm_cfg=dict(type='BN')
        ),
        data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.5] * channels, std=[127.5] * channels),
        test_cfg=dict(mode='whole'),
    )
