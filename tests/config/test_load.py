"""From files and overrides to a recipe: every mistake told at once, each where the user typed it."""

from pathlib import Path

import pytest
import support
from hypothesis import example, given, settings
from hypothesis import strategies as st

from launcher.config import document as documents
from launcher.config import load
from launcher.config.errors import Problem, UserError
from launcher.config.recipe import Recipe

RECIPE = """\
name: tiny
seed: 3
model: {kind: config, type: bert, hidden_size: 16}
tokenizer: {kind: train, vocab_size: 120}
data:
  train: {kind: text, path: corpus.txt}
  validation: {fraction: 0.15}
  max_length: 32
task: {kind: mlm}
train: {global_batch: 12, steps: 6}
optimizer: {kind: adamw, lr: 1e-4}
sinks: [jsonl]
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(text: str | bytes, file: str = "recipe.yaml") -> str:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def loaded(text: str, *overrides: str) -> Recipe:
    return load.recipe(write(text), overrides).value


def mistakes(text: str | bytes, *overrides: str) -> list[str]:
    """The lines that a user would read."""
    with pytest.raises(UserError) as told:
        load.recipe(write(text), overrides)
    assert str(told.value).count("\n") + 1 == len(told.value.problems)
    return str(told.value).splitlines()


def with_line(line: str, number: int) -> str:
    """RECIPE with another line of this number."""
    lines = RECIPE.splitlines()
    lines[number - 1] = line
    return "\n".join(lines) + "\n"


# What loads


def test_a_number_in_scientific_notation_needs_no_point():
    assert loaded(RECIPE).optimizer.lr == 1e-4
    assert loaded(RECIPE, "optimizer.lr=5e-4").optimizer.lr == 5e-4


def test_what_is_not_written_has_its_default():
    recipe = loaded(RECIPE)
    assert (recipe.strategy.kind, recipe.schedule.kind, recipe.checkpoint.keep) == ("ddp", "constant", 2)
    assert [sink.kind for sink in recipe.sinks] == ["jsonl"]


def test_a_file_may_begin_with_a_byte_order_mark():
    assert loaded("\ufeff" + RECIPE) == loaded(RECIPE)


def test_a_merge_key_of_yaml_keeps_lines_right():
    text = RECIPE.replace("{global_batch: 12, steps: 6}", "\n  <<: &a {steps: 6}\n  global_batch: many")
    assert mistakes(text) == ["recipe.yaml:12: train.global_batch: should be a valid integer"]
    assert mistakes(text.replace("steps: 6", "steps: x"))[1] == "recipe.yaml:11: train.steps: should be a valid integer"


@pytest.mark.parametrize("name", [file.stem for file in load.shipped("recipes")])
def test_a_shipped_recipe_loads_by_its_name(name):
    assert load.recipe(name).value.name == name


def test_a_shipped_cluster_profile_loads_by_its_name():
    assert load.cluster("local").value.kind == "local"


def test_a_file_comes_before_a_shipped_recipe_of_its_name():
    write(RECIPE, "quickstart-pretrain")
    assert load.recipe("quickstart-pretrain").value.name == "tiny"


def test_a_folder_with_the_name_of_a_shipped_file_is_passed_over():
    Path("local").mkdir()
    Path("quickstart-pretrain").mkdir()
    assert load.cluster("local").value == load.local_cluster()
    assert load.recipe("quickstart-pretrain").value.name == "quickstart-pretrain"


def test_the_shipped_profile_is_loaded_beside_a_file_of_its_name():
    write("name: mine\nkind: local\nenv: {A: b}\n", "local")
    assert load.cluster("local").value.name == "mine"
    assert (load.local_cluster().name, load.local_cluster().reference) == ("local", "local")


# Mistakes


def test_all_mistakes_are_reported_at_once_each_with_its_line():
    text = """\
name: tiny
sed: 3
model: {kind: config}
tokenizer: {kind: trian, vocab_size: 120}
data:
  train: {kind: text, path: corpus.txt, dokument: line}
  validation: {fracton: 0.15}
  max_length: 1
task:
  kind: mlm
  split: [0.8, 0.1, 0.2]
train: {global_batch: many, steps: 6}
sinks:
  - jsonl
  - consol
strategy:
"""
    assert mistakes(text) == [
        "recipe.yaml:2: sed: unknown key (did you mean seed?)",
        "recipe.yaml:3: model.type: field required",
        "recipe.yaml:4: tokenizer: unknown kind 'trian' (did you mean train?)",
        "recipe.yaml:6: data.train.dokument: unknown key (did you mean document?)",
        "recipe.yaml:7: data.validation.fracton: unknown key (did you mean fraction?)",
        "recipe.yaml:7: data.validation.fraction: field required",
        "recipe.yaml:8: data.max_length: should be greater than 2",
        "recipe.yaml:11: task.split: the three shares should be at least 0 and add up to 1",
        "recipe.yaml:12: train.global_batch: should be a valid integer",
        "recipe.yaml:1: optimizer: field required",
        f"recipe.yaml:16: strategy: needs a kind ({kinds_of('strategies')})",
        "recipe.yaml:15: sinks.1: unknown kind 'consol' (did you mean console?)",
    ]


def kinds_of(folder: str) -> str:
    from launcher.config import kinds

    return f"there are: {', '.join(kinds.available(folder))}"


@pytest.mark.parametrize(
    ("number", "line", "told"),
    [
        (1, "name: 12", "name: should be a valid string"),
        (1, "name: a/b", "name: should begin with a letter or digit, and have only letters, digits, '.', '_' and '-'"),
        (2, "seed: 12:30:00", "seed: should be a valid integer"),
        (1, f"name: {'a' * 151}", "name: should have at most 150 characters"),
        (4, "tokenizer: {kind: train, vocab_size: 9223372036854775807}",
         "tokenizer.vocab_size: should be less than or equal to 10000000"),
        (10, "train: {global_batch: 4611686018427387904, steps: 1}",
         "train.global_batch: should be less than or equal to 1048576"),
        (10, "train: {global_batch: 12, epochs: 1e308}", "train.epochs: should be less than or equal to 1000000000"),
        (11, "optimizer: {kind: [adamw]}", "optimizer: needs a kind (there are: adafactor, adam, adamw, muon, sgd)"),
        (2, "seed: -1", "seed: should be greater than or equal to 0"),
        (2, "colour: red", "colour: unknown key (there are: checkpoint, data, evaluate, model, name, optimizer, "
                           "schedule, seed, seeds, sinks, strategy, task, tokenizer, train)"),
        (2, "'{name}': 1", "{name}: unknown key (did you mean name?)"),
        (6, "  train: {kind: text, path: [a, 3]}", "data.train.path.1: should be a valid string"),
        (6, "  train: {kind: text}", "data.train.path: field required"),
        (9, "task: {kind: '{mlm}'}", "task: unknown kind '{mlm}' (did you mean mlm?)"),
        (10, "train: twelve", "train: should be a map of keys and values"),
        (10, "train: {global_batch: 12, steps: 6.5}",
         "train.steps: should be a valid integer, got a number with a fractional part"),
        (10, "train: {global_batch: 12, steps: 6, epochs: 2}",
         "train.epochs: train.steps is given too (take one out, such as train.steps: null)"),
        (10, "train: {global_batch: 12}", "train: needs either steps or epochs"),
        (10, "train: {global_batch: 12, steps: 6, workers: few}",
         "train.workers: should be 'auto', or a valid integer"),
        (10, "train: {global_batch: 12, steps: 6, activation_checkpointing: every 0}",
         "train.activation_checkpointing: should be none, layers, or every N (such as every 2)"),
        (10, "train: {global_batch: 12, steps: 6, precision: bf17}",
         "train.precision: should be 'fp32', 'tf32', 'bf16', 'fp16' or 'fp64'"),
        (11, "optimizer: {kind: adamw, lr: .nan}", "optimizer.lr: should be a finite number"),
        (11, "optimizer: {kind: adamw, lr: fast}", "optimizer.lr: should be a valid number"),
        (11, "optimizer: 3", "optimizer: needs a kind (there are: adafactor, adam, adamw, muon, sgd)"),
        (12, "sinks: jsonl", "sinks: should be a valid list"),
        (12, "checkpoint: {every: often}",
         "checkpoint.every: 'often' is no interval: should be steps, a time (such as 90s, 10m, 2h, 1d), auto or "
         "continuous"),
        (12, "checkpoint: {every: [10]}",
         "checkpoint.every: should be steps, a time (such as 90s, 10m, 2h, 1d), auto or continuous"),
        (12, "checkpoint: {every: 0}",
         "checkpoint.every: should be steps, a time (such as 90s, 10m, 2h, 1d), auto or continuous"),
        (12, "checkpoint: {every: 5, mode: later}", "checkpoint.mode: should be 'async' or 'sync'"),
        (12, "checkpoint: {memory: every day}",
         "checkpoint.memory: should be a number of steps (such as 10, or every 10 steps)"),
        (12, "schedule: {kind: linear, warmup: 1.5}",
         "schedule.warmup: is a fraction below 1 or a whole number of steps"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_in_one_line_with_its_key(number, line, told):
    assert mistakes(with_line(line, number)) == [f"recipe.yaml:{number}: {told}"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "recipe.yaml:1: should be a map of keys and values"),
        (b"- name\n", "recipe.yaml:1: should be a map of keys and values"),
        (b"name: tiny\nseed: 3\nname: other\n", 'recipe.yaml:3: found duplicate key "name" (the first is in line 1)'),
        (b"name: tiny\ntrain: {steps: 6, steps: 7}\n",
         'recipe.yaml:2: found duplicate key "steps" (the first is in line 2)'),
        (b"name: tiny\ntrain: {steps: 6\nseed: 3\n",
         "recipe.yaml:3: not valid YAML: expected ',' or '}', but got ':' "
         "(a flow mapping begins in line 2: is it closed?)"),
        (b"name: tiny\n  seed: 3\n", "recipe.yaml:2: not valid YAML: mapping values are not allowed here"),
        (b"train:\n\tsteps: 6\n",
         "recipe.yaml:2: not valid YAML: found character '\\t' that cannot start any token (indent with spaces)"),
        (b"name: tiny\nseed: *three\n", "recipe.yaml:2: not valid YAML: found undefined alias 'three'"),
        (b"name: tiny\nseed: \x07\n", "recipe.yaml:2: not valid YAML: character U+0007 is not allowed"),
        (b"name: 2024-13-01\n", "recipe.yaml:1: not valid YAML: month must be in 1..12"),
        (b"name: tiny\n# d\xe9j\xe0 vu\n", "recipe.yaml:2: not UTF-8 (byte 0xe9)"),
    ],
)  # fmt: skip
def test_what_is_no_yaml_is_reported_with_its_line(text, told):
    assert mistakes(text) == [told]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: !!python/object/apply:os.system [id]\n",
         "recipe.yaml:1: the tag !!python/object/apply:os.system is not allowed (values are plain; quote a text)"),
        ("seed: 1\nx: " + "[" * 2000 + "]" * 2000, "recipe.yaml:2: lists and maps more than 32 deep within each other"),
        ("a: &a\n  b: *a\n", "recipe.yaml:2: the alias *a stands within what it names, without an end"),
        ("name: [1]\ntrain: {<<: 3}\n", "recipe.yaml:2: << should merge a map, or a list of maps"),
        ("name: a\n[a, b]: 1\n", "recipe.yaml:2: a key should be a text"),
        ("name: a\n---\nname: b\n", "recipe.yaml:2: not valid YAML: a second document (a file holds one)"),
        ("a: 1\nseed: " + "9" * 5000, "recipe.yaml:2: a number of 5000 digits (an integer has 64 bits)"),
        ("a: " + "x" * 2**20, "recipe.yaml: larger than 1 MiB: too large for YAML (lists of rows are data files)"),
        ('data: {train: {path: "a\\0b"}}\n', "recipe.yaml:1: not valid YAML: character U+0000 is not allowed"),
    ],
)  # fmt: skip
def test_what_a_file_may_not_hold_is_reported_with_its_line(text, told):
    assert mistakes(text) == [told]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model=&a [*a]", "'model=&a [*a]': the alias *a stands within what it names, without an end"),
        ("seed=!!int 3", "'seed=!!int 3': the tag !!int is not allowed (values are plain; quote a text)"),
        ("seed=" + "[" * 33 + "]" * 33,
         f"'seed={'[' * 33}{']' * 33}': lists and maps more than 32 deep within each other"),
        (".".join("a" * 33) + "=1", f"'{'.'.join('a' * 33)}=1': 33 keys deep (32 at the most)"),
        ("seed=1\n---\n2", "'seed=1\\n---\\n2': '1\\n---\\n2' is not valid YAML"),
        ("se\ned=1", "'se\\ned=1': an override has the form key.path=value"),
        ("se\udcffed=1", "'se\\udcffed=1': an override has the form key.path=value"),
    ],
)  # fmt: skip
def test_what_an_override_may_not_hold_is_reported_with_its_words(override, told):
    assert mistakes(RECIPE, override) == [told]


def test_a_key_and_a_value_of_the_user_are_shown_on_one_line_and_not_whole():
    assert mistakes(RECIPE + '"a\\nb": 1\n')[0].startswith("recipe.yaml:13: a\\nb: unknown key")
    (told,) = mistakes(RECIPE, f"task={'x' * 9000}")
    assert len(told) < 1000


def test_a_file_that_never_ends_is_not_read_to_its_end():
    with pytest.raises(UserError, match=r"^/dev/zero: larger than 1 MiB"):
        load.recipe("/dev/zero")


def test_a_name_that_no_file_can_have_is_reported():
    with pytest.raises(UserError, match=r"cannot be read: File name too long$"):
        load.recipe("x" * 300 + ".yaml")
    with pytest.raises(UserError, match="no such file, nor a shipped one"):
        load.recipe("x" * 300)


def test_a_file_that_is_not_there_is_reported():
    with pytest.raises(UserError, match=r"^other.yaml: no such file$"):
        load.recipe("other.yaml")


def test_a_folder_is_no_recipe():
    Path("runs").mkdir()
    with pytest.raises(UserError, match=r"^runs: cannot be read: Is a directory$"):
        load.recipe("runs")


@pytest.mark.parametrize(("read", "folder"), [(load.recipe, "recipes"), (load.cluster, "cluster")])
def test_a_name_that_is_not_shipped_lists_those_that_are(read, folder):
    shipped = ", ".join(file.stem for file in load.shipped(folder))
    with pytest.raises(UserError) as told:
        read("zzz")
    assert str(told.value) == f"zzz: no such file, nor a shipped one of {folder}/ (there are: {shipped})"


def test_a_cluster_profile_is_checked_like_a_recipe():
    write("name: here\nnode: 1\ndevices_per_node: many\nmemory_per_device: -2\n", "here.yaml")
    with pytest.raises(UserError) as told:
        load.cluster("here.yaml")
    assert str(told.value).splitlines() == [
        "here.yaml:2: node: unknown key (did you mean nodes?)",
        "here.yaml:3: devices_per_node: should be 'auto', or a valid integer",
        "here.yaml:4: memory_per_device: should be 'auto', or greater than 0",
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("nodes: 2:1000000000", "nodes: 10000 at the most"), ("nodes: [1, 1000000000]", "nodes: 10000 at the most"),
        ("nodes: [3, 1]", "nodes: at least 1, and the least before the most, such as 2:4"),
        ("memory_per_device: 1e308", "memory_per_device: should be 'auto', or less than or equal to 1000000000000"),
    ],
)  # fmt: skip
def test_a_profile_asks_for_no_more_than_there_can_be(line, told):
    write(f"name: here\nkind: slurm\ndevice: cpu\ndevices_per_node: 1\nmemory_per_device: 1\n{line}\n"
          if line.startswith("nodes") else f"name: here\n{line}\n", "here.yaml")  # fmt: skip
    with pytest.raises(UserError) as error:
        load.cluster("here.yaml")
    assert str(error.value) == f"here.yaml:{6 if line.startswith('nodes') else 2}: {told}"


def test_what_a_terminal_would_act_on_is_shown_as_it_is_written():
    found = load.recipe(write(RECIPE))
    told = found.located(UserError([Problem("data.train.path", "a\x1b[31m\nb: no such file")])).problems
    assert told == ["recipe.yaml:6: data.train.path: a\\x1b[31m\\nb: no such file"]
    assert str(UserError("a\x1b[31m: no such file")) == "a\\x1b[31m: no such file"


def test_what_is_found_wrong_later_gets_the_line_of_its_key():
    found = load.recipe(write(RECIPE), ["train.steps=9"])
    problems = [Problem("data.train.path", "no such file"), Problem("train.steps", "a"), Problem("strategy", "b"), "c"]
    assert found.located(UserError(problems)).problems == [
        "recipe.yaml:6: data.train.path: no such file",
        "'train.steps=9': train.steps: a",
        "recipe.yaml:1: strategy: b",
        "c",
    ]


# Overrides


def test_an_override_wins_over_the_file_and_a_later_one_over_an_earlier():
    assert loaded(RECIPE, "train.steps=7").train.steps == 7
    assert loaded(RECIPE, "train.steps=7", "train.steps=8").train.steps == 8


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("sinks=[console]", lambda r: [s.kind for s in r.sinks] == ["console"]),
        ("checkpoint.every=10m", lambda r: r.checkpoint.every == "10m"),
        ("checkpoint.memory=7", lambda r: r.checkpoint.memory == 7),
        ("checkpoint.memory=every 7", lambda r: r.checkpoint.memory == 7),
        ("checkpoint.memory=every 7 steps", lambda r: r.checkpoint.memory == 7),
        ("checkpoint={every: 5, keep: 1}", lambda r: (r.checkpoint.every, r.checkpoint.keep) == (5, 1)),
        ("train={steps: 9}", lambda r: (r.train.steps, r.train.global_batch) == (9, 12)),
        ("tokenizer=", lambda r: r.tokenizer is None),
        ("data.train.path=a=b.txt", lambda r: r.data.train.path == "a=b.txt"),
        (" train.steps = 9", lambda r: r.train.steps == 9),
        ("strategy=single", lambda r: r.strategy.kind == "single"),
        ("model.layer_norm_eps=1e-12", lambda r: r.model.model_extra["layer_norm_eps"] == 1e-12),
    ],
)
def test_the_value_of_an_override_is_yaml(override, value):
    assert value(loaded(RECIPE, override))


def test_a_mistake_in_an_override_names_it_in_place_of_file_and_line():
    assert mistakes(RECIPE, "train.steps=x", "train.stps=4", "sinks=[jsonl, consol]", "train.workers.x=1") == [
        "'train.stps=4': train.stps: unknown key (did you mean steps?)",
        "'train.steps=x': train.steps: should be a valid integer",
        "'train.workers.x=1': train.workers: should be 'auto', or a valid integer",
        "'sinks=[jsonl, consol]': sinks.1: unknown kind 'consol' (did you mean console?)",
    ]


def test_overrides_without_the_form_are_reported_beside_all_other_mistakes():
    overrides = ["train.steps", "=3", "train..steps=3", "seed=[1", "seed={a: 1, a: 2}", "name=2024-13-01"]
    overrides += ["train.steps=x"]
    assert mistakes(with_line("seed: x", 2), *overrides) == [
        "'train.steps': an override has the form key.path=value",
        "'=3': an override has the form key.path=value",
        "'train..steps=3': an override has the form key.path=value",
        "'seed=[1': '[1' is not valid YAML",
        "'seed={a: 1, a: 2}': '{a: 1, a: 2}' is not valid YAML",
        "'name=2024-13-01': '2024-13-01' is not valid YAML",
        "recipe.yaml:2: seed: should be a valid integer",
        "'train.steps=x': train.steps: should be a valid integer",
    ]


def test_an_override_of_a_kind_drops_the_keys_of_the_other_kind_in_the_file():
    text = RECIPE + "schedule: {kind: linear, floor: 0.5, warmup: 3}\n"
    assert loaded(text, "schedule.kind=linear").schedule.warmup == 3
    assert loaded(text, "schedule.kind=constant").schedule.warmup == 0


def test_further_overrides_are_added_without_reading_the_file_again():
    first = load.recipe(write(RECIPE), ["optimizer.lr=0.5"])
    Path("recipe.yaml").unlink()
    second = first.override("optimizer={kind: sgd}", "seed=7")
    assert (second.value.optimizer.kind, second.value.optimizer.lr, second.value.seed) == ("sgd", 0.5, 7)
    assert (first.value.optimizer.kind, first.value.seed) == ("adamw", 3)
    assert second.overrides == ("optimizer.lr=0.5", "optimizer={kind: sgd}", "seed=7")
    assert second.file == first.file == "recipe.yaml"
    with pytest.raises(UserError) as raised:
        first.override("train.steps=x")
    assert str(raised.value).startswith("'train.steps=x': train.steps: ")


def test_overrides_of_a_kind_and_of_its_keys_may_come_in_any_order():
    one = loaded(RECIPE, "schedule.kind=cosine", "schedule.warmup=3")
    two = loaded(RECIPE, "schedule.warmup=3", "schedule.kind=cosine")
    assert one.schedule == two.schedule
    assert (two.schedule.kind, two.schedule.warmup) == ("cosine", 3)


def test_a_kind_at_the_top_of_a_recipe_is_an_unknown_key():
    assert mistakes(RECIPE, "kind=foo")[0].startswith("'kind=foo': kind: unknown key")


# base:


def test_maps_merge_lists_replace_and_a_map_of_another_kind_is_replaced():
    write(RECIPE + "schedule: {kind: linear, floor: 0.5}\ncheckpoint: {every: 3}\n", "base.yaml")
    recipe = loaded(
        "base: base.yaml\nname: child\ntrain: {steps: 9}\nsinks: [console]\nschedule: {kind: constant, warmup: 2}\n"
        "task: {kind: mlm, mask_rate: 0.3}\ncheckpoint:\n  keep: 5\n"
    )
    assert (recipe.name, recipe.seed) == ("child", 3)
    assert (recipe.train.steps, recipe.train.global_batch) == (9, 12)
    assert [sink.kind for sink in recipe.sinks] == ["console"]
    assert (recipe.schedule.kind, recipe.schedule.warmup) == ("constant", 2)
    assert recipe.task.mask_rate == 0.3
    assert (recipe.checkpoint.every, recipe.checkpoint.keep) == (3, 5)


def test_a_fraction_is_replaced_by_a_source_of_its_own():
    write(RECIPE, "base.yaml")
    recipe = loaded("base: base.yaml\ndata: {validation: {kind: text, path: other.txt}}\n")
    assert recipe.data.validation.path == "other.txt"


def test_base_is_sought_beside_the_file_that_names_it():
    write(RECIPE, "base.yaml")
    write("base: ../base.yaml\nseed: 5\n", "sub/middle.yaml")
    assert loaded("base: sub/middle.yaml\nname: top\n").seed == 5


def test_a_mistake_points_at_the_file_it_was_written_in():
    write(RECIPE.replace("seed: 3", "seed: x").replace("global_batch: 12", "globl: 12"), "sub/base.yaml")
    assert mistakes("base: sub/base.yaml\nname: child\ntrain:\n  stps: 9\n", "optimizer.lr=x") == [
        "sub/base.yaml:2: seed: should be a valid integer",
        "sub/base.yaml:10: train.globl: unknown key "
        "(there are: abort_after, activation_checkpointing, compile, deterministic, epochs, global_batch, loss_scale, "
        "max_tokens, on_spike, padding_free, precision, spike, steps, strict_contract, workers)",
        "recipe.yaml:4: train.stps: unknown key (did you mean steps?)",
        "sub/base.yaml:10: train.global_batch: field required",
        "'optimizer.lr=x': optimizer.lr: should be a valid number",
    ]


def test_a_key_that_no_file_has_is_missing_in_the_one_that_was_named():
    write("seed: 1\n", "base.yaml")
    lines = mistakes("base: base.yaml\nname: child\n")
    assert lines[0] == "recipe.yaml:1: model: field required"


def test_a_replaced_map_leaves_no_line_behind():
    write(RECIPE + "schedule: {kind: linear, warmup: 1.5}\n", "base.yaml")
    assert loaded("base: base.yaml\nschedule: {kind: constant}\n").schedule.warmup == 0
    told = mistakes("base: base.yaml\nschedule: {kind: step}\n")
    assert told == ["recipe.yaml:2: schedule.every: field required"]


@pytest.mark.parametrize(
    ("text", "files", "told"),
    [
        ("name: a\nbase: gone.yaml\n", {}, "recipe.yaml:2: base: gone.yaml: no such file"),
        ("base: sub\n", {"sub/a.yaml": ""}, "recipe.yaml:1: base: sub: no such file"),
        ("base: [a, b]\n", {}, "recipe.yaml:1: base: should be the name of a file"),
        ("base: recipe.yaml\n", {}, "recipe.yaml:1: base: recipe.yaml: inherits from this file, in a circle"),
        (
            "base: a.yaml\n",
            {"a.yaml": "base: b.yaml\n", "b.yaml": "seed: 1\nbase: ./recipe.yaml\n"},
            "b.yaml:2: base: recipe.yaml: inherits from this file, in a circle",
        ),
        ("base: a.yaml\n", {"a.yaml": "base: gone.yaml\n"}, "a.yaml:1: base: gone.yaml: no such file"),
        ("base: a.yaml\n", {"a.yaml": "seed: *a\n"}, "a.yaml:1: not valid YAML: found undefined alias 'a'"),
    ],
)  # fmt: skip
def test_a_base_that_is_missing_is_reported_where_it_is_named(text, files, told):
    for file, content in files.items():
        write(content, file)
    assert mistakes(text) == [told]


def test_a_chain_of_files_has_an_end():
    write(RECIPE, "31.yaml")
    for i in range(31):
        write(f"base: {i + 1}.yaml\nseed: {i}\n", f"{i}.yaml")
    assert load.recipe("0.yaml").value.seed == 0
    what = "more than 32 files, each of which inherits from the next one, from recipe.yaml on"
    assert mistakes("base: 0.yaml\n") == [f"30.yaml:1: base: {what}"]


def test_a_base_that_no_file_can_be_called_is_none():
    (told,) = mistakes(f"base: {'x' * 5000}\n")
    assert told.startswith("recipe.yaml:1: base: xxx") and told.endswith(" ...: no such file")


# The resolved form


@pytest.mark.parametrize("make", [support.mlm, support.classification])
def test_the_resolved_form_loads_to_an_equal_recipe(make):
    recipe = load.recipe(support.write(make(schedule={"kind": "linear", "warmup": 0.1}))).value
    load.dump(recipe, Path("resolved.yaml"))
    again = load.recipe("resolved.yaml").value
    assert again == recipe
    assert again.model_dump() == recipe.model_dump()
    assert [p.name for p in Path().iterdir() if "partial" in p.name] == []


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)


@settings(max_examples=60, deadline=None)
@given(path=texts, lr=st.floats(min_value=0, exclude_min=True, allow_infinity=False), seed=st.integers(0, 2**63 - 1))
@example(path="1e-4", lr=1e-08, seed=0)
@example(path="no", lr=5e-324, seed=2**63 - 1)
@example(path="12:30:00", lr=1e16, seed=1)
@example(path="null", lr=1e308, seed=1)
@example(path="a: b # c", lr=0.1, seed=1)
@example(path=" {x} ", lr=0.1, seed=1)
@example(path="?0", lr=0.1, seed=1)
def test_whatever_was_written_survives_the_resolved_form(tmp_path_factory, path, lr, seed):
    recipe = Recipe.model_validate(
        support.mlm(seed=seed, optimizer__lr=lr, data__train__path=path, data__train__text=path)
    )
    file = tmp_path_factory.mktemp("dump") / "resolved.yaml"
    load.dump(recipe, file)
    assert load.recipe(file).value == recipe


def test_the_shipped_recipes_survive_the_resolved_form():
    for file in load.shipped("recipes"):
        recipe = load.recipe(file).value
        load.dump(recipe, Path("resolved.yaml"))
        assert load.recipe("resolved.yaml").value == recipe


@pytest.mark.parametrize(
    ("below", "override", "kind"),
    [
        ("{kind: jsonl, path: a.jsonl}", "data.validation={fraction: 0.2}", "Fraction"),
        ("{fraction: 0.2}", "data.validation={kind: jsonl, path: a.jsonl}", "jsonl"),
        ("{fraction: 0.2}", "data.validation.fraction=0.4", "Fraction"),
        ("{kind: jsonl, path: a.jsonl}", "data.validation.path=b.jsonl", "jsonl"),
    ],
)
def test_a_share_held_out_takes_the_place_of_a_source_and_a_source_that_of_a_share(tmp_path, below, override, kind):
    recipe = support.mlm()
    recipe["data"].pop("validation")
    file = tmp_path / "recipe.yaml"
    support.write(recipe, file)
    text = file.read_text(encoding="utf-8").replace("max_length:", f"validation: {below}\n  max_length:", 1)
    file.write_text(text, encoding="utf-8")
    found = load.recipe(file, [override]).value.data.validation
    assert getattr(found, "kind", type(found).__name__) == kind


def test_the_resolved_form_may_be_larger_than_what_a_person_writes(tmp_path, monkeypatch):
    """Every default stands in it: what loads is written in a form that is read again."""
    monkeypatch.setattr(documents, "NODES", 100)
    file = tmp_path / "recipe.yaml"
    file.write_text("".join(f"k{number}: {{a: 1, b: 2, c: 3}}\n" for number in range(40)))
    with pytest.raises(UserError, match="more than 100 values"):
        load.recipe(file)
    assert len(load.plain(file)) == 40


def test_a_key_that_another_kind_takes_away_is_named_with_where_it_was_written():
    what = "optimizer.lr: field required (that of {} is of kind adamw, and is not taken over)"
    assert mistakes(RECIPE, "optimizer.kind=muon") == [f"'optimizer.kind=muon': {what.format('recipe.yaml:11')}"]
    assert loaded(RECIPE, "optimizer.kind=muon", "optimizer.lr=1e-3").optimizer.kind == "muon"
    write(RECIPE, "base.yaml")
    told = mistakes("base: base.yaml\noptimizer: {kind: sgd, momentum: 0.9}\n")
    assert told == [f"recipe.yaml:2: {what.format('base.yaml:11')}"]
