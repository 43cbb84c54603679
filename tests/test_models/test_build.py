"""From configs and checkpoints to teachers and students."""

import pytest
import torch
from conftest import TINY, assert_same_state, save_teacher
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmdfad.models.build import build_network, plain_config
from mmdfad.utils import DistillError
from mmdfad.utils.compat import MMCV, MMDET, is_importable
from mmdfad.utils.state_dict import weights_sha256


def inline(**changes) -> dict:
    cfg = Config.fromfile(TINY).model.teacher
    cfg.pop('checkpoint')
    return {**cfg, '_scope_': 'mmpretrain', **changes}


def test_cfg_path_of_a_package_with_options():
    network = build_network(
        dict(
            cfg_path='mmpretrain::resnet/resnet18_8xb16_cifar10.py',
            cfg_options={'model.head.num_classes': 7, 'model.backbone.base_channels': 4, 'model.head.in_channels': 32},
        ),
        'student',
    )
    assert network.model.head.num_classes == 7
    assert network.cfg.default_scope == 'mmpretrain'
    # mmpretrain keeps the preprocessor beside the model. It must not get lost.
    assert network.model.data_preprocessor.mean.flatten().tolist() == pytest.approx([125.307, 122.961, 113.8575])


def test_options_reach_a_network_from_the_command_line():
    cfg = Config(dict(model=dict(student=dict(cfg_path='mmpretrain::resnet/resnet18_8xb16_cifar10.py'))))
    cfg.merge_from_dict({'model.student.cfg_options.model.head.num_classes': 3})  # as --cfg-options does
    assert build_network(cfg.model.student, 'student').model.head.num_classes == 3


def test_cfg_path_of_a_file(tmp_path):
    path = tmp_path / 'model.py'
    path.write_text(Config(dict(model=inline(), default_scope='mmpretrain')).pretty_text)
    assert build_network(dict(cfg_path=str(path)), 'student').model.head.num_classes == 5


@pytest.mark.parametrize('scope', ['mmdfad', 'mmseg', 'mmpretrain'])
def test_models_are_built_in_their_own_scope(scope):
    with DefaultScope.overwrite_default_scope(scope):
        network = build_network(dict(cfg_path='mmpretrain::lenet/lenet5_mnist.py'), 'teacher')
        assert type(network.model).__module__.startswith('mmpretrain')
        prefixed = {**inline(type='mmpretrain.ImageClassifier')}
        prefixed.pop('_scope_')
        assert build_network(prefixed, 'student').cfg.default_scope == 'mmpretrain'


def test_building_a_model_downloads_nothing():
    cfg = inline()
    cfg['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint='https://nowhere.invalid/weights.pth')
    cfg['pretrained'] = 'https://nowhere.invalid/weights.pth'
    assert 'nowhere' not in plain_config(cfg, 'student').pretty_text
    build_network(cfg, 'student')


def test_top_level_preprocessor_is_the_default_for_inline_models():
    cfg = inline()
    cfg.pop('data_preprocessor')
    network = build_network(cfg, 'teacher', data_preprocessor=dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0]))
    assert network.model.data_preprocessor.std.flatten().tolist() == [4, 5, 6]


def test_checkpoint_is_loaded_with_its_meta(tmp_path):
    path = save_teacher(tmp_path / 'teacher.pth', seed=3)
    network = build_network(dict(inline(), checkpoint=str(path)), 'teacher')
    for key, value in torch.load(path)['state_dict'].items():
        assert torch.equal(network.model.state_dict()[key], value)
    assert network.dataset_meta['classes'] == list('abcde')
    assert network.checkpoint == str(path)


@pytest.mark.parametrize('form', ['bare', 'module', 'no_counters'])
def test_checkpoints_of_other_forms(tmp_path, form):
    state = torch.load(save_teacher(tmp_path / 'teacher.pth', seed=3))['state_dict']
    expected = dict(state)
    if form == 'module':
        state = {f'module.{key}': value for key, value in state.items()}
    elif form == 'no_counters':
        state = {key: value for key, value in state.items() if 'num_batches_tracked' not in key}
    torch.save(state if form == 'bare' else dict(state_dict=state), tmp_path / 'other.pth')
    network = build_network(dict(inline(), checkpoint=str(tmp_path / 'other.pth')), 'teacher')
    assert torch.equal(network.model.head.fc.weight, expected['head.fc.weight'])


def test_sha256_is_of_the_weights(tmp_path):
    one = build_network(dict(inline(), checkpoint=str(save_teacher(tmp_path / 'a.pth', 1))), 'teacher').model
    same = build_network(dict(inline(), checkpoint=str(save_teacher(tmp_path / 'b.pth', 1, note='x'))), 'teacher').model
    other = build_network(dict(inline(), checkpoint=str(save_teacher(tmp_path / 'c.pth', 2))), 'teacher').model
    assert weights_sha256(one) == weights_sha256(same) != weights_sha256(other)
    with torch.no_grad():
        same.head.fc.bias[0] += 1e-6
    assert weights_sha256(one) != weights_sha256(same)


# Bad input: each ends with one clear message.


def fails(cfg: dict, message: str) -> None:
    with pytest.raises(DistillError, match=message):
        build_network(cfg, 'teacher')


def test_wrong_checkpoint_path():
    command = 'python make.py data\npython train.py'
    fails(
        dict(inline(), checkpoint='/no/teacher.pth', train_command=command),
        r'(?s)does not exist; give the path .* or make it with\n  python make.py data\n  python train.py',
    )
    fails(dict(inline(), checkpoint='/no/teacher.pth'), r"model.teacher.checkpoint='/no/teacher.pth' does not exist")


@pytest.mark.parametrize('damage', ['truncated', 'text', 'empty', 'flipped', 'one bit'])
def test_damaged_checkpoint(tmp_path, damage):
    content = save_teacher(tmp_path / 'teacher.pth').read_bytes()
    middle = len(content) // 2
    one_bit = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    damaged = {
        'truncated': content[:middle],
        'text': b'not a checkpoint',
        'empty': b'',
        'flipped': content[:100] + b'\0' * 400,
        'one bit': one_bit,
    }[damage]
    (tmp_path / 'damaged.pth').write_bytes(damaged)
    fails(
        dict(inline(), checkpoint=str(tmp_path / 'damaged.pth')),
        r"model.teacher.checkpoint='.*damaged.pth' is corrupt, truncated or not a checkpoint",
    )


@pytest.mark.parametrize('value', [torch.nan, torch.inf])
def test_checkpoint_of_a_diverged_run(tmp_path, value):
    content = torch.load(save_teacher(tmp_path / 'teacher.pth'))
    content['state_dict']['head.fc.weight'][0, 0] = value
    torch.save(content, tmp_path / 'x.pth')
    fails(
        dict(inline(), checkpoint=str(tmp_path / 'x.pth')),
        r"checkpoint='.*x.pth' has values that are NaN or infinite, in head.fc.weight: ",
    )


def test_checkpoint_without_weights(tmp_path):
    torch.save(dict(meta=dict()), tmp_path / 'x.pth')
    fails(dict(inline(), checkpoint=str(tmp_path / 'x.pth')), 'holds no state dict of tensors')


def test_keys_and_shapes_that_do_not_fit_are_listed(tmp_path):
    state = torch.load(save_teacher(tmp_path / 'teacher.pth'))['state_dict']
    state.pop('head.fc.bias')
    state['extra'] = torch.zeros(1)
    state['head.fc.weight'] = torch.zeros(9, 64)
    torch.save(dict(state_dict=state), tmp_path / 'x.pth')
    with pytest.raises(DistillError) as error:
        build_network(dict(inline(), checkpoint=str(tmp_path / 'x.pth')), 'teacher')
    message = str(error.value)
    assert 'does not fit the model of model.teacher' in message
    assert 'missing in the checkpoint: head.fc.bias' in message
    assert 'unknown to the model: extra' in message
    assert 'of another shape: head.fc.weight (model [5, 64], checkpoint [9, 64])' in message


def test_a_checkpoint_with_another_head(tmp_path):
    state = torch.load(save_teacher(tmp_path / 'teacher.pth'))['state_dict']
    state.update({'head.fc.weight': torch.zeros(9, 64), 'head.fc.bias': torch.zeros(9)})
    torch.save(dict(state_dict=state), tmp_path / 'x.pth')
    fails(
        dict(inline(), checkpoint=str(tmp_path / 'x.pth')),
        r'(?s)head.fc.weight \(model \[5, 64\], checkpoint \[9, 64\]\).*Everything else fits, so the '
        r"checkpoint has another head.*model.teacher.cfg_options=\{'model.head.num_classes'",
    )


@pytest.mark.parametrize('size', [96, (96, 64)])
def test_a_student_may_have_its_own_size(size):
    network = build_network(dict(inline(), image_size=size), 'student')
    assert network.image_size == ((96, 96) if size == 96 else (96, 64))
    assert 'image_size' not in network.cfg.pretty_text
    assert build_network(inline(), 'student').image_size is None
    fails(dict(inline(), image_size=size), r'model.teacher has image_size=.*set model.generator.image_size')


@pytest.mark.parametrize('size', [0, (8, 8, 8), (8, 1.5)])
def test_bad_sizes(size):
    with pytest.raises(DistillError, match=r'model.student.image_size must be a .*but found'):
        build_network(dict(inline(), image_size=size), 'student')


@pytest.mark.parametrize(
    ('module', 'changes', 'message'),
    [
        ('timm', dict(type='TimmClassifier', model_name='x'), 'TimmClassifier needs timm, .*pip install timm'),
        ('timm', dict(backbone=dict(type='TIMMBackbone')), 'TIMMBackbone needs timm'),
        (
            'transformers',
            dict(type='HuggingFaceClassifier', model_name='x'),
            "HuggingFaceClassifier needs transformers, .*pip install 'transformers<5'",
        ),
        ('mmcv._ext', dict(backbone=dict(type='ResNet', dcn=dict(type='DCN'))), 'DCN needs the compiled ops of mmcv'),
        (
            'mmcv._ext',
            dict(_scope_='mmseg', type='CascadeEncoderDecoder', decode_head=[dict(type='mmseg.PointHead')]),
            f'PointHead needs the compiled ops of mmcv, .*pip download .*{MMCV} .*pip install ',
        ),
        (
            'mmdet',
            dict(_scope_='mmseg', type='EncoderDecoder', decode_head=dict(type='MaskFormerHead')),
            f'MaskFormerHead needs mmdet, .*pip install {MMDET}',
        ),
        ('mmdet', dict(neck=dict(type='mmdet.FPN')), 'mmdet.FPN needs the package mmdet, which is not installed'),
        ('mmdet', dict(type='mmdet.FasterRCNN'), 'its scope is mmdet, but no such package is installed. Classifiers'),
    ],
)
def test_optional_dependencies(module, changes, message):
    if is_importable(module):
        pytest.skip(f'{module} is installed')
    fails({**inline(), **changes}, f'(?s)model.teacher: {message}')


def test_unsupported_types_are_refused_before_they_are_built():
    fails(
        dict(type='mmpretrain.CLIPZeroShot'),
        'model.teacher: mmpretrain.CLIPZeroShot gives no class logits to distil: it relates images to text',
    )


def test_models_whose_checkpoints_hold_only_a_part_of_them_are_refused():
    """The LoRA config of mmpretrain, with a smaller backbone."""
    small = dict(arch=dict(embed_dims=8, num_layers=1, num_heads=1, feedforward_channels=8, _delete_=True), img_size=32)
    options = {f'model.backbone.module.{key}': value for key, value in small.items()} | {'model.head.in_channels': 8}
    lora = dict(cfg_path='mmpretrain::vision_transformer/vit-base-p16_8xb64-lora_in1k-384px.py', cfg_options=options)
    fails(
        lora, r'model.teacher: ImageClassifier leaves \d+ of its parameters out of its checkpoints.*merge_lora_weight'
    )


def test_default_scope_is_the_package_of_the_config():
    plain = plain_config(dict(cfg_path='mmpretrain::dinov2/vit-small-p14_dinov2-pre_headless.py'), 'teacher')
    assert plain.default_scope == 'mmpretrain'


def test_configs_of_a_package_are_read_without_its_metafiles(monkeypatch):
    # This order matters: the hub imports the function from the other module.
    monkeypatch.setattr('mmengine.hub.hub._get_cfg_metainfo', pytest.fail)
    monkeypatch.setattr('mmengine.config.utils._get_cfg_metainfo', pytest.fail)
    assert plain_config(dict(cfg_path='mmpretrain::lenet/lenet5_mnist.py'), 'teacher').model.backbone.num_classes == 10


def test_checkpoints_of_models_that_drop_names_while_they_load(tmp_path):
    """mmpretrain's SwinV2 computes its coordinate tables itself, and cannot strictly load its own state dict."""
    arch = dict(embed_dims=8, depths=[1], num_heads=[1], extra_norm_every_n_blocks=0)
    backbone = dict(type='SwinTransformerV2', arch=arch, img_size=32)
    cfg = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(backbone, window_size=8, out_indices=(0,)),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=8),
    )
    model = build_network(cfg, 'teacher').model
    checkpoint = tmp_path / 'teacher.pth'
    torch.save(model.state_dict(), checkpoint)
    loaded = build_network(dict(cfg, checkpoint=str(checkpoint)), 'teacher').model
    assert_same_state(loaded.state_dict(), model.state_dict())
    incomplete = {k: v for k, v in model.state_dict().items() if k != 'head.fc.weight'}
    torch.save(incomplete, checkpoint)
    fails(dict(cfg, checkpoint=str(checkpoint)), 'missing in the checkpoint: head.fc.weight')


def test_a_built_network_is_taken_as_it_is():
    network = build_network(inline(), 'teacher')
    assert build_network(network, 'student') is network


def test_only_a_teacher_can_be_split():
    with pytest.raises(DistillError, match=r'only a teacher can be split over the ranks; remove model.student.shard'):
        build_network(dict(inline(), shard=True), 'student')
    assert not build_network(dict(inline(), shard=True), 'teacher').shard  # with one rank there is nothing to split


def test_bad_configs(tmp_path):
    fails(dict(cfg_path='/no/config.py'), r'cannot read model.teacher.cfg_path /no/config.py: FileNotFoundError')
    fails(dict(cfg_path='mmpretrain::resnet/no.py'), r'cannot read model.teacher.cfg_path mmpretrain::resnet/no.py')
    fails(dict(cfg_path='nosuchpackage::a/b.py'), r'cannot read .*package nosuchpackage is not installed')
    fails(dict(backbone=dict()), r'model.teacher must have `cfg_path` .* or be a model dict with `type`')
    fails(
        dict(cfg_path='mmpretrain::lenet/lenet5_mnist.py', backbone=dict()),
        r"takes only cfg_options, checkpoint, .* beside it, but found \['backbone'\]",
    )
    fails(inline(type='NoSuchModel'), r'cannot build model.teacher of type NoSuchModel')
    (tmp_path / 'x.py').write_text('a = 1')
    fails(dict(cfg_path=str(tmp_path / 'x.py')), r'defines no `model` with a `type`')
    (tmp_path / 'imports.py').write_text("custom_imports = dict(imports='nosuchmodule')")
    fails(dict(cfg_path=str(tmp_path / 'imports.py')), r'Failed to import custom modules from \{.*\}\. Expected a path')
    (tmp_path / 'broken.py').write_text('a = (')
    fails(dict(cfg_path=str(tmp_path / 'broken.py')), r'cannot read model.teacher.cfg_path .*broken.py: SyntaxError')
