"""Test a student, from a training checkpoint or exported, with the metrics of the config."""

import argparse
import os
import os.path as osp

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.evaluator import DumpResults
from mmengine.fileio import dump

from mmdfad.apis import (
    CfgOptions,
    add_agreement,
    augment_test,
    finish_distributed,
    init_distributed,
    load_student_weights,
    plain_student_config,
    read_run,
    require_test_data,
    show_predictions,
)
from mmdfad.engine import SafeRunner
from mmdfad.utils import DistillError, readable_errors
from mmdfad.utils.model import unwrap


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help="the distillation's config, or an exported student.py")
    parser.add_argument('checkpoint', help='a training checkpoint, or an exported student.pth')
    parser.add_argument('--work-dir', help='folder for logs')
    parser.add_argument('--out', help='file for the predictions (.pkl), or for the metrics (.pkl, .json or .yaml)')
    parser.add_argument('--out-item', choices=['metrics', 'pred'], help='what --out gets; default: pred')
    parser.add_argument(
        '--agreement',
        action='store_true',
        help="also measure how often student and teacher agree; needs the teacher's checkpoint",
    )
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', help='folder for pictures of predictions')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds to show each image for; default: 2')
    parser.add_argument('--interval', type=int, default=1, help='show every Nth image; default: 1')
    parser.add_argument(
        '--tta',
        action='store_true',
        help='average over each image and its mirror image, or over tta_pipeline',
    )
    parser.add_argument('--amp', action='store_true', help='compute in mixed precision')
    parser.add_argument('--no-pin-memory', action='store_true', help='do not pin the memory of batches')
    parser.add_argument('--download', action='store_true', help='download the test data if they are missing')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        help='override settings of the config: test_dataloader.dataset.data_root=elsewhere',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    ends = ('.pkl', '.pickle', *(('.json', '.yaml', '.yml') if args.out_item == 'metrics' else ()))
    if args.out and not args.out.endswith(ends):
        parser.error(f'--out must end with {" or ".join(ends)}, but found {args.out}')
    if args.out_item and not args.out:
        parser.error('--out-item needs --out')
    if args.tta and args.agreement:
        parser.error('--tta and --agreement exclude each other: the teacher sees each image once')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def test_config(args: argparse.Namespace) -> Config:
    """The plain config to test with."""
    cfg = read_run(args.config, args.cfg_options)
    plain = plain_student_config(cfg)
    if plain.get('test_dataloader') is None:
        raise DistillError(f'{args.config} has no test_dataloader; set test_dataloader and test_evaluator')
    if args.show or args.show_dir:
        show_predictions(plain, args.show, args.show_dir, args.wait_time, args.interval)
    if args.tta:
        augment_test(plain, cfg)
    if args.agreement:
        plain = add_agreement(cfg, plain)
    plain.test_dataloader.setdefault('pin_memory', get_device() != 'cpu')
    plain.test_dataloader.pin_memory &= not args.no_pin_memory
    plain.launcher = args.launcher
    plain.work_dir = args.work_dir or osp.join('./work_dirs', osp.splitext(osp.basename(args.config))[0])
    plain.setdefault('test_cfg', dict())
    if args.amp:
        plain.test_cfg.fp16 = True
    init_distributed(plain)
    require_test_data(plain, args.download)
    return plain


def main() -> None:
    args = parse_args()
    with readable_errors():
        runner = SafeRunner.from_cfg(test_config(args))
        model = unwrap(runner.model)
        model = model.module if args.tta else model
        load_student_weights(model.student.model if args.agreement else model, args.checkpoint)
        if args.out and args.out_item != 'metrics':
            runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
        metrics = runner.test()
        if args.out and args.out_item == 'metrics' and is_main_process():
            dump(metrics, args.out)
        finish_distributed()


if __name__ == '__main__':
    main()
