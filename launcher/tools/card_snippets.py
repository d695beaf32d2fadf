"""The lines of Python in a model card that load an export and predict with it, as `launcher predict` does."""

from typing import Any

from launcher.config.recipe import Recipe
from launcher.plan.facts import Facts
from launcher.prepare import source_shards

TEXT, TEXT_PAIR, CONTEXT, IMAGE = "This is a text.", "This is another text.", "This is a context.", "path/to/image.png"
"""What stands for an input of the user's."""

PIPELINES = {
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForSeq2SeqLM": "text2text-generation",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForImageClassification": "image-classification",
}
"""What the hub calls a task. transformers has a pipeline of this name for most of them."""
_SOME_TOKENS = "max_new_tokens=20"
_ANSWER = """
question, context = "{text}", "{context}"
windows = tokenizer(
    question, context, truncation="only_second", max_length={length}, stride={stride}, padding=True,
    return_overflowing_tokens=True, return_offsets_mapping=True, return_tensors="pt",
)
offsets, _ = windows.pop("offset_mapping"), windows.pop("overflow_to_sample_mapping")
with torch.no_grad():
    scores = model(**windows)
answers, none = [], []
for n, (start, end) in enumerate(zip(scores.start_logits, scores.end_logits)):
    there = [place for place, side in enumerate(windows.sequence_ids(n)) if side == 1]
    spans = start[there][:, None] + end[there][None, :]
    spans[torch.ones_like(spans).triu().tril({longest} - 1) == 0] = -float("inf")
    first, last = divmod(int(spans.argmax()), len(there))
    text = context[int(offsets[n, there[first], 0]) : int(offsets[n, there[last], 1])]
    answers.append((float(spans.max()), text))
    none.append(float(start[0] + end[0]))
best = max(answers)
"""


def load_lines(auto: str, recipe: Recipe, facts: Facts) -> list[str]:
    """Load the model, what its inputs are made with, and predict: by the pipeline where there is one. `auto`: the
    transformers auto class."""
    given = {"image_processor": "AutoImageProcessor"} if facts.shape else {"tokenizer": "AutoTokenizer"}
    given = {} if facts.shape and facts.shape[0] != 3 else given  # images of one channel are no matter of transformers
    lines, uses = _use(auto, recipe, given)
    return [
        *(["import torch"] if "torch." in "".join(lines) else []),
        f"from transformers import {', '.join([auto, *given.values(), *uses])}",
        "",
        'folder = "path/to/this/folder"',
        f"model = {auto}.from_pretrained(folder)",
        *(f"{name} = {kind}.from_pretrained(folder)" for name, kind in given.items()),
        *lines,
    ]


def small_lines(auto: str, tokenized: bool, onnx: bool, int8: bool) -> list[str]:
    """Load an export that was made small, and give it a text where it takes such."""
    begin, folder, ask = list[str](), ['folder = "path/to/this/folder"'], list[str]()
    if tokenized:
        begin = ["from transformers import AutoTokenizer"]
        folder += ["tokenizer = AutoTokenizer.from_pretrained(folder)"]
        ask = [f'inputs = dict(tokenizer("{TEXT}", return_tensors="{"np" if onnx else "pt"}"))']
    if onnx:
        begin = ["from onnxruntime import InferenceSession", *begin]
        load = 'model = InferenceSession(f"{folder}/model.onnx")'
        ask += ["print(model.run(None, {one.name: inputs[one.name] for one in model.get_inputs()}))"] if ask else []
    else:
        begin = [*begin, "from launcher.tools import int8" if int8 else f"from transformers import {auto}"]
        load = "model = int8.load(folder)" if int8 else f"model = {auto}.from_pretrained(folder)"
        ask += ["print(model(**inputs))"] if ask else []
    return [*begin, "", *folder, load, *ask]


def _use(auto: str, recipe: Recipe, given: dict[str, str]) -> tuple[list[str], list[str]]:
    """Lines that predict, and what else of transformers they need."""
    from transformers.pipelines import PIPELINE_REGISTRY

    if not given:
        return [], []
    task: Any = recipe.inner_task
    if auto == "AutoModelForSeq2SeqLM":
        return _from_texts(task), []
    if auto == "AutoModelForQuestionAnswering":
        return _answer(task, recipe.data.max_length), []
    name = PIPELINES.get(auto)
    if name is None or name not in PIPELINE_REGISTRY.get_supported_tasks():
        return [], []
    also = "".join(f", {part}={part}" for part in given)
    asked = ", ".join([_input(name, recipe), *_options(name, recipe)])
    return ["", f'pipe = pipeline("{name}", model=model{also})', f"print(pipe({asked}))"], ["pipeline"]


def _input(name: str, recipe: Recipe) -> str:
    if name == "fill-mask":
        return f'f"{TEXT[:-1]} {{tokenizer.mask_token}}."'
    if name == "image-classification":
        return f'"{IMAGE}"'
    pairs = any(getattr(leaf.config, "text_pair", None) for leaf in source_shards.leaves(recipe.data))
    of_pair = f'{{"text": "{TEXT}", "text_pair": "{TEXT_PAIR}"}}'
    return of_pair if pairs and name == "text-classification" else f'"{TEXT}"'


def _options(name: str, recipe: Recipe) -> list[str]:
    """Options of a call by which the pipeline reads and answers as the run's task does."""
    task = recipe.inner_task
    if name == "text-classification":
        every = ["top_k=None"] if task.multi_label else []
        return [*every, "truncation=True"]
    if name == "token-classification":
        return ['aggregation_strategy="first"']
    if name == "text-generation":
        return ["truncation=True", *([] if task.sets_length else [_SOME_TOKENS])]
    return []


def _from_texts(task: Any) -> list[str]:
    before = f"{task.prefix!r} + text" if task.prefix else "text"
    options = "" if task.generate else f", {_SOME_TOKENS}"
    return [
        "",
        f'texts = [{before} for text in ["{TEXT}"]]',
        'inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")',
        f"print(tokenizer.batch_decode(model.generate(**inputs{options}), skip_special_tokens=True))",
    ]


def _answer(task: Any, length: int) -> list[str]:
    """The answer of the highest score in any window."""
    stride = length // 4 if task.stride is None else task.stride
    told = {"text": TEXT, "context": CONTEXT, "length": length, "stride": stride, "longest": task.max_answer_length}
    lines = _ANSWER.format(**told).rstrip().splitlines()
    answer = '"" if min(none) > best[0] else best[1]' if task.no_answer else "best[1]"
    return [*lines, f'print({{"answer": {answer}, "score": best[0]}})']
