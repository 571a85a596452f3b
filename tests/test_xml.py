"""Start tags and their attributes, where lxml finds them."""

import codecs
import re
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from ecgbatch import _kernels, formats, synth
from ecgbatch.errors import RecordError
from ecgbatch.formats import xml
from ecgbatch.record import LEADS, Reason

VALUES = st.text(alphabet="ab&<>\"'é \t/=", max_size=8)
CONTAINERS = ["aecg", "cardiosoft", "mortara", "muse", "philips", "schiller"]
NAMES = st.lists(st.sampled_from(["a", "b.c", "x:d", "e-f", "_g"]), unique=True, max_size=5)


def test_a_tag_is_told_with_the_content_behind_it():
    text = b"<a><b x='>'>1</b><c/><b\n y = \"2\" /></a>"
    status, _, found = _kernels.XmlPaths(["a/b", "a"]).tags(text)

    assert status == 0
    assert [(path, text[tag:begin], text[begin:end]) for path, tag, begin, end in found] == [
        (1, b"<a>", b"<b x='>'>1</b><c/><b\n y = \"2\" />"),
        (0, b"<b x='>'>", b"1"),
        (0, b'<b\n y = "2" />', b""),
    ]


@settings(deadline=None)
@given(NAMES, st.lists(VALUES, min_size=5, max_size=5), st.booleans())
def test_attributes_are_those_that_lxml_finds(names, values, empty):
    etree = pytest.importorskip("lxml.etree")
    element = etree.Element(
        "t", {name.replace("x:", "{urn:x}"): value for name, value in zip(names, values, strict=False)}
    )
    if not empty:
        element.text = "content"
    tag = etree.tostring(element).partition(b"content")[0]
    found = {name: value for name, value in xml.attributes(tag).items() if not name.startswith("xmlns")}

    assert list(found.values()) == [value.strip() for value in element.attrib.values()]


@pytest.mark.parametrize(
    ("tag", "attributes"),
    [
        (b"<t a='1' b=\"2\"/>", {"a": "1", "b": "2"}),
        (b"<t\n\ta = '&lt;&#38;&quot;&apos;&gt;' >", {"a": "<&\"'>"}),
        (b"<t>", {}),
        (b"", {}),
        ("<t a='µV'>".encode(), {"a": "µV"}),
        ("<t a='µV'>".encode("latin-1"), {"a": "µV"}),
        (b"<t a='x>y/'>", {"a": "x>y/"}),
    ],
)
def test_a_tag_has_the_attributes(tag, attributes):
    assert xml.attributes(tag) == attributes


@pytest.mark.parametrize(
    "tag", [b"<t a>", b"<t a=1>", b"<t a='1'b='2'>", b"<t a='1' / b='2'>", b"<t =''>", b"<t " + b"a" * 5000 + b"='1'>"]
)
def test_a_tag_that_is_none_is_malformed(tag):
    with pytest.raises(RecordError) as defect:
        xml.attributes(tag)

    assert defect.value.reason == Reason.MALFORMED


@pytest.mark.parametrize("filling", [b"a", b" ", b"a ", b"'", b"a='' "])
def test_a_tag_of_a_megabyte_is_left_as_fast_as_it_is_read(filling):
    tag = b"<t " + filling * (2**20 // len(filling)) + b">"
    started = time.process_time()
    with suppress(RecordError):
        xml.attribute_places(tag, 0, len(tag))

    assert time.process_time() - started < 1.0


def test_a_lead_stored_a_million_times_is_refused_at_once():
    started = time.process_time()
    with pytest.raises(RecordError) as defect:
        xml.require_leads(["V1"] * 1_000_000)

    assert defect.value.reason == Reason.DUPLICATE_LEAD
    assert time.process_time() - started < 1.0


def test_the_roots_prefix_is_no_part_of_a_name():
    text = b"<n:a xmlns:n='x'><n:b>1</n:b><b>2</b><m:b>3</m:b></n:a>"
    status, _, found = _kernels.XmlPaths(["a", "a/b"]).tags(text)

    assert status == 0
    assert [(path, text[begin:end]) for path, _, begin, end in found[1:]] == [(1, b"1"), (1, b"2")]
    assert _kernels.XmlPaths(["a", "a/b"]).tags(b"<n:a><n:b></b></n:a>")[0] == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_the_elements_of_any_container_may_have_a_prefix(container, encoding):
    document = getattr(synth, f"{container}_xml")(synth.record(seed=3, leads=LEADS)).removeprefix(codecs.BOM_UTF8)
    prefixed = re.sub(r"<(/?)(?=[A-Za-z])", r"<\1v:", document.decode("latin-1"))
    plain, found = [formats.decode(text, "ecg.xml", lambda _: b"") for text in (document, prefixed.encode(encoding))]

    assert_array_equal(found.counts, plain.counts)
    assert (found.leads, found.fs_hz, found.acquired_at) == (plain.leads, plain.fs_hz, plain.acquired_at)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("secret", [b"BEEBLEBROX, Zaphod", b"Beeblebrox^19420311^"])
def test_whatever_stands_where_a_word_should_no_refusal_quotes_it(container, secret):
    ecg = synth.record(seed=3, leads=LEADS)
    document = getattr(synth, f"{container}_xml")(replace(ecg, counts=ecg.counts[:, :600]))
    details = set()
    for found in re.finditer(rb"(?<=>)[^<>]{1,80}(?=<)|(?<==\")[^\"]{0,60}(?=\")", document):
        try:
            formats.decode(document[: found.start()] + secret + document[found.end() :], "ecg.xml", lambda _: b"")
        except RecordError as defect:
            details.add(defect.detail)

    assert details
    assert not re.findall("beeblebrox|zaphod|1942", " ".join(details), re.IGNORECASE)


@pytest.mark.parametrize("name", ["Beeblebrox-19420311", "P12345678", "\u00c9tienne"])
def test_a_root_element_that_may_be_somebody_is_not_quoted(name):
    with pytest.raises(RecordError) as defect:
        formats.decode(f"<{name}/>".encode(), "ecg.xml", lambda _: b"")

    assert defect.value.reason == Reason.UNKNOWN_FORMAT
    assert name not in defect.value.detail
