"""The page of the docs that lists the families says what the tests find."""

import pytest

from tests.extent import NIGHTLY
from tests.families.findings import finding
from tests.families.members import TESTED
from tests.families.packages import ABSENT, WHY_SKIPPED
from tests.families.page import COMMAND, PAGE, page, verdicts

if ABSENT:
    pytest.skip(WHY_SKIPPED, allow_module_level=True)


def test_the_committed_page_has_these_networks_and_verdicts():
    found = verdicts(page({member: finding(member) for member in TESTED}))
    committed = [row for row in verdicts(PAGE.read_text()) if NIGHTLY or row[:2] in {one[:2] for one in found}]
    assert committed == found, f"run {COMMAND}"


def test_no_verdict_is_wrong():
    assert {member for member in TESTED if finding(member).verdict == "wrong"} == set()
