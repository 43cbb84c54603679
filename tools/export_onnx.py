"""Export a student, or any plain model of mmpretrain or mmseg, to ONNX, and compare the file with PyTorch."""

import argparse

from mmdfad.apis import CfgOptions, export_onnx
from mmdfad.utils import readable_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help="the student's config: a path, or 'mmpretrain::...' and 'mmseg::...'")
    parser.add_argument('checkpoint', help="the student's checkpoint: a path or URL")
    parser.add_argument('--out', help="the file to write; default: the checkpoint's name with .onnx")
    parser.add_argument('--image-size', type=int, nargs=2, metavar=('H', 'W'), help='default: the size in the config')
    parser.add_argument('--any-size', action='store_true', help='let the graph take images of any height and width')
    parser.add_argument(
        '--with-preprocessing',
        action='store_true',
        help='let the graph take uint8 images [N, 3, H, W] in the order RGB, or gray ones [N, 1, H, W], and normalise '
        'them; otherwise it takes normalised pixels',
    )
    parser.add_argument(
        '--with-postprocessing',
        action='store_true',
        help='output scores and labels (classifiers) or label maps (segmentors) instead of logits',
    )
    parser.add_argument(
        '--channel-order', choices=['rgb', 'bgr'], help='order of the input channels; default: as in the config'
    )
    parser.add_argument(
        '--tolerance',
        type=float,
        default=1e-3,
        help="largest difference from PyTorch's logits, as a share of their standard deviation; default: 1e-3",
    )
    parser.add_argument('--opset', type=int, help="version of ONNX's operators; default: torch's")
    parser.add_argument('--cfg-options', nargs='+', action=CfgOptions, help='override settings of the config')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with readable_errors():
        file = export_onnx(
            args.config,
            args.checkpoint,
            args.out,
            args.image_size,
            preprocessing=args.with_preprocessing,
            postprocessing=args.with_postprocessing,
            any_size=args.any_size,
            order=args.channel_order,
            tolerance=args.tolerance,
            opset=args.opset,
            cfg_options=args.cfg_options,
        )
    print(file)


if __name__ == '__main__':
    main()
