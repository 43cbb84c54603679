"""torch's attention with visible projections computes what it always does."""

import pytest
import torch
from torch import nn

from mmdfad.models.starts.opened_attention import opened_attentions

QUERY, KEY = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
FORBIDDEN = torch.tensor([[False, True, False]]).expand(5, 3)
PADDED = torch.tensor([[False, False, True], [False, False, False]])


@pytest.mark.parametrize('batch_first', [True, False])
@pytest.mark.parametrize(
    'settings',
    [
        dict(),
        dict(attn_mask=FORBIDDEN),
        dict(attn_mask=torch.randn(5, 3)),
        dict(attn_mask=torch.randn(4, 5, 3)),
        dict(key_padding_mask=PADDED),
        dict(need_weights=False),
        dict(average_attn_weights=False),
    ],
    ids=lambda s: '-'.join(s) or 'plain',
)
def test_outputs_are_the_same(batch_first, settings):
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first).eval()
    nn.init.normal_(attention.in_proj_bias)
    inputs = [x if batch_first else x.transpose(0, 1) for x in (QUERY, KEY, KEY)]
    with torch.no_grad():
        expected = attention(*inputs, **settings)
        with opened_attentions(nn.ModuleDict(dict(attn=attention))):
            found = attention(*inputs, **settings)
    assert torch.allclose(found[0], expected[0], atol=1e-6)
    assert (found[1] is None) == (expected[1] is None)
    assert expected[1] is None or torch.allclose(found[1], expected[1], atol=1e-6)


@pytest.mark.parametrize('kind', [dict(), dict(bias=False), dict(kdim=6, vdim=4)], ids=str)
def test_projections_are_seen_and_changed_in_place(kind):
    attention = nn.MultiheadAttention(8, 2, batch_first=True, **kind).eval()
    value = torch.randn(2, 3, kind.get('vdim', 8))
    seen = []
    with torch.no_grad(), opened_attentions(nn.Sequential(attention)) as layers:
        assert list(layers) == ['0.q_proj', '0.k_proj', '0.v_proj']
        layers['0.v_proj'].register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
        before = attention(QUERY, KEY[..., : kind.get('kdim', 8)], value)[0]
        assert torch.equal(seen[0][0], value)
        layers['0.v_proj'].weight.mul_(2)
        if attention.in_proj_bias is not None:
            layers['0.v_proj'].bias.mul_(2)
            attention.out_proj.bias.zero_()
        twice = attention(QUERY, KEY[..., : kind.get('kdim', 8)], value)[0]
    after = attention(QUERY, KEY[..., : kind.get('kdim', 8)], value)[0]
    assert torch.allclose(twice, 2 * before, atol=1e-6)
    assert torch.allclose(after, twice, atol=1e-6)
    assert 'forward' not in vars(attention)


def test_one_sequence_without_a_batch():
    attention = nn.MultiheadAttention(8, 2).eval()
    expected = attention(QUERY[0], KEY[0], KEY[0])[0]
    with opened_attentions(nn.Sequential(attention)):
        assert torch.allclose(attention(QUERY[0], KEY[0], KEY[0])[0], expected, atol=1e-6)
