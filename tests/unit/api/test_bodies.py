"""What is read from a body, and what is refused: each rule of the wire contract, with nothing queued."""

import codecs
import gzip
import json
import sys
import unicodedata
from typing import Any
from uuid import UUID, uuid4

import pytest

from llm_provider.api_models import METADATA_MAX_BYTES, METADATA_MAX_DEPTH, NOTES_KEY, is_blank
from tests.unit.api.service import SECRETS, Service, body

NESTED: Any = {}
for _ in range(METADATA_MAX_DEPTH):
    NESTED = {"a": NESTED}

REFUSED_FIELDS = [
    *[(name, value) for name in ("user_prompt", "essay_a", "essay_b") for value in (None, 1, True, ["x"], {"x": 1})],
    ("user_id", 7),
    ("user_id", ["x"]),
    ("user_id", "x" * 201),
    ("correlation_id", "no-uuid"),
    ("correlation_id", ""),
    ("correlation_id", 7),
    ("user_prompt", "{essay_a}" * 5),
    ("user_prompt", "Which? {essay_b}{essay_b}{essay_b}{essay_b} or {essay_b}"),
    ("deadline_seconds", 0),
    ("deadline_seconds", -1),
    ("deadline_seconds", "60"),
    ("deadline_seconds", True),
    ("deadline_seconds", float("inf")),
    ("deadline_seconds", float("nan")),
    ("deadline_seconds", 14_401),
    ("metadata", []),
    ("metadata", "text"),
    ("metadata", {"a": NESTED}),
    ("metadata", {"a": [NESTED]}),
    ("metadata", {"a": float("nan")}),
    ("metadata", {"a": [{"b": float("inf")}]}),
    ("metadata", {NOTES_KEY: {"prompt_sha256": "mine"}}),
    ("metadata", {"a": "x" * METADATA_MAX_BYTES}),
    ("metadata", {"a": "\N{GRINNING FACE}" * (METADATA_MAX_BYTES // 4)}),
    ("llm_config_overrides", []),
    ("llm_config_overrides", "openai"),
]

REFUSED_OVERRIDES = [
    ("provider_override", "gpt"),
    ("provider_override", "OPENAI"),
    ("provider_override", 1),
    ("model_override", ""),
    ("model_override", 5),
    ("temperature_override", -0.01),
    ("temperature_override", 2.01),
    ("temperature_override", "1"),
    ("temperature_override", True),
    ("temperature_override", float("nan")),
    ("system_prompt_override", 1),
    ("max_tokens_override", 0),
    ("max_tokens_override", -5),
    ("max_tokens_override", "1"),
    ("max_tokens_override", True),
    ("max_tokens_override", 1.5),
]

REFUSED_TOPICS = [
    "",
    ".",
    "..",
    "__consumer_offsets",
    "__x",
    "a" * 250,
    "two words",
    "a/b",
    "topic\n",
    "\ntopic",
    "topic\x00",
    "\N{ARABIC-INDIC DIGIT ONE}",
    "\N{FULLWIDTH LATIN SMALL LETTER A}",
    "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
    "*",
    7,
    True,
    ["t"],
]

LEGAL_TOPICS = ["a", "...", "_x", "x__", "A.b_C-9", "a" * 249, "huleedu.llm_provider.comparison_result.v1"]


def refused(service: Service, raw: bytes, status: int = 400, **options: Any) -> dict[str, Any]:
    """The problem document of a refusal after which nothing has happened and nothing is quoted."""
    response = service.post_raw(raw, **options)
    assert response.status_code == status, response.text
    assert response.mimetype == "application/problem+json"
    assert (service.accepted, service.dispatcher.messages, service.provider.calls) == (0, [], [])
    assert not any(secret in response.text for secret in SECRETS)
    answer: dict[str, Any] = response.json
    assert answer["is_retryable"] is False
    return answer


def refused_fields(service: Service, **fields: Any) -> list[str]:
    """The names of the fields that a 400 complains about."""
    return [each["field"] for each in refused(service, json.dumps(body(**fields)).encode())["errors"]]


@pytest.mark.parametrize(("name", "value"), REFUSED_FIELDS)
def test_a_wrong_field_is_named(service: Service, name: str, value: object) -> None:
    """Wrong types and values are a 400 naming the field; `true` and `"1"` are no substitutes for a type."""
    assert refused_fields(service, **{name: value}) == [name]


@pytest.mark.parametrize(("name", "value"), REFUSED_OVERRIDES)
def test_a_wrong_override_is_named_by_its_path(service: Service, name: str, value: object) -> None:
    """The same inside llm_config_overrides."""
    overrides = body()["llm_config_overrides"] | {name: value}
    assert refused_fields(service, llm_config_overrides=overrides) == [f"llm_config_overrides.{name}"]


@pytest.mark.parametrize("topic", REFUSED_TOPICS)
def test_an_illegal_topic_is_refused(service: Service, topic: object) -> None:
    """What Kafka would not take, or keeps for itself, is refused before anything is queued."""
    assert refused_fields(service, callback_topic=topic) == ["callback_topic"]


@pytest.mark.parametrize("topic", LEGAL_TOPICS)
def test_every_legal_topic_is_accepted(service: Service, topic: str) -> None:
    """By default the service publishes to any topic that Kafka allows, and asks Kafka nothing."""
    assert service.post(callback_topic=topic).status_code == 202


def test_an_operator_may_narrow_the_topics() -> None:
    """Only what one of the patterns matches may be named."""
    service = Service(allowed_callback_topics=("grades.*", "exact"))

    assert refused_fields(service, callback_topic="other.v1") == ["callback_topic"]
    assert refused_fields(service, callback_topic="Exact") == ["callback_topic"]
    assert [service.post(callback_topic=topic).status_code for topic in ("grades.v1", "exact")] == [202, 202]


@pytest.mark.parametrize("missing", ["user_prompt", "essay_a", "essay_b"])
def test_a_missing_text_is_named(service: Service, missing: str) -> None:
    """Each of the three texts is required."""
    fields = body()
    del fields[missing]
    assert [each["field"] for each in refused(service, json.dumps(fields).encode())["errors"]] == [missing]


def test_all_that_is_wrong_is_told_at_once(service: Service) -> None:
    """One answer names every wrong field, so that nobody has to send a body five times."""
    wrong = refused_fields(service, essay_a=1, callback_topic="..", correlation_id="x", metadata=[])

    assert sorted(wrong) == ["callback_topic", "correlation_id", "essay_a", "metadata"]


def test_every_optional_field_may_be_null_or_absent(service: Service) -> None:
    """Null means the same as not sent."""
    texts = {name: body()[name] for name in ("user_prompt", "essay_a", "essay_b")}
    provider = {"provider_override": "openai"}
    names = ("callback_topic", "correlation_id", "user_id", "deadline_seconds", "metadata")
    bare = service.post_raw(json.dumps(texts | {"llm_config_overrides": provider}).encode())
    null = service.post(**dict.fromkeys(names))

    assert (bare.status_code, null.status_code) == (200, 200)
    assert bare.json["metadata"].keys() == null.json["metadata"].keys() == {"prompt_sha256"}


def test_the_limits_themselves_are_allowed(service: Service) -> None:
    """Temperature 0 and 2, one token, metadata of exactly 64 kB and the deepest nesting."""
    for number in (0, 2, 0.0, 2.0):
        overrides = body()["llm_config_overrides"] | {"temperature_override": number, "max_tokens_override": 1}
        assert service.post(llm_config_overrides=overrides).status_code == 200
    frame = len('{"a":""}')
    assert service.post(metadata={"a": "x" * (METADATA_MAX_BYTES - frame)}).status_code == 200
    assert service.post(metadata=NESTED).status_code == 200
    assert service.post(user_id="\N{GRINNING FACE}" * 200).status_code == 200


BLANK = [
    "",
    " \t\r\n\x00\x7f",
    "\N{NO-BREAK SPACE}\N{IDEOGRAPHIC SPACE}\N{LINE SEPARATOR}",
    "\N{ZERO WIDTH SPACE}\N{ZERO WIDTH JOINER}\N{WORD JOINER}\N{ZERO WIDTH NO-BREAK SPACE}\N{SOFT HYPHEN}",
    "\N{HANGUL FILLER}\N{HALFWIDTH HANGUL FILLER}\N{HANGUL CHOSEONG FILLER}\N{BRAILLE PATTERN BLANK}",
    "\N{VARIATION SELECTOR-16}\N{COMBINING GRAPHEME JOINER}\N{TAG LATIN SMALL LETTER A}\N{VARIATION SELECTOR-17}",
]


@pytest.mark.parametrize("blank", BLANK)
def test_an_essay_that_nobody_can_see_is_refused(service: Service, blank: str) -> None:
    """A verdict about nothing costs money; an operator may allow it, and the prompt is the caller's own affair."""
    allowing = Service(allow_empty_essays=True)

    assert refused_fields(service, essay_a=blank) == ["essay_a"]
    assert refused_fields(service, essay_b=blank) == ["essay_b"]
    assert service.post(user_prompt=blank, essay_a=f"{blank}.{blank}").status_code == 200
    assert allowing.post(essay_a=blank, essay_b=blank).status_code == 200


def test_whatever_unicode_calls_space_or_format_is_invisible() -> None:
    """The class of characters is written by hand; Python's own table says whether one is missing."""
    unseen = "".join(char for char in map(chr, range(sys.maxunicode)) if _is_unseen(char))

    assert is_blank(unseen)
    assert not any(is_blank(char) for char in "a.1\N{COMBINING ACUTE ACCENT}\N{CJK UNIFIED IDEOGRAPH-4E00}\ue000")


def _is_unseen(char: str) -> bool:
    return unicodedata.category(char) in {"Zs", "Zl", "Zp", "Cc", "Cf"}


def test_unknown_fields_are_ignored(service: Service) -> None:
    """A newer client is not refused by an older service."""
    overrides = body()["llm_config_overrides"] | {"top_p": 0.9}
    assert service.post(tenant="x", llm_config_overrides=overrides).status_code == 200


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"not json", b"{'a': 1}", b'{"a": 1,}', b'{"a": 1} x', b'{"a": "\x00"}', b'"\\ud800"'],
)
def test_what_is_not_json_is_a_400(service: Service, raw: bytes) -> None:
    """Broken, empty or more than JSON: the answer says that, and where."""
    answer = refused(service, raw)

    assert answer["detail"].startswith("body: Invalid JSON")
    assert [each["field"] for each in answer["errors"]] == ["body"]


@pytest.mark.parametrize("raw", [b"[]", b"null", b'"text"', b"1", b"true", b"[{}]"])
def test_json_that_is_no_object_is_a_400(service: Service, raw: bytes) -> None:
    """The body is an object."""
    assert refused(service, raw)["errors"] == [{"field": "body", "message": "Input should be an object"}]


@pytest.mark.parametrize("depth", [300, 100_000])
def test_a_body_of_brackets_is_a_400(service: Service, depth: int) -> None:
    """Nesting that no parser should follow ends in an answer, not in a stack overflow."""
    assert refused(service, b'{"metadata":' + b"[" * depth + b"]" * depth + b"}")["errors"]


@pytest.mark.parametrize("literal", [b"NaN", b"-Infinity", b"1e999"])
def test_numbers_that_json_cannot_say_are_a_400(service: Service, literal: bytes) -> None:
    """They could be read, and not be written again."""
    raw = json.dumps(body(metadata={"n": 0})).encode().replace(b'"n": 0', b'"n": ' + literal)
    assert [each["field"] for each in refused(service, raw)["errors"]] == ["metadata"]


def test_an_unknown_field_is_json_too(service: Service) -> None:
    """It is ignored, but a body that strict parsers refuse is none."""
    raw = json.dumps(body(unknown=float("nan"))).encode()
    assert [each["field"] for each in refused(service, raw)["errors"]] == ["body"]


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "latin-1"]
)
def test_another_encoding_is_told_which_one_to_use(service: Service, encoding: str) -> None:
    """With or without the mark that says which one it is."""
    raw = json.dumps(body(essay_a="\N{LATIN SMALL LETTER E WITH ACUTE}"), ensure_ascii=False).encode(encoding)
    answer = refused(service, raw)

    assert answer["detail"] == "The body must be UTF-8."
    assert [each["field"] for each in answer["errors"]] == ["body"]


def test_a_byte_order_mark_is_skipped(service: Service) -> None:
    """Editors on Windows put one before UTF-8."""
    assert service.post_raw(codecs.BOM_UTF8 + json.dumps(body()).encode()).status_code == 200


JSON_TYPES = [
    "application/json",
    "Application/JSON; charset=UTF-8",
    'application/json;charset="utf-8"',
    "application/x+json",
]
OTHER_TYPES = [
    "",
    "nonsense",
    "text/plain",
    "text/plain; application/json",
    "text/json",
    "text/x+json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/jsonp",
    "application/json; charset=utf-16",
    "application/json; charset=latin-1",
]


@pytest.mark.parametrize("content_type", JSON_TYPES)
def test_json_is_taken_under_its_names(service: Service, content_type: str) -> None:
    """A type of its own that ends with +json is JSON, too."""
    assert service.post_raw(json.dumps(body()).encode(), content_type=content_type).status_code == 200


@pytest.mark.parametrize("content_type", OTHER_TYPES)
def test_a_body_that_is_not_declared_as_json_is_refused(service: Service, content_type: str) -> None:
    """A stranger's page can post any of these without asking; the answer says what to send."""
    answer = refused(service, json.dumps(body()).encode(), 415, content_type=content_type)

    assert "Content-Type: application/json" in answer["detail"]
    assert answer["error_code"] == "INVALID_REQUEST"


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, deflate", "aes128gcm"])
def test_a_compressed_body_is_refused_by_the_name_of_its_coding(service: Service, coding: str) -> None:
    """As HTTP has it, with what is taken instead."""
    raw = gzip.compress(json.dumps(body()).encode())
    response = service.post_raw(raw, headers={"Content-Encoding": coding})

    assert (response.status_code, response.headers["Accept-Encoding"]) == (415, "identity")
    assert coding.split()[-1] in response.json["detail"]
    assert service.post_raw(json.dumps(body()).encode(), headers={"Content-Encoding": "identity"}).status_code == 200


@pytest.mark.parametrize(
    ("field", "key"),
    [
        (b'"essay_a": "another"', b"essay_a"),
        (b'"\\u0065ssay_a": "another"', b"essay_a"),
        (b'"llm_config_overrides": {"model_override": "a", "model_override": "b"}', b"model_override"),
        (b'"metadata": {"x": [{"deep": 1, "deep": 1}]}', b"deep"),
        (b'"unknown": {"k": 1, "k": 2}', b"k"),
        (b'"metadata": {"%s": 1, "%s": 2}' % (b"n" * 9_999, b"n" * 9_999), b"n" * 100),
    ],
)
def test_a_key_that_stands_twice_is_named(service: Service, field: bytes, key: bytes) -> None:
    """One parser takes the first, another the last; at any depth, and a long one is not repeated whole."""
    fields = {name: body()[name] for name in ("user_prompt", "essay_a", "essay_b")}
    response = refused(service, json.dumps(fields).encode()[:-1] + b", " + field + b"}")

    assert f'duplicate key "{key.decode()}' in response["detail"]
    assert len(json.dumps(response)) < 10_000


def test_metadata_comes_back_as_it_was_sent(service: Service) -> None:
    """Unicode, numbers beyond 64 bits, nulls and odd keys are echoed verbatim, and a key of ours is not overwritten.

    Nor does it pass for one: what the service says then stands under a key that no caller can use.
    """
    metadata = {"": None, "\N{GRINNING FACE}": [1, 1.5, True, {"deep": "\x00 \u2028"}], "n": 10**30, "winner": "me"}
    metadata["prompt_sha256"] = "mine"
    at_once = service.post(metadata=metadata)
    queue_id = service.queue(metadata=metadata)
    service.decide(queue_id)

    for told in (at_once, service.get(f"/api/v1/results/{queue_id}")):
        assert told.json["metadata"].pop(NOTES_KEY).keys() == {"prompt_sha256"}
        assert told.json["metadata"] == metadata


def test_a_request_must_name_its_provider(service: Service) -> None:
    """Without a default provider there is no fallback, and least of all the mock."""
    for overrides in (None, {}, {"provider_override": None}):
        wrong = refused_fields(service, llm_config_overrides=overrides)
        assert wrong == ["llm_config_overrides.provider_override"]


def test_a_default_provider_is_taken_where_none_is_named() -> None:
    """An operator may set one; a caller's own choice still wins."""
    service = Service(default_provider="openai", vendors={"openai": {"api_key": "sk-x"}})
    answers = [service.post(llm_config_overrides=overrides) for overrides in (None, {"provider_override": None})]

    assert [answer.json["provider"] for answer in answers] == ["openai", "openai"]
    assert service.post(llm_config_overrides={"provider_override": "mock"}).status_code == 400


@pytest.mark.parametrize("provider", ["mock", "anthropic", "google", "openrouter"])
def test_a_provider_that_is_not_configured_is_a_400_that_says_so(service: Service, provider: str) -> None:
    """With or without callback topic: a request that could never be served is not accepted."""
    for topic in (None, "grades.v1"):
        raw = json.dumps(body(llm_config_overrides={"provider_override": provider}, callback_topic=topic)).encode()
        answer = refused(service, raw)
        assert answer["detail"] == f"Provider {provider} is not configured here; configured: openai."
        assert answer["error_code"] == "CONFIGURATION_ERROR"


def test_a_correlation_id_is_honoured_in_every_answer(service: Service) -> None:
    """In the answer at once, in the 202, in an error of the provider and in a 400 about another field."""
    mine = str(uuid4())
    answers = [
        service.post(correlation_id=mine),
        service.post(correlation_id=mine, callback_topic="t"),
        service.post(correlation_id=mine, essay_a=1, metadata=[]),
        service.post(correlation_id=mine, llm_config_overrides=None),
    ]

    assert [answer.status_code for answer in answers] == [200, 202, 400, 400]
    assert [answer.json["correlation_id"] for answer in answers] == [mine] * 4


def test_a_correlation_id_is_made_where_none_was_sent(service: Service) -> None:
    """Every answer carries one of its own, the refusal of a broken body included."""
    answers = [service.post(), service.post(), service.post_raw(b"{"), service.post(correlation_id="x")]

    assert len({UUID(answer.json["correlation_id"]) for answer in answers}) == 4


def test_the_made_correlation_id_is_the_stored_one(service: Service) -> None:
    """What the 202 says is what the event will carry."""
    answer = service.post(callback_topic="t").json

    view = service.ledger.view(answer["queue_id"])
    assert view is not None
    assert str(view.request.correlation_id) == answer["correlation_id"]


def test_a_body_of_the_largest_size_is_read_and_one_byte_more_is_not() -> None:
    """Beyond the limit: 413 as a problem document, and nothing queued."""
    raw = json.dumps(body()).encode()
    service = Service(max_body_bytes=len(raw))
    fits, too_large = service.post_raw(raw), service.post_raw(raw + b" ")

    assert (fits.status_code, too_large.status_code) == (200, 413)
    assert too_large.json["errors"] == [{"field": "body", "message": too_large.json["detail"]}]
    assert too_large.mimetype == "application/problem+json"
    assert len(service.provider.calls) == 1
