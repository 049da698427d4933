import java.util.Map;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.errors.RetriableException;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.serialization.StringSerializer;

/** Transactions BOOTSTRAP: a transactional producer is refused within 5 s, for good, with a reason. */
public class Transactions {
    public static void main(String[] args) {
        Map<String, Object> settings = Map.of("bootstrap.servers", args[0], "transactional.id", "refused");
        long started = System.nanoTime();
        try (Producer<String, String> producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            try {
                producer.initTransactions();
            } catch (KafkaException error) {
                double took = (System.nanoTime() - started) / 1e9;
                System.out.printf("%.2f s: %s%n", took, error);
                if (took > 5) throw new AssertionError("took " + took);
                if (error instanceof RetriableException || error instanceof TimeoutException) throw new AssertionError(error);
                System.out.println("ok");
                return;
            }
            throw new AssertionError("initTransactions succeeded");
        }
    }
}
