"""Values that other programs write and Python cannot count with."""

import pyarrow
import pyarrow.parquet
import pytest

from data.fields import number_in
from data.sources import read_rows


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan"), True, "1"])
def test_a_number_that_is_none_is_refused_in_words(value):
    with pytest.raises(ValueError, match="expected a finite number"):
        number_in({"score": value}, "score")


def test_a_date_beyond_counting_costs_its_own_row_alone(tmp_path):
    table = pyarrow.table({"prompt": ["a", "b"], "at": pyarrow.array([0, 2**63 - 1], pyarrow.timestamp("us"))})
    pyarrow.parquet.write_table(table, tmp_path / "f.parquet")
    rows = [row for _, row in read_rows(tmp_path / "f.parquet")]
    assert rows[0]["prompt"] == "a" and "holds a value that cannot be read" in rows[1]
