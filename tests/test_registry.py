import subprocess
import sys

import mmengine.registry
import pytest
from mmengine.registry import DefaultScope

from mmdfad import registry


@pytest.mark.parametrize('scope', ['mmengine', 'mmdfad', 'mmpretrain', 'mmseg'])
@pytest.mark.parametrize(
    ('kind', 'name'),
    [
        ('MODELS', 'L1Discrepancy'),
        ('LOOPS', 'AdversarialDistillLoop'),
        ('HOOKS', 'ExportStudentHook'),
        ('DATASETS', 'NoiseDataset'),
        ('DATA_SAMPLERS', 'NoiseSampler'),
        ('METRICS', 'AgreementMetric'),
        ('OPTIM_WRAPPERS', 'BFloat16OptimWrapper'),
        ('OPTIM_WRAPPER_CONSTRUCTORS', 'DistillOptimWrapperConstructor'),
        ('LOG_PROCESSORS', 'DistillLogProcessor'),
    ],
)
def test_types_are_found_from_any_default_scope(scope, kind, name):
    with DefaultScope.overwrite_default_scope(scope):
        root = getattr(mmengine.registry, kind)
        with root.switch_scope_and_registry(None) as current:
            assert current.get(f'mmdfad.{name}') is getattr(registry, kind).get(name)


def test_every_registry_of_openmmlab_has_a_child():
    for kind in vars(mmengine.registry.root):
        if kind.isupper() and kind != 'STRATEGIES':
            assert getattr(registry, kind).parent is getattr(mmengine.registry, kind)
            assert getattr(registry, kind).scope == 'mmdfad'


def test_importing_is_lazy():
    """Neither models nor mmpretrain and mmseg are imported before a config asks for them."""
    code = (
        'import sys, mmdfad, mmdfad.registry; '
        'print([m for m in ("mmpretrain", "mmseg", "mmdfad.models", "mmdfad.engine") if m in sys.modules])'
    )
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip() == '[]'
    code = (
        'import sys, mmdfad; from mmdfad.registry import MODELS, DATASETS, HOOKS, METRICS; '
        '[r.get("L1Discrepancy") for r in (MODELS, DATASETS, HOOKS, METRICS)]; '
        'import mmdfad.apis; print([m for m in ("mmpretrain", "mmseg") if m in sys.modules])'
    )
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip() == '[]'
