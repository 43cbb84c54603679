"""Draw test images with ground truth, teacher and student side by side."""

import argparse

from mmengine.config import DictAction

from mmdfad.apis import draw_predictions
from mmdfad.utils import readable_errors
from mmdfad.utils.config import read_config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help="the distillation's config")
    parser.add_argument('checkpoint', help='a training checkpoint, or an exported student.pth')
    parser.add_argument('--out', default='predictions.png', help='the picture to write')
    parser.add_argument('--count', type=int, default=4, help='images, spread over the test set')
    parser.add_argument('--work-dir', default='work_dirs/visualize', help='where logs go')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='override settings of the config')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with readable_errors():
        cfg = read_config(args.config)
        cfg.work_dir = args.work_dir
        if args.cfg_options is not None:
            cfg.merge_from_dict(args.cfg_options)
        draw_predictions(cfg, args.checkpoint, args.out, args.count)
    print(args.out)


if __name__ == '__main__':
    main()
