"""The laws on a GPU: the same rounds as on a CPU, exact resuming, equal ranks, an exact student."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, TINY, TINY_SEG, assert_same_run, both_tasks, build_runner, hook_of, keep_hooks, run
from mmengine.config import Config
from mmengine.device import get_device

from mmdfad.apis import export_student
from mmdfad.models.build import build_model
from mmdfad.models.generators import UpsampleGenerator
from mmdfad.models.logits import as_logits
from mmdfad.models.network import Network

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
DTYPES = ('float32', 'bfloat16', 'float16')


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """fp32 without TF32, and kernels that give the same in each run."""
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def plain_cfg(tiny_cfg):
    """The tiny distillation in fp32 with checkpoints and nothing else, deterministic."""
    keep_hooks(tiny_cfg, 'checkpoint')
    tiny_cfg.optim_wrapper.amp_dtype = 'float32'
    tiny_cfg.randomness = dict(seed=0, deterministic=True)
    tiny_cfg.env_cfg.cudnn_benchmark = False
    return tiny_cfg


def student_of(runner) -> dict:
    """Adam turns rounding of gradients near zero into whole steps, so generators are not compared."""
    return {key: value.float().cpu() for key, value in runner.model.student.state_dict().items()}


def assert_near(a: dict, b: dict, tolerance: float) -> None:
    """The values of two state dicts differ by little, as a share of the largest one of a tensor."""
    assert a.keys() == b.keys()
    for key, value in a.items():
        scale = max(float(b[key].abs().max()), 1e-3)
        assert float((value - b[key]).abs().max()) <= tolerance * scale, key


@both_tasks
def test_rounds_equal_those_on_a_cpu(plain_cfg, monkeypatch):
    """Law 4, as the rounds on a CPU equal the paper's algorithm."""
    plain_cfg.train_cfg.max_iters = 1
    found = student_of(run(plain_cfg))
    monkeypatch.setattr('mmengine.device.utils.DEVICE', 'cpu')
    assert_near(found, student_of(run(plain_cfg)), 1e-3)


@both_tasks
@pytest.mark.parametrize('dtype', DTYPES)
def test_resumed_run_is_the_same(plain_cfg, tmp_path, dtype):
    """Law 5. The loss scale of fp16 is resumed, too."""
    plain_cfg.optim_wrapper.amp_dtype = dtype
    plain_cfg.default_hooks.checkpoint.max_keep_ckpts = -1
    whole = run(plain_cfg, train_cfg__max_iters=4, work_dir=str(tmp_path / 'whole'))
    resumed = run(plain_cfg, train_cfg__max_iters=4, resume=True, load_from=str(tmp_path / 'whole/iter_2.pth'))
    assert_same_run(resumed, whole)
    assert all(torch.isfinite(value).all() for value in student_of(whole).values())
    if dtype == 'float16':
        assert whole.optim_wrapper['student'].loss_scaler.get_scale() > 1


@pytest.mark.parametrize('world_size', [1, 2])
def test_ranks_over_nccl(tmp_path, teacher_checkpoint, world_size):
    """Law 6: ranks with a share of the batch each give the weights of one process with the whole batch."""
    if torch.cuda.device_count() < world_size:
        pytest.skip(f'needs {world_size} GPUs')
    # Batch norm in train mode would couple the images of a batch.
    config = tmp_path / 'uncoupled.py'
    config.write_text(
        f"_base_ = '{TINY}'\ncustom_hooks = [dict(type='mmdfad.FreezeNorms')]\n"
        "custom_imports = dict(imports=['mmdfad', 'test_models.test_distributed'])\n"
    )
    torchrun = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={world_size}']
    states = []
    for name, prefix, ranks in (('one', [], 1), ('ranks', torchrun, world_size)):
        command = [sys.executable, *prefix, str(ROOT / 'tools/train.py'), str(config), '--no-validate']
        command += ['--launcher', 'pytorch'] if prefix else []
        options = [f'model.teacher.checkpoint={teacher_checkpoint}', 'train_cfg.max_iters=2']
        options += [f'train_dataloader.batch_size={8 // ranks}', 'default_hooks.report.predict=False']
        options += ['optim_wrapper.amp_dtype=float32', 'randomness.deterministic=True']
        command += ['--work-dir', str(tmp_path / name), '--cfg-options', *options]
        environment = {
            **os.environ,
            'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT / 'tests'), os.environ.get('PYTHONPATH', '')]),
        }
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr[-3000:]
        states.append(torch.load(tmp_path / name / 'student.pth', map_location='cpu')['state_dict'])
    assert_near(*states, 1e-3)


@both_tasks
def test_exported_student_gives_the_same_logits(plain_cfg, tmp_path):
    """Law 7, on the GPU."""
    runner = run(plain_cfg, train_cfg__max_iters=2)
    config, checkpoint = export_student(plain_cfg, str(tmp_path / 'run/iter_2.pth'), tmp_path / 'out')
    plain = Config.fromfile(config)
    model = build_model(plain, 'student')
    model.load_state_dict(torch.load(checkpoint)['state_dict'])
    images = torch.randn(4, 3, *runner.model.generator.image_size, device=get_device())
    with torch.no_grad():
        expected = runner.model.student.eval().logits(images)
        assert torch.equal(as_logits(model.to(get_device()).eval())(images), expected)


@both_tasks
@pytest.mark.parametrize(
    'settings',
    [
        dict(fold_teacher=True),
        dict(channels_last=True),
        dict(optimize_dilated_convs=True),
        dict(activation_checkpointing=dict(teacher=['backbone.layer1'], student=['backbone.layer3'])),
        dict(compile=dict(teacher={}, student={}, generator={})),
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_accelerations_change_nothing_but_rounding(plain_cfg, settings):
    plain_cfg.train_cfg.max_iters = 1
    expected = student_of(run(plain_cfg))
    off = dict(fold_teacher=False, channels_last=False, optimize_dilated_convs=False)
    plain_cfg.default_hooks.acceleration = dict(type='mmdfad.AccelerationHook', **(off | settings))
    runner = run(plain_cfg)
    assert hook_of(runner, 'AccelerationHook')
    assert_near(student_of(runner), expected, 1e-3)


def test_transposed_convolutions_of_the_generator_equal_plain_ones():
    """Where upsampling and convolution are one transposed convolution."""
    torch.manual_seed(0)
    generator = UpsampleGenerator(16, 32).to(get_device()).eval()
    noise = torch.randn(8, 16, device=get_device())
    with torch.no_grad():
        fast = generator(noise)
        plain = generator.cpu().double()(noise.cpu().double())
    assert torch.allclose(fast.cpu().double(), plain, atol=1e-4)


@both_tasks
def test_a_start_by_least_squares_equals_that_on_a_cpu(plain_cfg, monkeypatch):
    plain_cfg.model.start = dict(type='mmdfad.LeastSquaresStart', images=16, batch_size=8)
    states = []
    for device in (get_device(), 'cpu'):
        monkeypatch.setattr('mmengine.device.utils.DEVICE', device)
        distiller = build_runner(plain_cfg).model
        size = distiller.generator.image_size
        pixels = torch.randn(16, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
        chunks = iter(pixels.split(8))
        distiller.apply_start(lambda count, chunks=chunks: next(chunks))
        states.append({key: value.float().cpu() for key, value in distiller.student.state_dict().items()})
    assert_near(*states, 1e-2)


def test_inversion_begins_as_on_a_cpu_and_lowers_the_distance_of_statistics(plain_cfg, monkeypatch):
    inner = dict(type='DecoderGenerator', noise_dim=16, image_size=16, upsamplings=2, width=8)
    plain_cfg.model.generator = dict(type='InversionPool', capacity=64, steps=5, generator=inner)
    plain_cfg.model.generation = [dict(type='BNStatisticsPrior', distance='kl')]
    plain_cfg.optim_wrapper.generator.optimizer = dict(type='Adam', lr=0.01)
    plain_cfg.train_cfg.update(max_iters=12, phases=[dict(name='generation'), dict(name='imitation', begin=11)])
    runs = []
    for device in (get_device(), 'cpu'):
        monkeypatch.setattr('mmengine.device.utils.DEVICE', device)
        history = run(plain_cfg).message_hub.get_scalar('train/generation_loss').data[0]
        runs.append([value for value in history if value == value])
    found, expected = runs
    assert found[0] == pytest.approx(expected[0], rel=1e-3)
    # Later images differ by rounding, which the steps amplify.
    for losses in runs:
        assert sum(losses[-3:]) < 0.95 * sum(losses[:3])


@pytest.mark.parametrize('config', [TINY, TINY_SEG], ids=['classifier', 'segmentor'])
def test_a_report_of_a_run(config, teacher_checkpoints, tmp_path):
    """With latencies in the type of the run, and the card's name."""
    cfg = Config.fromfile(config)
    cfg.model.teacher.checkpoint, cfg.work_dir = teacher_checkpoints[config], str(tmp_path / 'run')
    cfg.merge_from_dict({'train_cfg.max_iters': 1, 'default_hooks.report.predict': False})
    runner = run(cfg)
    assert isinstance(runner.model.teacher, Network)
    assert torch.cuda.get_device_name() in (tmp_path / 'run/report.html').read_text()
