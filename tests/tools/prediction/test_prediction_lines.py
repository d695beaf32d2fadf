"""Lines of predictions, and tables of them."""

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.config.errors import UserError
from launcher.config.requested_columns import EVERY, KEPT, KeptColumn
from launcher.tools.prediction import prediction_lines

_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b,c", "d"]), _TEXT, min_size=1), min_size=1, max_size=4))
def test_texts_survive_a_table(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("table")
    (folder / "lines").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prediction_lines.write_table(folder / "lines", folder / "table.csv", ",")
    with (folder / "table.csv").open(newline="", encoding="utf-8") as file:
        found = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    wanted = [{name: value for name, value in row.items() if value} for row in rows]
    assert [row for row in found if row] == [row for row in wanted if row]


def test_maps_become_columns_and_lists_json(tmp_path):
    rows = [{"id": 1, "probabilities": {"few": 0.5}, "labels": ["few"], "ok": True}, {"error": "none"}]
    (tmp_path / "lines").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prediction_lines.write_table(tmp_path / "lines", tmp_path / "table.tsv", "\t")
    assert (tmp_path / "table.tsv").read_text().splitlines() == [
        "id\tprobabilities.few\tlabels\tok\terror", '1\t0.5\t"[""few""]"\ttrue\t', "\t\t\t\tnone",
    ]  # fmt: skip


def test_columns_to_keep():
    assert prediction_lines.kept_columns(None) == ()
    assert prediction_lines.kept_columns("all") == (EVERY,)
    assert prediction_lines.kept_columns("id, text,id") == (KeptColumn("id"), KeptColumn("text"))
    with pytest.raises(UserError, match="--keep id,,text: names of columns with commas between them"):
        prediction_lines.kept_columns("id,,text")


def test_a_kept_column_never_hides_an_answer():
    names = {"label", "probabilities", *prediction_lines.RESERVED}

    def joined(**given):
        return prediction_lines.joined(given, {"label": "few"}, names)

    assert joined(id=1, label="mine") == {"id": 1, "given_label": "mine", "label": "few"}
    assert joined(label="gold", given_label="first") == {
        "given_given_label": "gold", "given_label": "first", "label": "few",
    }  # fmt: skip
    assert joined(**{"probabilities.few": 1}) == {"given_probabilities.few": 1, "label": "few"}


def test_a_kept_column_has_one_name_in_all_lines():
    """Also a name that only the lines of truncated or failed rows have."""
    names = {"label", *prediction_lines.RESERVED}
    for answer in ({"label": "few"}, {"label": "few", "truncated": True}, {"error": "there is no token in it"}):
        line = prediction_lines.joined({"truncated": "no", "label": "mine"}, answer, names)
        assert line == {"given_truncated": "no", "given_label": "mine", **answer}


def test_images_and_bytes_are_left_out():
    assert prediction_lines.selected({"image": "pixels", "file": "a.png"}, ()) == {"file": "a.png"}
    assert prediction_lines.selected({"text": "a", KEPT: {"id": 1, "image": {}, "raw": b""}}, [EVERY]) == {"id": 1}
    as_parquet = {"id": 1, "img": {"bytes": b"PNG", "path": "p"}, "all": [{"bytes": b""}]}
    assert prediction_lines.selected({"text": "a", KEPT: as_parquet}, [EVERY]) == {"id": 1}


def test_any_value_becomes_json():
    line = {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": float("-inf")}}
    assert json.loads(prediction_lines.as_json(line), parse_constant=pytest.fail) == {
        "a": None,
        "b": [None, 1.5],
        "c": {"d": None},
    }
