//! `produce`: what is sent where a line is bad.

use crate::{run_with, shared, well};

/// A bad line of JSONL names its number; what stands before it is sent, nothing after it.
#[test]
fn jsonl_stops_at_the_first_bad_line() {
    well("topic create lines");
    let input = "{\"value\":\"one\"}\n{\"value\":\"two\"}\n{\"valu\":\"three\"}\n{\"value\":\"four\"}\n";
    let ran = run_with(shared(), "produce lines --jsonl", input);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.stderr.contains("line 3") && ran.stderr.contains("valu"), "{}", ran.stderr);
    let read = well("consume lines -o start -e -f %v\\n");
    assert_eq!(read.stdout, "one\ntwo\n");
}
