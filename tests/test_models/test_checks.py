"""Teachers, students and generators that do not fit together, and what the message says."""

import pytest
from conftest import TINY, TINY_SEG, assert_same_state, both_tasks
from distillers import assert_refused, build_distiller, multi_label, noise_for, snapshot
from mmengine.config import Config

from mmdfad.models.checks import check_networks


@both_tasks
def test_checking_changes_nothing(tiny_cfg):
    distiller, _ = build_distiller(tiny_cfg)
    before, modes = snapshot(distiller), [m.training for m in distiller.modules()]
    assert check_networks(distiller.teacher, distiller.student, distiller.generator) == 5
    assert_same_state(snapshot(distiller), before)
    assert [m.training for m in distiller.modules()] == modes
    assert distiller.num_classes == 5


def test_class_counts(tiny_cfg):
    assert_refused(
        tiny_cfg,
        r"model.teacher has 5 classes and model.student has 7; set the student's",
        model__student__head__num_classes=7,
    )


@pytest.mark.parametrize('tiny_cfg', [TINY_SEG], indirect=True)
def test_class_counts_of_segmentors(tiny_cfg):
    assert_refused(
        tiny_cfg,
        r"model.teacher has 5 classes and model.student has 3; .*'model.decode_head.num_classes': 5}",
        model__student__decode_head__num_classes=3,
    )


def test_kinds(tiny_cfg):
    segmentor = Config.fromfile(TINY_SEG).model.student
    assert_refused(
        tiny_cfg,
        r'model.teacher is a classifier and model.student is a segmentor',
        model__student=dict(segmentor, _delete_=True, type='mmseg.EncoderDecoder'),
    )


def test_channels(tiny_cfg):
    assert_refused(
        tiny_cfg,
        r'model.teacher cannot take images of shape \[1, 16, 16\] .*change model.generator.image_size or',
        model__generator__channels=1,
    )


def test_image_size(tiny_cfg):
    # VGG halves the image five times, for which 16 pixels are too few.
    assert_refused(
        tiny_cfg,
        r'model.student cannot take images of shape \[3, 16, 16\] .*change model.generator.image_size or',
        model__student__backbone=dict(_delete_=True, type='VGG', depth=11, num_classes=5),
        model__student__neck=None,
        model__student__head=dict(_delete_=True, type='ClsHead'),
    )


SWIN = dict(
    type='ImageClassifier',
    backbone=dict(
        type='SwinTransformer',
        arch=dict(embed_dims=8, depths=[1, 1], num_heads=[1, 1]),
        img_size=32,
        patch_size=2,
        window_size=8,
        out_indices=(1,),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=16),
)
MIXER = dict(
    type='ImageClassifier',
    backbone=dict(
        type='MlpMixer',
        arch=dict(embed_dims=8, num_layers=1, tokens_mlp_dims=8, channels_mlp_dims=8),
        img_size=32,
        patch_size=8,
    ),
    neck=dict(type='GlobalAveragePooling', dim=1),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=8),
)


@pytest.mark.parametrize('model', [SWIN, MIXER], ids=['windows', 'positions'])
def test_sizes_that_a_backbone_is_built_for(tiny_cfg, model):
    """Images too small for the windows, or for the positions. The message names what helps: another size."""
    message = r'model.student cannot take images of shape \[3, 16, 16\] .*or model.student.image_size'
    assert_refused(tiny_cfg, message, model__student=dict(model, _delete_=True))
    distiller, optim = build_distiller(tiny_cfg, model__student=dict(model, image_size=32, _delete_=True))
    assert distiller.imitation_step(noise_for(4), optim['student'])['imitation_loss'] > 0
    message = r'model.student cannot take images of shape \[3, 12, 12\] .*or model.student.image_size'
    assert_refused(tiny_cfg, message, model__student=dict(model, image_size=12, _delete_=True))
    message = r'model.teacher cannot take images of shape \[3, 16, 16\] .*change model.generator.image_size'
    teacher = dict(model, checkpoint=None, _delete_=True)
    assert_refused(tiny_cfg, message, model__teacher=teacher, model__allow_random_teacher=True)


def test_single_and_multi_label(tiny_cfg):
    several = multi_label()
    several.pop('model__teacher__head')
    assert_refused(
        tiny_cfg,
        r'model.teacher is single-label \(one softmax\) and model.student is multi-label .*such as LinearClsHead',
        **several,
    )


def test_multi_and_single_label(tiny_cfg):
    several = multi_label()
    several.pop('model__student__head')
    assert_refused(
        tiny_cfg,
        r'model.teacher is multi-label .* and model.student is single-label .* MultiLabelLinearClsHead',
        **several,
    )


def test_self_supervised_models_are_refused(tiny_cfg):
    teacher = Config.fromfile(TINY).model.teacher
    selfsup = dict(
        type='SimSiam',
        backbone=teacher.backbone,
        neck=dict(type='NonLinearNeck', in_channels=64, hid_channels=8, out_channels=8),
        head=dict(
            type='LatentPredictHead',
            loss=dict(type='CosineSimilarityLoss'),
            predictor=dict(type='LinearNeck', in_channels=8, out_channels=8),
        ),
        checkpoint=None,
        _delete_=True,
    )
    assert_refused(
        tiny_cfg,
        r'model.teacher: SimSiam .*gives no class logits to distil: it learns features without labels',
        model__teacher=selfsup,
        model__allow_random_teacher=True,
    )
