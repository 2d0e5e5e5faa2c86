"""The page of the docs that lists the families says what the tests find."""

import pytest

from tests.families.findings import finding
from tests.families.members import MEMBERS
from tests.families.packages import ABSENT, WHY_SKIPPED
from tests.families.page import COMMAND, PAGE, page, verdicts

if ABSENT:
    pytest.skip(WHY_SKIPPED, allow_module_level=True)


def test_the_committed_page_has_these_networks_and_verdicts():
    committed = PAGE.read_text()
    assert verdicts(committed) == verdicts(page({member: finding(member) for member in MEMBERS})), f"run {COMMAND}"


def test_no_verdict_is_wrong():
    assert {member for member in MEMBERS if finding(member).verdict == "wrong"} == set()
