"""Where Redis is: every form of LLM_PROVIDER_REDIS_URL, and what of it is shown."""

import pytest
from kombu.utils.url import sanitize_url

from llm_provider.redis_address import RedisAddress

SECRET = "s3cr@t/"
FORMS = [
    (
        "redis://127.0.0.1:6379/2",
        RedisAddress("redis", (("127.0.0.1", 6379),), db=2),
        "redis://127.0.0.1:6379/2",
    ),
    ("valkey://", RedisAddress("valkey", (("localhost", 6379),)), "redis://localhost:6379/0"),
    (
        "rediss://user:s3cr%40t%2F@[::1]:6380?ssl_ca_certs=/ca.pem",
        RedisAddress(
            "rediss",
            (("::1", 6380),),
            options={"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca.pem"},
            login={"username": "user", "password": SECRET},
        ),
        "rediss://user:s3cr%40t%2F@[::1]:6380/0",
    ),
    (
        "valkeys://redis.example/1?ssl_cert_reqs=none",
        RedisAddress("valkeys", (("redis.example", 6379),), db=1, options={"ssl_cert_reqs": "none"}),
        "rediss://redis.example:6379/1",
    ),
    (
        "unix://:s3cr%40t%2F@/run/redis.sock?db=3",
        RedisAddress("unix", path="/run/redis.sock", db=3, login={"password": SECRET}),
        "redis+socket://:s3cr%40t%2F@/run/redis.sock?virtual_host=3",
    ),
    (
        "sentinel://:s3cr%40t%2F@one:1,two,[::3]:3/4?service=main&sentinel_username=watch&sentinel_password=s3cr%40t%2F",
        RedisAddress(
            "sentinel",
            (("one", 1), ("two", 26379), ("::3", 3)),
            db=4,
            service="main",
            login={"password": SECRET},
            sentinel_login={"username": "watch", "password": SECRET},
        ),
        "sentinel://:s3cr%40t%2F@one:1/4",
    ),
]


@pytest.mark.parametrize(("url", "address", "celery_url"), FORMS)
def test_every_form_is_understood_and_none_shows_a_password(url: str, address: RedisAddress, celery_url: str) -> None:
    """As an address, and as Celery and flower write it, who mask the password themselves."""
    read = RedisAddress.parse(url)
    assert read == address
    assert read.celery_url == celery_url
    for shown in (repr(read), str(read), sanitize_url(celery_url)):
        assert "s3cr" not in shown


@pytest.mark.parametrize("url", ["redis://:pa?ss=s3cr@host/0", "redis://:s3cr/et@host", "sentinel://:s3cr@host?x=s3cr"])
def test_a_complaint_shows_nothing_of_a_password(url: str) -> None:
    """Also of one that was not written as a URL wants it, and so looks like another part of it."""
    with pytest.raises(ValueError, match=r".") as refused:
        RedisAddress.parse(url)
    assert "s3cr" not in str(refused.value)
