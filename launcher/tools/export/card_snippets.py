"""Generation of Python lines for a model card, which load an export and predict as `launcher predict` does."""

from launcher.config.recipe import Recipe
from launcher.data._source import SourceConfig
from launcher.plan.facts import Facts
from launcher.prepare import source_shards
from launcher.tasks import question_answering, seq2seq

TEXT, TEXT_PAIR, CONTEXT, IMAGE = "This is a text.", "This is another text.", "This is a context.", "path/to/image.png"
"""Placeholders for the user's own inputs."""

PIPELINES = {
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForSeq2SeqLM": "text2text-generation",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModelForImageClassification": "image-classification",
}
"""The hub's task name for each auto class. transformers has a pipeline for most of them."""
_LENGTH = "max_new_tokens=20"
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
    """Return lines of Python that load the model and its tokenizer or image processor, and predict.

    The lines use a pipeline if there is one. `auto`: the transformers auto class.
    """
    processors = {"image_processor": "AutoImageProcessor"} if facts.shape else {"tokenizer": "AutoTokenizer"}
    if facts.shape and facts.shape[0] != 3:
        processors = {}  # transformers only has image processors for three channels
    lines, imports = _prediction_lines(auto, recipe, processors)
    return [
        *(["import torch"] if "torch." in "".join(lines) else []),
        f"from transformers import {', '.join([auto, *processors.values(), *imports])}",
        "",
        'folder = "path/to/this/folder"',
        f"model = {auto}.from_pretrained(folder)",
        *(f"{name} = {kind}.from_pretrained(folder)" for name, kind in processors.items()),
        *lines,
    ]


def compressed_lines(auto: str, tokenized: bool, onnx: bool, int8: bool) -> list[str]:
    """Return lines of Python that load a compressed export and, if it takes token ids, call it with a text.

    `auto`: the transformers auto class. `tokenized`: whether the model takes token ids.
    """
    imports, folder, call = list[str](), ['folder = "path/to/this/folder"'], list[str]()
    if tokenized:
        imports = ["from transformers import AutoTokenizer"]
        folder += ["tokenizer = AutoTokenizer.from_pretrained(folder)"]
        call = [f'inputs = dict(tokenizer("{TEXT}", return_tensors="{"np" if onnx else "pt"}"))']
    if onnx:
        imports = ["from onnxruntime import InferenceSession", *imports]
        load = 'model = InferenceSession(f"{folder}/model.onnx")'
        call += ["print(model.run(None, {one.name: inputs[one.name] for one in model.get_inputs()}))"] if call else []
    else:
        imports = [*imports, "from launcher.tools import int8" if int8 else f"from transformers import {auto}"]
        load = "model = int8.load(folder)" if int8 else f"model = {auto}.from_pretrained(folder)"
        call += ["print(model(**inputs))"] if call else []
    return [*imports, "", *folder, load, *call]


def _prediction_lines(auto: str, recipe: Recipe, processors: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return lines of Python that predict, and the names that they import from transformers. Both are empty if there is
    neither a tokenizer nor an image processor, or no pipeline."""
    from transformers.pipelines import PIPELINE_REGISTRY

    if not processors:
        return [], []
    task = recipe.inner_task
    if isinstance(task, seq2seq.Config):
        return _generation_lines(task), []
    if isinstance(task, question_answering.Config):
        return _answer_lines(task, recipe.data.max_length), []
    name = PIPELINES.get(auto)
    if name is None or name not in PIPELINE_REGISTRY.get_supported_tasks():
        return [], []
    also = "".join(f", {part}={part}" for part in processors)
    arguments = ", ".join([_example_input(name, recipe), *_options(name, recipe)])
    return ["", f'pipe = pipeline("{name}", model=model{also})', f"print(pipe({arguments}))"], ["pipeline"]


def _example_input(name: str, recipe: Recipe) -> str:
    if name == "fill-mask":
        return f'f"{TEXT[:-1]} {{tokenizer.mask_token}}."'
    if name == "image-classification":
        return f'"{IMAGE}"'
    if name == "text-classification" and has_text_pairs(recipe):
        return f'{{"text": "{TEXT}", "text_pair": "{TEXT_PAIR}"}}'
    return f'"{TEXT}"'


def has_text_pairs(recipe: Recipe) -> bool:
    """Return whether any source of the recipe has a second text in its rows."""
    configs = [leaf.config for leaf in source_shards.leaves(recipe.data)]
    return any(isinstance(config, SourceConfig) and config.text_pair for config in configs)


def _options(name: str, recipe: Recipe) -> list[str]:
    """Return the arguments with which a pipeline predicts in the same way as the run's task."""
    task = recipe.inner_task
    if name == "text-classification":
        return [*(["top_k=None"] if task.multi_label else []), "truncation=True"]
    if name == "token-classification":
        return ['aggregation_strategy="first"']
    if name == "text-generation":
        return ["truncation=True", *([] if task.sets_length else [_LENGTH])]
    return []


def _generation_lines(task: seq2seq.Config) -> list[str]:
    text = f"{task.prefix!r} + text" if task.prefix else "text"
    options = "" if task.generate else f", {_LENGTH}"
    return [
        "",
        f'texts = [{text} for text in ["{TEXT}"]]',
        'inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")',
        f"print(tokenizer.batch_decode(model.generate(**inputs{options}), skip_special_tokens=True))",
    ]


def _answer_lines(task: question_answering.Config, length: int) -> list[str]:
    """Return lines of Python that print the answer with the highest score in any window."""
    stride = length // 4 if task.stride is None else task.stride
    lines = _ANSWER.format(
        text=TEXT, context=CONTEXT, length=length, stride=stride, longest=task.max_answer_length
    ).rstrip().splitlines()  # fmt: skip
    answer = '"" if min(none) > best[0] else best[1]' if task.no_answer else "best[1]"
    return [*lines, f'print({{"answer": {answer}, "score": best[0]}})']
