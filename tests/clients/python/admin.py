"""admin.py BOOTSTRAP TOPIC GROUP: topics and groups by the admin client."""
import sys

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

bootstrap, topic, group = sys.argv[1:]
admin = AdminClient({"bootstrap.servers": bootstrap})


def refused(future, code):
    try:
        future.result(20)
    except KafkaException as error:
        assert error.args[0].code() == code, error
        return
    raise AssertionError(f"expected error {code}")


new = NewTopic(topic, 3, 1, config={"cleanup.policy": "compact", "segment.bytes": "52428800"})
admin.create_topics([new])[topic].result(20)
refused(admin.create_topics([new])[topic], KafkaError.TOPIC_ALREADY_EXISTS)
bad = topic + "-bad"
refused(admin.create_topics([NewTopic(bad, 1, 1, config={"no.such.setting": "1"})])[bad], KafkaError.INVALID_CONFIG)
refused(admin.create_topics([NewTopic(bad, 1, 9)])[bad], KafkaError.INVALID_REPLICATION_FACTOR)

listed = admin.list_topics(timeout=20).topics
assert len(listed[topic].partitions) == 3 and bad not in listed
resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
configs = admin.describe_configs([resource])[resource].result(20)
assert configs["cleanup.policy"].value == "compact" and not configs["cleanup.policy"].is_default
assert configs["segment.bytes"].value == "52428800"
assert configs["retention.ms"].value == "604800000" and configs["retention.ms"].is_default
cluster = admin.describe_cluster().result(20)
assert cluster.controller.id == 1 and [n.id for n in cluster.nodes] == [1] and cluster.cluster_id

producer = Producer({"bootstrap.servers": bootstrap})
for n in range(30):
    producer.produce(topic, key=str(n), value=str(n))
assert producer.flush(20) == 0
consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest", "session.timeout.ms": 6000})
consumer.subscribe([topic])
read = 0
while read < 30:
    message = consumer.poll(20)
    assert message and not message.error(), message
    read += 1
described = admin.describe_consumer_groups([group])[group].result(20)
assert described.state.name == "STABLE" and len(described.members) == 1, described.state
assert sum(len(m.assignment.topic_partitions) for m in described.members) == 3
assert group in [g.group_id for g in admin.list_consumer_groups().result(20).valid]
refused(admin.delete_consumer_groups([group])[group], KafkaError.NON_EMPTY_GROUP)
consumer.close()
admin.delete_consumer_groups([group])[group].result(20)
refused(admin.delete_consumer_groups([group])[group], KafkaError.GROUP_ID_NOT_FOUND)
admin.delete_topics([topic])[topic].result(20)
refused(admin.delete_topics([topic])[topic], KafkaError.UNKNOWN_TOPIC_OR_PART)
print("ok")
