"""Write the report of a run, finished or interrupted: WORK_DIR/report.html and WORK_DIR/report.json."""

import argparse

from mmdfad.apis import CfgOptions, make_report
from mmdfad.utils import readable_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', help='the work directory of tools/train.py or tools/distill.py')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        help="override settings of the run's config: model.teacher.checkpoint=elsewhere.pth",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with readable_errors():
        print(make_report(args.work_dir, args.cfg_options))


if __name__ == '__main__':
    main()
