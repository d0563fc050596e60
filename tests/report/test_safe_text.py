"""Text of models and people stays text in both reports, and the page can be read by everybody."""

import json
import re

import pytest
from made_up_run import ATTACK, Document, card_of, fabricate_run, make_config, read, write

from pipeline.evaluation.cards import Card, Entry, write_card
from pipeline.report.markdown import escape


def test_text_from_models_cannot_become_markup(tmp_path):
    markdown, html = read(fabricate_run(tmp_path / "r", text=ATTACK))
    document = Document(html)
    assert ATTACK in document.text
    assert len(document.all("script")) == 1
    assert not document.all("img")
    assert "<script" not in markdown
    assert "<img" not in markdown


def test_names_from_cards_and_manifests_cannot_become_markup(run):
    payload = "\"'><script>x</script>"
    card = card_of("ppo")
    card = Card("ppo", (*card.entries, Entry(f"gold_{payload}", 0.5, 1, 0.4, 0.6, payload, payload)))
    write_card(run / "evaluation/ppo/card.json", card)
    manifest = json.loads((run / "stages/sft/manifest.json").read_text())
    manifest["environment"]["commit"] = manifest["environment"]["versions"][payload] = payload
    write(run / "stages/sft/manifest.json", manifest)
    _, html = read(run, make_config(gates={f"ppo.{payload}": {"min": 0.0}}))
    document = Document(html)
    assert len(document.all("script")) == 1
    assert payload in document.text
    assert not [a for _, attributes in document.elements for a in attributes if a.startswith("on")]


@pytest.mark.parametrize("odd", ["\ud800", "\x00", "\x1b[31m", "\u2028", "\ufffe", "\u202e"])
def test_text_that_no_file_could_hold_is_replaced(tmp_path, odd):
    markdown, html = read(fabricate_run(tmp_path / "r", text=f"before{odd}after"))
    assert "before" in markdown
    Document(html)
    assert not re.search(r"[\x00\x1b\ufffe\u202e]", markdown + html)


@pytest.mark.parametrize(
    "attack",
    [
        "[click](javascript:alert(1))",
        "![x](http://tracker.example/a.png)",
        "**bold** _it_ `code` | cell | ~~gone~~",
        "# heading",
        "1. list",
        "- item",
        "line\n\n| a | b |\n|---|---|",
        "https://tracker.example",
        "---",
    ],
)
def test_markdown_from_models_stays_text(attack):
    escaped = escape(attack)
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)[\[\]`*_|~!<>]", escaped)
    assert not re.match(r"#|[+-]( |-|$)|\d+[.)]( |$)", escaped)
    assert "https://" not in escaped


@pytest.mark.parametrize("plain", ["+0.81 points", "12.5 nats", "0.193", "3 of 4", "well-known", "−1.5"])
def test_numbers_and_plain_words_are_left_as_they_are(plain):
    assert escape(plain) == plain


def test_the_page_needs_no_network(run):
    _, html = read(run)
    document = Document(html)
    assert not document.all("link")
    assert not [a for _, attributes in document.elements for a in attributes if a in ("src", "srcset", "action")]
    assert all(a["href"].startswith("#") for a in document.all("a"))
    assert not re.search(r"url\(|@import|https?:", html)
    assert "default-src &#x27;none&#x27;" in html or "default-src 'none'" in html


def test_every_figure_and_table_can_be_read_without_seeing_it(run):
    document = Document(read(run)[1])
    count = len(document.all("figure"))
    assert count >= 12
    assert len(document.all("figcaption")) == count
    drawings = [a for a in document.all("svg") if a.get("aria-hidden") != "true"]
    assert len(drawings) == count
    assert all(a.get("role") == "img" for a in drawings)
    assert len(document.all("caption")) == len(document.all("table"))
    assert all("scope" in a for a in document.all("th"))
    assert document.all("html")[0]["lang"] == "en"
