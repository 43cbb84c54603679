import os

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY_SEG, assert_same_state, both_tasks, build_model, build_runner, run, save_teacher, write_camvid
from mmengine.config import Config
from mmengine.hooks import Hook

from mmdfad.apis import export_student
from mmdfad.engine.hooks import DistillCheckpointHook
from mmdfad.engine.hooks.synthetic import Tile, draw_grid
from mmdfad.models.logits import as_logits
from mmdfad.utils import DistillError
from mmdfad.utils.atomic import atomic_write


class FillDisk(Hook):
    """Lets no file grow beyond a few bytes from a round on, as a full disk does."""

    def __init__(self, round_number, monkeypatch):
        self.round_number, self.monkeypatch = round_number, monkeypatch

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == self.round_number:

            def no_space(descriptor):
                raise OSError(28, 'No space left on device')

            self.monkeypatch.setattr(os, 'fsync', no_space)


# Checkpoints.


def test_checkpoint_holds_the_players_and_signs_the_teacher(tiny_cfg, tmp_path, teacher_checkpoint):
    runner = run(tiny_cfg, train_cfg__max_iters=2)
    checkpoint = torch.load(tmp_path / 'run/iter_2.pth', weights_only=False)
    assert {key.split('.')[0] for key in checkpoint['state_dict']} == {'student', 'generator'}
    assert checkpoint['optimizer'].keys() == {'student', 'generator'}
    assert checkpoint['param_schedulers'].keys() == {'student', 'generator'}
    assert checkpoint['meta']['iter'] == 2
    assert checkpoint['meta']['teacher'] == dict(
        checkpoint=teacher_checkpoint, sha256=runner.model.teacher_record['sha256']
    )
    teacher_size = sum(t.numel() for t in runner.model.teacher.state_dict().values())
    assert teacher_size > 3 * sum(t.numel() for t in runner.model.student.state_dict().values())


def test_old_checkpoints_go_after_the_new_is_complete(tiny_cfg, tmp_path, monkeypatch):
    present = []
    write = atomic_write

    def spy(path, content):
        present.append((os.path.basename(path), sorted(p.name for p in (tmp_path / 'run').glob('iter_*.pth'))))
        write(path, content)

    monkeypatch.setattr('mmdfad.utils.atomic.atomic_write', spy)
    run(tiny_cfg, default_hooks__checkpoint__max_keep_ckpts=1, custom_hooks=[])
    assert sorted(p.name for p in (tmp_path / 'run').glob('iter_*.pth')) == ['iter_6.pth']
    assert present == [('iter_2.pth', []), ('iter_4.pth', ['iter_2.pth']), ('iter_6.pth', ['iter_4.pth'])]
    assert (tmp_path / 'run/last_checkpoint').read_text() == str(tmp_path / 'run/iter_6.pth')


def test_number_of_kept_checkpoints_survives_a_resume(tiny_cfg, tmp_path):
    run(tiny_cfg, train_cfg__max_iters=4)
    run(tiny_cfg, resume=True, train_cfg__max_iters=8)
    assert sorted(p.name for p in (tmp_path / 'run').glob('*.pth')) == ['iter_6.pth', 'iter_8.pth', 'student.pth']


@pytest.mark.parametrize('exporting', [True, False])
def test_full_disk_keeps_the_last_checkpoint(tiny_cfg, tmp_path, monkeypatch, exporting):
    runner = build_runner(tiny_cfg, custom_hooks=[dict(type='mmdfad.ExportStudentHook')] if exporting else [])
    runner.register_hook(FillDisk(2, monkeypatch))
    with pytest.raises(DistillError, match=r'cannot write .*No space left on device.*untouched; make room'):
        runner.train()
    monkeypatch.undo()
    names = {p.name for p in (tmp_path / 'run').iterdir()}
    assert 'iter_2.pth' in names
    assert 'iter_4.pth' not in names
    assert not any('partial' in name for name in names)
    run(tiny_cfg, resume=True, train_cfg__max_iters=3)


def test_diverged_weights_are_not_saved(tiny_cfg, tmp_path):
    """The loss of the round was still finite; only the last update broke the weights."""

    class Break(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if batch_idx == 3:
                next(runner.model.student.parameters()).data[0] = float('inf')

    runner = build_runner(tiny_cfg)
    runner.register_hook(Break())
    with pytest.raises(DistillError, match=r'not saving round 4: student.model.* not finite, the student has diverged'):
        runner.train()
    run(tiny_cfg, resume=True, train_cfg__max_iters=3)


def test_resume_refuses_another_teacher(tiny_cfg, tmp_path):
    run(tiny_cfg, train_cfg__max_iters=2)
    other = save_teacher(tmp_path / 'other.pth', seed=1)
    with pytest.raises(DistillError, match=r'(?s)distilled from another teacher:.*tiny.pth \(sha256.*other.pth'):
        run(tiny_cfg, resume=True, model__teacher__checkpoint=str(other))
    # the same weights elsewhere are the same teacher
    copied = save_teacher(tmp_path / 'copied.pth', seed=0)
    run(tiny_cfg, resume=True, model__teacher__checkpoint=str(copied), train_cfg__max_iters=3)


def test_resume_refuses_another_student(tiny_cfg):
    run(tiny_cfg, train_cfg__max_iters=2)
    with pytest.raises(DistillError, match=r'(?s)does not fit the student and generator.*conv1.weight \(model \[2, '):
        run(
            tiny_cfg,
            resume=True,
            model__student__backbone=dict(base_channels=2, stem_channels=2),
            model__student__head=dict(in_channels=16),
        )


def test_plain_student_is_no_training_checkpoint(tiny_cfg, tmp_path):
    run(tiny_cfg, train_cfg__max_iters=2)
    with pytest.raises(DistillError, match=r'(?s)does not fit.*set model.student.checkpoint instead of load_from'):
        run(tiny_cfg, load_from=str(tmp_path / 'run/student.pth'))
    # ... but it is what a student can start from
    runner = build_runner(tiny_cfg, model__student__checkpoint=str(tmp_path / 'run/student.pth'))
    assert_same_state(
        runner.model.student_player.model.state_dict(), torch.load(tmp_path / 'run/student.pth')['state_dict']
    )


def test_intervals_are_rounds():
    with pytest.raises(DistillError, match='by_epoch must be False'):
        DistillCheckpointHook(by_epoch=True)


def test_save_best_by_agreement_on_noise(tiny_cfg, tmp_path):
    noise = dict(type='mmdfad.NoiseDataset', noise_dim=16, seed=1, length=20)
    run(
        tiny_cfg,
        val_dataloader=dict(batch_size=8, num_workers=0, dataset=noise, sampler=dict(type='mmdfad.NoiseSampler')),
        val_evaluator=dict(type='mmdfad.AgreementMetric'),
        val_cfg=dict(),
        train_cfg__val_interval=2,
        default_hooks__checkpoint__save_best='agreement',
        default_hooks__checkpoint__rule='greater',
    )
    assert len(list((tmp_path / 'run').glob('best_agreement_iter_*.pth'))) == 1


def test_atomic_write_is_all_or_nothing(tmp_path, monkeypatch):
    target = tmp_path / 'folder/file'
    atomic_write(target, b'old')
    monkeypatch.setattr(os, 'fsync', lambda _: (_ for _ in ()).throw(OSError(28, 'No space left on device')))
    with pytest.raises(OSError, match='No space left'):
        atomic_write(target, b'new')
    assert target.read_bytes() == b'old'
    assert os.listdir(target.parent) == ['file']


# Law 7: the exported student.


def load_with_stock_tools(folder):
    """The exported student, as mmpretrain or mmseg itself loads it, and its dataset meta."""
    config, checkpoint = str(folder / 'student.py'), str(folder / 'student.pth')
    if Config.fromfile(config).default_scope == 'mmpretrain':
        from mmpretrain import get_model

        model = get_model(config, pretrained=checkpoint)
        return model, model._dataset_meta
    from mmseg.apis import init_model

    model = init_model(config, checkpoint, device='cpu')
    return model, model.dataset_meta


@both_tasks
@pytest.mark.parametrize('ema', [False, True])
def test_exported_student_gives_the_same_logits_in_stock_tools(tiny_cfg, tmp_path, monkeypatch, ema):
    if ema:
        tiny_cfg.custom_hooks += [dict(type='EMAHook', momentum=0.1, update_buffers=True)]
    runner = run(tiny_cfg)
    images = torch.randn(4, 3, *runner.model.generator.image_size)
    if ema:
        hook = next(h for h in runner.hooks if type(h).__name__ == 'EMAHook')
        hook._swap_ema_parameters()  # as for validation: the student is the averaged one
    student = runner.model.student.eval()
    with torch.no_grad():
        expected = student(images)

    monkeypatch.chdir(tmp_path)  # the config must stand on its own
    exported, dataset_meta = load_with_stock_tools(tmp_path / 'run')
    with torch.no_grad():
        assert torch.equal(as_logits(exported)(images), expected)
    assert dataset_meta['classes'] == list('abcde')
    config = Config.fromfile(tmp_path / 'run/student.py')
    assert config.default_scope == tiny_cfg.default_scope
    assert 'mmdfad' not in config.pretty_text
    # strictly: the keys are those of a freshly built stock model, auxiliary heads included
    state = torch.load(tmp_path / 'run/student.pth')['state_dict']
    assert state.keys() == build_model(config.model, config.default_scope).state_dict().keys()


@both_tasks
def test_offline_export_is_the_one_of_training(tiny_cfg, tmp_path):
    run(tiny_cfg, train_cfg__max_iters=2)
    export_student(tiny_cfg, str(tmp_path / 'run/iter_2.pth'), tmp_path / 'again')
    ours, theirs = (torch.load(tmp_path / name / 'student.pth') for name in ('run', 'again'))
    assert ours['meta'] == theirs['meta']
    assert ours['state_dict'].keys() == theirs['state_dict'].keys()
    trained = {k: v for k, v in ours['state_dict'].items() if not k.startswith('auxiliary_head')}
    assert_same_state(trained, {k: theirs['state_dict'][k] for k in trained})
    assert (tmp_path / 'run/student.py').read_text() == (tmp_path / 'again/student.py').read_text()


def test_exported_student_serves_the_stock_inferencer(tiny_cfg, tmp_path):
    tiny_cfg.test_dataloader = dict(
        batch_size=4,
        num_workers=0,
        dataset=dict(
            type='CustomDataset',
            data_root='nowhere',
            pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(16, 16)), dict(type='PackInputs')],
        ),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    tiny_cfg.test_evaluator = dict(type='Accuracy')
    tiny_cfg.test_cfg = dict()
    run(tiny_cfg, train_cfg__max_iters=2)

    from mmpretrain import ImageClassificationInferencer

    inferencer = ImageClassificationInferencer(
        str(tmp_path / 'run/student.py'), pretrained=str(tmp_path / 'run/student.pth')
    )
    result = inferencer(np.zeros((20, 30, 3), np.uint8))[0]
    assert result['pred_class'] in list('abcde')


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_exported_segmentor_serves_the_stock_inferencer(tiny_cfg, tmp_path):
    """With the classes and the palette of the dataset, which the teacher's checkpoint names."""
    write_camvid(tmp_path / 'camvid')
    tiny_cfg.test_dataloader = dict(
        batch_size=1,
        num_workers=0,
        dataset=dict(
            type='mmdfad.CamVidDataset',
            data_root=str(tmp_path / 'camvid'),
            ann_file='train.txt',
            pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')],
        ),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    tiny_cfg.test_evaluator, tiny_cfg.test_cfg = dict(type='IoUMetric'), dict()
    run(tiny_cfg, train_cfg__max_iters=2)

    from mmseg.apis import MMSegInferencer

    folder = tmp_path / 'run'
    inferencer = MMSegInferencer(str(folder / 'student.py'), str(folder / 'student.pth'), device='cpu')
    result = inferencer(np.zeros((40, 30, 3), np.uint8), return_vis=True)
    assert inferencer.visualizer.dataset_meta['classes'] == list('abcde')
    assert inferencer.visualizer.dataset_meta['palette'] == [[i * 50, 0, 255 - i * 50] for i in range(5)]
    assert result['predictions'].shape == (40, 30)
    assert result['visualization'].shape == (40, 30, 3)


# Pictures.


def test_grids_go_to_every_backend(tiny_cfg, tmp_path):
    run(
        tiny_cfg,
        train_cfg__max_iters=3,
        custom_hooks=[dict(type='mmdfad.SyntheticImageHook', interval=2, num_images=7, min_tile=40)],
    )
    files = sorted((tmp_path / 'run').glob('*/vis_data/vis_image/synthetic_*.png'))
    assert [file.name for file in files] == ['synthetic_2.png', 'synthetic_3.png']
    grid = cv2.imread(str(files[0]))
    # 7 tiles of 16 pixels, enlarged by 3, with caption and margin, in 5 columns
    assert grid.shape == (2 * (48 + 34 + 4), 5 * (48 + 4), 3)
    assert list((tmp_path / 'run').glob('*/vis_data/events.out.tfevents*'))


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_grids_of_segmentors_show_both_label_maps_in_the_palette(tiny_cfg, tmp_path):
    hook = dict(type='mmdfad.SyntheticImageHook', interval=2, num_images=3, min_tile=1)
    runner = run(tiny_cfg, train_cfg__max_iters=1, custom_hooks=[hook])
    grid = cv2.imread(str(next((tmp_path / 'run').glob('*/vis_data/vis_image/synthetic_1.png'))))[..., ::-1]
    hook = next(h for h in runner.hooks if type(h).__name__ == 'SyntheticImageHook')
    _, student, teacher = runner.model.probe(hook.noise)
    palette = np.array(runner.model.teacher_player.dataset_meta['palette'])
    height, width = runner.model.generator.image_size
    for i, labels in ((1, teacher), (2, student)):
        column = grid[2 : 2 + height, 2 + i * width : 2 + (i + 1) * width]
        assert np.array_equal(column, palette[labels[0].numpy()])


def test_grid_shows_images_and_marks_disagreement():
    pictures = np.zeros((2, 8, 8, 3), np.uint8)
    pictures[0, ..., 0], pictures[1, ..., 2] = 255, 255
    tiles = [Tile(pictures[0], ('T cat', 'S cat'), False), Tile(pictures[1], ('T cat', 'S dog'), True)]
    grid = draw_grid(tiles, min_tile=64)
    height, width = grid.shape[0], grid.shape[1] // 2
    assert (grid[2:66, 2:66] == [255, 0, 0]).all()
    assert (grid[2:66, width + 2 : width + 66] == [0, 0, 255]).all()
    agree, differ = grid[66:height, :width].astype(int), grid[66:height, width:].astype(int)
    assert (agree.max(axis=2) - agree.min(axis=2)).max() == 0  # black on white
    assert (differ[..., 0] - differ[..., 1]).max() > 100  # red
