"""group.py BOOTSTRAP TOPIC GROUP: an idempotent producer, then two members of one group that read everything between them."""
import sys
import threading

from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewTopic

bootstrap, topic, group = sys.argv[1:]
RECORDS, PARTITIONS = 20_000, 6

admin = AdminClient({"bootstrap.servers": bootstrap})
admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(20)

failed = []
producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 1, "batch.size": 4096})
for n in range(RECORDS):
    while True:
        try:
            producer.produce(topic, key=str(n % 97), value=str(n), on_delivery=lambda e, m: e and failed.append(e))
            break
        except BufferError:
            producer.poll(0.1)
    producer.poll(0)
assert producer.flush(60) == 0, "records left in the queue"
assert not failed, failed[:3]

seen, lock, done = {}, threading.Lock(), threading.Event()


def member():
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest",
                         "enable.auto.commit": False, "session.timeout.ms": 6000})
    consumer.subscribe([topic])
    while not done.is_set():
        message = consumer.poll(0.2)
        if message is None:
            continue
        assert not message.error() or message.error().code() == KafkaError._PARTITION_EOF, message.error()
        with lock:
            seen[(message.partition(), message.offset())] = (message.key(), int(message.value()))
            if len(seen) == RECORDS:
                done.set()
    consumer.close()


members = [threading.Thread(target=member) for _ in range(2)]
for m in members:
    m.start()
done.wait(90) or done.set()
for m in members:
    m.join()
assert len(seen) == RECORDS, f"{len(seen)} of {RECORDS} read"
assert sorted(v for _, v in seen.values()) == list(range(RECORDS)), "each value once"
last = {}
for position in sorted(seen):
    key, value = seen[position]
    assert last.get(key, -1) < value, f"key {key}: {value} behind {last[key]}"
    last[key] = value

committer = Consumer({"bootstrap.servers": bootstrap, "group.id": group + "-commits", "enable.auto.commit": False})
from confluent_kafka import TopicPartition  # noqa: E402

committed = committer.commit(offsets=[TopicPartition(topic, p, 10 + p) for p in range(PARTITIONS)], asynchronous=False)
assert all(c.error is None for c in committed), committed
read = committer.committed([TopicPartition(topic, p) for p in range(PARTITIONS)], timeout=20)
assert [r.offset for r in read] == [10 + p for p in range(PARTITIONS)], read
committer.close()
print("ok")
