r"""Patterns of the formats that JSON schema names.

In: the name of a format. Out: its pattern, which is matched as a whole, or None for a name that the
specification does not know: such a name is a remark, as it says there.

Every text that a pattern takes is of the format. Dates and times, `uuid`, `ipv4`, the JSON pointers
and `duration` (RFC 3339, appendix A) are exact but for: seconds of 60, more than 6 digits of a
second, small letters `t` and `z`, the year 0. Of the others the plain forms are taken: no comments,
quotes or address literals in `email`, host names of letters, digits and single hyphens (in
`hostname` at most four, and short ones), `ipv6` without an IPv4 part and zone, `uri` with an
authority. `regex` cannot be told by a regular pattern.
"""

from __future__ import annotations

_MONTH_DAYS = (
    r"(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    r"|02-(?:0[1-9]|1\d|2[0-8])"
)
# Multiples of 4, but of those of 100 only the multiples of 400; not the year 0.
_FOURS = r"0[48]|[2468][048]|[13579][26]"
_LEAP_YEAR = rf"\d\d(?:{_FOURS})|(?:{_FOURS})00"
_YEAR = r"\d\d\d[1-9]|\d\d[1-9]0|\d[1-9]00|[1-9]000"
_DATE = rf"(?:(?:{_YEAR})-(?:{_MONTH_DAYS})|(?:{_LEAP_YEAR})-02-29)"
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_HOURS = r"(?:\d{1,9}H(?:\d{1,9}M(?:\d{1,9}S)?)?|\d{1,9}M(?:\d{1,9}S)?|\d{1,9}S)"
_DAYS = r"(?:\d{1,9}Y(?:\d{1,9}M(?:\d{1,9}D)?)?|\d{1,9}M(?:\d{1,9}D)?|\d{1,9}D)"
_DURATION = rf"P(?:{_DAYS}(?:T{_HOURS})?|T{_HOURS}|\d{{1,9}}W)"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_GROUP = r"[0-9A-Fa-f]{1,4}"
_IPV6 = "|".join(
    [
        rf"(?:{_GROUP}:){{7}}{_GROUP}",
        rf"(?:{_GROUP}:){{1,7}}:",
        *(rf"(?:{_GROUP}:){{1,{7 - n}}}(?::{_GROUP}){{1,{n}}}" for n in range(1, 7)),
        rf":(?::{_GROUP}){{1,7}}",
        "::",
    ]
)
_LABEL = r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*"
_HOST = rf"(?:{_LABEL}\.)+[A-Za-z]{{2,12}}"
_EMAIL = rf"[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*@{_HOST}"
_SHORT_LABEL = r"[A-Za-z0-9]{1,12}(?:-[A-Za-z0-9]{1,12})?"
_HOSTNAME = rf"(?:{_SHORT_LABEL}\.){{1,3}}[A-Za-z]{{2,12}}"
_PATH = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_URI = (
    rf"[A-Za-z][A-Za-z0-9+.-]*://{_HOST}(?::[1-9]\d{{0,3}})?(?:/{_PATH}*)*"
    rf"(?:\?(?:{_PATH}|[/?])*)?(?:#(?:{_PATH}|[/?])*)?"
)
_POINTER = r"(?:/(?:[^~/]|~[01])*)*"

_PATTERNS: dict[str, str | None] = {
    "date": _DATE,
    "time": _TIME,
    "date-time": rf"{_DATE}T{_TIME}",
    "duration": _DURATION,
    "uuid": r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    "email": _EMAIL,
    "idn-email": _EMAIL,
    "hostname": _HOSTNAME,
    "idn-hostname": _HOSTNAME,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uri": _URI,
    "uri-reference": _URI,
    "iri": _URI,
    "iri-reference": _URI,
    "uri-template": _URI,
    "json-pointer": _POINTER,
    "relative-json-pointer": rf"(?:0|[1-9]\d{{0,3}})(?:#|{_POINTER})",
    "regex": None,
}


def is_known(name: str) -> bool:
    """Whether the specification knows a format of this name."""
    return name in _PATTERNS


def pattern_of(name: str) -> str | None:
    """The pattern that a text of a known format matches as a whole; None if there is none."""
    return _PATTERNS[name]
