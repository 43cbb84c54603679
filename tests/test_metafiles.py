"""Metafiles say how large a student is, and in fields that OpenMMLab's tools know."""

import os
from pathlib import Path

import mmpretrain
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.fileio import load
from modelindex.load_model_index import load as load_index
from test_docs import help_of

from mmdfad.models.build import build_network
from mmdfad.utils.model import evaluating, model_size
from mmdfad.utils.quiet import quiet

PACKAGE = ROOT / 'mmdfad'
MIM = PACKAGE / '.mim'
ENTRIES = [entry for path in load(ROOT / 'model-index.yml')['Import'] for entry in load(ROOT / path)['Models']]
TASKS = {'Image Classification', 'Semantic Segmentation'}


def by_name(entry: dict) -> str:
    return entry['Name']


def image_shape(generator: dict) -> tuple[int, int, int]:
    """Channels, height and width of what the innermost generator makes."""
    while 'image_size' not in generator:
        generator = generator['generators'][0] if 'generators' in generator else generator['generator']
    size = generator['image_size']
    return generator.get('channels', 3), *((size, size) if isinstance(size, int) else size)


@pytest.mark.parametrize('entry', ENTRIES, ids=by_name)
def test_sizes_are_those_of_the_student(entry):
    cfg = Config.fromfile(ROOT / entry['Config'])
    with quiet():
        student = build_network({k: v for k, v in cfg.model.student.items() if k != 'checkpoint'}, 'student')
    with torch.no_grad(), evaluating(student):
        size = model_size(student.logits, torch.zeros(2, *image_shape(cfg.model.generator)))
    assert entry['Metadata']['Parameters'] == size.params
    assert entry['Metadata']['FLOPs'] == size.flops


def test_fields_are_those_of_mmpretrain():
    index = load_index(str(ROOT / 'model-index.yml'))
    theirs = load_index(str(Path(mmpretrain.__path__[0]) / '.mim/model-index.yml'))
    for kind in ('collections', 'models'):
        known = {field for item in getattr(theirs, kind) for field in item.data}
        assert {field for item in getattr(index, kind) for field in item.data} <= known
    known = {field for model in theirs.models for field in model.metadata.data}
    own = {field for model in index.models for field in model.metadata.data}
    assert {'Parameters', 'FLOPs', 'Training Data'} <= own & known
    assert own - known == {'Seeds', 'Teacher'}
    assert len(list(index.models)) == len(ENTRIES)


@pytest.mark.parametrize('entry', ENTRIES, ids=by_name)
def test_results_have_a_task_and_a_metric(entry):
    for result in entry.get('Results', []):
        assert result['Task'] in TASKS
        assert all(0 < value < 100 for value in result['Metrics'].values())


# What mim reads


def test_mim_finds_index_and_configs():
    index = load_index(str(MIM / 'model-index.yml'))
    assert sorted(model.name for model in index.models) == sorted(map(by_name, ENTRIES))
    for model in index.models:
        assert (MIM / model.config).is_file()


def test_mim_search_can_show_all_metadata():
    """`mim search` takes text, numbers, dicts and lists of text."""
    for entry in ENTRIES:
        for key, value in entry['Metadata'].items():
            texts = value if isinstance(value, list) else []
            assert isinstance(value, str | int | float | dict | list), key
            assert all(isinstance(text, str) for text in texts), key


def test_mim_train_finds_each_config_by_its_name():
    """`mim train` looks for the file's name in the whole package, and refuses a name that is there twice."""
    names = [name for _, _, files in os.walk(PACKAGE, followlinks=True) for name in files]
    for entry in ENTRIES:
        assert names.count(Path(entry['Config']).name) == 1, entry['Config']


@pytest.mark.parametrize(('tool', 'positional'), [('train', 'config'), ('test', 'config checkpoint')])
def test_mim_starts_the_tools(tool, positional):
    """It gives them a config, for a test with a checkpoint, and ``--launcher``. It adds ``--gpus`` if they have it."""
    assert (MIM / 'tools' / f'{tool}.py').is_file()
    usage = ' '.join(help_of(f'tools/{tool}.py').partition('\n\n')[0].split())
    assert usage.endswith(positional)
    assert '--launcher {none,pytorch,slurm' in usage
    assert '--gpus' not in usage
