import java.time.Duration;
import java.util.*;
import java.util.concurrent.Future;
import java.util.function.BooleanSupplier;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;

/** RoundTrip BOOTSTRAP TOPIC GROUP: 20,000 records through the default producer and a cooperative group of two. */
public class RoundTrip {
    static final int RECORDS = 20_000;
    static final int PARTITIONS = 4;
    static final long BASE = 1_700_000_000_000L;

    static void check(boolean holds, Object what) {
        if (!holds) throw new AssertionError(what);
    }

    static void produce(Producer<String, String> producer, String topic, int from, int to) throws Exception {
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (int n = from; n < to; n++)
            sent.add(producer.send(new ProducerRecord<>(topic, null, BASE + n, "k" + n % 53, "" + n)));
        for (Future<RecordMetadata> one : sent) check(one.get().hasOffset(), "an offset");
    }

    /** A consumer, with what it owns as its listener is told. */
    static class Member implements ConsumerRebalanceListener, AutoCloseable {
        static final Set<Integer> values = new HashSet<>();
        static final Map<String, Integer> last = new HashMap<>();
        final KafkaConsumer<String, String> consumer;
        final Set<TopicPartition> owned = new HashSet<>();
        /** After a revocation. */
        int least = PARTITIONS;
        int revocations = 0, later = 0;

        Member(Map<String, Object> settings, String topic) {
            consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
            consumer.subscribe(List.of(topic), this);
        }

        void pollUntil(BooleanSupplier holds) {
            long deadline = System.currentTimeMillis() + 60_000;
            while (!holds.getAsBoolean()) {
                check(System.currentTimeMillis() < deadline, owned + ", " + values.size() + " read");
                poll();
            }
        }

        void poll() {
            for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(50))) {
                int value = Integer.parseInt(record.value());
                check(values.add(value), "twice: " + value);
                check(last.getOrDefault(record.key(), -1) < value, "order of " + record.key());
                last.put(record.key(), value);
                check(record.timestamp() == BASE + value, record.timestamp());
                if (value >= RECORDS / 2) later++;
            }
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            owned.addAll(partitions);
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            if (partitions.isEmpty()) return;
            revocations++;
            owned.removeAll(partitions);
            least = Math.min(least, owned.size());
            // Whoever gets them goes on where this one ends.
            consumer.commitSync();
        }

        @Override
        public void onPartitionsLost(Collection<TopicPartition> partitions) {
            throw new AssertionError("lost: " + partitions);
        }

        @Override
        public void close() {
            consumer.close();
        }
    }

    public static void main(String[] args) throws Exception {
        String bootstrap = args[0], topic = args[1], group = args[2];
        Map<String, Object> common = Map.of("bootstrap.servers", bootstrap);
        try (Admin admin = Admin.create(common)) {
            admin.createTopics(List.of(new NewTopic(topic, PARTITIONS, (short) 1).configs(Map.of("retention.ms", "-1"))))
                .all().get();
        }
        Map<String, Object> settings = new HashMap<>(common);
        settings.put("compression.type", "lz4");
        settings.put("linger.ms", "1");
        settings.put("batch.size", "4096");
        Producer<String, String> producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
        produce(producer, topic, 0, RECORDS / 2);
        settings = new HashMap<>(common);
        settings.put("group.id", group);
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        settings.put("partition.assignment.strategy", CooperativeStickyAssignor.class.getName());
        settings.put("heartbeat.interval.ms", "300");
        try (producer; Member first = new Member(settings, topic); Member second = new Member(settings, topic)) {
            first.pollUntil(() -> first.owned.size() == PARTITIONS);
            Set<TopicPartition> before = Set.copyOf(first.owned);
            // It gives up what the second gets, in one step, and keeps the rest throughout.
            second.pollUntil(() -> {
                first.poll();
                return second.owned.size() == PARTITIONS / 2;
            });
            check(first.revocations == 1 && second.revocations == 0, first.revocations + " and " + second.revocations);
            check(first.owned.size() == PARTITIONS / 2 && first.least == PARTITIONS / 2, first.owned + ", once " + first.least);
            Set<TopicPartition> both = new HashSet<>(first.owned);
            both.addAll(second.owned);
            check(both.equals(before), first.owned + " " + second.owned);
            produce(producer, topic, RECORDS / 2, RECORDS);
            second.pollUntil(() -> {
                first.poll();
                return Member.values.size() == RECORDS;
            });
            check(first.later > 0 && second.later > 0, first.later + " and " + second.later);
            first.consumer.commitSync();
            second.consumer.commitSync();
            KafkaConsumer<String, String> consumer = first.consumer;
            Set<TopicPartition> partitions = both;
            long committed = 0;
            for (OffsetAndMetadata one : consumer.committed(partitions).values()) committed += one.offset();
            check(committed == RECORDS, "committed " + committed);
            Map<TopicPartition, Long> times = new HashMap<>();
            for (TopicPartition partition : partitions) times.put(partition, BASE + 15_000);
            long behind = 0;
            for (Map.Entry<TopicPartition, OffsetAndTimestamp> found : consumer.offsetsForTimes(times).entrySet()) {
                check(found.getValue().timestamp() >= BASE + 15_000, found);
                behind += consumer.endOffsets(List.of(found.getKey())).get(found.getKey()) - found.getValue().offset();
            }
            check(behind == RECORDS - 15_000, "behind the time: " + behind);
        }
        System.out.println("ok");
    }
}
