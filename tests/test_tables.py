"""The paper's tables with our counts beside them."""

import csv
import io

import pytest

from aaconv import create_model
from aaconv.paper import SURE, TABLES
from aaconv.tables import HEADERS, format_tables, paper_tables, read_results

ROWS = [row for table in TABLES for row in table.rows]


@pytest.fixture(scope="module")
def lines():
    return [line for _, found in paper_tables({"aa_resnet50": 12.3}) for line in found]


def test_every_table_and_row_is_there(lines):
    assert [table.number for table in TABLES] == [1, 2, 3, 4, 5, 6, 7]
    assert [line.network for line in lines] == [row.label for row in ROWS]
    assert {row.sure for row in ROWS} == set(SURE)


def test_printed_counts_are_met_where_they_are_printed(lines):
    """To the digit that is printed; where the words and the figures of the paper differ both readings are shown."""
    differ = {line.model for line in lines if line.counts_are == "printed" and line.parameters_differ}
    assert differ >= {"aa_resnet34", "aa_resnet152", "aa_resnet50_r100", "wrn28_10"}
    for line in lines:
        if line.counts_are == "printed" and line.parameters_differ and line.model != "aa_wrn28_10":
            assert abs(float(line.parameters_differ)) <= 0.0501, line
        if line.counts_are == "printed" and line.gflops_differ and not line.model.startswith("aa_wrn28_10"):
            assert abs(float(line.gflops_differ)) <= 0.1, line


def test_only_the_row_itself_gets_our_accuracy(lines):
    ours = [(line.table, line.network) for line in lines if line.our_top1]
    assert ours == [(2, "AA-ResNet-50"), (3, "AA-ResNet-50"), (7, "AA-ResNet-50, relative")]


def test_what_is_not_built_says_so(lines):
    (gala,) = (line for line in lines if line.network.startswith("GALA"))
    assert (gala.parameters, gala.printed_parameters, gala.note) == ("", "29.4", "not built")


def test_of_several_readings_the_closest_is_named(lines):
    closest = [(line.network, line.parameters) for line in lines if line.note.endswith("(closest)")]
    assert closest == [
        ("AA-Wide-ResNet", "36.240"),
        ("RetinaNet, AA-ResNet-50", "32.970"),
        ("RetinaNet, AA-ResNet-101", "51.570"),
    ]
    plain = [line for line in lines if line.table == 5 and not line.note]
    assert all(abs(float(line.parameters_differ)) <= 0.05 for line in plain)


def test_names_and_positions_build(lines):
    for row in ROWS:
        if row.model and row.changes.get("position") == "sine":
            assert create_model(row.model, **row.changes, img_size=32) is not None


def test_formats():
    text, markdown = format_tables("text"), format_tables("markdown")
    assert "aa_resnet50_r75" in text
    assert markdown.count("## Table") == len(TABLES)
    assert all(title in text for title in HEADERS.values())
    rows = list(csv.DictReader(io.StringIO(format_tables("csv"))))
    assert len(rows) == len(ROWS)
    with pytest.raises(ValueError, match=r"form must be one of \['csv', 'markdown', 'text'\], got 'html'"):
        format_tables("html")


def test_results_are_read_and_checked(tmp_path):
    file = tmp_path / "results.csv"
    file.write_text("model,top1\naa_resnet50,77.25\n")
    assert read_results(file) == {"aa_resnet50": 77.25}
    file.write_text("model,top1\naa_resnet50,much\n")
    with pytest.raises(ValueError, match="top1 of aa_resnet50 must be a percentage, got 'much'"):
        read_results(file)
    file.write_text("name,accuracy\n")
    with pytest.raises(ValueError, match="must have the columns model and top1, got"):
        read_results(file)
    file.write_text("model,top1\naa_resnet5O,77\n")
    with pytest.raises(ValueError, match="no model 'aa_resnet5O'; nearest: aa_resnet50"):
        read_results(file)
