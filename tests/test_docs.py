"""The documentation: its examples run, its links and commands exist, and it lists what is shipped."""

import io
import re
import runpy
import shlex
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY, build_runner
from mmengine.config import Config
from torch.nn.modules.batchnorm import _BatchNorm

from mmdfad.engine.probe import probe_noise
from mmdfad.models.generators import Generator, GeneratorWrapper
from mmdfad.models.objectives import Discrepancy, Objective
from mmdfad.models.starts import Start
from mmdfad.registry import MODELS
from mmdfad.utils.state_dict import select_weights

DOCS = sorted((ROOT / 'docs').glob('*.md'))
PAGES = [ROOT / 'README.md', *DOCS, *sorted((ROOT / 'configs').glob('*/README.md'))]
PARTS = ('my_objective.py', 'my_generator.py', 'my_start.py')


def by_path(page: Path) -> str:
    return str(page.relative_to(ROOT))


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf'^```{language}\n(.*?)^```', page.read_text(), re.MULTILINE | re.DOTALL)


# The examples of docs/adding_methods.md


@pytest.fixture(scope='module')
def example(tmp_path_factory) -> Path:
    """The folder with the page's files, and with a tiny teacher and student."""
    folder = tmp_path_factory.mktemp('example')
    for block in code_blocks(ROOT / 'docs/adding_methods.md', 'python'):
        (folder / re.match(r'# (\w+\.py)\n', block)[1]).write_text(block)
    tiny = Config.fromfile(TINY)
    for role in ('teacher', 'student'):
        model = tiny.model[role]
        model.pop('checkpoint', None)
        (folder / f'my_{role}.py').write_text(Config(dict(model=model, default_scope='mmpretrain')).pretty_text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


def example_config(example: Path, teacher_checkpoint: str, **changes) -> Config:
    """The page's config for the tiny models."""
    cfg = Config.fromfile(example / 'my_method.py')
    for role in ('teacher', 'student'):
        cfg.model[role].cfg_path = str(example / cfg.model[role].cfg_path)
    assert cfg.model.teacher.checkpoint == 'my_teacher.pth'
    cfg.model.teacher.checkpoint = teacher_checkpoint
    small = {'train_cfg.max_iters': 2, 'train_dataloader.batch_size': 8, 'default_hooks.logger.interval': 1}
    cfg.merge_from_dict(small | changes)
    return cfg


@pytest.mark.parametrize('name', PARTS)
def test_each_example_is_short(example, name):
    assert len((example / name).read_text().splitlines()) < 26  # the name of the file, and less than 25 lines


def test_examples_take_effect(example, teacher_checkpoint, tmp_path):
    cfg = example_config(example, teacher_checkpoint, work_dir=str(tmp_path))
    # A student that does not learn keeps the weights of its start.
    cfg.optim_wrapper.student.optimizer.update(lr=0.0, weight_decay=0.0)
    runner = build_runner(cfg)
    before = {name: value.clone() for name, value in runner.model.student.plain_state().items()}
    runner.train()
    distiller = runner.model

    # The objective: it is in the log beside the default one, and in the sum.
    log = {key: runner.message_hub.get_scalar(f'train/imitation_{key}').current() for key in ('l1', 'similarity')}
    assert 0 < log['similarity'] < 1
    total = runner.message_hub.get_scalar('train/imitation_loss').current()
    assert total == pytest.approx(log['l1'] + 100 * log['similarity'], rel=1e-4)

    # The start: the student has the teacher's channels.
    selected = select_weights(before, distiller.teacher.plain_state())
    for name, value in distiller.student.plain_state().items():
        if name.endswith('weight'):
            assert torch.equal(value, selected[name]), name
            assert not torch.equal(value, before[name]) or (value == 1).all(), name

    # The generator: its images are enlarged noise, times the contrast that it has learned.
    images, *_ = distiller.probe(probe_noise(distiller, 4))
    coarse = probe_noise(distiller, 4).view(4, 3, 4, 4)
    smooth = torch.nn.functional.interpolate(coarse, (32, 32), mode='bicubic')
    assert torch.allclose(images, distiller.generator.contrast.detach() * smooth, atol=1e-6)
    assert not torch.equal(distiller.generator.contrast, torch.ones(3, 1, 1))
    assert (tmp_path / 'student.pth').exists()


def test_start_estimates_statistics_on_generated_images(example, teacher_checkpoint, tmp_path):
    distiller = build_runner(example_config(example, teacher_checkpoint, work_dir=str(tmp_path))).model
    asked = []

    def sample(count):
        asked.append(count)
        return distiller.generator.sample(probe_noise(distiller, count))

    distiller.apply_start(sample)
    assert asked == [64] * 10
    first = next(module for module in distiller.student.modules() if isinstance(module, _BatchNorm))
    convolution = distiller.student.model.backbone.conv1
    inputs = convolution(distiller.student.pixels(distiller.generator.sample(probe_noise(distiller, 64))))
    assert torch.allclose(first.running_mean, inputs.mean((0, 2, 3)), atol=1e-4)
    assert first.momentum == 0.1


def test_generator_without_parameters_does_not_learn(example, teacher_checkpoint, tmp_path, monkeypatch):
    """What the page says about it."""
    from my_generator import SmoothNoiseGenerator

    class Fixed(SmoothNoiseGenerator):
        def __init__(self, **kwargs) -> None:
            super().__init__(**kwargs)
            del self.contrast
            self.contrast = 1.0

    cfg = example_config(example, teacher_checkpoint, work_dir=str(tmp_path))
    cfg.model.generator = Fixed(image_size=16)
    runner = build_runner(cfg)
    runner.train()
    assert [phase.name for phase in runner.train_loop.phases] == ['imitation']
    assert list(runner.optim_wrapper.keys()) == ['student']


# What the pages say exists


@pytest.mark.parametrize('page', PAGES, ids=by_path)
def test_relative_links_exist(page):
    targets = re.findall(r'\]\(([^)\s]+)\)', page.read_text())
    relative = [target.partition('#')[0] for target in targets if '://' not in target and not target.startswith('#')]
    assert not [target for target in relative if not (page.parent / target).exists()]


# The page about mmpretrain's and mmseg's configs names their files.
@pytest.mark.parametrize('page', [page for page in PAGES if page.stem != 'zoo_coverage'], ids=by_path)
def test_named_paths_exist(page):
    text = re.sub(r'https?://\S+', '', page.read_text())
    roots = 'configs|docs|examples|mmdfad|requirements|tests|tools'
    named = re.findall(rf'(?<![\w/.:-])((?:{roots})/[\w./-]*[\w/])', text)
    named += [f'configs/{inside}' for inside in re.findall(r'mmdfad::([\w./-]+\.py)', text)]
    assert not [path for path in named if not (ROOT / path).exists()]


def test_readme_is_short():
    assert len((ROOT / 'README.md').read_text().splitlines()) < 120


def test_make_targets_exist():
    targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    named = {
        name for page in PAGES for name in re.findall(r'\bmake ((?:demo|setup|test|lint)[\w-]*)', page.read_text())
    }
    assert {'demo', 'test', 'setup'} <= named <= targets


def commands() -> list[list[str]]:
    """The words of every command in the pages that runs a tool."""
    found = []
    for page in PAGES:
        text = '\n'.join(code_blocks(page, 'bash') + re.findall(r'`(python tools/[^`]+)`', page.read_text()))
        for line in text.replace('\\\n', ' ').splitlines():
            words = shlex.split(line, comments=True)
            if 'python' in words:
                found.append(words[words.index('python') + 1 :])
    return found


@cache
def help_of(tool: str) -> str:
    """The help that a tool prints."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output):
        patch.setattr('sys.argv', [tool, '--help'])
        patch.syspath_prepend((ROOT / tool).parent)
        with pytest.raises(SystemExit, match=r'^0$'):
            runpy.run_path(str(ROOT / tool), run_name='__main__')
    return output.getvalue()


def flags(tool: str) -> set[str]:
    return set(re.findall(r'--[a-z][\w-]*', help_of(tool)))


def test_commands_have_known_flags_and_configs():
    tools = {words[0] for words in commands()}
    assert {'tools/train.py', 'tools/test.py', 'tools/distill.py'} <= tools
    for tool, *words in commands():
        known = flags(tool) | (flags('tools/train.py') if tool == 'tools/distill.py' else set())
        used = {word.partition('=')[0] for word in words if word.startswith('--')}
        assert used <= known, (tool, used - known)
        for word in words:
            if word.startswith(('configs/', 'examples/')):
                assert (ROOT / word).is_file(), word


def test_benchmark_pairs_exist():
    page = (ROOT / 'docs/performance.md').read_text()
    table = page[page.index('| `--pair` | models |') :].partition('\n\n')[0]
    named = re.findall(r'^\| `(\w+)` \|', table, re.MULTILINE)
    choices = re.search(r'--pair \{([\w,]+)\}', help_of('tools/analysis_tools/benchmark_rounds.py'))[1].split(',')
    assert sorted(named) == sorted(choices)


def test_every_part_is_in_the_tables():
    """Generators, objectives and starts that are shipped, and no others."""
    MODELS.import_from_location()
    kinds = (Generator, Objective, Start)
    shipped = {
        name
        for name, cls in MODELS.module_dict.items()
        if issubclass(cls, kinds)
        and cls.__module__.startswith('mmdfad.')
        and cls not in (Discrepancy, GeneratorWrapper)
    }
    page = (ROOT / 'docs/methods.md').read_text()
    tables = page[page.index('### Generators') : page.index('## The methods as configs')]
    listed = set(re.findall(r'^\| `(\w+)` \|', tables, re.MULTILINE))
    assert listed == shipped


def test_every_method_has_a_row():
    page = (ROOT / 'docs/methods.md').read_text()
    folders = {f.name for f in (ROOT / 'configs').iterdir() if f.is_dir()} - {'_base_', 'teachers', '__pycache__'}
    assert set(re.findall(r'\| \[configs/(\w+)\]', page)) == folders


@pytest.mark.parametrize('page', PAGES, ids=by_path)
def test_words_of_games_are_not_used(page):
    """The field's words are teacher, student and generator; networks, rounds and phases."""
    assert not re.findall(r'\b(?:players?|plays?|played|playing|games?)\b', page.read_text(), re.IGNORECASE)
