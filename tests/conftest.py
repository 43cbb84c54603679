"""What the tests share: real models of small width, and real runs of a few rounds."""

import itertools
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner

import mmdfad  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / 'tests/data/tiny.py'
_run_number = itertools.count()


@pytest.fixture(autouse=True)
def _no_leftover_scope():
    """A Runner leaves its scope behind as the default; no test may depend on that of another."""
    yield
    DefaultScope._instance_dict.clear()


def build_model(cfg: dict, scope: str = 'mmpretrain') -> torch.nn.Module:
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(Config(dict(model=cfg)).model)


def save_teacher(path: Path, seed: int = 0, **meta) -> Path:
    """A checkpoint for the tiny teacher, with batch norm statistics as of a trained one."""
    torch.manual_seed(seed)
    cfg = dict(Config.fromfile(TINY).model.teacher)
    cfg.pop('checkpoint')
    model = build_model(cfg)
    model.init_weights()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
            torch.nn.init.normal_(module.running_mean, 0, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    torch.nn.init.normal_(model.head.fc.weight, 0, 0.5)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=list('abcde')), **meta)), path)
    return path


@pytest.fixture(scope='session')
def teacher_checkpoint(tmp_path_factory) -> str:
    return str(save_teacher(tmp_path_factory.mktemp('teacher') / 'teacher.pth'))


@pytest.fixture
def tiny_cfg(tmp_path, teacher_checkpoint) -> Config:
    """The config of a tiny distillation, in the test's own work directory."""
    cfg = Config.fromfile(TINY)
    cfg.model.teacher.checkpoint = teacher_checkpoint
    cfg.work_dir = str(tmp_path / 'run')
    return cfg


def run(cfg: Config, **changes) -> Runner:
    """Build a runner and train. ``changes`` are dotted keys with double underscores for dots."""
    runner = build_runner(cfg, **changes)
    runner.train()
    return runner


def build_runner(cfg: Config, **changes) -> Runner:
    cfg = Config(cfg.to_dict())
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
    # mmengine gives two runners of one name in one second the same message hub.
    cfg.experiment_name = f'test_{next(_run_number)}'
    return Runner.from_cfg(cfg)


def assert_same_state(a: dict, b: dict) -> None:
    """Bitwise equality of two (nested) state dicts."""
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, b[key]), key
        elif isinstance(value, dict):
            assert_same_state(value, b[key])
        else:
            assert value == b[key], key
