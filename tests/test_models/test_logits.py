import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, TINY_SEG, build_model
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm

from mmdfad.models.logits import as_logits
from mmdfad.utils import DistillError


def tiny(**changes):
    cfg = Config.fromfile(TINY).model.student
    cfg.merge_from_dict(changes) if hasattr(cfg, 'merge_from_dict') else cfg.update(changes)
    return build_model(cfg)


def test_logits_are_those_that_the_model_predicts_from():
    model = tiny().eval()
    images = torch.randn(3, 3, 16, 16)
    logits = as_logits(model)(images)
    scores = torch.stack([sample.pred_score for sample in model(images, mode='predict')])
    assert logits.shape == (3, 5)
    torch.testing.assert_close(logits.softmax(1), scores)


def test_logits_are_fp32_under_autocast_and_differentiable():
    images = torch.randn(3, 3, 16, 16, requires_grad=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        logits = as_logits(tiny())(images)
    assert logits.dtype == torch.float32
    logits.square().sum().backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize('size', [(32, 32), (24, 40), (33, 17)])
@pytest.mark.parametrize('role', ['teacher', 'student'])  # of different align_corners
def test_segmentor_logits_are_those_that_it_predicts_from(role, size):
    cfg = Config.fromfile(TINY_SEG).model[role]
    for key in ('checkpoint', 'pretrained'):
        cfg.pop(key, None)
    model = revert_sync_batchnorm(build_model(cfg, 'mmseg')).eval()
    images = torch.randn(2, 3, *size)
    logits = as_logits(model)(images)
    assert logits.shape == (2, 5, *size)
    predicted = model(images, mode='predict')
    torch.testing.assert_close(logits, torch.stack([sample.seg_logits.data for sample in predicted]))
    dense = model(images, mode='tensor')
    expected = F.interpolate(dense, size, mode='bilinear', align_corners=(role == 'teacher'))
    torch.testing.assert_close(logits, expected)


def test_cascade_logits_are_of_the_last_stage():
    head = Config.fromfile(TINY_SEG).model.student.decode_head
    common = dict(in_index=3, in_channels=32, channels=8, num_classes=5, norm_cfg=dict(type='BN'), align_corners=False)
    cfg = Config.fromfile(TINY_SEG).model.student
    cfg.update(type='CascadeEncoderDecoder', num_stages=2, pretrained=None, auxiliary_head=None)
    cfg.decode_head = [
        dict(type='FCNHead', num_convs=1, concat_input=False, loss_decode=head.loss_decode, **common),
        dict(type='OCRHead', ocr_channels=4, loss_decode=head.loss_decode, **common),
    ]
    model = revert_sync_batchnorm(build_model(cfg, 'mmseg')).eval()
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    logits = as_logits(model)(images)
    assert logits.shape == (2, 5, 32, 32)
    torch.testing.assert_close(logits[0], model(images, mode='predict')[0].seg_logits.data)
    logits.square().sum().backward()
    assert images.grad.abs().sum() > 0


def test_models_without_logits_are_refused():
    with pytest.raises(DistillError, match=r'ImageClassifier gives no class logits.*classification head'):
        as_logits(tiny(head=None))
    with pytest.raises(DistillError, match='Linear gives no class logits'):
        as_logits(torch.nn.Linear(2, 2))


def test_heads_without_plain_logits_are_refused():
    head = dict(type='MultiTaskHead', task_heads=dict(a=dict(type='LinearClsHead', num_classes=2)), in_channels=32)
    with pytest.raises(DistillError, match=r'ImageClassifier with MultiTaskHead gives dict in place of class logits'):
        as_logits(tiny(head=head))(torch.randn(2, 3, 16, 16))
