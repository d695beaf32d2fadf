"""The contract: a recipe fixes the training trajectory. Pure functions of numpy, used by the plan and by every rank.

order   which samples a step sees: a function of (seed, step)
random  counter-based random numbers: a function of (seed, stream, epoch, sample, position)
dropout what a model draws inside a step: a hash of (seed, epoch, sample, place in the model, coordinates)
split   how a global batch falls on ranks and micro-batches: a performance decision, free to change
digest  the witness: equal digests mean that two runs saw the same samples with the same masks
"""
