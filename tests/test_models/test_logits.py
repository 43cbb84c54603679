"""Class logits of any classifier and segmentor, or the reason why there are none."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, TINY_SEG, assert_same_state, build_model
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmpretrain.registry import MODELS
from torch import nn

from mmdfad.models.logits import ClassifierLogits, as_logits
from mmdfad.registry import LOGIT_ADAPTERS
from mmdfad.utils import DistillError
from mmdfad.utils.compat import is_importable

BN, CE = dict(type='BN'), dict(type='CrossEntropyLoss')
GAP = dict(type='GlobalAveragePooling')
RESNET = dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4)
RESNET_V1C = dict(
    type='ResNetV1c',
    depth=18,
    base_channels=4,
    stem_channels=4,
    dilations=(1, 1, 2, 4),
    strides=(1, 2, 1, 1),
    norm_cfg=BN,
    contract_dilation=True,
)


def classifier(backbone, head, neck=None):
    return dict(type='ImageClassifier', backbone=backbone, neck=neck, head=dict(head))


def head(kind, **changes):
    common = dict(in_channels=32, in_index=3, channels=8, num_classes=5, norm_cfg=BN, align_corners=False)
    return dict(type=kind, dropout_ratio=0, loss_decode=CE, **common) | changes


def segmentor(decode_head, backbone=RESNET_V1C, **kwargs):
    common = dict(type='EncoderDecoder', train_cfg=dict(), test_cfg=dict(mode='whole'))
    return common | dict(backbone=backbone, decode_head=decode_head) | kwargs


CONFORMER = dict(embed_dims=24, depths=6, num_heads=2, channel_ratio=1)
DEIT = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
EFFICIENTFORMER = dict(
    layers=[1, 1, 1, 1], embed_dims=[8, 8, 16, 448], downsamples=[False, True, True, True], vit_num=1
)
LINEAR = dict(type='LinearClsHead', num_classes=5, in_channels=32)
# name: (config, input, multi-label)
CLASSIFIERS = {
    'linear': (classifier(RESNET, LINEAR, GAP), (3, 16, 16), False),
    'conformer': (
        classifier(
            dict(type='Conformer', arch=CONFORMER, base_channels=8, patch_size=16),
            dict(type='ConformerHead', num_classes=5, in_channels=[32, 24]),
        ),
        (3, 32, 32),
        False,
    ),
    'deit': (
        classifier(
            dict(type='DistilledVisionTransformer', arch=DEIT, img_size=32, patch_size=16),
            dict(type='DeiTClsHead', num_classes=5, in_channels=16),
        ),
        (3, 32, 32),
        False,
    ),
    'levit': (  # the smallest: mmpretrain checks custom architectures for other keys than it uses
        classifier(
            dict(type='LeViT', arch='128s', img_size=64), dict(type='LeViTClsHead', num_classes=5, in_channels=384), GAP
        ),
        (3, 64, 64),
        False,
    ),
    'efficientformer': (
        classifier(
            dict(type='EfficientFormer', arch=EFFICIENTFORMER),
            dict(type='EfficientFormerClsHead', num_classes=5, in_channels=448),
            dict(type='GlobalAveragePooling', dim=1),
        ),
        (3, 224, 224),
        False,
    ),
    'arcface': (classifier(RESNET, dict(LINEAR, type='ArcFaceClsHead'), GAP), (3, 16, 16), False),
    'multi_label': (classifier(RESNET, dict(LINEAR, type='MultiLabelLinearClsHead'), GAP), (3, 16, 16), True),
    'csra': (classifier(RESNET, dict(LINEAR, type='CSRAClsHead', num_heads=2, lam=0.1)), (3, 16, 16), True),
    'inception': (
        classifier(dict(type='InceptionV3', num_classes=5, aux_logits=True), dict(type='ClsHead')),
        (3, 107, 107),  # the smallest that the auxiliary branch takes
        False,
    ),
    'without_fc': (classifier(dict(type='LeNet5', num_classes=5), dict(type='ClsHead')), (1, 32, 32), False),
}
KNET = dict(
    type='IterativeDecodeHead',
    num_stages=2,
    kernel_generate_head=head('FCNHead', num_convs=1, concat_input=False),
    kernel_update_head=[
        dict(
            type='KernelUpdateHead',
            num_classes=5,
            num_heads=2,
            num_mask_fcs=1,
            feedforward_channels=16,
            in_channels=8,
            out_channels=8,
            kernel_updator_cfg=dict(type='KernelUpdator', in_channels=8, feat_channels=8, out_channels=8),
        )
    ]
    * 2,
)
CASCADE = [head('FCNHead', num_convs=1, concat_input=False), head('OCRHead', ocr_channels=4)]
SEGMENTORS = {
    'uper': segmentor(head('UPerHead', in_channels=[4, 8, 16, 32], in_index=[0, 1, 2, 3])),
    'cascade': segmentor(CASCADE, type='CascadeEncoderDecoder', num_stages=2),
    'pidnet': segmentor(
        head('PIDHead', in_channels=16, in_index=-1, loss_decode=[CE] * 4),
        dict(type='PIDNet', channels=4, ppm_channels=8, num_stem_blocks=1, num_branch_blocks=1),
    ),
    'ddrnet': segmentor(
        head('DDRHead', in_channels=16, in_index=-1, loss_decode=[CE] * 2),
        dict(type='DDRNet', channels=4, ppm_channels=8),
    ),
    'knet': segmentor(KNET),
    'encnet': segmentor(head('EncHead', in_channels=[16, 32], in_index=(2, 3), num_codes=4, add_lateral=True)),
    'danet': segmentor(head('DAHead', pam_channels=4)),
    'emanet': segmentor(head('EMAHead', ema_channels=8, num_bases=4, num_stages=2)),
}
SEGNEXT = segmentor(
    head('LightHamHead', in_channels=[16, 32], in_index=[2, 3], ham_channels=8, ham_kwargs=dict(MD_R=4))
)
BINARY = segmentor(head('FCNHead', num_convs=1, num_classes=2, out_channels=1, threshold=0.3))


def make(cfg, scope='mmpretrain'):
    """A model with weights that give different inputs different logits."""
    torch.manual_seed(0)
    model = build_model(cfg, scope)
    for name, p in model.named_parameters():
        if p.ndim > 1 and p.numel() < 100_000:
            nn.init.xavier_normal_(p)
        elif 'bias' in name:
            nn.init.normal_(p, 0, 0.1)
    return model


def tiny(**changes):
    cfg = Config.fromfile(TINY).model.student
    cfg.merge_from_dict(changes) if hasattr(cfg, 'merge_from_dict') else cfg.update(changes)
    return build_model(cfg)


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_logits_of_classifiers_give_their_predictions(name):
    cfg, shape, multi_label = CLASSIFIERS[name]
    model = make(cfg).eval()
    images = torch.randn(3, *shape)
    adapter = as_logits(model)
    with torch.no_grad():
        logits = adapter(images)
        scores = torch.stack([sample.pred_score for sample in model(images, mode='predict')])
    assert logits.shape == (3, 5)
    assert not torch.allclose(logits[0], logits[1])
    assert adapter.multi_label == multi_label
    torch.testing.assert_close(logits.sigmoid() if multi_label else logits.softmax(1), scores)


METAS = [dict(ori_shape=(64, 32), img_shape=(64, 32), pad_shape=(64, 32), padding_size=[0] * 4)] * 2


@pytest.mark.parametrize('name', SEGMENTORS)
def test_logits_of_segmentors_are_those_of_their_inference(name):
    model = make(SEGMENTORS[name], 'mmseg').eval()
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        logits = as_logits(model)(images)
        expected = model.inference(images, METAS)
    assert logits.shape == (2, 5, 64, 32)
    assert logits.std() > 0
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize('name', [*CLASSIFIERS, *SEGMENTORS, 'segnext', 'binary'])
def test_train_mode(name):
    """Logits have the same form, images and all used weights get gradients, and nothing warns."""
    if name in CLASSIFIERS:
        cfg, shape, _ = CLASSIFIERS[name]
        model = make(cfg)
    else:
        cfg, shape = dict(SEGMENTORS, segnext=SEGNEXT, binary=BINARY)[name], (3, 64, 32)
        model = make(cfg, 'mmseg')
    keys = model.state_dict().keys()
    adapter = as_logits(model).train()
    images = torch.randn(2, *shape, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        logits = adapter(images)
    assert logits.shape[:2] == (2, 2 if name == 'binary' else 5)
    logits.square().sum().backward()
    assert images.grad.isfinite().all()
    assert images.grad.abs().sum() > 0
    assert not [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all(module.training for module in adapter.modules())
    assert model.state_dict().keys() == keys
    assert (
        model.state_dict().keys()
        == build_model(cfg, 'mmpretrain' if name in CLASSIFIERS else 'mmseg').state_dict().keys()
    )


def test_batch_norm_and_dropout_of_eval_modules_stay_in_train_mode():
    """PIDNet's main branch is computed with batch statistics."""
    model = make(SEGMENTORS['pidnet'], 'mmseg').train()
    images = torch.randn(2, 3, 64, 32)
    expected = F.interpolate(model._forward(images)[1], (64, 32), mode='bilinear')  # (p, i, d) in train mode
    torch.testing.assert_close(as_logits(model)(images), expected)


def test_conformer_adds_its_branches_in_train_mode_too():
    model = make(CLASSIFIERS['conformer'][0]).train()
    images = torch.randn(2, 3, 32, 32)
    torch.manual_seed(1)
    convolution, transformer = model(images)
    torch.manual_seed(1)
    torch.testing.assert_close(as_logits(model)(images), convolution + transformer)


def test_the_one_task_of_a_multi_task_head():
    common = dict(num_classes=5, in_channels=32)
    heads = dict(LinearClsHead=False, MultiLabelLinearClsHead=True)
    for kind, multi_label in heads.items():
        task = dict(type='MultiTaskHead', task_heads=dict(a=dict(type=kind, **common)))
        model = make(classifier(RESNET, task, GAP)).eval()
        images = torch.randn(2, 3, 16, 16)
        adapter = as_logits(model)
        assert adapter.multi_label == multi_label
        assert torch.equal(adapter(images), model(images)['a'])


def test_one_image():
    """mmpretrain's LeNet drops the batch axis of a single image."""
    model = make(CLASSIFIERS['without_fc'][0]).eval()
    images = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(as_logits(model)(images[:1]), as_logits(model)(images)[:1])


@pytest.mark.parametrize('name', ['linear', 'arcface', 'deit'])
def test_logits_are_fp32_under_autocast_and_differentiable(name):
    cfg, shape, _ = CLASSIFIERS[name]
    adapter = as_logits(make(cfg))
    images = torch.randn(3, *shape, requires_grad=True)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        logits = adapter(images)
    assert logits.dtype == torch.float32
    logits.square().sum().backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize('threshold', [0.3, 0.5, 0.8])
def test_binary_segmentors_have_two_classes(threshold):
    cfg = segmentor(head('FCNHead', num_convs=1, num_classes=2, out_channels=1, threshold=threshold))
    model = make(cfg, 'mmseg').eval()
    with torch.no_grad():
        images = torch.randn(2, 3, 64, 32)
        model.decode_head.conv_seg.bias -= model.inference(images, METAS).mean() - torch.tensor(threshold).logit()
        logits = as_logits(model)(images)
        predicted = torch.stack([sample.pred_sem_seg.data[0] for sample in model(images, mode='predict')])
        scores = model.inference(images, METAS).sigmoid()[:, 0]
    assert 0.05 < predicted.mean() < 0.95
    assert torch.equal(logits.argmax(1), predicted.long())
    # The softmax is the sigmoid, shifted so that the threshold is at 1/2.
    odds = scores / (1 - scores) * (1 - threshold) / threshold
    torch.testing.assert_close(logits.softmax(1)[:, 1], odds / (1 + odds), rtol=1e-4, atol=1e-5)


def test_segnext_is_deterministic_in_eval_mode_and_draws_no_random_numbers():
    model = make(SEGNEXT, 'mmseg').eval()
    keys = model.state_dict().keys()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(model(images), model(images))  # mmseg's own
        state = torch.get_rng_state()
        adapter = as_logits(model).eval()
        logits = adapter(images)
        assert torch.equal(adapter(images), logits)
        # An image has the same logits at any place in a batch.
        torch.testing.assert_close(adapter(images.flip(0)).flip(0), logits)
        assert torch.equal(as_logits(make(SEGNEXT, 'mmseg').eval())(images), logits)
    torch.set_rng_state(state)
    as_logits(model)(images)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.state_dict().keys() == keys
    adapter.train()
    torch.manual_seed(1)
    one = adapter(images)
    assert not torch.equal(one, adapter(images))  # as mmseg trains it
    assert model.decode_head.hamburger.ham.rand_init


def test_bases_of_emanet_change_in_train_mode_only():
    model = make(SEGMENTORS['emanet'], 'mmseg')
    adapter, images = as_logits(model), torch.randn(2, 3, 32, 32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    adapter.eval()(images)
    assert_same_state(model.state_dict(), before)
    adapter.train()(images)
    assert not torch.equal(model.decode_head.ema_module.bases, before['decode_head.ema_module.bases'])


@pytest.mark.parametrize('size', [(32, 32), (24, 40), (33, 17)])
@pytest.mark.parametrize('role', ['teacher', 'student'])  # of different align_corners
def test_segmentor_logits_give_its_predictions(role, size):
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


@pytest.mark.skipif(not is_importable('timm'), reason='needs timm')
def test_timm_models_keep_the_names_of_their_weights():
    model = build_model(dict(type='TimmClassifier', model_name='resnet10t', num_classes=5))
    names = set(model.state_dict())
    assert names == set(model.model.state_dict())
    adapter = as_logits(model)
    assert set(adapter.state_dict()) == {f'model.{name}' for name in names}
    assert set(model.state_dict()) == names
    adapter.load_state_dict(adapter.state_dict())
    images = torch.randn(2, 3, 64, 64, requires_grad=True)
    adapter.train()(images).square().sum().backward()
    assert images.grad.abs().sum() > 0
    scores = torch.stack([sample.pred_score for sample in model.eval()(images, mode='predict')])
    torch.testing.assert_close(adapter(images).softmax(1), scores)


def test_eva02_keeps_its_embeddings_at_another_image_size():
    backbone = dict(type='ViTEVA02', arch=DEIT, img_size=32, patch_size=16, sub_ln=True, final_norm=False)
    model = build_model(classifier(backbone, dict(type='LinearClsHead', num_classes=5, in_channels=16)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = torch.randn(2, 3, 64, 48)
    logits = as_logits(model).eval()(images)
    assert_same_state(model.state_dict(), before)
    model.eval()
    assert torch.equal(logits, model(images, mode='tensor'))


def test_your_own_adapter():
    """For your own head, found by the name of its class or of a base class."""
    from mmpretrain.registry import MODELS

    class DictHead(MODELS.get('LinearClsHead')):
        def forward(self, feats):
            return dict(scores=super().forward(feats))

    class SpecialDictHead(DictHead):
        pass

    model = tiny()
    model.head = SpecialDictHead(num_classes=5, in_channels=32)
    images = torch.randn(2, 3, 16, 16)
    with pytest.raises(DistillError, match=r'ImageClassifier with SpecialDictHead gives dict in place of class logits'):
        as_logits(model)(images)
    try:

        @LOGIT_ADAPTERS.register_module(name='DictHead')
        class DictLogits(ClassifierLogits):
            def raw_logits(self, images):
                return self.model(images)['scores']

        assert as_logits(model).eval()(images).shape == (2, 5)
    finally:
        LOGIT_ADAPTERS.module_dict.pop('DictHead')


# Models that have no class logits.

SELF_SUPERVISED = dict(
    type='SimSiam',
    backbone=RESNET,
    neck=dict(type='NonLinearNeck', in_channels=32, hid_channels=8, out_channels=8),
    head=dict(
        type='LatentPredictHead',
        loss=dict(type='CosineSimilarityLoss'),
        predictor=dict(type='NonLinearNeck', in_channels=8, hid_channels=8, out_channels=8, with_avg_pool=False),
    ),
)
RETRIEVER = dict(
    type='ImageToImageRetriever',
    image_encoder=[RESNET, GAP],
    head=dict(LINEAR, type='ArcFaceClsHead'),
    prototype=torch.zeros(2, 32),
)
DEPTH = dict(segmentor(head('FCNHead', num_classes=1, out_channels=1)), type='DepthEstimator')
TASKS = dict(type='MultiTaskHead', task_heads=dict(cat=LINEAR, dog=LINEAR))
VALUE = dict(type='LinearRegressionHead', num_classes=1, in_channels=32)
REFUSED = {
    'no head': (
        classifier(RESNET, {}, GAP) | dict(head=None),
        'ImageClassifier gives no class logits to distil: it has no c',
    ),
    'regression': (classifier(RESNET, VALUE, GAP), 'with LinearRegressionHead gives .* regression values, not classes'),
    'tasks': (classifier(RESNET, TASKS, GAP), r'it has 2 tasks \(cat, dog\), and no class logits that stand for all'),
    'regression task': (
        classifier(RESNET, dict(type='MultiTaskHead', task_heads=dict(a=VALUE)), GAP),
        'in its task, it gives regression values',
    ),
    'self-supervised': (SELF_SUPERVISED, 'SimSiam .*learns features without labels and knows no classes; fine-tune'),
    'retriever': (RETRIEVER, 'ImageToImageRetriever .*finds images that resemble an image'),
    'depth': (DEPTH, 'DepthEstimator .*estimates depth, not classes'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_models_without_logits_are_refused_with_the_reason(name):
    cfg, reason = REFUSED[name]
    if 'LinearRegressionHead' in str(cfg) and MODELS.get('LinearRegressionHead') is None:
        pytest.skip('this version of mmpretrain has no LinearRegressionHead')
    model = build_model(cfg, 'mmseg' if name == 'depth' else 'mmpretrain')
    with pytest.raises(DistillError, match=reason):
        as_logits(model)


def test_models_without_the_interface_of_openmmlab_are_refused():
    with pytest.raises(DistillError, match=r'Linear gives no class logits.*register an adapter of its class in mmdfad'):
        as_logits(nn.Linear(2, 2))
