"""group.py BOOTSTRAP TOPIC GROUP: two members of one group, each with half of the partitions, read what an idempotent producer sends."""
import sys
import threading

from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewTopic

bootstrap, topic, group = sys.argv[1:]
RECORDS, PARTITIONS = 20_000, 6

admin = AdminClient({"bootstrap.servers": bootstrap})
admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(20)

seen, lock, done = {}, threading.Lock(), threading.Event()
owned, shared = [set(), set()], threading.Event()


def member(number):
    def changed(change):
        def callback(_, partitions):
            with lock:
                change(owned[number], {p.partition for p in partitions})
                if all(len(of) == PARTITIONS // 2 for of in owned):
                    shared.set()
        return callback

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest",
                         "enable.auto.commit": False, "session.timeout.ms": 6000, "heartbeat.interval.ms": 500})
    consumer.subscribe([topic], on_assign=changed(set.update), on_revoke=changed(set.difference_update))
    while not done.is_set():
        message = consumer.poll(0.2)
        if message is None:
            continue
        assert not message.error() or message.error().code() == KafkaError._PARTITION_EOF, message.error()
        with lock:
            position = (message.partition(), message.offset())
            assert position not in seen, f"{position} by member {seen[position][0]} and member {number}"
            seen[position] = (number, message.key(), int(message.value()))
            if len(seen) == RECORDS:
                done.set()
    consumer.close()


members = [threading.Thread(target=member, args=(number,), daemon=True) for number in range(2)]
for m in members:
    m.start()
assert shared.wait(60), f"the members own {owned}"
shares = [set(of) for of in owned]
assert set.union(*shares) == set(range(PARTITIONS)), shares

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

done.wait(90) or done.set()
for m in members:
    m.join()
assert len(seen) == RECORDS, f"{len(seen)} of {RECORDS} read"
assert sorted(v for _, _, v in seen.values()) == list(range(RECORDS)), "each value once"
by = [{partition for (partition, _), (number, _, _) in seen.items() if number == of} for of in range(2)]
assert by == shares, f"{by} were read, {shares} were owned"
last = {}
for position in sorted(seen):
    _, key, value = seen[position]
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
