"""Which channels, heads and blocks of a teacher those of a student are."""

import pytest
import torch
from conftest import both_tasks
from distillers import build_distiller
from torch import nn

from mmdfad.models.channels import Blocks, ChannelMap, spaced
from mmdfad.utils.state_dict import select_weights


class Attention(nn.Module):
    """An attention with one layer for queries, keys and values, as mmpretrain's."""

    def __init__(self, num_heads, head_dim, inputs):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(inputs, 3 * num_heads * head_dim)
        self.proj = nn.Linear(num_heads * head_dim, inputs)


class Grouped(nn.Module):
    """A bottleneck with a grouped convolution."""

    def __init__(self, groups, width, stream=8):
        super().__init__()
        self.conv1 = nn.Conv2d(stream, groups * width, 1)
        self.bn1 = nn.BatchNorm2d(groups * width)
        self.conv2 = nn.Conv2d(groups * width, groups * width, 3, groups=groups)
        self.bn2 = nn.BatchNorm2d(groups * width)
        self.conv3 = nn.Conv2d(groups * width, stream, 1)
        self.bn3 = nn.BatchNorm2d(stream)


class Shifted(nn.Module):
    def __init__(self, shift):
        super().__init__()
        self.shift = shift
        self.fc = nn.Linear(2, 2)


def blocks(count, make=lambda i: nn.Linear(2, 2)):
    return nn.Sequential(*map(make, range(count)))


def test_evenly_spaced_channels():
    assert spaced(8, 4).tolist() == [0, 2, 4, 6]
    assert spaced(7, 3).tolist() == [0, 2, 4]
    assert spaced(3, 3).tolist() == [0, 1, 2]


@both_tasks
def test_convolutional_networks_keep_what_weight_selection_keeps(tiny_cfg):
    distiller, _ = build_distiller(tiny_cfg)
    teacher, student = distiller.teacher, distiller.student
    states = student.plain_state(), teacher.plain_state()
    found, expected = ChannelMap(teacher.model, student.model).select(*states), select_weights(*states)
    assert found.keys() == expected.keys() == states[0].keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_whole_heads_are_kept():
    """Heads 0 and 2 of four; of each of them channels 0 and 2 of four; for queries, keys and values."""
    channels = ChannelMap(nn.Sequential(Attention(4, 4, 8)), nn.Sequential(Attention(2, 2, 4)))
    head = [0, 2, 8, 10]
    assert channels.outputs('0.qkv', 48, 12).tolist() == [16 * part + i for part in range(3) for i in head]
    assert channels.outputs('0.proj', 8, 4).tolist() == [0, 2, 4, 6]
    weight = torch.arange(16.0).expand(8, 16)
    selected = channels.select({'0.proj.weight': torch.zeros(4, 4)}, {'0.proj.weight': weight})
    assert selected['0.proj.weight'][0].tolist() == head
    assert channels.gain('0.qkv', 48, 12).tolist() == pytest.approx([2**0.5] * 4 + [1] * 8)
    assert channels.gain('0.proj', 8, 4) is None


def test_heads_of_torchs_attention():
    channels = ChannelMap(*(nn.ModuleDict(dict(attn=nn.MultiheadAttention(8, heads))) for heads in (4, 4)))
    assert channels.outputs('attn.q_proj', 8, 8).tolist() == [*range(8)]
    channels = ChannelMap(
        nn.ModuleDict(dict(attn=nn.MultiheadAttention(8, 4))), nn.ModuleDict(dict(attn=nn.MultiheadAttention(4, 2)))
    )
    head = [0, 1, 4, 5]
    assert channels.outputs('attn.v_proj', 8, 4).tolist() == head
    state = {'attn.in_proj_bias': torch.arange(24.0), 'attn.out_proj.weight': torch.arange(8.0).expand(8, 8)}
    own = {'attn.in_proj_bias': torch.zeros(12), 'attn.out_proj.weight': torch.zeros(4, 4)}
    selected = channels.select(own, state)
    assert selected['attn.in_proj_bias'].tolist() == [8 * part + i for part in range(3) for i in head]
    assert selected['attn.out_proj.weight'][0].tolist() == head


def test_whole_groups_are_kept():
    channels = ChannelMap(Grouped(4, 2), Grouped(2, 2))
    for layer in ('conv1', 'conv2'):
        assert channels.outputs(layer, 8, 4).tolist() == [0, 1, 4, 5]
    weight = torch.arange(8.0).view(1, 8, 1, 1).expand(8, 8, 1, 1)
    selected = channels.select({'conv3.weight': torch.zeros(8, 4, 1, 1)}, {'conv3.weight': weight})
    assert selected['conv3.weight'][0].flatten().tolist() == [0, 1, 4, 5]
    assert channels.outputs('bn1', 8, 4).tolist() == channels.outputs('bn2', 8, 4).tolist() == [0, 1, 4, 5]


def test_groups_leave_the_residual_stream_alone():
    """Its channels are those of all other layers, also where there are as many as in the groups."""
    channels = ChannelMap(Grouped(4, 2, 8), Grouped(2, 2, 4))
    assert channels.outputs('conv3', 8, 4).tolist() == channels.outputs('bn3', 8, 4).tolist() == [0, 2, 4, 6]
    weight = torch.arange(8.0).view(1, 8, 1, 1).expand(8, 8, 1, 1)
    selected = channels.select({'conv1.weight': torch.zeros(4, 4, 1, 1)}, {'conv1.weight': weight})
    assert selected['conv1.weight'][0].flatten().tolist() == [0, 2, 4, 6]
    first = (nn.ModuleDict(dict(bn=nn.BatchNorm2d(n), conv=nn.Conv2d(n, n, 3, groups=n // 2))) for n in (8, 4))
    assert ChannelMap(*first).outputs('bn', 8, 4).tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize(('heads', 'dim', 'expected'), [(2, 8, [*range(16)]), (2, 4, [0, 2, 4, 6, 8, 10, 12, 14])])
def test_fewer_and_larger_heads_take_each_channel_once(heads, dim, expected):
    channels = ChannelMap(nn.Sequential(Attention(8, 2, 16)), nn.Sequential(Attention(heads, dim, 8)))
    state, kept = {'0.proj.weight': torch.arange(16.0).expand(16, 16)}, heads * dim
    selected = channels.select({'0.proj.weight': torch.zeros(8, kept)}, state)
    assert selected['0.proj.weight'][0].tolist() == expected
    assert channels.outputs('0.qkv', 48, 3 * kept).unique().numel() == 3 * kept


def ranges(teacher, student):
    channels = ChannelMap(nn.ModuleDict(dict(stage=teacher)), nn.ModuleDict(dict(stage=student)))
    return [
        tuple(int(name.removeprefix('stage.')) for name in channels.blocks(f'stage.{j}')) for j in range(len(student))
    ]


@pytest.mark.parametrize(
    ('many', 'few', 'expected'),
    [
        (5, 3, [(0, 1), (2, 2), (3, 4)]),
        (6, 2, [(0, 2), (3, 5)]),
        (3, 1, [(0, 2)]),
        (2, 2, [(0, 0), (1, 1)]),
        (1, 2, [(0, 0), (1, 1)]),  # the second one is missing in the teacher
    ],
)
def test_a_block_stands_for_a_range(many, few, expected):
    assert ranges(blocks(many), blocks(few)) == expected


def test_alternating_blocks_are_mapped_in_pairs():
    def shifted(i):
        return Shifted(i % 2)

    assert ranges(blocks(6, shifted), blocks(2, shifted)) == [(0, 0), (1, 5)]
    assert ranges(blocks(8, shifted), blocks(4, shifted)) == [(0, 0), (1, 3), (4, 4), (5, 7)]

    # One first block with another stride does not alternate.
    def strided(i):
        return nn.Conv2d(2, 2, 1, stride=2 if i == 0 else 1)

    assert ranges(blocks(4, strided), blocks(2, strided)) == [(0, 1), (2, 3)]


def test_names_of_nested_blocks():
    def stage(count):
        return nn.ModuleList([nn.Linear(2, 2), blocks(count)])

    channels = ChannelMap(*(nn.ModuleDict(dict(layers=nn.ModuleList([stage(n), stage(2)]))) for n in (4, 2)))
    assert channels.teacher_name('layers.0.1.1.weight') == 'layers.0.1.2.weight'
    assert channels.teacher_name('layers.1.1.1.bias') == 'layers.1.1.1.bias'
    assert channels.blocks('layers.0.1.1') == Blocks('layers.0.1.2', 'layers.0.1.3')


def test_what_is_missing():
    small, large = blocks(2), blocks(3)
    small[1] = nn.Linear(2, 4)
    states = [model.state_dict(keep_vars=True) for model in (small, large)]
    assert ChannelMap(large, small).missing(*states) == ['1.bias', '1.weight']
