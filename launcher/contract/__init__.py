"""The contract: a recipe fixes the training trajectory. Pure functions of numpy, for the plan and for every rank.

order    samples of a step: a function of (seed, step)
random   counter-based random numbers: a function of (seed, stream, epoch, sample, position)
dropout  random draws of a model: a hash of (seed, epoch, sample, place in the model, coordinates)
packing  samples that share a row: it affects performance only
split    samples of each rank and micro-batch: it affects performance only
digest   hash of a step's samples: equal digests mean the same samples with the same masks
"""
