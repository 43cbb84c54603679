"""Imports point one way, files stay small, and names are those of the field."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / 'mmdfad'
# Each part imports parts of the layers above it in this list, and itself. It imports nothing beside or below it.
LAYERS = [
    ['version', 'registry', 'utils'],
    ['acceleration', 'datasets', 'evaluation', 'models.backbones', 'models.torch_classifier'],
    ['models.chance', 'models.channels', 'models.label_pairs', 'models.parts', 'models.pixels', 'models.logits'],
    ['models.step'],
    ['models.network'],
    ['models.generators', 'models.objectives', 'models.starts'],
    ['models.probes'],
    ['models.build', 'models.checks', 'models.base_distiller'],
    ['models.distiller', 'models.distributed'],
    ['models'],
    ['engine'],
    ['reports'],
    ['apis'],
    ['cli'],
]
LAYER_OF = {part: number for number, parts in enumerate(LAYERS) for part in parts}
# Parts that know less than their layer allows.
ONLY = dict(
    utils=['version'],
    version=[],
    registry=[],
    acceleration=['utils'],
    datasets=['registry', 'utils'],
    evaluation=['registry', 'utils'],
)
# Who may import acceleration: it is a layer that can be taken off.
ACCELERATED = 'engine.hooks.acceleration'
# With docstrings and comments. In the whole package blank lines do not count.
MOST_LINES = dict(module=300, distiller=200, package=14050)
BANNED = re.compile(r'player|\bthe game\b|\bplays a\b', re.IGNORECASE)
TEXTS = ['mmdfad/**/*.py', 'configs/**/*', 'tools/**/*.py', 'docs/**/*.md', 'examples/**/*', 'README.md']


def name_of(path: Path) -> str:
    """The dotted name of a module inside the package: '' for the package itself."""
    return '.'.join(path.relative_to(PACKAGE).with_suffix('').parts).removesuffix('__init__').rstrip('.')


# Configs are read by mmengine, not imported.
MODULES = sorted(path for path in PACKAGE.rglob('*.py') if PACKAGE / 'configs' not in path.parents)
SOURCES = {name_of(path): path for path in MODULES}
LINES = {name: len(path.read_text().splitlines()) for name, path in SOURCES.items()}
TREES = {name: ast.parse(path.read_text()) for name, path in SOURCES.items()}


def imported(name: str, nodes: Iterator[ast.AST]) -> Iterator[str]:
    """The full names of all modules, and of what is imported from them."""
    path = SOURCES[name]
    package = ['mmdfad', *path.relative_to(PACKAGE).parent.parts]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = '.'.join([*above, *filter(None, [node.module])])
            yield from (f'{module}.{alias.name}' for alias in node.names)


def own_imports(name: str) -> set[str]:
    """The modules of the package that a module imports, anywhere in it."""
    found = set()
    for target in imported(name, ast.walk(TREES[name])):
        if target.partition('.')[0] == 'mmdfad':
            target = target.partition('.')[2]
            found.add(target if target in SOURCES else target.rpartition('.')[0])  # a module, or something in one
    return found - {name}


def part_of(name: str) -> str:
    """The part of LAYERS that a module belongs to."""
    while name not in LAYER_OF:
        name, dot, _ = name.rpartition('.')
        assert dot, 'a new folder or module must have its place in LAYERS'
    return name


def at_module_level(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported."""
    for child in ast.iter_child_nodes(node):
        for_types = isinstance(child, ast.If) and ast.unparse(child.test) == 'TYPE_CHECKING'
        if not (for_types or isinstance(child, ast.FunctionDef | ast.Lambda)):
            yield child
            yield from at_module_level(child)


def test_imports_point_one_way():
    wrong = []
    for name in SOURCES.keys() - {''}:
        part = part_of(name)
        for target in own_imports(name) - {''}:
            other = part_of(target)
            allowed = other in ONLY[part] if part in ONLY else LAYER_OF[other] < LAYER_OF[part]
            if other != part and not allowed:
                wrong.append(f'{name} imports {target}')
    assert sorted(wrong) == []


def test_acceleration_can_be_taken_off():
    users = {name for name in SOURCES if any(part_of(t) == 'acceleration' for t in own_imports(name) - {''})}
    assert {name for name in users if part_of(name) != 'acceleration'} == {ACCELERATED}


def test_modules_have_no_cycles():
    """Nor does a folder as a whole import itself through another."""
    order = [*TopologicalSorter({name: own_imports(name) for name in SOURCES}).static_order()]
    assert len(order) == len(SOURCES)


def test_engine_knows_hooks_by_one_module():
    """Hooks use the loop, its record, the optimizers and the probe. The rest of the engine does not use hooks."""
    for name in SOURCES:
        targets = {t for t in own_imports(name) if t.startswith('engine')}
        if name.startswith('engine.hooks.'):
            assert {t for t in targets if not t.startswith('engine.hooks.')} <= {
                'engine.loop',
                'engine.optim',
                'engine.probe',
                'engine.run_record',
            }, name
        elif name.startswith('engine.'):
            assert not any(t.startswith('engine.hooks.') for t in targets) or name == 'engine.hooks', name


def test_optional_packages_are_imported_only_where_a_config_needs_them():
    optional = ('mmpretrain', 'mmseg', 'mmdet', 'timm', 'transformers', 'mlxtend', 'onnx', 'onnxruntime', 'onnxscript')
    for name in SOURCES:
        found = {target.partition('.')[0] for target in imported(name, at_module_level(TREES[name]))}
        assert not found & set(optional), name


def test_package_stands_on_its_own():
    for name in SOURCES:
        found = {target.partition('.')[0] for target in imported(name, ast.walk(TREES[name]))}
        assert not found & {'tools', 'tests', 'conftest', 'examples', 'configs'}, name


def test_modules_stay_small():
    assert {name: number for name, number in LINES.items() if number > MOST_LINES['module']} == {}
    assert LINES['models.distiller'] <= MOST_LINES['distiller']


def test_package_stays_small():
    total = sum(bool(line.strip()) for path in SOURCES.values() for line in path.read_text().splitlines())
    assert total <= MOST_LINES['package']


@pytest.mark.parametrize('pattern', TEXTS)
def test_words_are_those_of_the_field(pattern):
    files = [path for path in ROOT.glob(pattern) if path.is_file() and path.suffix in ('.py', '.md', '.yml')]
    found = [
        f'{path.relative_to(ROOT)}:{number}: {line.strip()}'
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if BANNED.search(line) and path.name != 'migration.py'  # it names settings of earlier versions
    ]
    assert files
    assert found == []
