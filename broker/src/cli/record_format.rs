//! The percent formats of `-f`: how `consume` prints a record and how `produce` cuts its input into records.
//!
//! ```text
//! %t topic   %k key   %v value   %p partition   %o offset   %d timestamp   %h headers
//! %T %K %V   length in bytes of topic, key, value (-1 for a null key or value)   %H number of headers
//! %h{%k=%v } each header by a format of its own; plain %h is name=value, comma-separated   %% a percent sign
//! \n \t \r \0 \\ \xNN   escapes
//! ```
//! In braces behind the letter: text `{hex}`, `{base64}`; numbers `{ascii}` (as without braces), `{big8}` `{big16}`
//! `{big32}` `{big64}` `{little8}` .. `{little64}`, `{hex8}` .. `{hex64}`; time `{ms}` (as without), `{s}`,
//! `{rfc3339}`. The grammar is rpk's.
//!
//! On the way in, text reaches to the literal that follows it (or the end of the input), or is as long as a length
//! read before it says: `-f '%k\t%v\n'`, `-f '%V{big32}%v'`.

use std::io::{self, BufRead, Read};

use bytes::Bytes;

use super::{
    jsonl::{ConsumedRecord, ProducedRecord, encode_base64},
    time::Rfc3339,
};

/// A field of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Topic,
    Key,
    Value,
    Partition,
    Offset,
    Timestamp,
    TopicLength,
    KeyLength,
    ValueLength,
    HeaderCount,
}

/// How a field is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// Text as it is, numbers in decimal.
    Plain,
    Hex,
    Base64,
    /// Bytes of the number, most significant first.
    Big(usize),
    /// Bytes of the number, least significant first.
    Little(usize),
    /// Hexadecimal digits of so many bytes.
    HexDigits(usize),
    Seconds,
    Rfc3339,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Vec<u8>),
    Field(Field, Style),
    /// Each header by pieces of its own, in which key and value are the header's; `None` is `name=value`, with commas.
    Headers(Option<Vec<Piece>>),
}

/// A parsed format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordFormat {
    pieces: Vec<Piece>,
}

impl RecordFormat {
    /// Parses a format.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut characters = text.chars().peekable();
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        while let Some(character) = characters.next() {
            match character {
                '\\' => literal.push(parse_escape(&mut characters)?),
                '%' => {
                    let letter =
                        characters.next().ok_or("a format ends in '%'; write %% for a percent sign")?;
                    if letter == '%' {
                        literal.push(b'%');
                        continue;
                    }
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    let braces = parse_braces(&mut characters)?;
                    pieces.push(parse_piece(letter, braces.as_deref())?);
                }
                other => literal.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self { pieces })
    }

    /// Appends the record to `out`.
    pub(crate) fn write(&self, record: &ConsumedRecord, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) => out.extend_from_slice(literal),
                Piece::Field(field, style) => write_field(record, *field, *style, out),
                Piece::Headers(None) => {
                    for (index, (name, value)) in record.headers.iter().enumerate() {
                        if index > 0 {
                            out.push(b',');
                        }
                        out.extend_from_slice(name);
                        out.push(b'=');
                        out.extend_from_slice(value.as_deref().unwrap_or_default());
                    }
                }
                Piece::Headers(Some(pieces)) => {
                    let format = Self { pieces: pieces.clone() };
                    for (name, value) in &record.headers {
                        let header = ConsumedRecord {
                            key: Some(name.clone()),
                            value: value.clone(),
                            headers: Vec::new(),
                            ..record.clone()
                        };
                        format.write(&header, out);
                    }
                }
            }
        }
    }

    /// Makes a reader of records in this format.
    ///
    /// # Errors
    /// Why this format cannot be read: two fields with nothing between them, or a field that only a broker knows.
    pub(crate) fn reader(&self) -> Result<RecordReader, String> {
        for (index, piece) in self.pieces.iter().enumerate() {
            let next = self.pieces.get(index + 1);
            match piece {
                Piece::Field(Field::Offset, _) => {
                    return Err("%o cannot be read: the broker assigns it".to_owned());
                }
                Piece::Headers(_) | Piece::Field(Field::HeaderCount, _) => {
                    return Err("headers cannot be read by a format; use --jsonl or -H".to_owned());
                }
                Piece::Field(field @ (Field::Topic | Field::Key | Field::Value), style) => {
                    let length = match field {
                        Field::Topic => Field::TopicLength,
                        Field::Key => Field::KeyLength,
                        _ => Field::ValueLength,
                    };
                    if *style != Style::Plain {
                        return Err("text is read as it is: no braces".to_owned());
                    }
                    let sized = self.pieces[..index]
                        .iter()
                        .any(|piece| matches!(piece, Piece::Field(field, _) if *field == length));
                    if !sized && matches!(next, Some(Piece::Field(..))) {
                        return Err("a field of no fixed length needs a delimiter behind it".to_owned());
                    }
                }
                Piece::Field(_, Style::Plain) if matches!(next, Some(Piece::Field(..)) | None) => {
                    return Err("a decimal number needs a delimiter behind it".to_owned());
                }
                Piece::Field(_, Style::HexDigits(_) | Style::Seconds | Style::Rfc3339) => {
                    return Err("only decimal and binary numbers can be read".to_owned());
                }
                Piece::Field(..) | Piece::Literal(_) => {}
            }
        }
        if !self.pieces.iter().any(|piece| matches!(piece, Piece::Field(Field::Value | Field::Key, _))) {
            return Err("neither %v nor %k is in the format".to_owned());
        }
        Ok(RecordReader { pieces: self.pieces.clone() })
    }
}

type Characters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn parse_escape(characters: &mut Characters<'_>) -> Result<u8, String> {
    match characters.next() {
        Some('n') => Ok(b'\n'),
        Some('t') => Ok(b'\t'),
        Some('r') => Ok(b'\r'),
        Some('0') => Ok(0),
        Some('\\') => Ok(b'\\'),
        Some('x') => {
            let mut digit = || characters.next().and_then(|character| character.to_digit(16));
            match (digit(), digit()) {
                (Some(high), Some(low)) => u8::try_from(high * 16 + low)
                    .map_err(|_| "two hexadecimal digits fit into a byte".to_owned()),
                _ => Err("\\x needs two hexadecimal digits".to_owned()),
            }
        }
        Some(other) => Err(format!("unknown escape '\\{other}' (\\n \\t \\r \\0 \\\\ \\xNN)")),
        None => Err("a format ends in a backslash; write \\\\ for one".to_owned()),
    }
}

/// What stands in braces, nested ones included.
fn parse_braces(characters: &mut Characters<'_>) -> Result<Option<String>, String> {
    if characters.peek() != Some(&'{') {
        return Ok(None);
    }
    characters.next();
    let mut depth = 1;
    let mut inner = String::new();
    for character in characters.by_ref() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok(Some(inner));
        }
        inner.push(character);
    }
    Err("a brace is not closed".to_owned())
}

fn parse_piece(letter: char, braces: Option<&str>) -> Result<Piece, String> {
    let field = match letter {
        't' => Field::Topic,
        'k' => Field::Key,
        'v' => Field::Value,
        'p' => Field::Partition,
        'o' => Field::Offset,
        'd' => Field::Timestamp,
        'T' => Field::TopicLength,
        'K' => Field::KeyLength,
        'V' => Field::ValueLength,
        'H' => Field::HeaderCount,
        'h' => {
            let pieces = match braces {
                None => None,
                Some(inner) => Some(RecordFormat::parse(inner)?.pieces),
            };
            return Ok(Piece::Headers(pieces));
        }
        other => return Err(format!("unknown field '%{other}' (%t %k %v %h %p %o %d %T %K %V %H)")),
    };
    let Some(style) = braces else { return Ok(Piece::Field(field, Style::Plain)) };
    let text = matches!(field, Field::Topic | Field::Key | Field::Value);
    let width = |prefix: &str| match style.strip_prefix(prefix) {
        Some("8") => Some(1),
        Some("16") => Some(2),
        Some("32") => Some(4),
        Some("64") => Some(8),
        _ => None,
    };
    let parsed = match style {
        "hex" if text => Some(Style::Hex),
        "base64" if text => Some(Style::Base64),
        "ascii" if !text => Some(Style::Plain),
        "ms" if field == Field::Timestamp => Some(Style::Plain),
        "s" if field == Field::Timestamp => Some(Style::Seconds),
        "rfc3339" if field == Field::Timestamp => Some(Style::Rfc3339),
        _ if text => None,
        _ => width("big")
            .map(Style::Big)
            .or_else(|| width("little").map(Style::Little))
            .or_else(|| width("hex").map(Style::HexDigits)),
    };
    parsed.map(|style| Piece::Field(field, style)).ok_or_else(|| {
        let choices = match (text, field) {
            (true, _) => "hex, base64",
            (false, Field::Timestamp) => "ms, s, rfc3339, big64, little64, hex64",
            (false, _) => "ascii, big8 to big64, little8 to little64, hex8 to hex64",
        };
        format!("%{letter} cannot be written as '{style}' ({choices})")
    })
}

fn write_field(record: &ConsumedRecord, field: Field, style: Style, out: &mut Vec<u8>) {
    let length =
        |bytes: Option<&Bytes>| bytes.map_or(-1, |bytes| i64::try_from(bytes.len()).unwrap_or(i64::MAX));
    let number = match field {
        Field::Topic => return write_text(record.topic.as_bytes(), style, out),
        Field::Key => return write_text(record.key.as_deref().unwrap_or_default(), style, out),
        Field::Value => return write_text(record.value.as_deref().unwrap_or_default(), style, out),
        Field::Partition => i64::from(record.partition),
        Field::Offset => record.offset,
        Field::Timestamp => record.timestamp,
        Field::TopicLength => i64::try_from(record.topic.len()).unwrap_or(i64::MAX),
        Field::KeyLength => length(record.key.as_ref()),
        Field::ValueLength => length(record.value.as_ref()),
        Field::HeaderCount => i64::try_from(record.headers.len()).unwrap_or(i64::MAX),
    };
    let big_endian = number.to_be_bytes();
    match style {
        Style::Big(width) => out.extend_from_slice(&big_endian[8 - width..]),
        Style::Little(width) => out.extend(big_endian[8 - width..].iter().rev()),
        Style::HexDigits(width) => write_text(&big_endian[8 - width..], Style::Hex, out),
        Style::Seconds => out.extend_from_slice(number.div_euclid(1_000).to_string().as_bytes()),
        Style::Rfc3339 => out.extend_from_slice(Rfc3339(number).to_string().as_bytes()),
        Style::Plain | Style::Hex | Style::Base64 => out.extend_from_slice(number.to_string().as_bytes()),
    }
}

fn write_text(bytes: &[u8], style: Style, out: &mut Vec<u8>) {
    match style {
        Style::Hex => out.extend(bytes.iter().flat_map(|byte| format!("{byte:02x}").into_bytes())),
        Style::Base64 => out.extend_from_slice(encode_base64(bytes).as_bytes()),
        _ => out.extend_from_slice(bytes),
    }
}

/// The largest field that a length in the input may announce.
const MAX_FIELD_BYTES: u64 = 100 << 20;

/// Reads records by a format.
#[derive(Debug)]
pub(crate) struct RecordReader {
    pieces: Vec<Piece>,
}

impl RecordReader {
    /// The next record, or `None` at the end of the input. Behind the last record the closing delimiter may be missing.
    ///
    /// # Errors
    /// The input ends or differs inside a record, or cannot be read.
    pub(crate) fn next(&mut self, input: &mut dyn BufRead) -> Result<Option<ProducedRecord>, String> {
        let broken = |error: io::Error| format!("cannot be read: {error}");
        if input.fill_buf().map_err(broken)?.is_empty() {
            return Ok(None);
        }
        let mut record = ProducedRecord::default();
        let mut lengths: [Option<i64>; 3] = [None; 3];
        let mut index = 0;
        while index < self.pieces.len() {
            let delimiter = match self.pieces.get(index + 1) {
                Some(Piece::Literal(literal)) => Some(literal.as_slice()),
                _ => None,
            };
            match &self.pieces[index] {
                Piece::Literal(literal) => {
                    let mut found = vec![0; literal.len()];
                    input.read_exact(&mut found).map_err(|_| "ends inside a record".to_owned())?;
                    if &found != literal {
                        return Err(format!(
                            "'{}' stands where the format has '{}'",
                            found.escape_ascii(),
                            literal.escape_ascii()
                        ));
                    }
                }
                Piece::Field(field @ (Field::Topic | Field::Key | Field::Value), _) => {
                    let slot = match field {
                        Field::Topic => 0,
                        Field::Key => 1,
                        _ => 2,
                    };
                    let bytes = match lengths[slot] {
                        Some(length) => read_sized(input, length)?,
                        None => {
                            let last = index + 2 >= self.pieces.len();
                            let text = read_delimited(input, delimiter, last).map_err(broken)?;
                            index += usize::from(delimiter.is_some());
                            Some(text.ok_or("ends inside a record")?)
                        }
                    }
                    .map(Bytes::from);
                    match field {
                        Field::Topic => {}
                        Field::Key => record.key = bytes,
                        _ => record.value = bytes,
                    }
                }
                Piece::Field(field, style) => {
                    let number = match style {
                        Style::Big(width) | Style::Little(width) => {
                            read_binary(input, *width, matches!(style, Style::Little(_)))?
                        }
                        _ => {
                            let text = read_delimited(input, delimiter, false)
                                .map_err(broken)?
                                .ok_or("ends inside a record")?;
                            index += usize::from(delimiter.is_some());
                            std::str::from_utf8(&text)
                                .ok()
                                .and_then(|text| text.parse().ok())
                                .ok_or_else(|| format!("'{}' is no number", text.escape_ascii()))?
                        }
                    };
                    match field {
                        Field::TopicLength => lengths[0] = Some(number),
                        Field::KeyLength => lengths[1] = Some(number),
                        Field::ValueLength => lengths[2] = Some(number),
                        Field::Timestamp => record.timestamp = Some(number),
                        _ => {
                            record.partition =
                                Some(i32::try_from(number).map_err(|_| format!("{number} is no partition"))?);
                        }
                    }
                }
                Piece::Headers(_) => return Err("headers cannot be read by a format".to_owned()),
            }
            index += 1;
        }
        Ok(Some(record))
    }
}

/// Everything up to the delimiter, which is consumed. Without one: the rest of the input. `None`: the input ended
/// first, unless `last` allows that.
fn read_delimited(
    input: &mut dyn BufRead,
    delimiter: Option<&[u8]>,
    last: bool,
) -> io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    let Some((&end, delimiter)) = delimiter.and_then(|delimiter| Some((delimiter.last()?, delimiter))) else {
        input.read_to_end(&mut text)?;
        return Ok(Some(text));
    };
    loop {
        if input.read_until(end, &mut text)? == 0 {
            return Ok(last.then_some(text));
        }
        if text.ends_with(delimiter) {
            text.truncate(text.len() - delimiter.len());
            return Ok(Some(text));
        }
    }
}

/// As many bytes as a length announced; a negative one is null.
fn read_sized(input: &mut dyn BufRead, length: i64) -> Result<Option<Vec<u8>>, String> {
    let Ok(length) = u64::try_from(length) else { return Ok(None) };
    if length > MAX_FIELD_BYTES {
        return Err(format!("a length of {length} bytes is more than {MAX_FIELD_BYTES}"));
    }
    let mut text = Vec::new();
    input.take(length).read_to_end(&mut text).map_err(|error| format!("cannot be read: {error}"))?;
    match u64::try_from(text.len()) == Ok(length) {
        true => Ok(Some(text)),
        false => Err("ends inside a record".to_owned()),
    }
}

fn read_binary(input: &mut dyn BufRead, width: usize, little: bool) -> Result<i64, String> {
    let mut bytes = vec![0; width];
    input.read_exact(&mut bytes).map_err(|_| "ends inside a record".to_owned())?;
    if little {
        bytes.reverse();
    }
    // the top byte's sign is the number's
    let negative = bytes[0] >= 0x80;
    Ok(bytes.iter().fold(if negative { -1 } else { 0 }, |number, byte| number << 8 | i64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn record() -> ConsumedRecord {
        ConsumedRecord {
            topic: "orders".into(),
            partition: 3,
            offset: 258,
            timestamp: 1_700_000_000_123,
            key: Some(Bytes::from_static(b"k1")),
            value: Some(Bytes::from_static(b"hi\xff")),
            headers: vec![
                (Bytes::from_static(b"a"), Some(Bytes::from_static(b"1"))),
                (Bytes::from_static(b"b"), None),
            ],
        }
    }

    fn written(format: &str) -> Vec<u8> {
        let mut out = Vec::new();
        RecordFormat::parse(format)
            .unwrap_or_else(|error| panic!("{format}: {error}"))
            .write(&record(), &mut out);
        out
    }

    #[test]
    fn writes_each_field() {
        assert_eq!(written(r"%t[%p]@%o %k\n"), b"orders[3]@258 k1\n");
        assert_eq!(written("%v"), b"hi\xff");
        assert_eq!(written("%v{hex} %v{base64}"), b"6869ff aGn/");
        assert_eq!(written("%T %K %V %H"), b"6 2 3 2");
        assert_eq!(written("%T{big8}%o{big16}%o{little16}%o{hex16}"), b"\x06\x01\x02\x02\x010102");
        assert_eq!(written("%d %d{s} %d{rfc3339}"), b"1700000000123 1700000000 2023-11-14T22:13:20.123Z");
        assert_eq!(written("%h|%h{<%k:%v>}"), b"a=1,b=|<a:1><b:>");
        assert_eq!(written(r"100%%\t\x41\\"), b"100%\tA\\");
    }

    #[test]
    fn refuses() {
        for wrong in
            ["%", "%z", "%v{big8}", "%o{base64}", "%v{hex", "\\", "\\q", "\\x4", "%p{big7}", "%o{rfc3339}"]
        {
            assert!(RecordFormat::parse(wrong).is_err(), "{wrong}");
        }
        for unreadable in ["%k%v", "%o %v", "%h %v", "%v{hex}", "%p", "hello", "%V%v"] {
            assert!(RecordFormat::parse(unreadable).unwrap().reader().is_err(), "{unreadable}");
        }
    }

    fn read(format: &str, input: &[u8]) -> Result<Vec<ProducedRecord>, String> {
        let mut reader = RecordFormat::parse(format).unwrap().reader().unwrap();
        let mut input = Cursor::new(input);
        let mut records = Vec::new();
        while let Some(record) = reader.next(&mut input)? {
            records.push(record);
        }
        Ok(records)
    }

    #[test]
    fn reads_lines_and_lengths() {
        let records = read(r"%k\t%v\n", b"a\tb\n\tx\ty\nlast\tone").unwrap();
        let pairs: Vec<_> = records
            .iter()
            .map(|record| (record.key.clone().unwrap(), record.value.clone().unwrap()))
            .collect();
        assert_eq!(
            pairs,
            [("a", "b"), ("", "x\ty"), ("last", "one")].map(|(k, v)| (Bytes::from(k), Bytes::from(v)))
        );
        let records = read("%p %V{big16}%v", b"7 \x00\x02\nz8 \xff\xff").unwrap();
        assert_eq!(records[0].partition, Some(7));
        assert_eq!(records[0].value.as_deref(), Some(&b"\nz"[..]));
        assert_eq!(records[1].value, None);
        assert!(read(r"%k\t%v\n", b"no tab\n").is_err());
        assert!(read("%V{big32}%v", b"\x7f\xff\xff\xff").is_err());
        assert!(read("%V{big8}%v", b"\x05abc").is_err());
    }

    proptest! {
        #[test]
        fn binary_formats_round_trip(
            key in option::of(vec(any::<u8>(), 0..30)),
            value in option::of(vec(any::<u8>(), 0..30)),
            partition in 0..i32::MAX,
            timestamp in any::<i64>(),
        ) {
            let format = RecordFormat::parse("%p{little32}%d{big64}%K{big16}%k%V{little32}%v").unwrap();
            let record = ConsumedRecord {
                partition, timestamp, key: key.map(Bytes::from), value: value.map(Bytes::from), ..record()
            };
            let mut out = Vec::new();
            format.write(&record, &mut out);
            let parsed = format.reader().unwrap().next(&mut Cursor::new(&out)).unwrap().unwrap();
            prop_assert_eq!(parsed.partition, Some(partition));
            prop_assert_eq!(parsed.timestamp, Some(timestamp));
            prop_assert_eq!(parsed.key, record.key);
            prop_assert_eq!(parsed.value, record.value);
        }

        #[test]
        fn never_panics(text in "[%tkvhpod{}big8hex\\\\n]{0,16}|\\PC{0,8}", input in vec(any::<u8>(), 0..32)) {
            if let Ok(mut reader) = RecordFormat::parse(&text).and_then(|format| format.reader()) {
                let _ = reader.next(&mut Cursor::new(&input));
            }
        }
    }
}
