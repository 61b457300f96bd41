"""Claims: verdicts from the ends of intervals, blank cards, runs of the very method, and pages that agree with them."""

import json
import math
import re

import pytest
import torch
import yaml
from scipy import stats

import glutils as gl
from glutils.runs import claims, intervals
from glutils.runs.intervals import Interval, fact
from glutils.runs.records import SOURCE

PATHS = sorted((SOURCE / "book" / "claims").glob("*.yaml"))
RECORDED = [
    {"seed": s, "attack": name, "psnr": level + s, "label_right": True,
     "controls": {"misled": {"psnr": 4.0}, "mean_colour": {"psnr": 12.0}}}
    for s in range(3)
    for name, level in (("ig", 30.0), ("dlg", 20.0), ("stg", 20.5), ("ggl", 5.0), ("gias", 4.0))
] + [{"seed": 0, "attack": "fgla", "refused": "no"}]  # fmt: skip
CLAIM = """
source: A paper
theirs: their data
rows:
  - claim: It works.
    about: ig
    measured: "{it:.1f} dB, misled {wrong:.0f} dB, {none:.0f} refusal"
    values:
      it: [board, {attack: ig}, psnr, mean]
      gap: [board, {attack: ig}, psnr, mean, {attack: dlg}]
      near: [board, {attack: stg}, psnr, mean, {attack: dlg}]
      bad: [board, {attack: ggl}, psnr, mean]
      worse: [board, {attack: gias}, psnr, mean]
      blind: [board, {attack: ggl}, psnr, mean, {attack: gias}]
      margin: [board, {attack: ggl}, psnr, mean, controls.mean_colour.psnr]
      wrong: [board, {attack: [ig, dlg]}, controls.misled.psnr, highest]
      none: [board, {}, refusals, sum]
    verdict: {holds: gap > 5, does not hold: gap < 5}
    reason: {holds: It does.}
    chapter: 13
"""


@pytest.fixture
def judged(tmp_path):
    """Claims of a text, with a small record."""
    gl.runs.record("board", parameters={}, rows=RECORDED, folder=tmp_path)
    (tmp_path / claims.SETTINGS).write_text("board: small, 3 steps\n", encoding="utf-8")

    def load(text):
        (tmp_path / "paper.yaml").write_text(text, encoding="utf-8")
        return claims.load(tmp_path / "paper.yaml", tmp_path)

    return load


def test_a_claim_says_runs_interval_blank_card_setting_and_budget(judged):
    (claim,) = judged(CLAIM)
    assert claim.measured == "31.0 (28.5 to 33.5) dB, misled 4 dB, 1 refusal" and claim.records == ("board",)
    assert claim.verdict == "holds" and claim.rests_on == "gap > 5" and claim.theirs == "their data"
    assert claim.runs == (1, 3) and claim.card == (12.0, 12.0)
    assert claim.beside == "1 to 3 runs; blank card 12.0 dB; small, 3 steps"


@pytest.mark.parametrize(
    "condition, verdict",
    [
        ("it > 28", "holds"),
        ("it > 30", "undecided"),  # the mean is above, the interval is not
        ("gap > 9.9", "holds"),  # paired: the same photos
        ("it > 10 and near > 0", "holds"),
        ("it > bad", "holds"),
        ("it > 0 and bad > worse", "undecided"),  # neither beats its blank card
        ("it > 0 and blind > 0", "undecided"),
        ("it > 0 and bad > 5", "undecided"),
        ("it > 0 and bad < 20", "holds"),  # that a score is low, it may say
        ("it > 0 and margin < 0", "holds"),
    ],
)
def test_verdicts_follow_from_ends_of_intervals_and_not_from_means(judged, condition, verdict):
    text = CLAIM.replace("{holds: gap > 5, does not hold: gap < 5}", f"{{holds: {condition}}}")
    (claim,) = judged(text.replace("{holds: It does.}", "{holds: It does., undecided: Who knows.}"))
    assert claim.verdict == verdict


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("{holds: It does.}", "{does not hold: It does.}", "the verdict is 'holds', for which there is no reason"),
        (
            "{holds: gap > 5, d",
            "{holds: gap > 50, d",
            "the verdict is 'undecided', for which there is no reason|not hold",
        ),
        ("{holds: gap > 5, does", "{certainly: gap > 5, does", "verdict must be one of"),
        ("{holds: gap > 5, does not hold: gap < 5}", "holds", "must say what it rests on"),
        ("{holds: gap > 5", "{holds: none > 0", "they are ours, and no evidence"),
        ("about: ig", "about: cpa", "a verdict about .'cpa'. must rest on its runs"),
        ("[board, {attack: ig}, psnr, mean]", "[board, {attack: me}, psnr, mean]", "has no rows with {'attack': 'me'}"),
        ("[board, {attack: ig}, psnr, mean]", "[table, {attack: ig}, psnr, mean]", "no record 'table'"),
        ("psnr, mean]", "psnr, median]", "must be one of"),
        ("chapter: 13", "chaptr: 13", "fields must be among"),
    ],
)
def test_claims_that_do_not_follow_are_refused(judged, old, new, said):
    with pytest.raises(ValueError, match="paper.yaml, 'It works.'.*(" + said.replace("{", r"\{") + ")"):
        judged(CLAIM.replace(old, new, 1))


def test_one_run_decides_nothing():
    one, two = intervals.mean([40.0]), intervals.mean([10.0])
    assert intervals.holds("a > b", {"a": one, "b": two}) is None and f"{one:.0f}" == "40 (one run)"


def test_intervals_are_those_of_the_textbooks():
    low, high = stats.ttest_1samp([3.0, 4.0, 8.0], 0).confidence_interval(0.95)
    assert intervals.mean([3.0, 4.0, 8.0]).low == pytest.approx(low)
    assert intervals.mean([3.0, 4.0, 8.0]).high == pytest.approx(high)
    low, high = stats.binomtest(5, 9).proportion_ci(0.95, "exact")
    assert intervals.share([1, 1, 1, 1, 1, 0, 0, 0, 0]).low == pytest.approx(low)
    assert intervals.share([1, 1, 1, 1, 1, 0, 0, 0, 0]).high == pytest.approx(high)
    with pytest.raises(ValueError, match="must be in"):
        intervals.share([2.0])


def test_a_condition_is_true_exactly_where_it_is_true_of_every_number_in_the_intervals():
    draw = torch.Generator().manual_seed(0)
    conditions = (
        "a > b",
        "a - b > 1",
        "min(a, b) > c",
        "abs(a - b) < 2 or c > 1",
        "a * b < c + 4 and not b > 3",
        "-a < c",
    )
    decided = 0
    for _ in range(25):
        ends = (torch.rand(3, 2, generator=draw, dtype=torch.float64) * 6).sort(1).values.tolist()
        values = {
            name: Interval(low, low, low + (high - low) / 4, 3) for name, (low, high) in zip("abc", ends, strict=True)
        }
        inside = {name: torch.linspace(v.low, v.high, 5, dtype=torch.float64).tolist() for name, v in values.items()}
        for condition in conditions:
            found = intervals.holds(condition, values)
            all_of_them = [
                eval(condition, {}, {"a": a, "b": b, "c": c})
                for a in inside["a"] for b in inside["b"] for c in inside["c"]
            ]  # fmt: skip
            if found is not None:
                assert set(all_of_them) == {found}, (condition, values)
                decided += 1
    assert decided > 40


@pytest.mark.parametrize(
    "condition, said", [("a", "made of comparisons"), ("a > x", "is no value"), ("a != b", "must be among"),
                        ("max(a) > open(b)", "numbers must be"), ("a ** 2 > b", "numbers must be")],
)  # fmt: skip
def test_conditions_of_another_kind_are_refused(condition, said):
    with pytest.raises(ValueError, match=said):
        intervals.holds(condition, {"a": fact(1, 1), "b": fact(2, 1)})


def test_division_by_an_interval_with_zero_leaves_nothing_known():
    assert intervals.holds("1 / a > 0", {"a": Interval(0.0, -1.0, 1.0, 3)}) is None
    assert math.isinf(intervals.mean([1.0]).high)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_claims_of_the_book_follow_from_the_records(path):
    found = claims.load(path, SOURCE / "benchmarks" / "results")
    assert found and all(claim.reason.endswith(".") for claim in found)
    for claim in found:
        assert claim.theirs != "not told"
        assert not claim.records or claim.runs[1] > 0, f"{claim.claim}: how many runs?"
        assert not any(part in claim.records for part in claim.setting.split("; ")), (
            f"{claim.claim}: setting and budget"
        )


def test_what_is_told_in_per_cent_ends_where_shares_end_and_other_numbers_do_not(tmp_path):
    rows = [{"seed": s, "found": found, "less": 1 - found, "cost": 3 * found} for s, found in enumerate((0.2, 1.0))]
    gl.runs.record("shares", parameters={}, rows=rows, folder=tmp_path)
    text = """{
        source: A paper, theirs: their data, rows: [{
            claim: It works., chapter: 13, reason: {undecided: It may.}, verdict: {holds: one > 0.9},
            measured: "{one:.0%}; {two:.0%}; {gap:.0%}; {cost:.0%}; {plain:.1f}",
            values: {one: [shares, {}, found, mean], two: [shares, {seed: 1}, found, mean],
                     gap: [shares, {}, found, mean, less], cost: [shares, {}, cost, mean],
                     plain: [shares, {}, found, mean]}}]}"""
    (tmp_path / "paper.yaml").write_text(text, encoding="utf-8")
    (claim,) = claims.load(tmp_path / "paper.yaml", tmp_path)
    found = claim.measured.split("; ")
    assert found[:3] == ["60% (0% to 100%)", "100% (one run)", "20% (-100% to 100%)"]
    assert "to 1" in found[3] and "-" in found[3] and found[4] == "0.6 (-4.5 to 5.7)"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_no_share_of_the_book_is_beyond_what_a_share_can_be(path):
    for claim in claims.load(path, SOURCE / "benchmarks" / "results"):
        ends = re.findall(r"\((-?\d+)% to (-?\d+)%\)", claim.measured)
        assert all(-100 <= int(low) and int(high) <= 100 for low, high in ends), claim.measured


def test_no_verdict_of_the_book_rests_on_a_median():
    for path in PATHS:
        for row in yaml.safe_load(path.read_text(encoding="utf-8"))["rows"]:
            assert not any("median" in map(str, entry[3:4]) for entry in row.get("values", {}).values()), row["claim"]


def test_pages_take_their_verdicts_from_the_claims():
    """A chapter that speaks of a claim's verdict asks for it by name, so that it cannot part from the claims page."""
    names = {
        row["name"]
        for path in PATHS
        for row in yaml.safe_load(path.read_text(encoding="utf-8"))["rows"]
        if "name" in row
    }
    asked = {}
    for path in sorted((SOURCE / "notebooks").glob("*.ipynb")):
        code = "\n".join(
            "".join(c["source"])
            for c in json.loads(path.read_text(encoding="utf-8"))["cells"]
            if c["cell_type"] == "code"
        )
        if re.search(r"(claims|judged)\.named", code):
            asked[path.stem] = {name for name in names if f'"{name}"' in code}
            assert asked[path.stem], f"{path.stem} asks for claims that are not there"
    assert {"07_dlg_and_its_family", "10_generative_priors"} <= set(asked)
    assert all(claims.named(name).name == name for name in set().union(*asked.values()))
    with pytest.raises(ValueError, match="name must be that of a claim"):
        claims.named("nothing")


def test_the_chapter_on_generators_and_the_claims_page_judge_alike():
    rows = gl.runs.load(SOURCE / "benchmarks" / "results" / "generative_cpu.json").rows
    scores = {v: {r["seed"]: r["psnr"] for r in rows if r["variant"] == v} for v in ("GIAS", "IG", "IGIMS, CMA")}
    told = []
    for one, other in (("IGIMS, CMA", "GIAS"), ("GIAS", "IG"), ("IGIMS, CMA", "IG")):
        low, high = stats.ttest_rel(
            *([scores[v][s] for s in sorted(scores[v])] for v in (one, other))
        ).confidence_interval()
        told.append("yes" if low > 0 else "no" if high < 0 else "cannot be told")
    assert (set(told) == {"cannot be told"}) == (claims.named("order of one image").verdict == "undecided")
    assert re.fullmatch(r"[a-z ]+", claims.named("gias over ig").verdict)
