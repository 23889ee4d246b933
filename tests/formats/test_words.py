"""Words in different scripts."""

from __future__ import annotations

import pytest

from hf_datasel.formats.words import count_words, segments

PARALLEL = {
    "Danish": "Vi mødes ved havnen klokken otte, og så spiser vi frokost sammen.",
    "Chinese": "我们八点在港口见面,然后一起吃午饭。",
    "Japanese": "八時に港で会って、それから一緒に昼ご飯を食べましょう。",
    "Thai": "เราจะพบกันที่ท่าเรือตอนแปดโมงแล้วกินข้าวกลางวันด้วยกัน",
    "Lao": "ພວກເຮົາຈະພົບກັນທີ່ທ່າເຮືອຕອນແປດໂມງແລ້ວກິນເຂົ້າທ່ຽງນຳກັນ",
    "Korean": "우리는 여덟 시에 항구에서 만나서 함께 점심을 먹습니다.",
}
"""One sentence of 12 words: "We meet at the harbour at eight, and then we eat lunch together"."""


@pytest.mark.parametrize("language", PARALLEL)
def test_translations_have_similar_lengths(language):
    assert 6 <= count_words(PARALLEL[language]) <= 27


@pytest.mark.parametrize(
    "text", ["", "  \n", "one - two\u00a0three", "naïve Straße, 3.14!", "x" * 500, "Привет, мир", "שלום עולם", "😀 ☃"]
)
def test_scripts_with_spaces_are_split_at_white_space(text):
    assert count_words(text) == len(text.split())


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("用Python写 code", 4),
        ("カタカナ", 1),
        ("ひらがな", 4),
        ("漢字。", 2),
        ("。", 1),
        ("\U00020000\U00020001", 2),
        ("ไป", 1),
        ("ไปๆมาๆ", 2),
        ("བོད་ཡིག", 2),
    ],
)
def test_scripts_without_spaces(text, count):
    assert count_words(text) == count


def test_segments_keep_what_lies_between_words_with_spaces():
    assert segments("don't!") == ["don't!"]
    assert segments("「東京タワー」、2026年") == ["東", "京", "タワー", "2026", "年"]
