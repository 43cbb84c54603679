"""What the tests share: real models of small width, and real runs of a few rounds."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from yapf.yapflib import yapf_api  # in pytest's first process, before its workers: they would read half of yapf's cache

from mmdfad.utils.compat import check_package

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / 'tests/data/tiny.py'
TINY_SEG = ROOT / 'tests/data/tiny_seg.py'
FEW_PROBES = dict(IMAGES=16, DENSE_IMAGES=8, WARMUP=1)
# A report takes longer than a tiny run, so only tests of reports have one.
REPORT = dict(type='mmdfad.ReportHook', latency_seconds=0.1)
_run_number = itertools.count()


def _why_no_segmentors() -> str:
    """Why mmseg cannot be used here, as beside mmcv-lite. Empty if it can."""
    try:
        check_package('mmseg')
    except ImportError as error:
        return str(error).splitlines()[0]
    return ''


NO_SEGMENTORS = _why_no_segmentors()


@contextmanager
def _segmentors_skipped() -> Iterator[None]:
    """Skip a test that has failed because mmseg cannot be imported, and for no other reason."""
    try:
        yield
    except Exception as error:
        if NO_SEGMENTORS and 'mmcv._ext' in str(error):
            pytest.skip(NO_SEGMENTORS)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    with _segmentors_skipped():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with _segmentors_skipped():
        return (yield)


# Runs a test that takes `tiny_cfg` for a classifier and for a segmentor.
both_tasks = pytest.mark.parametrize('tiny_cfg', [TINY, TINY_SEG], ids=['classifier', 'segmentor'], indirect=True)


@pytest.fixture(autouse=True)
def _no_leftovers():
    """A Runner leaves its scope and its visualizer behind for the next one, which would write to the same folder."""
    yield
    for managed in (DefaultScope, Visualizer, *Visualizer.__subclasses__()):
        managed._instance_dict.clear()


@pytest.fixture(autouse=True)
def _no_pretty_configs(monkeypatch):
    """mmengine formats a config three times in a run, which takes longer than a tiny run itself."""
    monkeypatch.setattr(yapf_api, 'FormatCode', lambda text, **style: (text, True))


@pytest.fixture(autouse=True)
def _few_probes(monkeypatch):
    """Images to predict the agreement with take long to make."""
    for name, value in FEW_PROBES.items():
        monkeypatch.setattr(f'mmdfad.models.probes.{name}', value)


def build_model(cfg: dict, scope: str = 'mmpretrain') -> torch.nn.Module:
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(Config(dict(model=cfg)).model)


def save_teacher(path: Path, seed: int = 0, config: Path = TINY, **meta) -> Path:
    """A checkpoint for a tiny teacher, with batch norm statistics as of a trained one."""
    torch.manual_seed(seed)
    cfg = Config.fromfile(config)
    model_cfg = dict(cfg.model.teacher)
    model_cfg.pop('checkpoint')
    model_cfg.pop('pretrained', None)
    model = build_model(model_cfg, cfg.default_scope)
    model.init_weights()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
            torch.nn.init.normal_(module.running_mean, 0, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    classifier = model.head.fc if hasattr(model, 'head') else model.decode_head.conv_seg
    torch.nn.init.normal_(classifier.weight, 0, 0.5)
    dataset_meta = dict(classes=list('abcde'), palette=[[i * 50, 0, 255 - i * 50] for i in range(5)])
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dataset_meta, **meta)), path)
    return path


class Teachers(dict):
    """Checkpoints of teachers by config, made when they are needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __missing__(self, config: Path) -> str:
        self[config] = str(save_teacher(self.folder / f'{config.stem}.pth', config=config))
        return self[config]


@pytest.fixture(scope='session')
def teacher_checkpoints(tmp_path_factory) -> Teachers:
    """The teachers' checkpoints by config."""
    return Teachers(tmp_path_factory.mktemp('teachers'))


@pytest.fixture(scope='session')
def teacher_checkpoint(teacher_checkpoints) -> str:
    return teacher_checkpoints[TINY]


@pytest.fixture
def tiny_cfg(request, tmp_path, teacher_checkpoints) -> Config:
    """The config of a tiny distillation, in the test's own work directory."""
    path = getattr(request, 'param', TINY)
    cfg = Config.fromfile(path)
    cfg.model.teacher.checkpoint = teacher_checkpoints[path]
    cfg.work_dir = str(tmp_path / 'run')
    cfg.default_hooks.pop('report')
    return cfg


@pytest.fixture
def eventful_cfg(tiny_cfg) -> Config:
    """The tiny distillation with chance, a memory, averaged weights, workers and mixed precision."""
    tiny_cfg.model.student.head.update(type='StackedLinearClsHead', mid_channels=[16], dropout_rate=0.5)
    replay = dict(type='ReplayGenerator', generator=tiny_cfg.model.generator, capacity=6, replayed=3, push=3)
    tiny_cfg.model.generator = dict(type='AugmentedGenerator', generator=replay, shift=2)
    tiny_cfg.custom_hooks = [dict(type='EMAHook', momentum=0.1, update_buffers=True)]
    tiny_cfg.train_dataloader.update(batch_size=4, num_workers=1)
    tiny_cfg.optim_wrapper.amp_dtype = 'bfloat16'
    return tiny_cfg


def run(cfg: Config, **changes) -> Runner:
    """Build a runner and train, see :func:`build_runner`."""
    runner = build_runner(cfg, **changes)
    runner.train()
    return runner


def build_runner(cfg: Config, **changes) -> Runner:
    """Build a runner. ``changes`` are dotted keys with double underscores for dots."""
    cfg = Config(cfg.to_dict())
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
    # mmengine gives two runners of one name in one second the same message hub.
    cfg.experiment_name = f'test_{next(_run_number)}'
    return Runner.from_cfg(cfg)


def keep_hooks(cfg: Config, *names: str) -> None:
    """Remove all hooks of a config but those of mmengine and some that are named."""
    stock = ('logger', 'param_scheduler', 'timer')
    hooks = dict(cfg.default_hooks, report=dict(REPORT))
    cfg.default_hooks = {name: hooks[name] for name in (*stock, *names)}


def hook_of(runner: Runner, kind: str) -> Hook:
    """The hook of a class, by its name."""
    return next(hook for hook in runner.hooks if type(hook).__name__ == kind)


def assert_same_run(a: Runner, b: Runner) -> None:
    """Bitwise equality of networks and optimizers."""
    assert_same_state(a.model.state_dict(), b.model.state_dict())
    assert_same_state(a.optim_wrapper.state_dict(), b.optim_wrapper.state_dict())


def assert_same_state(a: dict, b: dict) -> None:
    """Bitwise equality of two (nested) state dicts."""
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, b[key]), key
        elif isinstance(value, dict):
            assert_same_state(value, b[key])
        elif isinstance(value, list):
            assert_same_state(dict(enumerate(value)), dict(enumerate(b[key])))
        else:
            assert value == b[key], key


def write_camvid(folder: Path) -> None:
    """Two tiny images, 4 by 6 pixels, in SegNet's layout of CamVid, with the paths of its own list files."""
    lines = []
    for name in 'ab':
        labels = np.arange(24, dtype=np.uint8).reshape(4, 6) % 12
        for part, array in (('train', np.full((4, 6, 3), ord(name), np.uint8)), ('trainannot', labels)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / part / f'{name}.png'), array)
        lines.append(f'/SegNet/CamVid/train/{name}.png /SegNet/CamVid/trainannot/{name}.png\n')
    (folder / 'train.txt').write_text(''.join(lines))
