import pytest
import torch
from conftest import build_runner, run
from mmengine.optim import OptimWrapper

from mmdfad.engine import DistillOptimWrapperConstructor
from mmdfad.engine.optim import amp_settings, fastest_dtype, match_layouts
from mmdfad.utils import DistillError


def test_each_network_has_its_optimizer_and_weight_decay_rules(tiny_cfg):
    runner = build_runner(
        tiny_cfg,
        optim_wrapper__student__paramwise_cfg=dict(norm_decay_mult=0.0),
        optim_wrapper__student__clip_grad=dict(max_norm=1.0),
    )
    optim = runner.build_optim_wrapper(runner.optim_wrapper)
    assert isinstance(optim['student'].optimizer, torch.optim.SGD)
    assert isinstance(optim['generator'].optimizer, torch.optim.Adam)
    assert optim['student'].clip_grad_kwargs == dict(max_norm=1.0)
    norms = {
        id(p) for m in runner.model.student.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters()
    }
    for group in optim['student'].param_groups:
        decayed = group['weight_decay'] > 0
        assert all((id(p) in norms) != decayed for p in group['params'])


def test_optimizers_are_fused_on_cpus_unless_told_otherwise(tiny_cfg):
    for settings, fused in ((dict(), True), (dict(foreach=False), None), (dict(fused=False), False)):
        runner = build_runner(tiny_cfg)
        runner.optim_wrapper.student.optimizer.update(settings)
        optim = runner.build_optim_wrapper(runner.optim_wrapper)
        assert optim['student'].optimizer.defaults['fused'] is fused
        assert optim['generator'].optimizer.defaults['fused'] is True


def test_each_network_has_its_schedulers(tiny_cfg):
    runner = run(tiny_cfg, train_cfg__max_iters=2)
    rates = runner.optim_wrapper.get_lr()
    assert rates['student.lr'] == [pytest.approx(0.01)]  # warmed up
    assert rates['generator.lr'][0] < 1e-3  # decayed


@pytest.mark.parametrize(
    ('settings', 'student', 'generator'),
    [
        (dict(), 'float32', 'float32'),
        (dict(amp_dtype='bfloat16'), 'bfloat16', 'bfloat16'),
        (dict(amp_dtype='bfloat16', student=dict(amp_dtype='float32')), 'float32', 'bfloat16'),
        (dict(generator=dict(amp_dtype='bfloat16')), 'float32', 'bfloat16'),
    ],
)
def test_steps_compute_in_the_type_of_their_phase(tiny_cfg, settings, student, generator):
    phases = [dict(name='imitation'), dict(name='generation')]
    runner = build_runner(tiny_cfg, optim_wrapper=settings, train_cfg__max_iters=1, train_cfg__phases=phases)
    seen = []
    for part in (runner.model.generator.decoder[1], runner.model.student.model.backbone.conv1):
        part.register_forward_hook(
            lambda module, inputs, output: (module.training and seen.append(str(output.dtype)[6:])) or None
        )
    runner.train()
    assert seen == [student] * 2 + [generator] * 2  # both parts in both steps


def test_fastest_type_by_the_hardware(monkeypatch):
    cpu, gpu = torch.device('cpu'), torch.device('cuda')
    for found, dtype in ((dict(avx512_bf16=True), 'bfloat16'), (dict(amx_bf16=False, avx2=True), 'float32')):
        monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda found=found: found, raising=False)
        assert fastest_dtype(cpu) == dtype
    for found, dtype in ((True, 'bfloat16'), (False, 'float16')):
        monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation, found=found: found)
        assert fastest_dtype(gpu) == dtype
    assert fastest_dtype(torch.device('meta')) == 'float16'
    assert amp_settings('float16', gpu) == dict(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic')


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(amp_dtype='half'), "amp_dtype must be one of auto, float32, bfloat16, float16, but found 'half'"),
        (dict(amp_dtype='float16'), 'float16 needs an accelerator; on CPUs set amp_dtype'),
        (
            dict(amp_dtype='auto', student=dict(type='OptimWrapper')),
            "either optim_wrapper.student.type='OptimWrapper' or amp_dtype='auto', not both",
        ),
    ],
)
def test_unusable_types(tiny_cfg, settings, message):
    with pytest.raises(DistillError, match=message):
        run(tiny_cfg, optim_wrapper=settings)


@pytest.mark.parametrize(
    'cfg', [dict(optimizer=dict(type='SGD', lr=1)), dict(student=dict()), dict(student=dict(), generator=dict(), x=1)]
)
def test_missing_and_unknown_parts_are_named(cfg):
    with pytest.raises(DistillError, match=r"optim_wrapper must have the keys \['student', 'generator'\].*found"):
        DistillOptimWrapperConstructor(cfg)


@pytest.mark.parametrize('fused', [True, False])
def test_states_follow_the_memory_format_of_weights(fused):
    """A resumed run can have another format than the one that wrote its checkpoint."""
    torch.manual_seed(0)
    weights, gradients = [], torch.randn(2, 4, 3, 3, 3)
    for changes in (True, False):
        torch.manual_seed(1)
        conv = torch.nn.Conv2d(3, 4, 3)
        wrapper = OptimWrapper(torch.optim.Adam(conv.parameters(), lr=0.1, fused=fused))
        for gradient in gradients:
            conv.weight.grad = torch.empty_like(conv.weight).copy_(gradient)
            wrapper.optimizer.step()
            if changes:
                conv.to(memory_format=torch.channels_last)
                match_layouts(wrapper)
        weights.append(conv.weight.detach().contiguous())
    torch.testing.assert_close(*weights)
