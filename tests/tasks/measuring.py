"""The metrics of a task, as an evaluation computes them."""

import torch

from launcher.train.data_loader import tensors
from launcher.train.evaluation import _rows


def outputs(task, model, groups):
    """What a model makes of micro-batches of samples."""
    made = {}
    with torch.no_grad():
        for samples in groups:
            predicted = task.predict(model, tensors(task.collate(samples)))
            for name, values in task.host_outputs(predicted).items():
                made.setdefault(name, []).extend(_rows(values))
    return made


def measured(task, model, groups):
    return task.metrics(outputs(task, model, groups))
