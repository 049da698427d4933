//! JSON documents: each is what `cli.schema.json` says, whatever the command did.

use serde_json::{Map, Value};

use crate::{Ran, Running, eventually, records_in, rows, run, run_with, shared, topic, well};

/// The JSON document of a command, checked against the schema.
pub(crate) fn document(ran: &Ran) -> Value {
    let document = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    let schema = serde_json::from_str(include_str!("cli.schema.json")).expect("the schema");
    if let Err(why) = check(&document, &schema) {
        panic!("{why}: {document}");
    }
    document
}

/// Checks a value against the part of JSON Schema that our schema uses; a keyword outside of it is a failure, too.
fn check(value: &Value, schema: &Value) -> Result<(), String> {
    let properties = schema.get("properties").and_then(Value::as_object);
    for (keyword, rule) in schema.as_object().expect("a schema") {
        match keyword.as_str() {
            "$schema" | "title" | "description" => {}
            "const" if value == rule => {}
            "type" if is_of_type(value, rule) => {}
            "required" => {
                let missing = rule
                    .as_array()
                    .expect("names")
                    .iter()
                    .find(|name| value.get(name.as_str().expect("a name")).is_none());
                if let Some(name) = missing {
                    return Err(format!("{name} is missing"));
                }
            }
            "additionalProperties" if rule == false => {
                let known = |name: &String| properties.is_some_and(|known| known.contains_key(name));
                if let Some(name) =
                    value.as_object().map(Map::keys).and_then(|mut names| names.find(|name| !known(name)))
                {
                    return Err(format!("{name} is not in the schema"));
                }
            }
            "properties" => {
                for (name, schema) in rule.as_object().expect("properties") {
                    if let Some(value) = value.get(name) {
                        check(value, schema).map_err(|why| format!("{name}: {why}"))?;
                    }
                }
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    check(item, rule)?;
                }
            }
            _ => return Err(format!("{keyword} {rule} does not hold for {value}")),
        }
    }
    Ok(())
}

fn is_of_type(value: &Value, types: &Value) -> bool {
    match types {
        Value::Array(types) => types.iter().any(|one| is_of_type(value, one)),
        one => match one.as_str().expect("a type") {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "null" => value.is_null(),
            other => panic!("type {other}"),
        },
    }
}

/// The check itself refuses what the schema does not allow.
#[test]
fn the_schema_is_not_empty_talk() {
    let error = r#"{"item":"t","code":3,"name":"N","message":"m"}"#;
    let ran = |stdout: String| Ran { code: 0, stdout, stderr: String::new() };
    document(&ran(format!(r#"{{"v":1,"command":"c","data":[{{}}],"errors":[{error}]}}"#)));
    for wrong in [
        r#"{"v":2,"command":"c","data":[],"errors":[]}"#.to_owned(),
        r#"{"v":1,"command":"c","data":[1],"errors":[]}"#.to_owned(),
        r#"{"v":1,"command":"c","data":[]}"#.to_owned(),
        r#"{"v":1,"command":"c","data":[],"errors":[],"more":1}"#.to_owned(),
        r#"{"v":1,"command":"c","data":[],"errors":[{"item":"t"}]}"#.to_owned(),
        format!(r#"{{"v":1,"command":"c","data":[],"errors":[{}]}}"#, error.replace('3', "\"3\"")),
    ] {
        let refused = std::panic::catch_unwind(|| document(&ran(wrong.clone())));
        assert!(refused.is_err(), "{wrong}");
    }
}

/// Commands that change something say in JSON what they did to each item, and what they could not do.
#[test]
fn commands_that_change_something_answer_in_json() {
    let created = rows(&well("topic create made made-too --partitions 2 -O json"));
    assert_eq!(created.len(), 2);
    assert_eq!((&created[0]["name"], &created[0]["result"]), (&"made".into(), &"created".into()));
    let again = run("topic create made made-three -O json");
    assert_eq!(again.code, 1, "{again:?}");
    let again = document(&again);
    assert_eq!(
        (&again["data"][0]["name"], &again["errors"][0]["item"]),
        (&"made-three".into(), &"made".into())
    );
    assert_eq!(again["errors"][0]["code"], 36);

    let values = rows(&well("produce made one two -k key -O json"));
    assert_eq!(values.len(), 2);
    assert_eq!((&values[0]["offset"], &values[1]["offset"]), (&0.into(), &1.into()));
    let stream = run_with(shared(), "produce made -O json", "three\nfour\n");
    assert_eq!((stream.code, &rows(&stream)[0]["records"]), (0, &2.into()), "{stream:?}");

    let consumed = rows(&well("consume made -e -g makers -O json"));
    assert_eq!(consumed.len(), 4);
    assert!(consumed.iter().all(|record| record["topic"] == "made" && record["value"].is_string()));

    let deleted = run("group delete makers no-such-group --yes -O json");
    assert_eq!(deleted.code, 3, "{deleted:?}");
    let deleted = document(&deleted);
    assert_eq!(
        (&deleted["data"][0]["group"], &deleted["data"][0]["result"]),
        (&"makers".into(), &"deleted".into())
    );
    assert_eq!(deleted["errors"][0]["item"], "no-such-group");

    let deleted = rows(&well("topic delete made made-too made-three --yes -O json"));
    assert_eq!(deleted.len(), 3);
    assert!(deleted.iter().all(|topic| topic["result"] == "deleted"), "{deleted:?}");
}

/// Ctrl-C ends a command with 130, and its document is whole.
#[test]
fn an_interrupt_ends_with_130() {
    topic("interrupted", 3);
    for line in ["consume interrupted -O json", "consume interrupted -g interrupted -O json"] {
        let mut running = Running::start(shared(), line);
        // The beginning of the document and a record, which ends where the next begins.
        let printed = [running.line(), running.line()].join("\n");
        running.interrupt();
        let mut ran = running.end();
        assert_eq!(ran.code, 130, "{line}: {ran:?}");
        ran.stdout = format!("{printed}\n{}", ran.stdout);
        let read = i64::try_from(rows(&ran).len()).expect("few");
        assert!(read >= 1, "{line}: {ran:?}");
        if line.contains("-g") {
            let group = rows(&well("group describe interrupted -O json"));
            assert!(group.iter().all(|row| row["member"].is_null()), "it has left: {group:?}");
            let lag: i64 = group.iter().filter_map(|row| row["lag"].as_i64()).sum();
            assert_eq!(lag, 3 - read, "what was printed is committed: {group:?}");
        }
    }

    let mut running = Running::start(shared(), "produce interrupted -O json");
    std::io::Write::write_all(running.stdin.as_mut().expect("a pipe"), b"one\n").expect("a reader");
    eventually("the record arrives", || records_in("interrupted") == 4);
    running.interrupt();
    let ran = running.end();
    assert_eq!((ran.code, &rows(&ran)[0]["records"]), (130, &1.into()), "{ran:?}");

    let mut running = Running::start(shared(), "group lag interrupted -w -O jsonl");
    running.line();
    running.interrupt();
    assert_eq!(running.end().code, 130);
}

/// `group lag -w` is endless, and in JSON and CSV still one document, which is whole whatever ends it.
#[test]
fn a_watch_is_one_document() {
    topic("watched", 4);
    well("consume watched -g watchers -e -f %v\\n");
    let mut running = Running::start(shared(), "group lag watchers -w -O json");
    // Its beginning, and three rounds of two partitions.
    let printed: String = (0..7).map(|_| running.line() + "\n").collect();
    running.interrupt();
    let mut ran = running.end();
    assert_eq!(ran.code, 130, "{ran:?}");
    ran.stdout = printed + &ran.stdout;
    let rounds = rows(&ran);
    assert!(rounds.len() >= 6 && rounds.len().is_multiple_of(2), "{rounds:?}");
    for (row, at) in rounds.iter().zip(0..) {
        let expected = (&(at % 2).into(), &2.into(), &0.into());
        assert_eq!((&row["partition"], &row["log_end"], &row["lag"]), expected, "{rounds:?}");
    }

    let mut running = Running::start(shared(), "group lag watchers -w --max 0 -O json");
    let printed = [running.line(), running.line(), running.line()].join("\n");
    well("produce watched one-more -k k0");
    let mut ran = running.end();
    assert_eq!(ran.code, 6, "{ran:?}");
    ran.stdout = printed + "\n" + &ran.stdout;
    let document = document(&ran);
    let errors = document["errors"].as_array().expect("errors");
    assert_eq!((errors.len(), &errors[0]["name"]), (1, &"LAG_OVER_THRESHOLD".into()), "{document}");
    let last = document["data"].as_array().expect("rows").iter().rev().take(2);
    assert_eq!(last.filter_map(|row| row["lag"].as_i64()).sum::<i64>(), 1, "{document}");

    let ran = run_with("127.0.0.1:1", "group lag watchers -w -O json", "");
    assert_eq!((ran.code, ran.stderr.as_str()), (4, ""), "{ran:?}");
    assert_eq!(self::document(&ran)["errors"][0]["item"], "127.0.0.1:1", "{ran:?}");

    let mut running = Running::start(shared(), "group lag watchers -w -O csv");
    assert_eq!(running.line(), "group,topic,partition,committed,log-end,lag");
    for partition in [0, 1, 0, 1] {
        assert!(running.line().starts_with(&format!("watchers,watched,{partition},2,")));
    }
    running.interrupt();
    assert_eq!(running.end().code, 130);
}
