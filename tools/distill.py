"""Distil a student from a teacher's config and checkpoint: write a config, explain its settings, and run it."""

import argparse
import re
import runpy
import sys
from pathlib import Path

from mmdfad.apis import METHODS, student_sizes, write_distillation
from mmdfad.utils import DistillError, readable_errors


def parse_args() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Other flags (--amp, --resume, --cfg-options, ...) go to tools/train.py, which runs the config.',
    )
    parser.add_argument('--teacher', required=True, help="the teacher's config: a path, or 'mmpretrain::resnet/...'")
    parser.add_argument('--checkpoint', required=True, help="the teacher's checkpoint: a path or URL")
    parser.add_argument(
        '--student',
        required=True,
        help="the student's config; or a smaller teacher: auto:0.5 for half the width, auto:depth=0.5 for half the "
        'blocks, auto:width=0.5,depth=0.5 for both; or auto, to print the sizes of these students and exit',
    )
    parser.add_argument(
        '--image-size', type=int, nargs=2, metavar=('H', 'W'), help="default: the size in the teacher's test pipeline"
    )
    parser.add_argument(
        '--method',
        choices=list(METHODS),
        default='ils',
        help='ils (the default): images fitted to the statistics of the teacher, then a start by least squares, '
        'then imitation; dfad: an adversarial generator, as in the paper',
    )
    parser.add_argument(
        '--minutes', type=float, help='choose the number of rounds so that the run takes about this many minutes'
    )
    parser.add_argument('--rounds', type=int, help="rounds to run; default: the method's")
    parser.add_argument('--batch-size', type=int, help="images in a step; default: the method's for that image size")
    parser.add_argument('--seed', type=int, default=0, help='seed of the run')
    parser.add_argument(
        '--work-dir', type=Path, help='folder for logs, checkpoints and the student; the config is WORK_DIR.py'
    )
    parser.add_argument('--config-only', action='store_true', help='write the config, but do not run it')
    args, train_flags = parser.parse_known_args()
    if train_flags and (args.config_only or args.student == 'auto'):
        parser.error(f'nothing is trained, so these flags have no effect: {" ".join(train_flags)}')
    return args, train_flags


def main() -> None:
    args, train_flags = parse_args()
    if args.student == 'auto':
        with readable_errors():
            print(student_sizes(args.teacher, args.checkpoint, args.image_size).text())
        return
    student = args.student if args.student.startswith('auto:') else Path(args.student).stem
    name = re.sub(r'\W+', '-', f'{Path(args.teacher).stem}_to_{student}')
    work_dir = args.work_dir or Path('work_dirs', name)
    with readable_errors():
        if not work_dir.name:
            raise DistillError(f'--work-dir must have a name, for the config beside it, but found {work_dir}')
        config = work_dir.with_name(f'{work_dir.name}.py')
        resumes = any(flag.partition('=')[0] == '--resume' for flag in train_flags)
        if resumes and config.is_file():  # its rounds depend on times, which differ from run to run
            print(f'Continuing with {config}, which is not written again', flush=True)
        else:
            write(config, args)
    if not args.config_only:
        sys.argv = [str(Path(__file__).with_name('train.py')), str(config), *train_flags]
        runpy.run_path(sys.argv[0], run_name='__main__')


def write(config: Path, args: argparse.Namespace) -> None:
    reasons = write_distillation(
        config,
        args.teacher,
        args.checkpoint,
        args.student,
        args.image_size,
        args.rounds,
        args.batch_size,
        args.seed,
        args.method,
        args.minutes,
    )
    print(*(f'  {line}' for line in reasons), f'Wrote {config}', sep='\n', flush=True)


if __name__ == '__main__':
    main()
