"""Unpack NYU Depth v2 into images and label maps of 13 and 40 classes.

The images and raw labels come from nyu_depth_v2_labeled.mat (2.8 GB, cs.nyu.edu/~silberman/datasets). The splits and
class maps come from github.com/ankurhanda/nyuv2-meta-data. Images are read one at a time. An interrupted run continues
when run again. Needs h5py and scipy.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from mmengine.utils import track_iter_progress

from mmdfad.utils import DistillError, readable_errors
from mmdfad.utils.atomic import atomic_write


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('mat', type=Path, help='nyu_depth_v2_labeled.mat')
    parser.add_argument('meta', type=Path, help='folder with splits.mat, classMapping40.mat and class13Mapping.mat')
    parser.add_argument('--out-dir', type=Path, default=Path('data/nyuv2'), help='default: data/nyuv2')
    return parser.parse_args()


def load_mat(path: Path) -> dict:
    """Read a small MATLAB file."""
    from scipy.io import loadmat

    if not path.is_file():
        raise DistillError(f'{path} does not exist; download nyuv2-meta-data, and give its folder')
    try:
        return loadmat(path)
    except Exception as error:  # scipy raises different errors for different damages
        raise DistillError(f'{path} is truncated or not a MATLAB file: {error}; download it again') from error


def read_maps(meta: Path) -> dict[int, np.ndarray]:
    """Lookup tables from the 894 raw labels to 40 and to 13 classes. 0 means no class and stays 0."""
    to40 = np.concatenate([[0], load_mat(meta / 'classMapping40.mat')['mapClass'].ravel()])
    to13 = np.concatenate([[0], load_mat(meta / 'class13Mapping.mat')['classMapping13']['labels13'][0, 0].ravel()])
    return {40: to40.astype(np.uint8), 13: to13[to40].astype(np.uint8)}


def read_splits(meta: Path) -> dict[str, list[int]]:
    """The official split, as image numbers that start at 1."""
    splits = load_mat(meta / 'splits.mat')
    return {name: sorted(splits[f'{name}Ndxs'].ravel().tolist()) for name in ('train', 'test')}


def encode(image: np.ndarray) -> bytes:
    """Encode an image as PNG."""
    return cv2.imencode('.png', image)[1].tobytes()


def convert(mat: Path, meta: Path, out_dir: Path) -> None:
    """Write images, label maps and list files."""
    import h5py

    try:
        maps, splits = read_maps(meta), read_splits(meta)
    except KeyError as error:
        raise DistillError(f'a file in {meta} has no {error}; expected the files of nyuv2-meta-data') from error
    if not mat.is_file():
        raise DistillError(f'{mat} does not exist; download it from cs.nyu.edu/~silberman/datasets')
    try:
        with h5py.File(mat) as file:
            images, labels = file['images'], file['labels']
            last = max(max(numbers) for numbers in splits.values())
            if len(images) < last or len(labels) < last:
                raise DistillError(f'{mat} has {len(images)} images, but the split names image {last}')
            for number in track_iter_progress(sorted(n for numbers in splits.values() for n in numbers)):
                convert_image(images, labels, number, maps, out_dir)
    except (OSError, KeyError) as error:
        raise DistillError(
            f'{mat} is truncated or not nyu_depth_v2_labeled.mat ({error}); download it again'
        ) from error
    for split, numbers in splits.items():
        for classes in maps:
            lines = ''.join(f'images/{n:04d}.png labels{classes}/{n:04d}.png\n' for n in numbers)
            atomic_write(out_dir / f'{split}{classes}.txt', lines.encode())


def convert_image(images, labels, number: int, maps: dict[int, np.ndarray], out_dir: Path) -> None:  # noqa: ANN001
    """Write one image and its label maps, unless they exist."""
    targets = [out_dir / f'labels{classes}/{number:04d}.png' for classes in maps]
    image_file = out_dir / f'images/{number:04d}.png'
    if all(target.exists() for target in (*targets, image_file)):
        return
    # MATLAB's arrays come transposed: [3, W, H] and [W, H].
    raw = labels[number - 1].T
    if raw.max() >= len(maps[40]):
        raise DistillError(
            f'image {number} has the label {raw.max()}, but classMapping40.mat has only {len(maps[40]) - 1}'
        )
    image = images[number - 1].transpose(2, 1, 0)[..., ::-1]
    try:
        for target, table in zip(targets, maps.values(), strict=True):
            atomic_write(target, encode(table[raw]))
        atomic_write(image_file, encode(image))
    except OSError as error:  # not one of reading the big file, which would ask for another download
        raise DistillError(f'cannot write to {out_dir}: {error}. Make room, and run the same command again') from error


def main() -> None:
    args = parse_args()
    with readable_errors():
        try:
            convert(args.mat, args.meta, args.out_dir)
        except ImportError as error:
            raise DistillError(f'{error.name} is needed to read MATLAB files: pip install h5py scipy') from error
    print(f'\nNYUv2 is in {args.out_dir}')


if __name__ == '__main__':
    main()
