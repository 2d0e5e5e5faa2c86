"""The page in a real browser: everything is drawn and answers, nothing fails and nothing is asked of a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.records.record import MetricInfo
from tests.benchmarks.records.records_of import record
from tests.benchmarks.report.conftest import DESKTOP, PHONE, Seen, opened, report_of
from tests.benchmarks.report.many_records import write_many
from tests.benchmarks.report.small_results import HOSTILE, LABELS, write_all, write_small
from tests.extent import NIGHTLY

Look = Callable[..., Seen]
EVERY_FIGURE = """() => [...document.querySelectorAll('.plot')].map((plot) => ({
    traces: (plot.data ?? []).length,
    marks: plot.querySelectorAll('.main-svg path.js-line, .main-svg .point').length}))"""
ROWS = """(table) => [...table.querySelectorAll('tbody tr')].map(
    (row) => [...row.children].map((cell) => cell.textContent))"""
FOLDERS = 12 if NIGHTLY else 6
NO_OVERFLOW = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("small")
    write_small(results)
    return report_of(results)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("many")
    write_many(results, 250 * FOLDERS, folders=FOLDERS, seeds=5)
    return report_of(results)


@pytest.fixture(scope="module")
def seen(small: Path, chromium: object) -> Iterator[Seen]:
    """One page for the tests that leave it as it was."""
    with opened(chromium, small) as page:
        page.scroll_through()
        yield page


@pytest.fixture(scope="module")
def crowded(many: Path, chromium: object) -> Iterator[Seen]:
    """The page of many records on a phone, drawn once; figures that are drawn later would move its buttons."""
    with opened(chromium, many, PHONE) as page:
        page.scroll_through()
        yield page


def rows(seen: Seen, table: str = ".result table") -> list[list[str]]:
    return seen.page.eval_on_selector(table, ROWS)


@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_figure_is_drawn_and_no_page_is_wider_than_the_screen(small: Path, look: Look, device: dict) -> None:
    seen = look(small, device)
    seen.scroll_through()
    figures = seen.page.evaluate(EVERY_FIGURE)
    assert len(figures) == 2 + 2  # a spectrum for each table, curves for each recipe
    assert all(figure["traces"] > 0 and figure["marks"] > 0 for figure in figures)
    assert seen.page.evaluate(NO_OVERFLOW)


@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_page_without_records_says_what_to_run(tmp_path: Path, look: Look, device: dict) -> None:
    seen = look(report_of(tmp_path), device)
    assert "python -m benchmarks.run task=sr ablation=sandwich" in seen.page.inner_text("main")
    assert seen.page.evaluate(NO_OVERFLOW) and seen.page.query_selector(".plot") is None


def test_one_record_is_a_point(tmp_path: Path, look: Look) -> None:
    write_all([record("sandwich", 0, {0.5: 30.0})], tmp_path)
    seen = look(report_of(tmp_path))
    seen.scroll_through()
    assert len(seen.page.query_selector_all(".plot .point")) == 1


def test_many_records_open_with_every_figure_and_every_row_within_reach(crowded: Seen) -> None:
    seen = crowded
    figures = seen.page.evaluate(EVERY_FIGURE)
    assert len(figures) == FOLDERS and all(figure["marks"] > 0 for figure in figures)
    assert seen.page.evaluate(NO_OVERFLOW)
    assert "rows 1 to 20 of 51" in seen.page.inner_text(".result .count")
    assert "19 of 50 recipes are drawn" in seen.page.inner_text(".result .note")
    seen.page.fill(".result input[type=search]", "recipe 49")
    assert [row[0] for row in rows(seen)] == ["recipe 49"]
    drawn = seen.page.eval_on_selector(".result .plot", "(plot) => plot.data.map((trace) => trace.hovertext?.[0])")
    assert any("recipe 49" in text for text in drawn if text)
    seen.page.fill(".result input[type=search]", "")


def test_pages_of_a_table_are_turned(crowded: Seen) -> None:
    seen = crowded
    first = rows(seen)
    seen.page.click(".result button:text('Next')")
    seen.page.wait_for_selector(".result .count:has-text('rows 21 to 40 of 51')")  # a busy page turns late
    second = rows(seen)
    assert len(first) == len(second) == 20 and not {row[0] for row in first} & {row[0] for row in second}
    seen.page.fill(".result input[type=number]", "3")
    seen.page.press(".result input[type=number]", "Enter")
    seen.page.wait_for_selector(".result .count:has-text('rows 41 to 51 of 51')")
    assert len(rows(seen)) == 11 and seen.page.is_disabled(".result button:text('Next')")


def sort(seen: Seen, head: str) -> list[str]:
    """Press a column's head; returns the first column, then."""
    seen.page.click(f"#probe th button:text-is('{head}')")
    return [row[0] for row in rows(seen, "#probe table")]


@pytest.fixture
def probe(seen: Seen) -> Seen:
    """A table with every kind of cell, made by the page's own script."""
    seen.page.evaluate(
        """() => {
            document.getElementById('probe')?.remove();
            const box = document.body.appendChild(document.createElement('div'));
            box.id = 'probe';
            makeTable(box, {title: 'probe', head: ['name', 'mean', 'size'], pinned: [['cost', '1 k', '2 k']], rows: [
                ['b 10', '9.50 ± 0.21', '13.9 M'], ['a', '', '569 k'], ['b 2', '35.23 ± 0.21', '1.2 G'],
                ['C', '-3.1 [-5, 2]', '2,000']]});
        }"""
    )
    return seen


def test_sorting_takes_numbers_as_numbers_and_leaves_what_is_empty_at_the_end(probe: Seen) -> None:
    assert sort(probe, "mean") == ["C", "b 10", "b 2", "a"]
    assert sort(probe, "mean") == ["b 2", "b 10", "C", "a"]
    assert sort(probe, "mean") == ["b 10", "a", "b 2", "C"]  # as it was
    assert sort(probe, "size") == ["C", "a", "b 10", "b 2"]
    assert sort(probe, "name") == ["a", "b 2", "b 10", "C"]


def test_a_sorted_column_says_so_and_costs_stay_on_top(probe: Seen) -> None:
    sort(probe, "mean")
    assert probe.page.eval_on_selector_all("#probe th[scope=col]", "(all) => all.map((th) => th.ariaSort)") == [
        "none",
        "ascending",
        "none",
    ]
    assert probe.page.inner_text("#probe thead .pinned th") == "cost"


def test_a_filter_wants_every_word(probe: Seen) -> None:
    probe.page.fill("#probe input[type=search]", "B 2")
    assert [row[0] for row in rows(probe, "#probe table")] == ["b 2"]
    assert probe.page.inner_text("#probe .count") == "1 row (of 4)"
    probe.page.fill("#probe input[type=search]", "nowhere")
    assert rows(probe, "#probe table") == []


def test_tables_are_sorted_by_keyboard(probe: Seen) -> None:
    probe.page.focus("#probe input[type=search]")
    for _ in range(3):  # the box that scrolls, the first head, the second
        probe.page.keyboard.press("Tab")
    probe.page.keyboard.press("Enter")
    assert [row[0] for row in rows(probe, "#probe table")] == ["C", "b 10", "b 2", "a"]


def test_the_slider_changes_the_pictures_by_keyboard(seen: Seen) -> None:
    middle = ".crops figure:nth-child(2)"
    seen.page.focus(".slider input")
    seen.page.keyboard.press("Home")
    found = []
    for _ in LABELS[2:]:
        sources = seen.page.eval_on_selector_all(f"{middle} img", "(all) => all.map((image) => image.src)")
        found.append((seen.page.inner_text(".slider output"), tuple(sources), seen.page.inner_text(middle)))
        seen.page.keyboard.press("ArrowRight")
    assert [label for label, *_ in found] == list(LABELS[2:])
    assert len({sources for _, sources, _ in found}) == len(LABELS[2:])
    assert [text for *_, text in found] == ["width 0.25: 32.00 dB", "width 0.5: 33.00 dB", "width 1: 34.00 dB"]
    beside = seen.page.eval_on_selector_all(".crops figcaption", "(all) => all.map((one) => one.textContent)")
    assert beside[0].startswith("bicubic") and beside[2] == "original"


def test_pictures_are_shown_as_they_are(seen: Seen) -> None:
    seen.scroll_through()
    sizes = seen.page.eval_on_selector_all("img", "(all) => all.map((image) => image.naturalWidth)")
    assert sizes == [8] * 7  # three a photograph, and the video
    assert seen.page.eval_on_selector(".crops img", "(image) => getComputedStyle(image).imageRendering") == "pixelated"


def spectrum(seen: Seen) -> object:
    figure = seen.page.query_selector_all(".spectrum .plot")[-1]  # super-resolution comes after rl
    figure.scroll_into_view_if_needed()
    seen.wait("[...document.querySelectorAll('.spectrum .plot')].at(-1).data")
    return figure


def x_range(figure: object) -> list[float]:
    return figure.evaluate("(plot) => plot._fullLayout.xaxis.range")


def test_hovering_a_point_tells_recipe_width_value_and_seeds(seen: Seen) -> None:
    spectrum(seen).query_selector_all(".point")[0].hover(force=True)
    label = seen.page.wait_for_selector(".hoverlayer .hovertext").text_content()
    assert "width 0.25, 1 M multiply-adds" in label and "seeds 0, 1, 2" in label
    assert "individual" in label and "30.60 ± 0.10 dB" in label


def test_dragging_zooms_and_the_button_brings_the_whole_back(seen: Seen) -> None:
    figure = spectrum(seen)
    whole = x_range(figure)
    box = figure.query_selector(".nsewdrag").bounding_box()
    seen.page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    seen.page.mouse.down()
    seen.page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.6 * box["height"], steps=4)
    seen.page.mouse.up()
    zoomed = x_range(figure)
    assert whole[0] < zoomed[0] < zoomed[1] < whole[1]
    seen.page.query_selector_all("button:text('Reset zoom')")[-1].click()
    assert x_range(figure) == pytest.approx(whole)


def test_buttons_zoom_where_there_is_no_mouse(small: Path, look: Look) -> None:
    seen = look(small, PHONE)
    figure = spectrum(seen)
    low, high = x_range(figure)
    button = seen.page.query_selector_all("button:text('Zoom in')")[-1]
    button.focus()
    seen.page.keyboard.press("Enter")
    closer = x_range(figure)
    assert closer[1] - closer[0] == pytest.approx((high - low) / 2)


def test_a_figure_is_as_wide_as_its_place_when_the_window_changes(small: Path, look: Look) -> None:
    seen = look(small)
    figure = spectrum(seen)
    seen.page.set_viewport_size({"width": 500, "height": 800})
    seen.wait("[...document.querySelectorAll('.spectrum .plot')].at(-1)._fullLayout.width < 500")
    assert figure.evaluate("(plot) => plot._fullLayout.width === plot.clientWidth") and seen.page.evaluate(NO_OVERFLOW)


def test_a_recipe_is_hidden_and_brought_back(seen: Seen) -> None:
    figure = spectrum(seen)
    count = figure.evaluate("(plot) => plot.data.length")
    button = seen.page.query_selector_all(".legend button:text('sandwich')")[-1]
    button.click()
    assert button.get_attribute("aria-pressed") == "false" and figure.evaluate("(plot) => plot.data.length") < count
    button.click()
    assert button.get_attribute("aria-pressed") == "true" and figure.evaluate("(plot) => plot.data.length") == count


def test_text_of_records_stays_text(tmp_path: Path, look: Look) -> None:
    bad = {"recipe": HOSTILE, "question": HOSTILE, "dataset": HOSTILE, "host": HOSTILE, "eval_sets": [HOSTILE]}
    scores = {HOSTILE: {"psnr": 30.0}}
    plain = record("sandwich", 0, {0.5: 30.0})
    rows_ = [row.model_copy(update={"metrics": scores}) for row in plain.rows]
    settings = {"settings": {HOSTILE: HOSTILE}, "baselines": {HOSTILE: scores}}
    settings |= {"metrics": [MetricInfo(name="psnr", unit=HOSTILE, better="higher")]}
    write_all([plain.model_copy(update={**bad, **settings, "rows": rows_})], tmp_path)
    seen = look(report_of(tmp_path))
    dialogs: list[str] = []
    seen.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    seen.scroll_through()
    assert dialogs == [] and len(seen.page.query_selector_all("body script:not([type])")) == 2
    assert HOSTILE in [row[0] for row in rows(seen)] and HOSTILE in seen.page.inner_text(".legend")
    figure = spectrum(seen)
    assert HOSTILE in figure.text_content()  # the axis
    figure.query_selector(".point").hover(force=True)
    assert HOSTILE in seen.page.wait_for_selector(".hoverlayer .hovertext").text_content()


def test_everything_is_drawn_before_it_is_printed_and_fits_on_paper(small: Path, look: Look) -> None:
    widths = "[...document.querySelectorAll('.spectrum .main-svg')].map((svg) => svg.clientWidth)"
    seen = look(small)
    seen.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert all(figure["traces"] > 0 for figure in seen.page.evaluate(EVERY_FIGURE))
    assert max(seen.page.evaluate(widths)) <= 640
    seen.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert max(seen.page.evaluate(widths)) > 640


def test_the_figure_follows_the_metric_that_is_chosen(tmp_path: Path, look: Look) -> None:
    two = [record("sandwich", 0, {0.5: 30.0, 1.0: 32.0})]
    second = [row.model_copy(update={"metrics": {**row.metrics, "Set5": {"psnr": 40.0}}}) for row in two[0].rows]
    write_all([two[0].model_copy(update={"rows": second, "eval_sets": ["photos", "Set5"]})], tmp_path)
    seen = look(report_of(tmp_path))
    figure = spectrum(seen)
    assert figure.evaluate("(plot) => plot.data.at(-1).y") == [30.0, 32.0]
    seen.page.select_option(".views select", label="PSNR on Set5")
    assert figure.evaluate("(plot) => plot.data.at(-1).y") == [40.0, 40.0]
    assert ["sandwich", "40.00", "40.00"] in rows(seen)
