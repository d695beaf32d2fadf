"""Names of other trainers for the keys of a recipe and a profile, and the sections of keys that are often misplaced."""

_KEYS = {
    "train.global_batch": ("batch_size", "train_batch_size", "per_device_train_batch_size", "global_batch_size"),
    "train.steps": ("max_steps", "num_steps", "max_train_steps", "train_steps", "total_steps"),
    "train.epochs": ("num_train_epochs", "num_epochs", "n_epochs", "max_epochs"),
    "train.precision": ("fp16", "bf16", "tf32", "amp", "dtype", "torch_dtype", "mixed_precision"),
    "train.max_tokens": ("gradient_accumulation_steps", "accumulation_steps", "accumulate_grad_batches", "micro_batch"),
    "train.activation_checkpointing": ("gradient_checkpointing",),
    "train.compile": ("torch_compile",),
    "train.workers": ("num_workers", "dataloader_num_workers"),
    "data.max_length": ("max_seq_length", "max_seq_len", "seq_length", "sequence_length", "block_size"),
    "optimizer.lr": ("learning_rate", "max_lr"),
    "optimizer.clip": ("max_grad_norm", "grad_clip", "gradient_clipping", "gradient_clip_val", "clip_norm"),
    "optimizer.weight_decay": ("wd",),
    "schedule.warmup": ("warmup_steps", "warmup_ratio", "num_warmup_steps"),
    "task.mask_rate": ("mlm_probability", "mask_prob", "masking_ratio"),
    "checkpoint.every": ("save_steps", "save_every", "checkpoint_every"),
    "checkpoint.keep": ("save_total_limit",),
    "evaluate.every": ("eval_steps", "eval_every", "eval_interval"),
    "evaluate.patience": ("early_stopping_patience",),
    "devices_per_node": ("gpus", "num_gpus", "gpus_per_node", "nproc_per_node", "ranks_per_node"),
    "nodes": ("num_nodes", "nnodes"),
}
"""Other names of a key, by the key with its section."""
_OTHER_NAMES = {name: key for key, names in _KEYS.items() for name in names}
_PLAIN = ("train", "data", "checkpoint", "evaluate")
"""Sections whose keys no kind decides."""
_SECTIONS = {key.rpartition(".")[2]: key for key in _KEYS if not key.endswith(".every")}


def meant(name: str, known: set[str]) -> str:
    """Return the key that an unknown name stands for, with its section if that is another one; empty: none is known.
    `known`: keys of the section with the name."""
    key = _OTHER_NAMES.get(name) or _SECTIONS.get(name, "")
    section, _, last = key.rpartition(".")
    if last in known:
        return last
    return "" if "kind" in known and section not in _PLAIN else key  # its own kind may lack the key
