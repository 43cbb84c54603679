"""Exported students work with the stock inferencers, which look for types by their bare names."""

import numpy as np
from conftest import TINY_SEG
from mmengine.config import Config

from mmdfad.models.build import build_model, plain_config
from mmdfad.utils.export import student_config, write_student


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
