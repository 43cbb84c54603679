"""Runs that are ready for their first round."""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import LOOPS
from mmengine.runner import Runner
from torch import nn

from mmdfad.engine import AdversarialDistillLoop

CONFIGS = Path(__file__).resolve().parents[3] / 'configs/dfad'
_AUTO = {'optim_wrapper.amp_dtype': 'auto'}
# Name: config, changes.
PAIRS: dict[str, tuple[str, dict]] = {
    'lenet': ('dfad_lenet5-lenet5half_1xb128_mnist5k.py', {}),
    'resnet34_resnet18': ('dfad_resnet34-resnet18_1xb256_cifar10.py', {'train_dataloader.batch_size': 64, **_AUTO}),
    'resnet56_resnet20': (
        'dfad_resnet32-resnet20_1xb256_cifar10.py',
        {'train_dataloader.batch_size': 128, 'model.teacher.cfg_options': {'model.kwargs.depth': 56}, **_AUTO},
    ),
    'deeplab': (
        'dfad_deeplabv3-r50-mobilenetv2_1xb64_camvid-128x128.py',
        {'train_dataloader.batch_size': 4, **_AUTO},
    ),
    'vit': (
        'dfad_resnet34-resnet18_1xb64_caltech101-128x128.py',
        {
            'train_dataloader.batch_size': 8,
            'model.generator.image_size': 224,
            'model.teacher': dict(cfg_path='mmpretrain::deit/deit-tiny_4xb256_in1k.py'),
            'model.student': dict(
                cfg_path='mmpretrain::deit/deit-tiny_4xb256_in1k.py',
                cfg_options={
                    'model.backbone.arch': dict(
                        embed_dims=96, num_layers=6, num_heads=3, feedforward_channels=384, _delete_=True
                    ),
                    'model.head.in_channels': 96,
                },
            ),
            **_AUTO,
        },
    ),
}
Round = Callable[[], None]


def make_config(pair: str, **changes) -> Config:
    """The config of a pair, without data and checkpoints.

    Args:
        pair (str): A name in :data:`PAIRS`.
        changes: More changes, by dotted key.
    """
    path, options = PAIRS[pair]
    cfg = Config.fromfile(CONFIGS / path)
    for role in ('teacher', 'student'):
        if f'model.{role}' in options:
            cfg.model[role] = {}
    cfg.merge_from_dict({**options, **changes})
    cfg.model.teacher.pop('checkpoint', None)
    cfg.model.allow_random_teacher = True
    for key in ('dataloader', 'evaluator', 'cfg'):
        cfg[f'val_{key}'] = cfg[f'test_{key}'] = None
    cfg.log_level = 'ERROR'
    cfg.visualizer = None
    return cfg


@LOOPS.register_module()
class PausedLoop(AdversarialDistillLoop):
    """Prepares the first round, and leaves it to the caller to run rounds."""

    def run(self) -> nn.Module:
        """Prepare the first round."""
        with self.exit_stack:  # gives signals back, so that Ctrl-C ends the benchmark
            self.begin()
        return self.runner.model


def make_runner(cfg: Config, seed: int) -> Runner:
    """A runner that is ready for its first round.

    Args:
        cfg (Config): From :func:`make_config`.
        seed (int): Seed of weights and noise.
    """
    cfg = Config(cfg.to_dict())
    cfg.work_dir = tempfile.mkdtemp(prefix='benchmark_rounds_')
    atexit.register(shutil.rmtree, cfg.work_dir, ignore_errors=True)
    cfg.train_cfg.type = 'PausedLoop'
    cfg.randomness = dict(seed=seed)
    cfg.experiment_name = Path(cfg.work_dir).name
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def mmdfad_round(runner: Runner) -> Round:
    """A round of the loop, with everything that its hooks do."""
    return runner.train_loop.run_round
