"""transactions.py BOOTSTRAP: a transactional producer is refused within 5 s, for good, with a reason."""
import sys
import time

from confluent_kafka import KafkaException, Producer

producer = Producer({"bootstrap.servers": sys.argv[1], "transactional.id": "refused"})
started = time.monotonic()
try:
    producer.init_transactions(30)
except KafkaException as raised:
    error = raised.args[0]
    took = time.monotonic() - started
    print(f"{took:.2f} s: {error}")
    assert took < 5, took
    assert not error.retriable(), error
    print("ok")
else:
    raise AssertionError("init_transactions succeeded")
