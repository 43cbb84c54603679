"""Distil a student without data. Plain mmpretrain and mmseg configs train as usual."""

import argparse
import os
import os.path as osp

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import RUNNERS

from mmdfad.apis import (
    CfgOptions,
    check_distillation,
    check_settings,
    claimed_work_dir,
    ensure_validation,
    finish_distributed,
    init_distributed,
    is_distillation,
    merge_options,
    require_whole_checkpoint,
    set_amp,
    set_resume,
)
from mmdfad.engine import DistillRunner, SafeRunner
from mmdfad.utils import DistillError, readable_errors
from mmdfad.utils.config import read_config
from mmdfad.utils.model import unwrap


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help="a config file, or the config of a package: 'mmpretrain::lenet/lenet5_mnist.py'")
    parser.add_argument('--work-dir', help='where logs, checkpoints and the student go')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='continue from this checkpoint; without a value, from the latest whole one in the work directory',
    )
    parser.add_argument(
        '--amp', action='store_const', dest='amp_dtype', const='auto', help='compute in the fastest type of the device'
    )
    parser.add_argument(
        '--amp-dtype',
        choices=['auto', 'float32', 'bfloat16', 'float16'],
        help="compute in this type; default: the config's",
    )
    parser.add_argument(
        '--preflight', action='store_true', help='first check the teacher, and warn of what looks wrong'
    )
    parser.add_argument('--download', action='store_true', help='download the validation data if they are missing')
    parser.add_argument('--no-validate', action='store_true', help='do not validate during training')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rates with the batch size')
    parser.add_argument('--no-pin-memory', action='store_true', help='do not pin the memory of batches')
    parser.add_argument('--no-persistent-workers', action='store_true', help='restart dataloader workers every epoch')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        help='override settings of the config: model.teacher.checkpoint=teacher.pth; lists as key="[a,b]"',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    # torch.distributed.launch passes it. torchrun sets the variable.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def merge_args(cfg: Config, args: argparse.Namespace) -> Config:
    """Merge the flags into the config, and check it. ``--cfg-options`` override the other flags."""
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('./work_dirs', osp.splitext(osp.basename(args.config))[0])
    if args.amp_dtype is not None:
        set_amp(cfg, args.amp_dtype)
    if args.auto_scale_lr:
        if 'auto_scale_lr' not in cfg:
            raise DistillError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config')
        cfg.auto_scale_lr.enable = True
    merge_options(cfg, args.cfg_options)
    check_settings(cfg)
    for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(field)
        if loader is not None:
            loader.setdefault('pin_memory', get_device() != 'cpu')
            loader.setdefault('persistent_workers', loader.get('num_workers', 0) > 0)
            loader.pin_memory &= not args.no_pin_memory
            loader.persistent_workers &= not args.no_persistent_workers
    return cfg


def main() -> None:
    args = parse_args()
    with readable_errors():
        cfg = merge_args(read_config(args.config), args)
        init_distributed(cfg)
        with claimed_work_dir(cfg.work_dir):
            train(cfg, args)
        finish_distributed()


def train(cfg: Config, args: argparse.Namespace) -> None:
    if args.resume is not None:
        set_resume(cfg, args.resume)
    elif cfg.get('load_from'):
        require_whole_checkpoint(cfg.load_from)
    for flag in ('preflight', 'download'):
        if getattr(args, flag) and not is_distillation(cfg):
            raise DistillError(f'--{flag} is for distillations, but {args.config} trains a plain model')
    if is_distillation(cfg) and not args.no_validate:
        ensure_validation(cfg, args.download)
    runner_type = DistillRunner if is_distillation(cfg) else SafeRunner
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else runner_type.from_cfg(cfg)
    if args.preflight and is_distillation(cfg):
        for warning in check_distillation(unwrap(runner.model)):
            runner.logger.warning(warning)
    runner.train()


if __name__ == '__main__':
    main()
