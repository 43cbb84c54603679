"""Draw test images with the ground truth and the predictions of teacher and student."""

import argparse

from mmdfad.apis import CfgOptions, draw_predictions, read_run
from mmdfad.utils import readable_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help="the distillation's config")
    parser.add_argument('checkpoint', help='a training checkpoint, or an exported student.pth')
    parser.add_argument('--out', default='predictions.png', help='the picture to write')
    parser.add_argument('--count', type=int, default=4, help='images to draw, spread over the test set')
    parser.add_argument('--work-dir', default='work_dirs/visualize', help='folder for logs')
    parser.add_argument('--download', action='store_true', help='download the test data if they are missing')
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help='override settings of the config')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with readable_errors():
        cfg = read_run(args.config, args.cfg_options)
        cfg.work_dir = args.work_dir
        draw_predictions(cfg, args.checkpoint, args.out, args.count, args.download)
    print(args.out)


if __name__ == '__main__':
    main()
