//! Records as JSON lines, in and out.
//!
//! ```text
//! {"topic":"t","partition":0,"offset":7,"timestamp":1700000000000,"key":"k","value":"v","headers":[["h","x"]]}
//! ```
//! Bytes are a string where they are UTF-8, else `{"base64":".."}`; a null key, value or header value is `null`. On
//! the way in only `value` or `key` need be there, `timestamp` may be RFC 3339, `topic` and `offset` are accepted and
//! ignored (the command line names the topic, the broker the offset), and anything else is an error that names the line.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::time::parse_instant;

/// A record as a consumer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConsumedRecord {
    /// Topic.
    pub(crate) topic: std::sync::Arc<str>,
    /// Partition.
    pub(crate) partition: i32,
    /// Offset.
    pub(crate) offset: i64,
    /// Milliseconds since the epoch, -1 where the record has none.
    pub(crate) timestamp: i64,
    /// Key.
    pub(crate) key: Option<Bytes>,
    /// Value.
    pub(crate) value: Option<Bytes>,
    /// Headers in order.
    pub(crate) headers: Vec<(Bytes, Option<Bytes>)>,
}

/// A record to produce.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProducedRecord {
    /// Partition, or `None` for one by key.
    pub(crate) partition: Option<i32>,
    /// Milliseconds since the epoch, or `None` for now.
    pub(crate) timestamp: Option<i64>,
    /// Key.
    pub(crate) key: Option<Bytes>,
    /// Value.
    pub(crate) value: Option<Bytes>,
    /// Headers in order.
    pub(crate) headers: Vec<(Bytes, Option<Bytes>)>,
}

/// The record as a JSON object.
pub(crate) fn to_json(record: &ConsumedRecord) -> Value {
    let headers = record.headers.iter().map(|(name, value)| (&name[..], value.as_deref()));
    let mut object = Map::new();
    object.insert("topic".to_owned(), Value::from(&*record.topic));
    object.insert("partition".to_owned(), Value::from(record.partition));
    object.insert("offset".to_owned(), Value::from(record.offset));
    object.insert("timestamp".to_owned(), Value::from(record.timestamp));
    object.insert("key".to_owned(), bytes_to_json(record.key.as_deref()));
    object.insert("value".to_owned(), bytes_to_json(record.value.as_deref()));
    object.insert("headers".to_owned(), headers_to_json(headers));
    Value::Object(object)
}

/// Headers as they stand in a line.
pub(crate) fn headers_to_json<'a>(headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>) -> Value {
    headers.map(|(name, value)| Value::Array(vec![bytes_to_json(Some(name)), bytes_to_json(value)])).collect()
}

/// A key or a value as it stands in a line.
pub(crate) fn bytes_to_json(bytes: Option<&[u8]>) -> Value {
    match bytes {
        None => Value::Null,
        Some(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::from(text),
            Err(_) => serde_json::json!({ "base64": encode_base64(bytes) }),
        },
    }
}

/// Parses one line.
///
/// # Errors
/// What is wrong with the line; the caller knows its number.
pub(crate) fn parse_line(line: &[u8]) -> Result<ProducedRecord, String> {
    let value: Value = serde_json::from_slice(line).map_err(|error| format!("not JSON: {error}"))?;
    let Value::Object(object) = value else {
        return Err("not a JSON object".to_owned());
    };
    let mut record = ProducedRecord::default();
    for (field, value) in &object {
        let ill_typed = |wanted: &str| format!("field '{field}' is not {wanted}");
        match field.as_str() {
            "topic" if value.is_string() => {}
            "topic" => return Err(ill_typed("a string")),
            "offset" if value.is_i64() => {}
            "offset" => return Err(ill_typed("a number")),
            "partition" => {
                let partition = value.as_i64().and_then(|number| i32::try_from(number).ok());
                record.partition = match (partition.filter(|number| *number >= 0), value.is_null()) {
                    (None, false) => return Err(ill_typed("a partition number")),
                    (partition, _) => partition,
                };
            }
            "timestamp" => {
                record.timestamp = match value {
                    Value::Null => None,
                    Value::Number(number) => {
                        Some(number.as_i64().ok_or_else(|| ill_typed("a whole number of milliseconds"))?)
                    }
                    Value::String(text) => {
                        Some(parse_instant(text).ok_or_else(|| ill_typed("a time (RFC 3339)"))?)
                    }
                    _ => return Err(ill_typed("milliseconds or RFC 3339")),
                };
            }
            "key" => record.key = json_to_bytes(value).ok_or_else(|| ill_typed(BYTES))?,
            "value" => record.value = json_to_bytes(value).ok_or_else(|| ill_typed(BYTES))?,
            "headers" => {
                record.headers = parse_headers(value).ok_or_else(|| ill_typed("[[name, value], ..]"))?
            }
            _ => return Err(format!("unknown field '{field}'")),
        }
    }
    if !object.contains_key("value") && !object.contains_key("key") {
        return Err("neither 'value' nor 'key' is there".to_owned());
    }
    Ok(record)
}

const BYTES: &str = "a string, null or {\"base64\": \"..\"}";

fn parse_headers(value: &Value) -> Option<Vec<(Bytes, Option<Bytes>)>> {
    let Value::Array(items) = value else {
        return value.is_null().then(Vec::new);
    };
    items
        .iter()
        .map(|item| match item.as_array().map(Vec::as_slice) {
            Some([name, value]) => Some((json_to_bytes(name)??, json_to_bytes(value)?)),
            _ => None,
        })
        .collect()
}

/// `Some(None)` is null; `None` is an ill-typed value.
fn json_to_bytes(value: &Value) -> Option<Option<Bytes>> {
    match value {
        Value::Null => Some(None),
        Value::String(text) => Some(Some(Bytes::from(text.clone()))),
        Value::Object(object) if object.len() == 1 => {
            Some(Some(Bytes::from(decode_base64(object.get("base64")?.as_str()?)?)))
        }
        _ => None,
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 (RFC 4648, standard alphabet, padded).
pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group =
            (0..3).fold(0_u32, |group, at| group << 8 | u32::from(chunk.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            match at <= chunk.len() {
                true => text.push(char::from(ALPHABET[(group >> (18 - 6 * at)) as usize & 63])),
                false => text.push('='),
            }
        }
    }
    text
}

/// The inverse of [`encode_base64`]; the padding may be missing.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    if text.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in text.as_bytes().chunks(4) {
        let mut group = 0_u32;
        for letter in chunk {
            let digit = ALPHABET.iter().position(|known| known == letter)?;
            group = group << 6 | u32::try_from(digit).ok()?;
        }
        group <<= 6 * (4 - chunk.len());
        let [_, whole @ ..] = group.to_be_bytes();
        bytes.extend_from_slice(&whole[..chunk.len() - 1]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    #[test]
    fn base64_of_rfc_4648() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode_base64(plain.as_bytes()), coded);
            assert_eq!(decode_base64(coded).unwrap(), plain.as_bytes());
        }
        assert_eq!(decode_base64("Zm9*"), None);
        assert_eq!(decode_base64("Z"), None);
    }

    #[test]
    fn lines_in() {
        let record = parse_line(
            br#"{"key":"N1","value":null,"timestamp":"2013-01-15T00:00Z","headers":[["a",null],["a","b"]]}"#,
        )
        .unwrap();
        assert_eq!(record.key.as_deref(), Some(&b"N1"[..]));
        assert_eq!(record.value, None);
        assert_eq!(record.timestamp, Some(1_358_208_000_000));
        assert_eq!(record.headers.len(), 2);
    }

    #[test]
    fn wrong_lines_are_named() {
        for (line, why) in [
            ("", "not JSON"),
            ("[1]", "not a JSON object"),
            (r#"{"val":"x"}"#, "unknown field 'val'"),
            (r#"{"value":1}"#, "field 'value'"),
            (r#"{"value":{"base64":"*"}}"#, "field 'value'"),
            (r#"{"value":"x","partition":-1}"#, "field 'partition'"),
            (r#"{"value":"x","timestamp":1.5}"#, "field 'timestamp'"),
            (r#"{"value":"x","timestamp":"noon"}"#, "field 'timestamp'"),
            (r#"{"value":"x","headers":[["a"]]}"#, "field 'headers'"),
            (r#"{"timestamp":1}"#, "neither"),
        ] {
            let error = parse_line(line.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
    }

    fn bytes() -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn out_and_in_again(
            partition in 0..100_i32,
            offset in 0..i64::MAX,
            timestamp in any::<i64>(),
            key in option::of(bytes()),
            value in option::of(bytes()),
            headers in vec((bytes(), option::of(bytes())), 0..3),
        ) {
            let record = ConsumedRecord { topic: "t".into(), partition, offset, timestamp, key, value, headers };
            let line = serde_json::to_vec(&to_json(&record)).unwrap();
            let parsed = parse_line(&line).unwrap();
            prop_assert_eq!(parsed.partition, Some(record.partition));
            prop_assert_eq!(parsed.timestamp, Some(record.timestamp));
            prop_assert_eq!(parsed.key, record.key);
            prop_assert_eq!(parsed.value, record.value);
            prop_assert_eq!(parsed.headers, record.headers);
        }
    }
}
