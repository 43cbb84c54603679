# Generator A of the DFAD paper, for 32x32 images, and its noise.
from mmdfad.datasets import NoiseDataset, NoiseSampler
from mmdfad.models import AdversarialDistiller
from mmdfad.models.generators import UpsampleGenerator

model = dict(
    type=AdversarialDistiller,
    generator=dict(type=UpsampleGenerator, noise_dim=256, image_size=32, channels=3),
)
train_dataloader = dict(batch_size=256, num_workers=0, dataset=dict(type=NoiseDataset), sampler=dict(type=NoiseSampler))
auto_scale_lr = dict(enable=False, base_batch_size=256)
