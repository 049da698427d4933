//! The real process, killed at any moment: nothing acknowledged is lost, nothing appears twice, order holds.

#[path = "../support/mod.rs"]
mod support;

mod history;
