//! Kafka consumer groups as state machines without clock, thread or socket.
