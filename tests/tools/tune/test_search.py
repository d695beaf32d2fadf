"""The search decides from measurements alone; here they are those of a machine that is made up."""

from launcher.strategies import ddp, fsdp
from launcher.tuning import journal, search
from launcher.tuning.journal import TOO_LARGE, Entry, Measured
from launcher.tuning.results import Results
from launcher.tuning.setting import Setting

WRITTEN = Setting(
    strategy=ddp.Config(), max_tokens=1024, padding_free="auto", compile=False, activation_checkpointing="none",
    workers="auto",
)  # fmt: skip


def space(**changes):
    return search.Space(
        **{
            "budget": 120.0, "begun": 0.0, "written": WRITTEN, "least_tokens": 128, "most_tokens": 8192,
            "options": [ddp.Config(bucket_mb=5.0)], "strategies": [fsdp.Config()], "compiles": False,
            "tolerance": 1e-3, **changes,
        }
    )  # fmt: skip


def searched(of, speed, off=lambda setting: 0.0, too_large=lambda setting: False, known=(), stop=None):
    """The results of a search on a machine with these seconds of a step. `known`: entries of a journal to go on from;
    `stop`: number of trials after which the search is killed."""
    results, clock, tried = Results(of.written, of.tolerance), 0.0, []
    wanted, known = search.trials(of, results), list(known)
    try:
        trial = next(wanted)
        while len(tried) != stop:
            setting, steps = trial.setting, range(trial.first, trial.first + trial.count)
            measured = Measured(wrong=TOO_LARGE)
            if not too_large(setting):
                measured = Measured(
                    seconds=[speed(setting)] * trial.count, losses=[step + off(setting) for step in steps],
                    data=[str(step) for step in steps], tokens=[100] * trial.count, micro_batches=4,
                    padding_free=setting.padding_free is not False,
                )  # fmt: skip
            clock += speed(setting) * (trial.count + trial.warm)
            entry = Entry(trial, measured.model_copy(update={"clock": clock}))
            if known:
                entry = known.pop(0)
                assert entry.trial == trial
                clock = entry.measured.clock
            tried.append(entry)
            trial = wanted.send(entry.measured)
    except StopIteration:
        pass
    return results, tried, clock


def seconds(setting):
    """Padded rows of 4,096 tokens are the fastest; FSDP is slow, small buckets help a little."""
    distance = abs((setting.max_tokens or 8192).bit_length() - 13)
    padded = 0.5 if setting.padding_free is False else 1.0
    of_strategy = {"fsdp": 2.0}.get(setting.strategy.kind, 0.9 if setting.strategy == ddp.Config(bucket_mb=5.0) else 1)
    return 0.3 * (1 + distance) * padded * of_strategy


def test_it_finds_the_fastest_of_each_part():
    results, _, clock = searched(space(), seconds)
    best = results.best().setting
    assert (best.max_tokens, best.padding_free, best.strategy) == (4096, False, ddp.Config(bucket_mb=5.0))
    assert clock <= 120
    assert best.changes(WRITTEN) == {
        "strategy.kind": "ddp", "strategy.bucket_mb": 5.0, "train.max_tokens": 4096, "train.padding_free": False
    }  # fmt: skip


def test_a_faster_setting_with_other_losses_is_not_kept():
    results, _, _ = searched(space(), seconds, off=lambda setting: 0.1 * (setting.padding_free is False))
    assert results.best().setting.padding_free == "auto"
    assert any("other losses" in result.wrong for result in results)


def test_the_recipe_as_written_is_kept_if_nothing_is_faster():
    results, _, _ = searched(space(), lambda setting: 0.5)
    assert results.best().setting == WRITTEN


def test_what_does_not_fit_is_not_kept_and_a_recipe_that_does_not_fit_gets_smaller():
    results, _, _ = searched(space(), seconds, too_large=lambda setting: (setting.max_tokens or 8192) > 512)
    assert results.best().setting.max_tokens == 512
    results, _, _ = searched(space(), seconds, too_large=lambda one: one.activation_checkpointing == "none")
    assert results.best().setting.activation_checkpointing == "layers"
    results, _, _ = searched(space(), seconds, too_large=lambda setting: True)
    assert results.best() is None


def test_it_stays_within_a_small_budget():
    _, tried, clock = searched(space(budget=20.0), lambda setting: 1.0)
    assert clock <= 20 and len(tried) > 5


def test_it_goes_on_from_the_results_of_a_killed_search(tmp_path):
    """The journal of a killed search is read from its file, on a machine that is slower by then."""
    whole, tried, _ = searched(space(), seconds)
    for cut in range(1, len(tried), 3):
        file = tmp_path / str(cut) / journal.FILE
        file.parent.mkdir()
        for trial, measured in searched(space(), seconds, stop=cut)[1]:
            journal.begin(file.parent, trial)
            journal.end(file.parent, measured)
        journal.begin(file.parent, tried[cut].trial)  # was killed in it
        known = [entry for entry in journal.read(file.parent) if entry.measured is not None]
        assert known == tried[:cut]
        again, repeated, _ = searched(space(), seconds, known=known)
        assert repeated == tried and again.best() == whole.best()
        slower, rest, clock = searched(space(), lambda setting: 2 * seconds(setting), known=known)
        assert rest[:cut] == tried[:cut] and clock <= 120
        assert slower.best() is not None


def test_the_number_of_settings_is_limited():
    results, tried, _ = searched(space(most=4), seconds)
    assert len(results.found) == 4 and len(tried) > 8  # they race on
