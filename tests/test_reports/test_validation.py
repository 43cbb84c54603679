"""Teacher and student on real validation data."""

import json

import pytest
from conftest import TINY_SEG, keep_hooks, run, write_camvid
from mmengine.evaluator import BaseMetric


@pytest.fixture
def camvid_cfg(tiny_cfg, tmp_path):
    """A run that validates a segmentor on two real pictures."""
    write_camvid(tmp_path / 'camvid')
    dataset = dict(
        type='mmdfad.CamVidDataset',
        data_root=str(tmp_path / 'camvid'),
        ann_file='train.txt',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(32, 24)),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    )
    loader = dict(batch_size=1, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler', shuffle=False))
    tiny_cfg.model.teacher.data_preprocessor.pop('size')
    tiny_cfg.val_dataloader = tiny_cfg.test_dataloader = loader
    tiny_cfg.val_evaluator = tiny_cfg.test_evaluator = [
        dict(type='IoUMetric', iou_metrics=['mIoU']),
        dict(type='mmdfad.AgreementMetric'),
    ]
    tiny_cfg.val_cfg = tiny_cfg.test_cfg = dict()
    tiny_cfg.model.val_agreement = True
    tiny_cfg.train_cfg.val_interval = 2
    keep_hooks(tiny_cfg, 'checkpoint', 'acceleration', 'export_student', 'report')
    return tiny_cfg


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
@pytest.mark.parametrize('seconds', [1000, 0])
def test_both_networks_are_validated_if_there_is_time(camvid_cfg, tmp_path, seconds):
    camvid_cfg.default_hooks.report.validation_seconds = seconds
    runner = run(camvid_cfg, train_cfg__max_iters=4)
    report = json.loads((tmp_path / 'run/report.json').read_text())
    found, logged = report['validation'], {key: values[-1] for key, values in report['metrics'].items()}
    assert found['main'] == 'mIoU'
    assert found['round'] == 4
    assert found['student']['mIoU'] == pytest.approx(logged['mIoU'][1], abs=0.01)
    page = (tmp_path / 'run/report.html').read_text()
    assert 'of the last student, not of the best one' in page.replace('those of', 'of').replace('\n', ' ')
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    if seconds:
        assert found['agreement'] == pytest.approx(logged['agreement'][1], abs=1e-3)
        assert 0 <= found['teacher']['mIoU'] <= 100
        assert report['verdict'].startswith('On the validation data, the student gives')
    else:
        assert found['teacher'] == {}
        assert 'The teacher was not validated.' in page
    assert log.count('per class results') == 2  # those of the run's own validations
    assert runner.val_evaluator.metrics[0].results == []


class EachClass(BaseMetric):
    """A metric with a value for each class, as mmpretrain's ``SingleLabelMetric(average=None)``."""

    def process(self, data_batch, data_samples):
        self.results.append(len(data_samples))

    def compute_metrics(self, results):
        return dict(each=[0.5, 0.25], images=sum(results))


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_metrics_with_a_value_for_each_class_are_left_out(camvid_cfg, tmp_path):
    camvid_cfg.default_hooks.report.validation_seconds = 1000
    camvid_cfg.val_evaluator.append(dict(type=EachClass))
    run(camvid_cfg, train_cfg__max_iters=2)
    found = json.loads((tmp_path / 'run/report.json').read_text())['validation']
    assert found['teacher'].keys() >= {'mIoU', 'images'}
    assert 'each' not in found['teacher']
