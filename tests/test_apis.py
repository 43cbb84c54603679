import pytest
import torch
from conftest import build_runner, run
from mmengine.config import Config

from mmdfad.apis import (
    ensure_validation,
    find_resumable_checkpoint,
    load_student_weights,
    plain_student_config,
    require_whole_checkpoint,
)
from mmdfad.apis.validation import PROBE_SIZE
from mmdfad.utils import DistillError
from mmdfad.utils.export import dataset_meta_of


def touch(path, size=10):
    torch.save(torch.zeros(size), path)
    return path


def test_latest_whole_checkpoint(tmp_path):
    assert find_resumable_checkpoint(tmp_path) is None
    for number in (2, 10, 9):
        touch(tmp_path / f'iter_{number}.pth')
    assert find_resumable_checkpoint(tmp_path).endswith('iter_10.pth')
    (tmp_path / 'last_checkpoint').write_text('/moved/from/elsewhere/iter_9.pth')
    assert find_resumable_checkpoint(tmp_path) == str(tmp_path / 'iter_9.pth')
    (tmp_path / 'iter_9.pth').write_bytes((tmp_path / 'iter_9.pth').read_bytes()[:-30])
    assert find_resumable_checkpoint(tmp_path).endswith('iter_10.pth')
    for number in (2, 10):
        (tmp_path / f'iter_{number}.pth').write_bytes(b'x')
    assert find_resumable_checkpoint(tmp_path) is None


def test_checkpoints_from_before_torch_1_6(tmp_path):
    """They are no zip files, and have no checksums."""
    path = tmp_path / 'old.pth'
    torch.save(dict(weight=torch.zeros(9)), path, _use_new_zipfile_serialization=False)
    require_whole_checkpoint(str(path))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DistillError, match=r'old\.pth is corrupt, truncated or no checkpoint'):
        require_whole_checkpoint(str(path))
    torch.save(dict(function=print), path, _use_new_zipfile_serialization=False)
    with pytest.raises(DistillError, match='holds more than weights'):
        require_whole_checkpoint(str(path))


def test_names_of_a_model_that_was_in_a_wrapper(tmp_path):
    torch.save(dict(state_dict={'module.weight': torch.ones(2, 2), 'module.bias': torch.ones(2)}), tmp_path / 'x.pth')
    model = torch.nn.Linear(2, 2)
    load_student_weights(model, str(tmp_path / 'x.pth'))
    assert torch.equal(model.weight, torch.ones(2, 2))


def test_validation_data_are_used_where_they_are(tiny_cfg):
    cfg = Config(tiny_cfg.to_dict())
    cfg.val_dataloader = dict(
        batch_size=1, dataset=dict(type='mmdfad.Mnist5k', test_mode=True, pipeline=[]), sampler=dict()
    )
    cfg.val_evaluator = dict(type='Accuracy')
    ensure_validation(cfg)
    assert cfg.val_dataloader.dataset.type == 'mmdfad.Mnist5k'


@pytest.mark.parametrize('missing', [True, False])
def test_without_data_the_agreement_is_validated(tiny_cfg, missing):
    if missing:
        tiny_cfg.val_dataloader = dict(
            batch_size=1, dataset=dict(type='CustomDataset', data_root='/nowhere', pipeline=[]), sampler=dict()
        )
        tiny_cfg.val_evaluator, tiny_cfg.val_cfg = dict(type='Accuracy'), dict()
    tiny_cfg.default_hooks.checkpoint.save_best = 'accuracy/top1'
    ensure_validation(tiny_cfg)
    assert tiny_cfg.val_dataloader.dataset.length == PROBE_SIZE
    runner = run(tiny_cfg, train_cfg__max_iters=2, train_cfg__val_interval=2)
    assert 0 <= runner.message_hub.get_info('best_score') <= 1


def test_plain_student_of_a_plain_config_is_itself():
    cfg = Config(dict(model=dict(type='ImageClassifier'), test_dataloader=dict()))
    assert plain_student_config(cfg) is cfg


def test_student_brings_the_data_of_its_own_config_if_the_run_has_none(tiny_cfg):
    tiny_cfg.model.student = dict(cfg_path='mmpretrain::resnet/resnet18_8xb16_cifar10.py')
    plain = plain_student_config(tiny_cfg)
    assert plain.test_dataloader.dataset.type == 'CIFAR10'
    assert dataset_meta_of(plain)['classes'][0] == 'airplane'


@pytest.mark.parametrize('imports', ['mmpretrain.models', ['mmpretrain.models']])
def test_student_keeps_the_imports_of_its_own_config(tiny_cfg, tmp_path, imports):
    path = tmp_path / 'student.py'
    Config(dict(model=tiny_cfg.model.student, custom_imports=dict(imports=imports))).dump(path)
    tiny_cfg.model.student = dict(cfg_path=str(path))
    assert 'mmpretrain.models' in plain_student_config(tiny_cfg).custom_imports.imports


def test_metrics_that_need_a_teacher_stay_behind(tiny_cfg):
    tiny_cfg.test_dataloader = dict(dataset=dict(type='CIFAR10'))
    tiny_cfg.test_evaluator = [dict(type='Accuracy'), dict(type='mmdfad.AgreementMetric')]
    assert [m.type for m in plain_student_config(tiny_cfg).test_evaluator] == ['Accuracy']


def test_two_default_scopes_do_not_meet(tiny_cfg):
    """A distillation whose default scope is mmseg's still builds mmpretrain players."""
    for role in ('teacher', 'student'):
        tiny_cfg.model[role].type = 'mmpretrain.ImageClassifier'
    build_runner(tiny_cfg, default_scope='mmseg')


def test_missing_package_is_named(tiny_cfg, monkeypatch):
    monkeypatch.setattr('mmpretrain.__version__', '0.1.0')
    with pytest.raises(DistillError, match=r'(?s)model.teacher: mmdfad needs mmpretrain.*pip install'):
        build_runner(tiny_cfg)
