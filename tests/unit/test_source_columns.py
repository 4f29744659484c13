"""`--send`, `--no-send` and `--keep`."""

import pytest

from asyncbatch.config import InputConfig
from asyncbatch.errors import InputError
from asyncbatch.source import select_columns

NAMES = ["id", "age", "f1", "f2", "f10", "label", "year"]


def select(**options):
    return select_columns(NAMES, ["year"], InputConfig(**options))


def test_every_column_but_partitions_is_sent_and_all_are_kept_by_default():
    found = select()
    assert found.send == ("id", "age", "f1", "f2", "f10", "label")
    assert found.keep == tuple(NAMES)
    assert found.read == tuple(NAMES)


def test_the_wire_order_is_the_order_given():
    assert select(send=("label", "f*", "age")).send == ("label", "f1", "f2", "f10", "age")


def test_a_column_named_before_a_pattern_is_sent_once():
    assert select(send=("f2", "f*")).send == ("f2", "f1", "f10")


def test_a_star_never_sends_a_partition_column_but_its_name_does():
    assert "year" not in select(send=("*",)).send
    assert select(send=("year", "age")).send == ("year", "age")


def test_no_send_takes_names_and_patterns():
    assert select(no_send=("id", "f*")).send == ("age", "label")


def test_keep_none_reads_only_what_is_sent():
    found = select(send=("age",), keep=("none",))
    assert (found.keep, found.read) == ((), ("age",))


def test_what_is_read_is_the_union_in_file_order():
    assert select(send=("label", "age"), keep=("f2", "id")).read == ("id", "age", "f2", "label")


def test_a_column_named_with_a_star_can_be_named():
    found = select_columns(["a*", "ab"], [], InputConfig(send=("a*",)))
    assert found.send == ("a*",)


def test_an_input_without_columns_selects_nothing():
    assert select_columns([], [], InputConfig(send=("a",))).read == ()


@pytest.mark.parametrize(
    ("options", "sentence", "hint"),
    [
        ({"send": ("Agee",)}, "column 'Agee' in --send is not in the input", "did you mean 'age'?"),
        ({"keep": ("qqq",)}, "column 'qqq' in --keep is not in the input", "the columns are 'id', 'age'"),
        ({"no_send": ("lable",)}, "column 'lable' in --no-send", "did you mean 'label'?"),
        ({"send": ("g*",)}, "'g*' in --send matches no column", "the columns are"),
        ({"send": ("id", "id")}, "'id' is given twice in --send", "once"),
        ({"no_send": ("*",)}, "no column is left to send", "--send"),
        ({"keep": ("a?e",)}, "column 'a?e' in --keep", "did you mean 'age'?"),
    ],
)
def test_a_wrong_selection_is_one_sentence_and_a_hint(options, sentence, hint):
    with pytest.raises(InputError) as caught:
        select(**options)
    assert sentence in caught.value.message
    assert hint in caught.value.hint
