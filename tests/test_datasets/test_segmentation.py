import cv2
import numpy as np
import pytest
from conftest import ROOT, write_camvid
from mmengine.registry import DATASETS, DefaultScope

from mmdfad.datasets import CamVidDataset, NYUv2Dataset
from mmdfad.utils import DistillError

SHARED = ROOT.parent / 'shared/data'
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), array)


def load(cfg, index=0):
    """A sample through mmseg's own pipeline."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        sample = DATASETS.build(dict(cfg, pipeline=PIPELINE))[index]
    return sample['inputs'].numpy(), sample['data_samples'].gt_sem_seg.data.numpy()[0]


@pytest.fixture
def camvid(tmp_path):
    write_camvid(tmp_path)
    return dict(type='mmdfad.CamVidDataset', data_root=str(tmp_path), ann_file='train.txt')


def test_camvid(camvid):
    image, labels = load(camvid, 1)
    assert image.shape == (3, 4, 6)
    assert (image == ord('b')).all()
    assert labels.ravel().tolist() == [*range(11), 255] * 2  # void is ignored
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = DATASETS.build(dict(camvid, pipeline=[]))
    assert len(dataset) == 2
    assert len(dataset.metainfo['classes']) == len(dataset.metainfo['palette']) == 11


@pytest.mark.parametrize(('num_classes', 'first', 'last'), [(13, 'bed', 'window'), (40, 'wall', 'otherprop')])
def test_nyuv2(tmp_path, num_classes, first, last):
    write(tmp_path / 'images/0001.png', np.zeros((2, 3, 3), np.uint8))
    write(tmp_path / f'labels{num_classes}/0001.png', np.array([[0, 1, 2], [3, num_classes, 0]], np.uint8))
    (tmp_path / 'test.txt').write_text(f'images/0001.png labels{num_classes}/0001.png\n')
    cfg = dict(type='mmdfad.NYUv2Dataset', num_classes=num_classes, data_root=str(tmp_path), ann_file='test.txt')
    _, labels = load(cfg)
    assert labels.tolist() == [[255, 0, 1], [2, num_classes - 1, 255]]
    meta = NYUv2Dataset(num_classes, data_root=str(tmp_path), ann_file='test.txt').metainfo
    assert (meta['classes'][0], meta['classes'][-1]) == (first, last)
    assert len(meta['classes']) == len(meta['palette']) == len(set(map(tuple, meta['palette']))) == num_classes


def test_bad_input(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'(?s)CamVidDataset does not find .*set data_root.*camvid.py'):
        CamVidDataset(data_root=str(tmp_path), ann_file='test.txt')
    (tmp_path / 'test.txt').write_text('only_one_name.png\n')
    with pytest.raises(DistillError, match=r"an image and its label map in each line.*'only_one_name.png'"):
        CamVidDataset(data_root=str(tmp_path), ann_file='test.txt')
    for outside in ('../secret.png', '/etc/secret.png'):
        (tmp_path / 'test.txt').write_text(f'{outside} labels.png\n')
        with pytest.raises(DistillError, match=rf'test.txt names {outside}, which is outside of data_root='):
            NYUv2Dataset(data_root=str(tmp_path), ann_file='test.txt')
    with pytest.raises(DistillError, match='num_classes of NYUv2Dataset must be 13 or 40, but found 19'):
        NYUv2Dataset(19, data_root=str(tmp_path), ann_file='test.txt')


@pytest.mark.skipif(not (SHARED / 'camvid').exists(), reason='real CamVid is not here')
@pytest.mark.parametrize(('split', 'size'), [('train', 367), ('val', 101), ('test', 233)])
def test_real_camvid(split, size):
    cfg = dict(type='mmdfad.CamVidDataset', data_root=str(SHARED / 'camvid'), ann_file=f'{split}.txt')
    with DefaultScope.overwrite_default_scope('mmseg'):
        assert len(DATASETS.build(dict(cfg, pipeline=[]))) == size
    image, labels = load(cfg, size // 2)
    assert image.shape == (3, 180, 240)
    assert set(np.unique(labels)) <= {*range(11), 255}
    assert {0, 1, 3} <= set(np.unique(labels))  # sky, building and road are everywhere
