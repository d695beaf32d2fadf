"""What #SBATCH lines say comes back from Slurm as it was given."""

import random

import pytest

from launcher.schedulers._slurm_script import quote

VALUES = [
    "plain", "two words", "a  b", 'a "quoted" word', "it's", "back\\slash", "ends with \\", "$(touch PWNED)", "`id`",
    "${HOME}", "a#b", "# no comment", "a;b|c&d", "*?[x]", "~", "{a,b}", "!x", "a=b --hold", "-x", "%j", "ünïcödé ✓",
    "'", '"',
]  # fmt: skip


def hostile(seed):
    draw = random.Random(seed)
    return "".join(draw.choices("ab \\\"'$()`#%;&|<>*?[]{}!~=,-é", k=draw.randint(1, 30))).strip() or "x"


@pytest.mark.parametrize("values", [VALUES, [hostile(seed) for seed in range(25)]], ids=["known", "drawn"])
def test_names_and_comments_come_back_as_they_were_given(lab, values):
    ids = {
        lab.sbatch(
            f"#SBATCH --hold\n#SBATCH --job-name={quote(value)}\n#SBATCH {quote(f'--comment={value}')}\ntrue"
        ): value
        for value in values
    }
    shown = {id: lab.run("scontrol", "show", "job", id).splitlines() for id in ids}
    names = {id: lines[0].partition(" JobName=")[2] for id, lines in shown.items()}
    comments = {
        id: next(line.strip().removeprefix("Comment=") for line in lines if line.strip().startswith("Comment="))
        for id, lines in shown.items()
    }
    assert names == ids
    assert comments == {id: value.strip() for id, value in ids.items()}  # scontrol ends the line with a space


@pytest.mark.parametrize("name", ["with space", "q\"uo'te", "$(touch PWNED)", "#x", "ünï", "a;b&c"])
def test_the_folder_of_a_job_may_have_any_name(lab, tmp_path, name):
    folder = tmp_path / name
    (folder / "logs").mkdir(parents=True)
    options = [f"--chdir={folder}", "--output=logs/job-%j.log"]
    id = lab.sbatch("".join(f"#SBATCH {quote(option)}\n" for option in options) + "pwd", cwd=tmp_path)
    lab.over(id)
    assert (folder / f"logs/job-{id}.log").read_text() == f"{folder}\n"
