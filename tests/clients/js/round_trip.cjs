// round_trip.cjs BOOTSTRAP TOPIC GROUP: admin, producer and consumer of KafkaJS.
const assert = require("node:assert");
const { Kafka, CompressionTypes, logLevel } = require("kafkajs");

const [bootstrap, topic, group] = process.argv.slice(2);
const kafka = new Kafka({ clientId: "kafkajs-test", brokers: [bootstrap], logLevel: logLevel.ERROR });
const RECORDS = 3000;

async function main() {
  const admin = kafka.admin();
  await admin.connect();
  await admin.createTopics({ topics: [{ topic, numPartitions: 3, configEntries: [{ name: "retention.ms", value: "-1" }] }], waitForLeaders: true });
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  const base = 1700000000000;
  for (let n = 0; n < RECORDS; n += 100) {
    const messages = [];
    for (let i = n; i < n + 100; i++) messages.push({ key: `k${i % 11}`, value: `${i}`, timestamp: `${base + i}`, headers: { n: `${i}` } });
    await producer.send({ topic, compression: CompressionTypes.GZIP, messages });
  }
  await producer.disconnect();

  const consumer = kafka.consumer({ groupId: group, sessionTimeout: 6000 });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  const seen = new Set();
  const last = new Map();
  let take;
  // Begins something, then gives each message to `taking` until that says that it was the last.
  const readUntil = (what, begin, taking) => new Promise((resolve, reject) => {
    const limit = setTimeout(() => reject(new Error(`not all of ${what} was read`)), 60000);
    take = (partition, message) => {
      try {
        if (taking(partition, message)) { clearTimeout(limit); resolve(); }
      } catch (error) { reject(error); }
    };
    Promise.resolve(begin()).catch(reject);
  });
  const run = () => consumer.run({ eachMessage: async ({ partition, message }) => take(partition, message) });
  await readUntil("the topic", run, (_, message) => {
    const value = Number(message.value);
    assert(!seen.has(value), `twice: ${value}`);
    seen.add(value);
    const key = message.key.toString();
    assert((last.get(key) ?? -1) < value, `order of ${key}`);
    last.set(key, value);
    assert.equal(message.headers.n.toString(), `${value}`);
    assert.equal(Number(message.timestamp), base + value);
    return seen.size === RECORDS;
  });

  const sum = (offsets) => offsets.reduce((total, one) => total + Number(one.offset), 0);
  const high = await admin.fetchTopicOffsets(topic);
  assert.equal(sum(high), RECORDS);

  // Back into the middle of a partition: that one comes again from there on, and nothing else does.
  const end = Number(high.find((one) => one.partition === 1).offset);
  const middle = Math.floor(end / 2);
  assert(middle > 0, `partition 1 ends at ${end}`);
  let next = middle;
  await readUntil("what was sought", () => consumer.seek({ topic, partition: 1, offset: `${middle}` }), (partition, message) => {
    assert.deepEqual([partition, Number(message.offset)], [1, next]);
    assert(seen.has(Number(message.value)));
    next += 1;
    return next === end;
  });
  await consumer.disconnect();
  assert.equal(sum((await admin.fetchOffsets({ groupId: group, topics: [topic] }))[0].partitions), RECORDS);
  const ends = await admin.fetchTopicOffsets(topic);
  const times = await admin.fetchTopicOffsetsByTimestamp(topic, base + 1000);
  assert.equal(sum(ends) - sum(times), RECORDS - 1000);
  const described = await admin.describeGroups([group]);
  assert.equal(described.groups[0].state, "Empty");
  await admin.deleteGroups([group]);
  await admin.deleteTopics({ topics: [topic] });
  await admin.disconnect();
  console.log("ok");
}

main().catch((error) => { console.error(error); process.exit(1); });
