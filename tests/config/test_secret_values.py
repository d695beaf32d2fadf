"""What looks like a secret is refused where it would be copied to a run folder, with its line and without its value."""

import random
import string

import pytest
import support

from launcher.config import load, secret_values
from launcher.config.errors import UserError

draw = random.Random(7)


def letters(number: int, of: str = string.ascii_letters + string.digits) -> str:
    return "".join(draw.choices(of, k=number))


KNOWN = [
    f"hf_{letters(34)}", f"sk-{letters(48)}Z9", f"sk-ant-api03-{letters(60)}A1", f"ghp_{letters(36)}",
    f"sk-proj-{letters(50)}",
    f"github_pat_{letters(40)}", f"glpat-{letters(20)}", f"AKIA{letters(16, string.ascii_uppercase)}",
    f"xoxb-{letters(24)}", f"AIza{letters(35)}", f"wandb_v1_{letters(40)}",
    f"eyJ{letters(20)}.eyJ{letters(30)}.{letters(40)}", "-----BEGIN RSA PRIVATE KEY-----",
    "https://me:pass@host/x", f"https://me:hf_{letters(34)}@huggingface.co/a/b",
]  # fmt: skip
SECRET = [
    *(("ANY", value) for value in KNOWN),
    ("WANDB", letters(40, "0123456789abcdef")), ("X", letters(48)), ("S3", f"{letters(20)}/{letters(17)}0a"),
    ("WANDB_API_KEY", "hush"), ("db_password", "hush"), ("GCP_CREDENTIALS", "hush"), ("HF_TOKEN", "hush"),
    ("SECRET_X", "hush"), ("AWS_SECRET_ACCESS_KEY", letters(40)),
]  # fmt: skip
HARMLESS = [
    ("TOKENIZERS_PARALLELISM", "false"), ("MAX_TOKENS", "512"), ("HF_TOKEN", ""), ("NCCL_IB_PKEY", "0x8001"),
    ("SSH_KEY_FILE", "/home/me/.ssh/id"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"), ("HF_HOME", "/w/me/hub"),
    ("WANDB_BASE_URL", "https://wandb.example.org:8080/a"), ("http_proxy", "http://proxy.example.org:3128"),
    ("MODEL_REVISION", letters(40, "0123456789abcdef")), ("GIT_COMMIT", letters(40, "0123456789abcdef")),
    ("CACHE", f"/scratch/{letters(40, '0123456789abcdef')}/x"), ("NCCL_DEBUG", "WARN"), ("NUMBER", "1" * 40),
    ("PYTORCH_ALLOC_CONF", "expandable_segments:True,max_split_size_mb:512"), ("UCX_TLS", "rc_x,cuda_copy,ud"),
    ("NCCL_IB_HCA", "mlx5_0,mlx5_1,mlx5_2,mlx5_3,mlx5_4,mlx5_5,mlx5_6,mlx5_7"), ("GIT", "https://git@github.com/a/b"),
    ("MODEL", "meta-llama/Meta-Llama-3.1-8B-Instruct-Quantized-W8A8"), ("RELATIVE", "../data/Corpus2/Train/part1"),
    ("CORPUS", "sk-Wikipedia-20231101-articles-of-Slovak"), ("DATA", "my/sk-BERT-base-2021-v1-uncased-corpus"),
    ("WORDS", "a sentence with some words in it that is rather long"), ("TASK", "task-classification-of-sequences-V2x"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), SECRET)
def test_secrets_are_recognised(name, value):
    assert secret_values.is_secret(name, value)


@pytest.mark.parametrize(("name", "value"), HARMLESS, ids=[name for name, _ in HARMLESS])
def test_what_is_no_secret_is_left_alone(name, value):
    assert not secret_values.is_secret(name, value)


def test_long_texts_cost_little():
    for text in ("a" * 10**6, "sk-" * 300_000, "eyJ" * 300_000, "a:" * 300_000, "http://a:" * 100_000):
        secret_values.is_secret("X", text)


def refused(action) -> list[str]:
    with pytest.raises(UserError) as told:
        action()
    return list(map(str, told.value.problems))


PROFILE = "env:\n  WANDB_API_KEY: hush\n  NCCL_DEBUG: WARN\n  B: {key}\nname: {key}\n"


def test_a_profile_names_the_lines_and_not_the_values(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(PROFILE.format(key=KNOWN[0]))
    told = refused(lambda: load.cluster("mine.yaml"))
    assert told == [
        f"mine.yaml:{line}: env.{name}: {secret_values.ADVICE}" for line, name in ((2, "WANDB_API_KEY"), (4, "B"))
    ]
    (tmp_path / "mine.yaml").write_text(f"name: {KNOWN[0]}\n")
    assert refused(lambda: load.cluster("mine.yaml")) == [f"mine.yaml:1: name: {secret_values.ADVICE}"]


def test_an_override_is_not_repeated():
    for override, shown in (
        ("cluster.env.WANDB_API_KEY=hush", "'cluster.env.WANDB_API_KEY=...'"),
        (f"cluster.name={KNOWN[0]}", "'cluster.name=...'"),
    ):
        (told,) = refused(lambda text=override: load.cluster("local", [text]))
        assert told.startswith(f"{shown}: ") and told.endswith(secret_values.ADVICE)


def test_a_variable_is_passed_on_or_written_down(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("env: {A: x}\nenv_from: [A]\n")
    assert refused(lambda: load.cluster(file)) == [f"{file}:1: env.A: is in env_from too (take it out of one)"]
    file.write_text("env_from: ['A B']\n")
    assert "should be the name of a variable" in refused(lambda: load.cluster(file))[0]


def test_a_recipe_with_a_key_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"https://me:{KNOWN[0]}@huggingface.co/a/b"
    support.write(
        support.mlm(sinks=[{"kind": "wandb", "project": KNOWN[1]}], tokenizer={"kind": "pretrained", "name": name})
    )
    told = sorted(refused(lambda: load.recipe("recipe.yaml")), key=lambda line: line.split(": ", 1)[1])
    assert [line.split(": ", 1)[1] for line in told] == [
        f"sinks.0.project: {secret_values.ADVICE}", f"tokenizer.name: {secret_values.ADVICE}",
    ]  # fmt: skip
    assert not any(key in line for key in KNOWN for line in told)


def test_a_run_of_an_earlier_launcher_goes_on_with_its_profile(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text("env: {WANDB_API_KEY: hush}\n")
    assert load.stored_cluster(file).value.env == {"WANDB_API_KEY": "hush"}
