"""Export the student in a training checkpoint as a plain mmpretrain or mmseg model."""

import argparse

from mmdfad.apis import CfgOptions, export_student, read_run
from mmdfad.utils import readable_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help="the distillation's config")
    parser.add_argument('checkpoint', help='a training checkpoint')
    parser.add_argument('--out-dir', default='.', help='folder for student.py and student.pth; default: this folder')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help='override settings of the config')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with readable_errors():
        files = export_student(read_run(args.config, args.cfg_options), args.checkpoint, args.out_dir)
    print(*files, sep='\n')


if __name__ == '__main__':
    main()
