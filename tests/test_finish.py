"""What is mended in finished pages: cells of wide tables know their headings; all else stays as it was."""

import pytest

import glutils as gl


@pytest.fixture
def finish(tool):
    return tool("finish")


def row(**cells):
    return {name: cells.get(name, 1.0) for name in ("attack", "PSNR [dB]", "a < b", "seconds")}


def test_cells_of_a_wide_table_know_their_headings_and_keep_their_roles(finish):
    page = f"<p>before</p>{gl.show.table_html([row(attack='IG'), row(attack='DLG')], caption='Scores')}<p>after</p>"
    made = finish.mended(page)
    assert made.startswith("<p>before</p>") and made.endswith("<p>after</p>")
    assert made.count('role="rowheader" data-label="attack"') == 2 and made.count('data-label="a &lt; b"') == 2
    assert made.count('role="cell"') == 6 and made.count('role="columnheader"') == 4
    assert made.count('role="row"') == 3 and made.count('role="rowgroup"') == 2 and made.count('role="table"') == 1
    assert '<table role="table" class="table stack"' in made and "<caption>Scores</caption>" in made
    assert finish.mended(made) == made, "a page that was finished stays as it is"


def test_a_heading_with_markup_gives_its_words(finish):
    cells = "".join(f"<td><p>{n} <a href='x'>link</a></p></td>" for n in range(4))
    heads = "".join(f"<th class='head'><p><em>Head</em> {n}</p></th>" for n in range(4))
    page = f'<table class="table">\n<thead>\n<tr>{heads}</tr>\n</thead>\n<tbody>\n<tr>{cells}</tr>\n</tbody>\n</table>'
    made = finish.mended(page)
    assert [f'data-label="Head {n}"' in made for n in range(4)] == [True] * 4 and made.count("<a href='x'>") == 4


def test_a_table_of_few_columns_is_wide_if_its_rows_are_long(finish):
    assert ' stack"' in finish.mended(gl.show.table_html([{"name": "a", "what it is": "a long sentence " * 5}]))


@pytest.mark.parametrize("columns, small", [(4, False), (7, False), (8, True), (15, True)])
def test_a_table_of_many_columns_is_set_small(finish, columns, small):
    page = gl.show.table_html([{f"column {n}": 1.0 for n in range(columns)}])
    assert (' stack many"' in finish.mended(page)) == small


@pytest.mark.parametrize(
    "page",
    [
        gl.show.table_html([{"a": 1, "b": 2, "c": 3}]),
        '<table class="table"><tbody><tr><td>1</td><td>2</td><td>3</td><td>4</td></tr></tbody></table>',
        gl.show.table_html([row()]).replace("<td", '<td colspan="1"'),
        '<table class="docutils"><thead><tr></tr></thead></table>',
    ],
    ids=["few columns", "no headings", "joined cells", "another table"],
)
def test_other_tables_stay_as_they_are(finish, page):
    assert finish.mended(page) == page
