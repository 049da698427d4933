//! Records inside a batch: the varint encoding, walked and read without copying, and written for builders.
//!
//! ```text
//! length          varint   bytes of the record behind this field
//! attributes      int8     unused
//! timestampDelta  varlong  from the batch's base timestamp
//! offsetDelta     varint   from the batch's base offset
//! keyLength       varint   -1 = null, then the key
//! valueLength     varint   -1 = null, then the value
//! headerCount     varint   then for each: key length varint, key, value length varint (-1 = null), value
//! ```
//! Varints are zig-zag encoded, at most 5 bytes long, varlongs at most 10.
//!
//! Nothing here trusts a length: every one is checked against the record's end, and the record's end against the bytes
//! there are. [`walk`] checks all records of a batch for the produce path. It takes the start of the next record from
//! the length alone, so that the processor works on several records at once, and checks the inner fields against it.

use std::fmt;

/// The least a record can take: one byte for each of its seven fields.
pub const MIN_RECORD_BYTES: usize = 7;

/// A field of a record, to say which one does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordField {
    /// The record's own length.
    Length,
    /// Its attributes byte.
    Attributes,
    /// The timestamp, from the batch's.
    TimestampDelta,
    /// The offset, from the batch's.
    OffsetDelta,
    /// The key or its length.
    Key,
    /// The value or its length.
    Value,
    /// The number of headers.
    HeaderCount,
    /// A header's key or its length.
    HeaderKey,
    /// A header's value or its length.
    HeaderValue,
    /// The fields end before the record does.
    End,
}

impl fmt::Display for RecordField {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Length => "length",
            Self::Attributes => "attributes",
            Self::TimestampDelta => "timestamp delta",
            Self::OffsetDelta => "offset delta",
            Self::Key => "key",
            Self::Value => "value",
            Self::HeaderCount => "header count",
            Self::HeaderKey => "header key",
            Self::HeaderValue => "header value",
            Self::End => "end",
        })
    }
}

/// A record that cannot be read: a varint that is too long, or a length that leads out of the record or the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {index} is malformed at its {field}")]
pub struct MalformedRecord {
    /// The record's place in the batch, from 0.
    pub index: i32,
    /// The first field that does not hold.
    pub field: RecordField,
}

/// What one pass over the records of a batch found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Records.
    pub count: i32,
    /// Whether the offset deltas are 0, 1, 2 and so on.
    pub continuous: bool,
    /// The smallest timestamp delta; 0 where there is no record.
    pub min_timestamp_delta: i64,
    /// The largest timestamp delta; 0 where there is no record.
    pub max_timestamp_delta: i64,
    /// Whether a key is null.
    pub null_key: bool,
}

/// Checks every length in `records` (the uncompressed bytes behind a batch's header), to their very end.
///
/// # Errors
/// The first record that is malformed.
pub fn walk(records: &[u8]) -> Result<Walk, MalformedRecord> {
    let mut walk = Walk {
        count: 0,
        continuous: true,
        min_timestamp_delta: i64::MAX,
        max_timestamp_delta: i64::MIN,
        null_key: false,
    };
    let mut at = 0;
    while at < records.len() {
        let malformed = |field| MalformedRecord { index: walk.count, field };
        let (length, start) = varint(records, at).ok_or(malformed(RecordField::Length))?;
        let body = usize::try_from(length)
            .ok()
            .and_then(|length| records.get(start..start.checked_add(length)?))
            .ok_or(malformed(RecordField::Length))?;
        at = start + body.len();
        let fields = check_body(body).map_err(malformed)?;
        walk.continuous &= fields.offset_delta == walk.count;
        walk.min_timestamp_delta = walk.min_timestamp_delta.min(fields.timestamp_delta);
        walk.max_timestamp_delta = walk.max_timestamp_delta.max(fields.timestamp_delta);
        walk.null_key |= fields.null_key;
        walk.count += 1;
    }
    if walk.count == 0 {
        walk.min_timestamp_delta = 0;
        walk.max_timestamp_delta = 0;
    }
    Ok(walk)
}

struct BodyFields {
    timestamp_delta: i64,
    offset_delta: i32,
    null_key: bool,
}

/// Checks one record behind its length.
#[inline(always)]
fn check_body(body: &[u8]) -> Result<BodyFields, RecordField> {
    if let Some(window) = body.first_chunk()
        && let Some(fields) = check_short(body, window)
    {
        return Ok(fields);
    }
    check_long(body)
}

/// The usual record: no headers, and no varint before the value's longer than two bytes. Anything else is left to
/// [`check_long`], errors too.
#[inline(always)]
fn check_short(body: &[u8], window: &[u8; 16]) -> Option<BodyFields> {
    let (timestamp_delta, at) = short_varint(window, 1)?;
    let (offset_delta, at) = short_varint(window, at)?;
    let (key, at) = short_varint(window, at)?;
    let at = at + usize::try_from(key).unwrap_or(0);
    let (value, at) = varint(body, at)?;
    let at = at + usize::try_from(value).unwrap_or(0);
    let headers = *body.get(at)?;
    (headers == 0 && at + 1 == body.len() && key >= -1 && value >= -1).then_some(BodyFields {
        timestamp_delta: i64::from(timestamp_delta),
        offset_delta,
        null_key: key < 0,
    })
}

/// A varint of one or two bytes in the first bytes of a record. (The masks spare the checks of an index that is below 8.)
#[inline(always)]
fn short_varint(window: &[u8; 16], at: usize) -> Option<(i32, usize)> {
    let first = window[at & 15];
    let second = window[(at + 1) & 15];
    if first < 0x80 {
        Some((zigzag(u32::from(first)), at + 1))
    } else if second < 0x80 {
        Some((zigzag(u32::from(first & 0x7f) | u32::from(second) << 7), at + 2))
    } else {
        None
    }
}

fn check_long(body: &[u8]) -> Result<BodyFields, RecordField> {
    let (timestamp_delta, at) = varlong(body, 1).ok_or(RecordField::TimestampDelta)?;
    let (offset_delta, at) = varint(body, at).ok_or(RecordField::OffsetDelta)?;
    let (key, at) = skip_nullable(body, at).ok_or(RecordField::Key)?;
    let (_, at) = skip_nullable(body, at).ok_or(RecordField::Value)?;
    let (headers, at) = varint(body, at).ok_or(RecordField::HeaderCount)?;
    let at = if headers == 0 { at } else { skip_headers(body, at, headers)? };
    if at != body.len() {
        return Err(RecordField::End);
    }
    Ok(BodyFields { timestamp_delta, offset_delta, null_key: key < 0 })
}

fn skip_headers(body: &[u8], mut at: usize, headers: i32) -> Result<usize, RecordField> {
    let headers = usize::try_from(headers).map_err(|_| RecordField::HeaderCount)?;
    // Each header takes two bytes at least: a count beyond that is refused before anything is looped over.
    if headers > (body.len() - at) / 2 {
        return Err(RecordField::HeaderCount);
    }
    for _ in 0..headers {
        let (key, behind) = skip_nullable(body, at).ok_or(RecordField::HeaderKey)?;
        if key < 0 {
            return Err(RecordField::HeaderKey);
        }
        at = skip_nullable(body, behind).ok_or(RecordField::HeaderValue)?.1;
    }
    Ok(at)
}

/// Reads a length of -1 or more and steps over that many bytes: (length, position behind).
#[inline(always)]
fn skip_nullable(bytes: &[u8], at: usize) -> Option<(i32, usize)> {
    let (length, at) = varint(bytes, at)?;
    let behind = if length > 0 { at.checked_add(usize::try_from(length).ok()?)? } else { at };
    (length >= -1 && behind <= bytes.len()).then_some((length, behind))
}

fn read_nullable(bytes: &[u8], at: usize) -> Option<(Option<&[u8]>, usize)> {
    let (length, at) = varint(bytes, at)?;
    match usize::try_from(length) {
        Ok(length) => {
            let behind = at.checked_add(length)?;
            Some((Some(bytes.get(at..behind)?), behind))
        }
        Err(_) => (length == -1).then_some((None, at)),
    }
}

/// Reads a zig-zag varint at `at`: (value, position behind). `None` where it is longer than 5 bytes or cut off.
#[inline(always)]
pub(crate) fn varint(bytes: &[u8], at: usize) -> Option<(i32, usize)> {
    let first = *bytes.get(at)?;
    if first < 0x80 {
        return Some((zigzag(u32::from(first)), at + 1));
    }
    let second = *bytes.get(at + 1)?;
    if second < 0x80 {
        return Some((zigzag(u32::from(first & 0x7f) | u32::from(second) << 7), at + 2));
    }
    long_varint(bytes, at)
}

#[cold]
fn long_varint(bytes: &[u8], at: usize) -> Option<(i32, usize)> {
    let mut value = 0;
    for (length, byte) in bytes[at..].iter().take(5).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * length);
        if *byte < 0x80 {
            return Some((zigzag(value), at + length + 1));
        }
    }
    None
}

/// Reads a zig-zag varlong at `at`: (value, position behind). `None` where it is longer than 10 bytes or cut off.
#[inline(always)]
pub(crate) fn varlong(bytes: &[u8], at: usize) -> Option<(i64, usize)> {
    let first = *bytes.get(at)?;
    if first < 0x80 {
        return Some((i64::from(zigzag(u32::from(first))), at + 1));
    }
    let mut value = u64::from(first & 0x7f);
    for (length, byte) in bytes[at..].iter().take(10).enumerate().skip(1) {
        value |= u64::from(byte & 0x7f) << (7 * length);
        if *byte < 0x80 {
            return Some(((value >> 1) as i64 ^ -((value & 1) as i64), at + length + 1));
        }
    }
    None
}

#[inline(always)]
fn zigzag(value: u32) -> i32 {
    (value >> 1) as i32 ^ -((value & 1) as i32)
}

/// Appends a zig-zag varint.
pub(crate) fn put_varint(into: &mut Vec<u8>, value: i32) {
    put_varlong(into, i64::from(value));
}

/// Appends a zig-zag varlong. (A varint is the same bytes.)
pub(crate) fn put_varlong(into: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        into.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    into.push(rest as u8);
}

fn varlong_size(value: i64) -> usize {
    let bits = 64 - (((value << 1) ^ (value >> 63)) as u64 | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// A record, borrowed from the uncompressed bytes of its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset in the log.
    pub offset: i64,
    /// Milliseconds since the epoch; -1 = none.
    pub timestamp: i64,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; null is a tombstone on compacted topics.
    pub value: Option<&'a [u8]>,
    /// Headers in the order they were written, duplicates included.
    pub headers: Headers<'a>,
}

/// The headers of a record: an iterator over (key, value), whose bytes were checked when the record was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Headers<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.count == 0 {
            return None;
        }
        let (key, at) = read_nullable(self.bytes, 0)?;
        let (value, at) = read_nullable(self.bytes, at)?;
        self.bytes = &self.bytes[at..];
        self.count -= 1;
        Some((key?, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

/// Reads the records of one batch in order. Ends after the first one that is malformed.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
    index: i32,
    base_offset: i64,
    base_timestamp: i64,
    log_append_time: Option<i64>,
}

impl<'a> Records<'a> {
    /// Records over the uncompressed bytes behind a batch's header. With `log_append_time` every record carries that
    /// timestamp, whatever its delta says.
    pub fn new(bytes: &'a [u8], base_offset: i64, base_timestamp: i64, log_append_time: Option<i64>) -> Self {
        Self { bytes, at: 0, index: 0, base_offset, base_timestamp, log_append_time }
    }

    fn read(&mut self) -> Result<Record<'a>, RecordField> {
        let (length, start) = varint(self.bytes, self.at).ok_or(RecordField::Length)?;
        let length = usize::try_from(length).map_err(|_| RecordField::Length)?;
        let end = start.checked_add(length).ok_or(RecordField::Length)?;
        let body = self.bytes.get(start..end).ok_or(RecordField::Length)?;
        if body.is_empty() {
            return Err(RecordField::Attributes);
        }
        let (timestamp_delta, at) = varlong(body, 1).ok_or(RecordField::TimestampDelta)?;
        let (offset_delta, at) = varint(body, at).ok_or(RecordField::OffsetDelta)?;
        let (key, at) = read_nullable(body, at).ok_or(RecordField::Key)?;
        let (value, at) = read_nullable(body, at).ok_or(RecordField::Value)?;
        let (header_count, at) = varint(body, at).ok_or(RecordField::HeaderCount)?;
        if skip_headers(body, at, header_count)? != body.len() {
            return Err(RecordField::End);
        }
        self.at = end;
        self.index += 1;
        Ok(Record {
            offset: self.base_offset.wrapping_add(i64::from(offset_delta)),
            timestamp: self
                .log_append_time
                .unwrap_or_else(|| self.base_timestamp.wrapping_add(timestamp_delta)),
            key,
            value,
            headers: Headers { bytes: &body[at..], count: header_count as usize },
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, MalformedRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let index = self.index;
        Some(self.read().map_err(|field| {
            self.at = self.bytes.len();
            MalformedRecord { index, field }
        }))
    }
}

/// A header as it is written: key and value.
pub type Header<'a> = (&'a [u8], Option<&'a [u8]>);

/// Appends one record to `into`, the uncompressed bytes of a batch.
pub fn put_record(
    into: &mut Vec<u8>,
    offset_delta: i32,
    timestamp_delta: i64,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[Header<'_>],
) {
    let nullable = |bytes: Option<&[u8]>| varlong_size(nullable_length(bytes)) + bytes.map_or(0, <[u8]>::len);
    let length = 1
        + varlong_size(timestamp_delta)
        + varlong_size(i64::from(offset_delta))
        + nullable(key)
        + nullable(value)
        + varlong_size(headers.len() as i64)
        + headers.iter().map(|(key, value)| nullable(Some(key)) + nullable(*value)).sum::<usize>();
    into.reserve(length + 5);
    put_varlong(into, length as i64);
    into.push(0);
    put_varlong(into, timestamp_delta);
    put_varint(into, offset_delta);
    put_nullable(into, key);
    put_nullable(into, value);
    put_varlong(into, headers.len() as i64);
    for (key, value) in headers {
        put_nullable(into, Some(key));
        put_nullable(into, *value);
    }
}

fn nullable_length(bytes: Option<&[u8]>) -> i64 {
    bytes.map_or(-1, |bytes| bytes.len() as i64)
}

fn put_nullable(into: &mut Vec<u8>, bytes: Option<&[u8]>) {
    put_varlong(into, nullable_length(bytes));
    into.extend_from_slice(bytes.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(value: i64) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_varlong(&mut bytes, value);
        bytes
    }

    #[test]
    fn varints_round_trip_at_every_length() {
        for shift in 0..64 {
            for value in [1i64 << shift, (1i64 << shift).wrapping_sub(1), (1i64 << shift).wrapping_neg()] {
                let bytes = encoded(value);
                assert_eq!(bytes.len(), varlong_size(value), "{value}");
                assert_eq!(varlong(&bytes, 0), Some((value, bytes.len())));
                for cut in 0..bytes.len() {
                    assert_eq!(varlong(&bytes[..cut], 0), None, "{value} cut to {cut}");
                }
                if let Ok(value) = i32::try_from(value) {
                    assert_eq!(varint(&bytes, 0), Some((value, bytes.len())));
                }
            }
        }
    }

    /// Proves: W17.
    #[test]
    fn varints_of_more_than_five_bytes_and_varlongs_of_more_than_ten_are_malformed() {
        assert_eq!(varint(&[0x80, 0x80, 0x80, 0x80, 0x01], 0), Some((1 << 27, 5)));
        assert_eq!(varint(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x01], 0), None);
        assert_eq!(varint(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00], 0), None);
        let mut ten = [0x80; 10];
        ten[9] = 0x01;
        assert_eq!(varlong(&ten, 0), Some((1 << 62, 10)));
        let mut eleven = [0x80; 11];
        eleven[10] = 0x00;
        assert_eq!(varlong(&eleven, 0), None);
    }

    /// Proves: P19.
    #[test]
    fn headers_keep_order_duplicates_empty_keys_and_null_values() {
        let headers: [Header<'_>; 4] =
            [(b"a", Some(b"1")), (b"a", None), (b"", Some(b"")), (b"a", Some(b"2"))];
        let mut bytes = Vec::new();
        put_record(&mut bytes, 0, -5, None, Some(b"value"), &headers);
        put_record(&mut bytes, 1, i64::MAX / 2, Some(b""), None, &[]);
        let records: Vec<_> = Records::new(&bytes, 100, 1000, None).map(Result::unwrap).collect();
        assert_eq!(records[0].headers.collect::<Vec<_>>(), headers);
        assert_eq!((records[0].offset, records[0].timestamp), (100, 995));
        assert_eq!((records[0].key, records[0].value), (None, Some(&b"value"[..])));
        assert_eq!((records[1].key, records[1].value), (Some(&b""[..]), None));
        assert!(records[1].headers.is_empty());
        let walk = walk(&bytes).unwrap();
        assert_eq!((walk.count, walk.continuous, walk.null_key), (2, true, true));
        assert_eq!((walk.min_timestamp_delta, walk.max_timestamp_delta), (-5, i64::MAX / 2));
    }

    /// The walk and the iterator are two readers of one format: they must agree on every damaged input.
    #[test]
    fn walk_and_iterator_agree_on_every_byte_changed_to_every_value() {
        let mut bytes = Vec::new();
        for index in 0..3 {
            put_record(
                &mut bytes,
                index,
                7,
                Some(b"key"),
                Some(b"a value"),
                &[(b"h", Some(b"v")), (b"n", None)],
            );
        }
        for position in 0..bytes.len() {
            for value in 0..=255 {
                let mut changed = bytes.clone();
                changed[position] = value;
                let walked = walk(&changed).map(|walk| walk.count);
                let read =
                    Records::new(&changed, 0, 0, None).try_fold(0, |count, record| record.map(|_| count + 1));
                match (walked, read) {
                    (Ok(left), Ok(right)) => assert_eq!(left, right),
                    (Err(left), Err(right)) => assert_eq!(left.index, right.index),
                    differ => panic!("byte {position} = {value}: {differ:?}"),
                }
            }
        }
        for cut in 0..bytes.len() {
            let whole = walk(&bytes[..cut]).is_ok();
            assert_eq!(whole, cut % (bytes.len() / 3) == 0, "cut to {cut}");
        }
    }

    #[test]
    fn forged_counts_are_refused_without_looping_over_them() {
        // length, attributes, timestamp, offset, null key, null value, then 2^31-1 headers
        let mut body = vec![0, 0, 0, 1, 1];
        put_varint(&mut body, i32::MAX);
        let mut bytes = encoded(body.len() as i64);
        bytes.extend_from_slice(&body);
        assert_eq!(walk(&bytes), Err(MalformedRecord { index: 0, field: RecordField::HeaderCount }));
        let mut long = encoded(i64::from(i32::MAX));
        long.extend_from_slice(&body);
        assert_eq!(walk(&long), Err(MalformedRecord { index: 0, field: RecordField::Length }));
        assert_eq!(walk(&[1, 0]), Err(MalformedRecord { index: 0, field: RecordField::Length }));
        assert_eq!(walk(&[0]), Err(MalformedRecord { index: 0, field: RecordField::TimestampDelta }));
    }
}
