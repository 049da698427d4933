import java.time.Duration;
import java.util.*;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.*;

/** RoundTrip BOOTSTRAP TOPIC GROUP: 20,000 records through the default producer and a group. */
public class RoundTrip {
    static final int RECORDS = 20_000;
    static final int PARTITIONS = 4;

    static void check(boolean holds, Object what) {
        if (!holds) throw new AssertionError(what);
    }

    public static void main(String[] args) throws Exception {
        String bootstrap = args[0], topic = args[1], group = args[2];
        Map<String, Object> common = Map.of("bootstrap.servers", bootstrap);
        try (Admin admin = Admin.create(common)) {
            admin.createTopics(List.of(new NewTopic(topic, PARTITIONS, (short) 1).configs(Map.of("retention.ms", "-1"))))
                .all().get();
        }
        long base = 1_700_000_000_000L;
        Map<String, Object> settings = new HashMap<>(common);
        settings.put("compression.type", "lz4");
        settings.put("linger.ms", "1");
        settings.put("batch.size", "4096");
        try (Producer<String, String> producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int n = 0; n < RECORDS; n++)
                sent.add(producer.send(new ProducerRecord<>(topic, null, base + n, "k" + n % 53, "" + n)));
            for (Future<RecordMetadata> one : sent) check(one.get().hasOffset(), "an offset");
        }
        settings = new HashMap<>(common);
        settings.put("group.id", group);
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        settings.put("partition.assignment.strategy", CooperativeStickyAssignor.class.getName());
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(topic));
            Set<Integer> values = new HashSet<>();
            Map<String, Integer> last = new HashMap<>();
            long deadline = System.currentTimeMillis() + 60_000;
            while (values.size() < RECORDS && System.currentTimeMillis() < deadline)
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(200))) {
                    int value = Integer.parseInt(record.value());
                    check(values.add(value), "twice: " + value);
                    check(last.getOrDefault(record.key(), -1) < value, "order of " + record.key());
                    last.put(record.key(), value);
                    check(record.timestamp() == base + value, record.timestamp());
                }
            check(values.size() == RECORDS, values.size() + " read");
            consumer.commitSync();
            Set<TopicPartition> partitions = consumer.assignment();
            long committed = 0;
            for (OffsetAndMetadata one : consumer.committed(partitions).values()) committed += one.offset();
            check(committed == RECORDS, "committed " + committed);
            Map<TopicPartition, Long> times = new HashMap<>();
            for (TopicPartition partition : partitions) times.put(partition, base + 15_000);
            long behind = 0;
            for (Map.Entry<TopicPartition, OffsetAndTimestamp> found : consumer.offsetsForTimes(times).entrySet()) {
                check(found.getValue().timestamp() >= base + 15_000, found);
                behind += consumer.endOffsets(List.of(found.getKey())).get(found.getKey()) - found.getValue().offset();
            }
            check(behind == RECORDS - 15_000, "behind the time: " + behind);
        }
        System.out.println("ok");
    }
}
