//! Outside clients, unchanged, against the real binary. `README.md` says what each needs and how it is fetched.
//!
//! Set `ALLUVIUM_TEST_BOOTSTRAP=host:port` to run the same tests against another broker, for example a real Kafka: they
//! pass there too (but for the refusal of transactions, which is ours).

#[path = "../support/mod.rs"]
mod support;

mod franz_go;
mod java;
mod kafkajs;
mod kcat;
mod python;
mod target;
