"""Exported students work with the stock inferencers, which look for types by their bare names."""

import numpy as np
import pytest
import torch
from conftest import TINY_SEG
from mmengine.config import Config

from mmdfad.models.build import build_model, plain_config
from mmdfad.utils.export import add_to_student, student_config, write_student


def test_segmentor_with_the_inferencers_of_mmseg(tmp_path):
    from mmseg.apis import MMSegInferencer, inference_model, init_model

    run = Config.fromfile(TINY_SEG)
    pipeline = [dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations'), dict(type='mmseg.PackSegInputs')]
    run.test_dataloader = dict(dataset=dict(type='mmdfad.CamVidDataset', pipeline=pipeline))
    plain = plain_config(dict(run.model.student, type='mmseg.EncoderDecoder'), 'student')
    config = student_config(run, plain)
    meta = dict(dataset_meta=dict(classes=list('abcde'), palette=[[i, i, i] for i in range(5)]))
    files = [*map(str, write_student(tmp_path, config, build_model(plain, 'student').state_dict(), meta))]

    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    expected = inference_model(init_model(*files, device='cpu'), image).pred_sem_seg.data[0]
    found = MMSegInferencer(*files, device='cpu')(image)['predictions']
    assert expected.shape == (32, 32)
    assert np.array_equal(found, expected)


def test_what_is_known_of_another_student_is_not_added(tmp_path):
    write_student(tmp_path, Config(dict(model=dict(type='X'))), {}, dict(iter=4))
    add_to_student(tmp_path, 3, predicted_agreement=0.5)
    assert torch.load(tmp_path / 'student.pth')['meta'] == dict(iter=4)
    add_to_student(tmp_path, 4, predicted_agreement=0.5)
    assert torch.load(tmp_path / 'student.pth')['meta'] == dict(iter=4, predicted_agreement=0.5)


AGREEMENT, IOU = dict(type='mmdfad.AgreementMetric'), dict(type='mmseg.IoUMetric')


@pytest.mark.parametrize(
    ('evaluator', 'expected'), [(AGREEMENT, []), ([IOU, AGREEMENT], [IOU]), (IOU, IOU), ([IOU], [IOU])]
)
def test_a_student_alone_has_no_agreement(evaluator, expected):
    run = Config.fromfile(TINY_SEG)
    dataset = dict(type='mmdfad.CamVidDataset', pipeline=[])
    run.update(test_dataloader=dict(dataset=dataset), test_evaluator=evaluator)
    plain = plain_config(dict(run.model.student, type='mmseg.EncoderDecoder'), 'student')
    without_scope = str(expected).replace('mmseg.', '')
    assert str(student_config(run, plain).test_evaluator).replace('mmseg.', '') == without_scope
