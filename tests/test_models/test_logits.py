import pytest
import torch
from conftest import TINY, build_model
from mmengine.config import Config

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


def test_models_without_logits_are_refused():
    with pytest.raises(DistillError, match=r'ImageClassifier gives no class logits.*classification head'):
        as_logits(tiny(head=None))
    with pytest.raises(DistillError, match='Linear gives no class logits'):
        as_logits(torch.nn.Linear(2, 2))


def test_heads_without_plain_logits_are_refused():
    head = dict(type='MultiTaskHead', task_heads=dict(a=dict(type='LinearClsHead', num_classes=2)), in_channels=32)
    with pytest.raises(DistillError, match=r'ImageClassifier with MultiTaskHead gives dict in place of class logits'):
        as_logits(tiny(head=head))(torch.randn(2, 3, 16, 16))
