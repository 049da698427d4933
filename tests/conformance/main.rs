//! Behaviour on the wire, item by item, against the real binary. Each test names the items that it proves; the letters are those of the
//! checklist: W framing, V versions, M metadata, P produce, I idempotence, F fetch, L offsets, G groups, O commits, A administration.

#[path = "../support/mod.rs"]
mod support;

mod admin;
mod against_kafka;
mod batches;
mod every_version;
mod fetch;
mod framing;
mod groups;
mod hostile;
mod idempotence;
mod metadata;
mod offsets;
mod operations;
mod produce;
mod requests;
mod versions;
