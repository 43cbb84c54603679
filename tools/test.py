"""Test a student, from a training checkpoint or exported, with the metrics of the config."""

import argparse
import os
import os.path as osp

from mmengine.config import Config, DictAction
from mmengine.evaluator import DumpResults
from mmengine.runner import Runner

from mmdfad.apis import add_agreement, finish_distributed, load_student_weights, plain_student_config, read_run
from mmdfad.utils import DistillError, readable_errors
from mmdfad.utils.model import unwrap


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help="the distillation's config, or an exported student.py")
    parser.add_argument('checkpoint', help='a training checkpoint, or an exported student.pth')
    parser.add_argument('--work-dir', help='folder for logs')
    parser.add_argument('--out', help='file (.pkl) for the predictions')
    parser.add_argument(
        '--agreement',
        action='store_true',
        help="also measure how often student and teacher agree; needs the teacher's checkpoint",
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='override settings of the config: test_dataloader.dataset.data_root=elsewhere',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def test_config(args: argparse.Namespace) -> Config:
    """The plain config to test with."""
    cfg = read_run(args.config, args.cfg_options)
    plain = plain_student_config(cfg)
    if plain.get('test_dataloader') is None:
        raise DistillError(f'{args.config} has no test_dataloader; set test_dataloader and test_evaluator')
    if args.agreement:
        plain = add_agreement(cfg, plain)
    plain.launcher = args.launcher
    plain.work_dir = args.work_dir or osp.join('./work_dirs', osp.splitext(osp.basename(args.config))[0])
    plain.setdefault('test_cfg', dict())
    return plain


def main() -> None:
    args = parse_args()
    with readable_errors():
        runner = Runner.from_cfg(test_config(args))
        model = unwrap(runner.model)
        load_student_weights(model.student.model if args.agreement else model, args.checkpoint)
        if args.out:
            runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
        runner.test()
        finish_distributed()


if __name__ == '__main__':
    main()
