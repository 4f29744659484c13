"""benchmarks/readers.py tells a row that is missing, doubled or changed from one that is right."""

import readers


def test_every_kind_of_difference_is_counted() -> None:
    right = readers.expected()
    assert readers.verdict(right) == {"rows": readers.ROWS, "different": 0}
    assert readers.verdict(right[:-1])["different"] == 1
    assert readers.verdict([])["different"] == readers.ROWS
    assert readers.verdict(sorted([*right, right[-1]], key=lambda row: row[0]))["different"] == 1
    changed = [*right[:5], [*right[5][:3], -1.0, None], *right[6:]]
    assert readers.verdict(changed)["different"] == 1
    rejected = [*right[:5], [*right[5][:3], None, "rejected"], *right[6:]]
    assert readers.verdict(rejected)["different"] == 1
