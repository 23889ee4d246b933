"""Codes of the languages that fastText's model knows, and suggestions for other names of them."""

from __future__ import annotations

import re

__all__ = ["LANGUAGES", "suggest_language"]

_CODES = """
    af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv cy da de
    diq dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht hu hy ia id ie ilo
    io is it ja jbo jv ka kk km kn ko krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms
    mt mwl my myv mzn nah nap nds ne new nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn
    sco sd sh si sk sl so sq sr su sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal xmf
    yi yo yue zh
"""
LANGUAGES = frozenset(_CODES.split())
"""The 176 labels of the model lid.176."""
_OTHER_NAMES = """
    ar arabic ara; bg bulgarian bul; bn bengali ben; ca catalan cat; cs czech ces cze; da danish dan; de german deu
    ger; el greek ell; en english eng; es spanish spa; et estonian est; eu basque eus baq; fa persian farsi fas per;
    fi finnish fin; fr french fra fre; he hebrew heb iw; hi hindi hin; hr croatian hrv; hu hungarian hun; id indonesian
    ind; is icelandic isl ice; it italian ita; ja japanese jpn jp; ko korean kor; lt lithuanian lit; lv latvian lav; ms
    malay msa may; nl dutch nld dut; no norwegian nor nb nob; pl polish pol; pt portuguese por; ro romanian ron rum; ru
    russian rus; sk slovak slk slo; sl slovenian slv; sr serbian srp; sv swedish swe; sw swahili swa; ta tamil tam; te
    telugu tel; th thai tha; tr turkish tur; uk ukrainian ukr; ur urdu urd; vi vietnamese vie; zh chinese zho chi cn
"""
_CODE_OF = {name: entry.split()[0] for entry in _OTHER_NAMES.split(";") for name in entry.split()[1:]}


def suggest_language(name: str) -> str:
    """Return a sentence with a leading space that suggests the code of a language, or an empty string.

    >>> suggest_language("English"), suggest_language("en-US"), suggest_language("xyz")
    (" Did you mean 'en'?", " Did you mean 'en'?", '')
    """
    first = re.split(r"[-_ ]", name.strip().lower())[0]
    code = first if first in LANGUAGES else _CODE_OF.get(first)
    return f" Did you mean {code!r}?" if code else ""
