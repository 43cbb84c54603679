"""The parts of a report, one by one."""

import base64
import re

import cv2
import numpy as np
import pytest
import torch
from conftest import both_tasks, build_runner, keep_hooks
from mmengine.config import Config

from mmdfad.engine.probe import Classes, probe_noise
from mmdfad.evaluation.prediction import Prediction
from mmdfad.models.label_pairs import LabelPairs
from mmdfad.reports.commands import next_commands
from mmdfad.reports.curves import draw_charts, draw_errors
from mmdfad.reports.environment import describe_environment
from mmdfad.reports.generated import Example, Generated, look
from mmdfad.reports.inspection import computing_type
from mmdfad.reports.measure import measure
from mmdfad.reports.numbers import count, duration, latency, score
from mmdfad.reports.pictures import data_uri, legend, show_examples
from mmdfad.reports.verdict import main_metric, percent, verdict

CLASSES = Classes(['a', 'b', 'c'], np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8))


def pixels_of(uri):
    content = np.frombuffer(base64.b64decode(uri.partition(',')[2]), np.uint8)
    return cv2.imdecode(content, cv2.IMREAD_COLOR)[..., ::-1]


@both_tasks
def test_networks_are_measured_as_plain_models(tiny_cfg):
    keep_hooks(tiny_cfg, 'acceleration')
    tiny_cfg.model.student.image_size = 24
    distiller = build_runner(tiny_cfg).model
    networks = dict(teacher=distiller.teacher, student=distiller.student)
    modes = [module.training for module in distiller.modules()]
    images = distiller.generator.sample(torch.randn(3, 16))
    found = measure(networks, images, [torch.float32, torch.bfloat16], 2.0)
    assert [module.training for module in distiller.modules()] == modes
    assert found['student']['image_size'] == [24, 24]
    assert found['teacher']['image_size'] == [*distiller.generator.image_size]
    for network in found.values():
        assert network['latency'].keys() == {'float32', 'bfloat16'}
        for seconds in network['latency'].values():
            assert 0 < seconds['1'] < 10
            assert 0 < seconds['16'] < 10


def test_slow_batches_are_not_measured(tiny_cfg):
    distiller = build_runner(tiny_cfg).model
    found = measure(dict(teacher=distiller.teacher), torch.zeros(2, 3, 16, 16), [torch.float32], 0.0)
    assert found['teacher']['latency']['float32']['1'] > 0
    assert found['teacher']['latency']['float32']['16'] is None


@pytest.mark.parametrize(
    ('wrapper', 'expected'),
    [
        (dict(student=dict()), torch.float32),
        (dict(amp_dtype='bfloat16', student=dict()), torch.bfloat16),
        (dict(amp_dtype='bfloat16', student=dict(amp_dtype='float32')), torch.float32),
        (dict(student=dict(type='mmdfad.BFloat16OptimWrapper')), torch.bfloat16),
        (dict(student=dict(type='AmpOptimWrapper')), torch.float16),
        (dict(student=dict(type='OptimWrapper')), torch.float32),
    ],
)
def test_the_type_of_the_run(wrapper, expected):
    assert computing_type(Config(dict(optim_wrapper=wrapper)), torch.device('cpu')) == expected


@both_tasks
def test_labels_on_generated_images(tiny_cfg):
    distiller = build_runner(tiny_cfg).model
    before = torch.get_rng_state()
    found = look(distiller, 3e9, keep=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.count == 20
    pixels = 1 if distiller.teacher.logits.ndim == 2 else 32 * 24
    assert found.pairs.total() == 20 * pixels
    _, student, teacher = distiller.probe(probe_noise(distiller, 20))
    same = (student.argmax(1) == teacher.argmax(1)).float()
    assert found.pairs.agreement == pytest.approx(float(same.mean()))
    shares = same.flatten(1).mean(1).tolist() if pixels > 1 else same.tolist()
    assert [e.agreement for e in found.worst] == pytest.approx(sorted(shares)[:3])
    assert [e.agreement for e in found.drawn] == pytest.approx(shares[:3])
    assert found.drawn[0].teacher.shape == found.drawn[0].picture.shape[: 2 * (pixels > 1)]


def test_classes_by_what_they_cost():
    pairs = LabelPairs({(0, 0): 60, (0, 2): 8, (0, 1): 2, (1, 1): 10, (2, 0): 15, (2, 2): 5})
    rows = pairs.by_class(CLASSES.names)
    assert [(row['name'], row['share'], row['lost'], row['instead']) for row in rows] == [
        ('c', 0.2, 0.15, 'a'),
        ('a', 0.7, 0.1, 'c'),
        ('b', 0.1, 0, None),
    ]
    assert [row['agreement'] for row in rows] == pytest.approx([0.25, 6 / 7, 1])
    assert sum(row['lost'] for row in rows) == pytest.approx(1 - pairs.agreement)


def test_label_maps_have_the_colours_of_the_classes():
    teacher, student = np.array([[0, 1], [2, 2]]), np.array([[0, 1], [2, 1]])
    example = Example(np.full((2, 2, 3), 7, np.uint8), teacher, student, (0.5, 0.5), 0.75, 0.0)
    shown = show_examples(Generated(LabelPairs({(0, 0): 1}), 1, [example], []), CLASSES)
    panels = {title: pixels_of(uri) for title, uri in shown['worst'][0]['panels']}
    assert (panels['image'] == 7).all()
    assert np.array_equal(panels['teacher'], CLASSES.palette[teacher])
    assert np.array_equal(panels['student'], CLASSES.palette[student])
    assert (panels['differences'] == [200, 30, 45]).all(2).tolist() == [[False, False], [False, True]]
    assert legend(Generated(LabelPairs({(0, 0): 1}), 1, [], []), CLASSES) == [
        ('a', '#ff0000'),
        ('b', '#00ff00'),
        ('c', '#0000ff'),
    ]


def test_a_long_legend_has_the_classes_that_occur():
    many = Classes([str(i) for i in range(100)], np.zeros((100, 3), np.uint8))
    assert [name for name, _ in legend(Generated(LabelPairs({(7, 3): 1, (3, 3): 2}), 1, [], []), many)] == ['3', '7']


def test_large_pictures_are_made_smaller():
    picture = np.random.default_rng(0).integers(0, 256, (300, 600, 3), np.uint8)
    assert pixels_of(data_uri(picture, '.jpg')).shape == (112, 224, 3)
    labels = CLASSES.palette[np.arange(600 * 300).reshape(300, 600) // 1000 % 3]
    shown = pixels_of(data_uri(labels, '.png')).reshape(-1, 3)
    assert {tuple(colour) for colour in shown.tolist()} <= {tuple(colour) for colour in CLASSES.palette.tolist()}


def test_charts_use_the_colours_and_fonts_of_the_page():
    series = {
        'imitation_loss': [(i, 1 / i) for i in range(1, 1001)],
        'imitation_<b>$x': [(1, 0.5), (2, 1.0)],
        'student.lr': [(1, 0.1), (2, 0.001)],
        'health/gap': [(1, 0.5)],
        'health/nonfinite': [(1, 0.0), (2, 0.0)],
        'agreement': [(1, 0.5), (2, 0.6)],
    }
    charts = {chart.title: chart for chart in draw_charts(series, {'mIoU': [(1, 40.0), (2, 50.0)]}, real=True)}
    assert [*charts] == [
        'Validation',
        'Agreement on generated images',
        'Imitation objectives',
        'Learning rates',
        'Health: gap to the teacher',
    ]
    for chart in charts.values():
        assert chart.svg.startswith('<svg')
        assert 'var(--series-1)' in chart.svg
        assert not re.findall(r'#0000|http|font-family|<metadata|DejaVu|width="[\d.]+pt"', chart.svg)
        assert len(chart.svg) < 40_000
    assert [name for name, _ in charts['Imitation objectives'].legend] == ['imitation_loss', 'imitation_<b>$x']


def test_predictions_have_a_band():
    metrics = {f'predicted_agreement{end}': [(1, 0.5), (2, 0.6)] for end in ('', '_low', '_high')}
    charts = {
        chart.title: chart for chart in draw_charts({}, metrics | {'agreement/leaves': [(1, 0.2), (2, 0.3)]}, False)
    }
    assert 'opacity: 0.18' in charts['Predicted agreement on real images'].svg
    assert [name for name, _ in charts['Predicted agreement on real images'].legend] == ['predicted_agreement']
    assert 'Agreement on generated images' in charts


def test_errors_of_layers():
    assert draw_errors([('a', 0.1)] * 7) is None
    assert 'var(--series-1)' in draw_errors([('a', 0.1), ('b', float('inf'))] * 4).svg


def shares(agreement, adversarial=False):
    return dict(agreement=agreement, count=9, adversarial=adversarial)


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (
            (Prediction(0.941, 0.941, 0.9, 0.97, ''), None, None, 'images'),
            r'94.1% of the images \(90% interval: 90.0% to 97.0%\)',
        ),
        ((Prediction(None, 0.9, 0.7, 0.95, ''), None, None, 'pixels'), 'between 70.0% and 95.0% of the pixels'),
        ((None, shares(0.5), None, 'images'), r'^No pred.*: .* 50.0% of 9 generated images \(expect less on real'),
        (
            (None, shares(0.5, adversarial=True), None, 'pixels'),
            'the pixels of 9 generated images .*so that the two disagree',
        ),
        ((None, shares(0.5), dict(agreement=0.9), 'images'), '^On the validation data.* 90.0% of'),
        ((None, None, None, 'images'), 'not compared'),
    ],
)
def test_verdicts(arguments, expected):
    assert re.search(expected, verdict(*arguments))


def test_numbers_for_people():
    assert [count(n) for n in (15, 61706, 3.46e6, 2.8e9)] == ['15', '61,706', '3.46 M', '2.80 G']
    assert [duration(s) for s in (0.44, 59.6, 167, 7500)] == ['0.4 s', '1 min 0 s', '2 min 47 s', '2 h 5 min']
    assert [latency(s) for s in (None, 0.00123, 0.5, 12.0)] == ['-', '1.23 ms', '500 ms', '12,000 ms']
    assert [percent(s) for s in (0, 0.0001, 0.5, 0.9999, 1)] == ['0%', '0.1%', '50.0%', '99.9%', '100%']
    assert [score(*pair) for pair in (('mIoU', 42.36), ('agreement', 0.5), ('f1', 0.25), ('x', None))] == [
        '42.4',
        '50.0%',
        '0.250',
        '-',
    ]
    assert main_metric(['aAcc', 'mIoU']) == 'mIoU'
    assert main_metric(['mine']) == 'mine'
    assert main_metric([]) is None


def test_environment():
    found = describe_environment()
    assert found['machine']['cpu']
    assert found['machine']['cores'] >= 1
    assert found['versions']['mmcv']


def test_commands_fit_the_run(tmp_path):
    work_dir = tmp_path / 'my run'
    work_dir.mkdir()
    dataset = dict(type='CamVidDataset', data_root='data')
    student = dict(default_scope='mmseg', test_dataloader=dict(dataset=dataset))
    run = dict(student, train_cfg=dict(max_iters=10))
    for name, content in dict(student=student, mine=run).items():
        (work_dir / f'{name}.py').write_text(Config(content).pretty_text)
    (work_dir / 'student.pth').touch()
    commands = {c['title']: c['text'] for c in next_commands(work_dir, Config(run), done=True)}
    folder = f"'{work_dir}"
    data = '--cfg-options test_dataloader.dataset.data_root=PATH'
    assert commands == {
        'Test it on your data': f"python tools/test.py {folder}/student.py' {folder}/student.pth' {data}",
        'Compare it with the teacher on your data': (
            f"python tools/test.py {folder}/mine.py' {folder}/student.pth' --agreement {data}"
        ),
        'Use it in mmseg': commands['Use it in mmseg'],
        'Export it to ONNX': f"python tools/export_onnx.py {folder}/student.py' {folder}/student.pth'",
        'Train longer': (
            f"python tools/train.py {folder}/mine.py' --work-dir {folder}' --resume "
            '--cfg-options train_cfg.max_iters=20'
        ),
    }
    compile(commands['Use it in mmseg'], 'snippet', 'exec')
    first = next_commands(work_dir, Config(run), done=False)[0]
    assert first['text'] == f"python tools/train.py {folder}/mine.py' --work-dir {folder}' --resume"
