"""seek_by_time.py BOOTSTRAP TOPIC: offsets for times, and reading from there."""
import sys

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

bootstrap, topic = sys.argv[1:]
admin = AdminClient({"bootstrap.servers": bootstrap})
admin.create_topics(
    [NewTopic(topic, 1, 1, config={"retention.ms": "-1"})])[topic].result(20)
producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})
base = 1_700_000_000_000
for n in range(1000):
    producer.produce(topic, value=str(n), timestamp=base + 10 * n)
    if n % 50 == 0:
        producer.flush(20)
assert producer.flush(20) == 0

consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic, "enable.auto.commit": False})


def offset_at(timestamp):
    return consumer.offsets_for_times([TopicPartition(topic, 0, timestamp)], timeout=20)[0].offset


assert offset_at(base) == 0
assert offset_at(base + 5001) == 501
assert offset_at(base + 9990) == 999
# librdkafka turns "none" into the end of the partition
assert offset_at(base + 9991) == -1
consumer.assign([TopicPartition(topic, 0, 501)])
message = consumer.poll(20)
assert message and int(message.value()) == 501 and message.timestamp()[1] == base + 5010, message
assert consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=20) == (0, 1000)
consumer.close()
print("ok")
