"""Adapters of mmseg's segmentors."""

import torch
from torch import Tensor, nn

from mmdfad.registry import LOGIT_ADAPTERS
from mmdfad.utils import DistillError

from .base import LogitModel, describe, head_of


class SegmentorLogits(LogitModel):
    """A segmentor: EncoderDecoder, CascadeEncoderDecoder or MultimodalEncoderDecoder.

    ``encode_decode`` resizes the logits to the size of the input, with the head's ``align_corners``. There are no
    sliding windows: a generated image is processed as a whole.

    Binary segmentors have one channel z and a threshold on its sigmoid. Here they have two: (0, z - logit(threshold)).
    The argmax is the segmentor's prediction.
    """

    ndim = 4

    def raw_logits(self, images: Tensor) -> Tensor:
        """Logits [N, K, H, W]."""
        size = images.shape[2:]
        meta = dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0] * 4)
        # Exported graphs are for any batch size, and a list has a fixed length. Heads look at the first entry only.
        count = 1 if torch.compiler.is_exporting() else len(images)
        logits = self.model.encode_decode(images, [meta] * count)
        return self._two_classes(logits) if logits.shape[1] == 1 else logits

    def _two_classes(self, logits: Tensor) -> Tensor:
        threshold = torch.tensor(head_of(self.model).threshold).logit(eps=1e-6).item()
        return torch.cat([torch.zeros_like(logits), logits - threshold], dim=1)


@LOGIT_ADAPTERS.register_module(name=['DDRHead', 'PIDHead'])
class BranchLogits(SegmentorLogits):
    """The main branch. In train mode, backbone and head return further branches for losses on labels."""

    eval_modules = ('backbone', 'decode_head')
    unused_modules = tuple(
        f'decode_head.{name}' for name in ('p_head', 'p_cls_seg', 'd_head', 'd_cls_seg', 'aux_head', 'aux_cls_seg')
    )


@LOGIT_ADAPTERS.register_module(name='IterativeDecodeHead')
class LastStageLogits(SegmentorLogits):
    """K-Net: the last stage. In train mode, the head returns all stages."""

    eval_modules = ('decode_head',)


@LOGIT_ADAPTERS.register_module(name=['DAHead', 'EncHead'])
class FusedLogits(SegmentorLogits):
    """The first of the head's outputs. It predicts from this one; the others are for losses on labels."""

    unused_modules = ('decode_head.pam_conv_seg', 'decode_head.cam_conv_seg', 'decode_head.se_layer')


@LOGIT_ADAPTERS.register_module(name='LightHamHead')
class HamburgerLogits(SegmentorLogits):
    """SegNeXt. It draws random bases at each forward pass, even in eval mode. Here they are fixed in eval mode.

    So a teacher gives the same logits for the same image. The bases are the same for each image. Drawing them does not
    change the global random state, and they are not in the state dict. Train mode is as in mmseg.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        ham = head_of(model).hamburger.ham
        self.random = ham.rand_init
        if self.random:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                channels = head_of(model).ham_channels // ham.S
                ham.register_buffer('bases', ham._build_bases(1, ham.S, channels, ham.R, 'cpu'), persistent=False)

    def raw_logits(self, images: Tensor) -> Tensor:
        """Logits [N, K, H, W]."""
        ham = head_of(self.model).hamburger.ham
        ham.rand_init = self.random and self.model.training
        try:
            return super().raw_logits(images)
        finally:
            ham.rand_init = self.random


@LOGIT_ADAPTERS.register_module(name=['Mask2FormerHead', 'MaskFormerHead'])
class MaskLogits(SegmentorLogits):
    """Heads that classify masks. The logits are the logarithm of each pixel's class scores.

    A score is the sum over masks of (softmax of the mask's classes, without "no object") x (sigmoid of the mask). The
    softmax of the logits is the score's share of all scores. Their argmax is the segmentor's prediction.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        text_encoder = getattr(model, 'text_encoder', None)
        # Embeddings of class names. They depend on the weights and on the device, so changes of these clear the cache.
        self._text_cache = getattr(text_encoder, 'cache', {})
        self.register_load_state_dict_pre_hook(lambda module, *_: module._text_cache.clear())

    def _apply(self, fn: object, recurse: bool = True) -> 'MaskLogits':
        self._text_cache.clear()
        return super()._apply(fn, recurse)

    def raw_logits(self, images: Tensor) -> Tensor:
        """Logits [N, K, H, W]."""
        return (super().raw_logits(images).float() + 1e-6).log()


@LOGIT_ADAPTERS.register_module(name='SideAdapterCLIPHead')
class SideAdapterLogits(MaskLogits):
    """SAN. mmseg initialises parts of it only from a pretrained CLIP."""

    @staticmethod
    def initialise(model: nn.Module) -> None:
        """Initialise the text encoder as CLIP does, and the rest by mmseg, except for a part whose method fails."""
        text_encoder = model.text_encoder
        nn.init.normal_(text_encoder.positional_embedding, std=0.01)
        nn.init.normal_(text_encoder.text_projection, std=text_encoder.text_projection.shape[0] ** -0.5)
        part = head_of(model).rec_with_attnbias
        part.init_weights = lambda *_: None
        try:
            model.init_weights()
        finally:
            del part.init_weights


@LOGIT_ADAPTERS.register_module(name='PointHead')
class PointRendLogits(SegmentorLogits):
    """PointRend, with the refinement of its predictions."""

    def __init__(self, model: nn.Module) -> None:
        if 'subdivision_steps' not in (model.test_cfg or {}):
            raise DistillError(
                f'{describe(model)} refines its logits by the settings in test_cfg, but finds no subdivision_steps '
                'there; set model.test_cfg of the segmentor as in mmseg/configs/point_rend'
            )
        super().__init__(model)
