import pytest
from conftest import TINY, build_runner
from mmengine.config import Config

from mmdfad.apis import add_agreement, plain_student_config, read_run
from mmdfad.utils import DistillError
from mmdfad.utils.export import dataset_meta_of


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


def test_agreement_needs_a_teacher():
    with pytest.raises(DistillError, match="give the distillation's config instead of the student's"):
        add_agreement(Config(dict(model=dict(type='ImageClassifier'))), Config())


def test_two_default_scopes_do_not_meet(tiny_cfg):
    """A distillation whose default scope is mmseg's still builds networks of mmpretrain."""
    for role in ('teacher', 'student'):
        tiny_cfg.model[role].type = 'mmpretrain.ImageClassifier'
    build_runner(tiny_cfg, default_scope='mmseg')


def test_missing_package_is_named(tiny_cfg, monkeypatch):
    monkeypatch.setattr('mmpretrain.__version__', '0.1.0')
    with pytest.raises(DistillError, match=r'(?s)model.teacher: mmdfad needs mmpretrain.*pip install'):
        build_runner(tiny_cfg)


def test_options_override_the_file(tmp_path):
    (tmp_path / 'config.py').write_text("model = dict(type='Any')\na = dict(b=1, c=2)\n")
    cfg = read_run(str(tmp_path / 'config.py'), {'a.b': 3})
    assert cfg.a == dict(b=3, c=2)


def test_old_settings_are_refused_where_a_run_is_read(tmp_path):
    (tmp_path / 'old.py').write_text("model = dict(student=dict(type='Any'), replay=dict(type='ReplayPool'))\n")
    with pytest.raises(DistillError, match=r'model.replay is a setting .* write model.generator=.*ReplayGenerator'):
        read_run(str(tmp_path / 'old.py'))


def test_a_hook_is_removed_by_none(tmp_path):
    """mmengine allows that for its own hooks only."""
    before = {*read_run(str(TINY)).default_hooks}
    (tmp_path / 'config.py').write_text(f"_base_ = '{TINY}'\ndefault_hooks = dict(timer=None, health=None)\n")
    assert {*read_run(str(tmp_path / 'config.py')).default_hooks} == before - {'health'}
