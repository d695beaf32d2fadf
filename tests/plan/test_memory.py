"""What an optimiser keeps counts in a device's memory, on the host where it is moved there, and in a checkpoint."""

import pytest
import support

from launcher.config.recipe import Recipe
from launcher.plan import memory
from launcher.plan.facts import Facts
from launcher.plan.model_spec import Architecture

SHAPE = Architecture(
    name="BertForMaskedLM", parameters=1000, trained=1000, buffers=10, in_layers=750, largest_layer=250, hidden=8,
    layers=3, heads=2, largest_parameter=100,
)  # fmt: skip
FACTS = Facts(
    digest="", vocab_size=30, pad_token_id=0, mask_token_id=0, special_ids=[], labels=[], longest=8, samples={},
    tokens={}, baseline={},
)  # fmt: skip
KEPT = [
    ({"kind": "sgd"}, 0.0),
    ({"kind": "sgd", "momentum": 0.9}, 1.0),
    ({"kind": "adam"}, 2.0),
    ({"kind": "adamw"}, 2.0),
    ({"kind": "adafactor"}, 0.0),
    ({"kind": "muon"}, 1.25),
]


def parts(optimizer, device="cuda", **strategy):
    recipe = Recipe.model_validate(support.mlm(optimizer={"lr": 1, **optimizer}, strategy=strategy))
    return recipe, memory.parts(recipe, SHAPE, FACTS, 2, 1, device)


@pytest.mark.parametrize(("optimizer", "kept"), KEPT, ids=lambda value: str(value))
def test_moments_are_counted_in_sizes_of_the_weights(optimizer, kept):
    recipe, found = parts(optimizer, kind="ddp")
    assert (found["weights"], found["optimizer"]) == (4000, 4000 * kept)
    assert memory.checkpoint(recipe, SHAPE) == 4000 * (1 + kept) + 40


@pytest.mark.parametrize(("optimizer", "kept"), KEPT[:4], ids=lambda value: str(value))
@pytest.mark.parametrize(
    ("strategy", "others"),
    [
        ({"kind": "fsdp", "offload": True}, 2),
        ({"kind": "deepspeed", "zero": 2, "offload": "optimizer"}, 2),
        ({"kind": "deepspeed", "zero": 3, "offload": "all"}, 3),
    ],
)
def test_moments_that_are_moved_are_counted_on_the_host(optimizer, kept, strategy, others):
    """Beside its half of the weights, of the gradients, and of a copy of the weights that is updated."""
    assert parts(optimizer, **strategy)[1]["optimizer"] == 0
    assert parts(optimizer, "cpu", **strategy)[1]["offloaded"] == 4000 * (others + kept) / 2


BERT = Architecture(
    name="BertForMaskedLM", parameters=1000, trained=1000, buffers=10, in_layers=750, largest_layer=250, hidden=64,
    layers=3, heads=4, largest_parameter=100,
)  # fmt: skip
LONG = FACTS.model_copy(update={"longest": 128})


def on_cuda(shape, ranks=2, **changes):
    recipe = Recipe.model_validate(support.mlm(strategy={"kind": "ddp"}, **changes))
    return memory.parts(recipe, shape, LONG, ranks, 2, "cuda"), memory.outputs(recipe, shape, LONG, 2, "cuda")


def test_half_precision_on_cuda_stores_42_bytes_a_hidden_unit_and_masks_and_copies_weights():
    found, outputs = on_cuda(BERT, train__precision="bf16")
    assert found["activations"] - outputs == 3 * 2 * 128 * (42 * 64 + 2 * 128)
    assert found["autocast copies"] == 2 * 750


@pytest.mark.parametrize(("rate", "bytes_of_map"), [(0.1, 7), (0.0, 6)])
def test_attention_that_is_written_out_stores_its_maps_on_cuda(rate, bytes_of_map):
    shape = BERT.model_copy(update={"attention_dropout": rate})
    found, outputs = on_cuda(shape, train__precision="fp16", model__attention="eager")
    assert found["activations"] - outputs == 3 * 2 * 128 * (42 * 64 + bytes_of_map * 4 * 128)


def test_full_precision_is_estimated_alike_on_both_devices():
    found, outputs = on_cuda(BERT)
    assert found["activations"] - outputs == 3 * 2 * 128 * 17 * 64 * 4
    assert "autocast copies" not in found


@pytest.mark.parametrize(
    ("precision", "of_block", "of_part"), [("fp32", 549, 34), ("bf16", 1099, 34), ("fp64", 274, 17)]
)
def test_outputs_of_a_language_model_are_those_of_a_block_and_a_part_of_it_and_gradients(precision, of_block, of_part):
    half, full = {"fp32": (4, 4), "bf16": (2, 4), "fp64": (8, 8)}[precision]
    facts = LONG.model_copy(update={"vocab_size": 30522})
    recipe = Recipe.model_validate(support.mlm(train__precision=precision, task__mask_rate=0.5))
    shape = BERT.model_copy(update={"largest_parameter": 30522 * 64})
    many, few = (memory.outputs(recipe, shape, facts, samples, "cpu") for samples in (100, 1))
    of_weight = 64 * {"fp32": 4, "bf16": 4 + 2, "fp64": 8}[precision]  # its gradient, and in bf16 its copy
    assert many == 30522 * (of_block * half + of_part * full + of_weight)
    assert few == 30522 * (64 * half + of_part * full + of_weight)
    narrow = shape.model_copy(update={"largest_parameter": 30522 * 16})
    assert memory.outputs(recipe, narrow, facts, 1, "cpu") == few - 30522 * of_weight * 3 // 4


def test_distillation_needs_all_outputs_at_once():
    teacher = {"kind": "distillation", "task": {"kind": "mlm", "mask_rate": 0.5}, "teacher": {"run": "runs/x"}}
    recipe = Recipe.model_validate({**support.mlm(), "task": teacher})
    assert memory.outputs(recipe, BERT, LONG, 2, "cpu") == 2 * 64 * 30 * (3 * 4 + 4)


def test_a_gpu_also_holds_a_context_nccl_and_fragments():
    alone, several = on_cuda(BERT, ranks=1)[0], on_cuda(BERT)[0]
    assert (alone["device context"], several["device context"]) == (2**29, 2**31)
    tensors = sum(size for name, size in several.items() if name not in ("device context", "fragmentation"))
    assert several["fragmentation"] == round(0.05 * tensors)
    cpu = memory.parts(Recipe.model_validate(support.mlm()), BERT, LONG, 2, 2, "cpu")
    assert not cpu.keys() & {"device context", "fragmentation", "autocast copies"}


@pytest.mark.parametrize(
    ("strategy", "of_node", "nodes", "checkpoints"),
    [
        ({"kind": "ddp"}, 2, 1, 2),
        ({"kind": "ddp"}, 2, 2, 2),  # the other node has the same
        ({"kind": "fsdp"}, 2, 1, 2),
        ({"kind": "fsdp"}, 2, 4, 1),  # a quarter, and that of the neighbour
        ({"kind": "fsdp", "shard": "hybrid", "replicas": 2}, 2, 4, 1),  # a half, which another node has too
        ({"kind": "deepspeed", "zero": 0}, 2, 4, 2),
        ({"kind": "deepspeed", "zero": 2}, 2, 4, 1),
    ],
)
def test_a_node_has_two_copies_of_what_its_ranks_hold_and_of_its_neighbours(strategy, of_node, nodes, checkpoints):
    recipe = Recipe.model_validate(support.mlm(strategy=strategy, checkpoint={"memory": 3}))
    assert memory.copies(recipe, SHAPE, of_node, nodes) == checkpoints * memory.checkpoint(recipe, SHAPE)
    off = Recipe.model_validate(support.mlm(strategy=strategy))
    assert memory.copies(off, SHAPE, of_node, nodes) == 0


def test_before_the_tokenizer_is_there_the_outputs_are_next_to_nothing():
    """The vocabulary of a tokenizer of the hub, or of one that is still to be trained, is not known in a plan."""
    recipe, unknown = Recipe.model_validate(support.mlm()), FACTS.model_copy(update={"vocab_size": 0})
    assert memory.outputs(recipe, SHAPE, unknown, 2, "cpu") < 100
