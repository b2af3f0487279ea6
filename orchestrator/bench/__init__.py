"""Throughput and latency beside plain aiokafka moving the same records, in one run."""
