"""Workflows, templates, changelog and citation fit the repository."""

import re
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from mmdfad.version import __version__

GITHUB = ROOT / '.github'
WORKFLOWS = sorted((GITHUB / 'workflows').glob('*.yml'))
FORMS = sorted(path for path in (GITHUB / 'ISSUE_TEMPLATE').glob('*.yml') if path.stem != 'config')
TARGETS = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))


def by_name(path: Path) -> str:
    return path.stem


def steps(workflow: Path) -> list[dict]:
    jobs = yaml.safe_load(workflow.read_text())['jobs']
    return [step for job in jobs.values() for step in job['steps']]


def commands(workflow: Path) -> str:
    return '\n'.join(step['run'] for step in steps(workflow) if 'run' in step)


def test_each_workflow_is_there():
    assert [path.stem for path in WORKFLOWS] == ['docs', 'lint', 'test', 'upstream', 'wheel']
    assert all(yaml.safe_load(path.read_text())['name'] == path.stem for path in WORKFLOWS)


@pytest.mark.parametrize('workflow', WORKFLOWS, ids=by_name)
def test_workflows_make_targets_that_exist(workflow):
    made = re.findall(r'\bmake ([\w-]+)', commands(workflow))
    expected = dict(upstream=['test-upstream'], test=['test', 'test-slow'])
    assert made == expected.get(workflow.stem, [workflow.stem])
    assert set(made) <= TARGETS


@pytest.mark.parametrize('workflow', WORKFLOWS, ids=by_name)
def test_workflows_check_out_and_set_up_the_python_of_the_readme(workflow):
    content = steps(workflow)
    assert content[0]['uses'].startswith('actions/checkout@')
    version = next(step['with']['python-version'] for step in content if 'setup-python' in step.get('uses', ''))
    assert f'Python {version}' in (ROOT / 'README.md').read_text()
    assert all(re.fullmatch(r'actions/[\w-]+@v\d+', step['uses']) for step in content if 'uses' in step)
    # `on` is a boolean in YAML 1.1.
    assert 'push' in yaml.safe_load(workflow.read_text())[True]


@pytest.mark.parametrize('path', FORMS, ids=by_name)
def test_issue_forms_have_what_github_asks_for(path):
    form = yaml.safe_load(path.read_text())
    assert {'name', 'description', 'body'} <= form.keys()
    assert len({part['id'] for part in form['body']}) == len(form['body'])
    assert all(part['type'] == 'textarea' and part['attributes']['label'] for part in form['body'])
    assert any(part.get('validations', {}).get('required') for part in form['body'])


def test_templates_are_there():
    assert [path.stem for path in FORMS] == ['bug', 'feature']
    assert yaml.safe_load((GITHUB / 'ISSUE_TEMPLATE/config.yml').read_text()) == {'blank_issues_enabled': True}
    named = re.findall(r'`make (\w+)`', (GITHUB / 'pull_request_template.md').read_text())
    assert named
    assert set(named) <= TARGETS


def test_changelog_and_citation_have_the_version():
    newest = re.search(r'^## ([\d.]+)', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert newest[1] == citation['version'] == __version__
    assert {'cff-version', 'message', 'title', 'authors'} <= citation.keys()


@pytest.mark.parametrize('name', ['CHANGELOG.md', 'CONTRIBUTING.md'])
def test_pages_name_what_exists(name):
    text = (ROOT / name).read_text()
    links = [link for link in re.findall(r'\]\(([^)#\s]+)\)', text) if '://' not in link]
    assert links
    assert all((ROOT / link).exists() for link in links)
    paths = re.findall(r'`((?:configs|docs|examples|mmdfad|tests|tools)/[\w./-]+)`', text)
    assert all((ROOT / path).exists() for path in paths if '_build' not in path and 'METHOD' not in path)
    assert set(re.findall(r'`make ([\w-]+)`', text)) <= TARGETS
