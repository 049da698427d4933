//! Kafka's primitive types over bounded bytes.
//!
//! Invariants of [`Reader`]: nothing is allocated from a number on the wire before the bytes for it are known to be there (an
//! array of n elements needs at least n bytes), varints end within 5 (or 10) bytes, and what does not parse is a
//! [`DecodeError`], never a panic. [`Writer`] keeps record bytes as slices, so that they reach the socket uncopied.

use std::{borrow::Cow, fmt, ops::Deref};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use log_store::LogSlice;
use uuid::Uuid;

/// Bytes that are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the field does.
    #[error("{needed} bytes are needed where {left} are left")]
    Truncated {
        /// What the field needs.
        needed: usize,
        /// What there is.
        left: usize,
    },
    /// A length, count or value that cannot be.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// More bytes than the message has fields.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

/// Text, as a slice of the frame it came in.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Str(Bytes);

impl Str {
    /// Checks that the bytes are UTF-8.
    ///
    /// # Errors
    /// They are not.
    pub fn from_utf8(bytes: Bytes) -> Result<Self, DecodeError> {
        match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(Self(bytes)),
            Err(_) => Err(DecodeError::Malformed("a string that is not UTF-8")),
        }
    }

    /// Text of the program's own.
    pub fn from_static(text: &'static str) -> Self {
        Self(Bytes::from_static(text.as_bytes()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        // Checked at construction; an empty string stands for what cannot be.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Deref for Str {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl From<&str> for Str {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<String> for Str {
    fn from(text: String) -> Self {
        Self(Bytes::from(text))
    }
}

impl fmt::Debug for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

/// Bytes of the longest string that a message may hold.
const LONGEST_STRING: usize = i16::MAX as usize;

/// Reads a message of one version.
#[derive(Clone, Debug)]
pub struct Reader {
    bytes: Bytes,
    version: i16,
    flexible: bool,
    /// Bytes that elements of arrays may still take in memory.
    allowance: usize,
}

/// What the elements of a message's arrays may take in memory: one byte on the wire can become a structure of hundreds.
const ALLOWANCE: usize = 32 << 20;

/// The same for a request of `length` bytes: the byte budget counts frames at their length, so what is made of them has to
/// stay near it. Small requests may grow to eight times their size (short names do), large ones, which are record batches or
/// an attack, to little more than twice.
fn request_allowance(length: usize) -> usize {
    let small = length.saturating_mul(8).saturating_add(64 << 10).min(4 << 20);
    length.saturating_mul(2).saturating_add(small).min(ALLOWANCE)
}

impl Reader {
    /// Reads `bytes` as a message of `version`, flexible or not.
    pub fn new(bytes: Bytes, version: i16, flexible: bool) -> Self {
        Self { bytes, version, flexible, allowance: ALLOWANCE }
    }

    /// Reads a frame of which nothing is known so far, and whose sender is not trusted with memory.
    pub(crate) fn of_request(frame: Bytes) -> Self {
        let allowance = request_allowance(frame.len());
        Self { allowance, ..Self::new(frame, 0, false) }
    }

    /// Goes on behind what was read, as a message of `version`.
    pub fn at(self, version: i16, flexible: bool) -> Self {
        Self { version, flexible, ..self }
    }

    /// The version that is read.
    pub fn version(&self) -> i16 {
        self.version
    }

    /// Bytes not read so far.
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// All must have been read.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`].
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.bytes.len())) }
    }

    fn need(&self, needed: usize) -> Result<(), DecodeError> {
        if self.bytes.len() < needed {
            return Err(DecodeError::Truncated { needed, left: self.bytes.len() });
        }
        Ok(())
    }

    /// The next `length` bytes, as a slice of the frame.
    ///
    /// # Errors
    /// There are fewer.
    pub fn take(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        self.need(length)?;
        Ok(self.bytes.split_to(length))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.need(N)?;
        let mut array = [0; N];
        self.bytes.copy_to_slice(&mut array);
        Ok(array)
    }

    /// An unsigned varint of at most 32 bits.
    ///
    /// # Errors
    /// It is longer than 5 bytes, larger than 32 bits, or cut off.
    pub fn unsigned_varint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0_u32;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array()?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && byte > 0x0f {
                return Err(DecodeError::Malformed("a varint of more than 32 bits"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed("a varint of more than 5 bytes"))
    }

    /// The length of something nullable, `None` for null: compact (n + 1) in flexible versions, else `wide` says whether 32 or 16
    /// bits.
    fn length(&mut self, wide: bool) -> Result<Option<usize>, DecodeError> {
        let length = if self.flexible {
            i64::from(self.unsigned_varint()?) - 1
        } else if wide {
            i64::from(i32::from_be_bytes(self.array()?))
        } else {
            i64::from(i16::from_be_bytes(self.array()?))
        };
        // Any negative one is null to Kafka, not only -1.
        Ok(usize::try_from(length).ok())
    }

    fn string(&mut self) -> Result<Option<Str>, DecodeError> {
        match self.length(false)? {
            // As in Kafka, also where the length is compact and could say more.
            Some(length) if length > LONGEST_STRING => {
                Err(DecodeError::Malformed("a string of more than 32,767 bytes"))
            }
            Some(length) => {
                let bytes = self.take(length)?;
                match String::from_utf8_lossy(&bytes) {
                    Cow::Borrowed(_) => Ok(Some(Str(bytes))),
                    // What is no UTF-8 is replaced, as in Java: a client id in another encoding must not close the connection.
                    Cow::Owned(replaced) => {
                        self.spend(replaced.capacity())?;
                        Ok(Some(Str::from(replaced)))
                    }
                }
            }
            None => Ok(None),
        }
    }

    fn bytes(&mut self) -> Result<Option<Bytes>, DecodeError> {
        match self.length(true)? {
            Some(length) => Ok(Some(self.take(length)?)),
            None => Ok(None),
        }
    }

    /// The count of an array's elements; each takes `least` bytes or more.
    fn count(&mut self, least: usize) -> Result<Option<usize>, DecodeError> {
        let Some(count) = self.length(true)? else { return Ok(None) };
        self.need(count.saturating_mul(least.max(1)))?;
        Ok(Some(count))
    }

    /// Takes what an element needs in memory from the allowance.
    fn spend(&mut self, bytes: usize) -> Result<(), DecodeError> {
        match self.allowance.checked_sub(bytes) {
            Some(left) => {
                self.allowance = left;
                Ok(())
            }
            None => Err(DecodeError::Malformed("more elements than any honest message has")),
        }
    }

    /// Reads the tagged fields at a structure's end; `known` takes a tag and a reader over exactly that field, and answers
    /// whether it knows the tag. Others are passed over. Nothing where the version is not flexible.
    ///
    /// # Errors
    /// Malformed. Their order is not checked: Kafka does not, either.
    pub fn tagged(
        &mut self,
        mut known: impl FnMut(u32, &mut Reader) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.unsigned_varint()? {
            let tag = self.unsigned_varint()?;
            let size = self.unsigned_varint()? as usize;
            let mut field = Reader { bytes: self.take(size)?, flexible: true, ..*self };
            let known = known(tag, &mut field)?;
            self.allowance = field.allowance;
            if known {
                field.finish()?;
            }
        }
        Ok(())
    }
}

/// A piece of an encoded message.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Encoded fields.
    Encoded(Bytes),
    /// Record bytes of a log.
    Slice(LogSlice),
}

/// Writes a message of one version.
#[derive(Debug)]
pub struct Writer {
    pieces: Vec<Piece>,
    buffer: BytesMut,
    piece_bytes: usize,
    version: i16,
    flexible: bool,
}

impl Writer {
    /// Writes a message of `version`, flexible or not.
    pub fn new(version: i16, flexible: bool) -> Self {
        Self { pieces: Vec::new(), buffer: BytesMut::with_capacity(256), piece_bytes: 0, version, flexible }
    }

    /// The version that is written.
    pub fn version(&self) -> i16 {
        self.version
    }

    /// Whether it is flexible.
    pub fn flexible(&self) -> bool {
        self.flexible
    }

    /// Goes on in another flexibility: a header and its body may differ.
    pub fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.piece_bytes + self.buffer.len()
    }

    /// Whether nothing was written so far.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes raw bytes.
    pub fn put(&mut self, bytes: &[u8]) {
        self.buffer.put_slice(bytes);
    }

    /// Everything written, in order.
    pub fn finish(mut self) -> Vec<Piece> {
        self.cut();
        self.pieces
    }

    /// Everything written, in order, as a frame: its first four bytes, written as zeros, become the length of the rest.
    pub fn finish_frame(mut self) -> Vec<Piece> {
        let length = u32::try_from(self.len() - 4).unwrap_or(u32::MAX).to_be_bytes();
        match self.pieces.first_mut() {
            None => self.buffer[..4].copy_from_slice(&length),
            Some(Piece::Encoded(first)) => {
                let mut patched = BytesMut::from(&first[..]);
                patched[..4].copy_from_slice(&length);
                *first = patched.freeze();
            }
            Some(Piece::Slice(_)) => unreachable!("a frame begins with its length"),
        }
        self.finish()
    }

    /// Everything written, in one piece: for messages without records, and for tests.
    ///
    /// # Panics
    /// A piece is a range of a file.
    pub fn into_bytes(self) -> Bytes {
        let mut whole = BytesMut::new();
        for piece in self.finish() {
            match piece {
                Piece::Encoded(bytes) | Piece::Slice(LogSlice::Bytes(bytes)) => {
                    whole.extend_from_slice(&bytes)
                }
                Piece::Slice(other) => panic!("{other:?} is not in memory"),
            }
        }
        whole.freeze()
    }

    fn cut(&mut self) {
        if !self.buffer.is_empty() {
            self.piece_bytes += self.buffer.len();
            self.pieces.push(Piece::Encoded(self.buffer.split().freeze()));
        }
    }

    /// Writes an unsigned varint.
    pub fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.buffer.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.put_u8(value as u8);
    }

    fn length(&mut self, length: Option<usize>, wide: bool) {
        match (length, self.flexible, wide) {
            (None, true, _) => self.unsigned_varint(0),
            (None, false, true) => self.buffer.put_i32(-1),
            (None, false, false) => self.buffer.put_i16(-1),
            (Some(length), true, _) => self.unsigned_varint(u32::try_from(length + 1).unwrap_or(u32::MAX)),
            (Some(length), false, true) => self.buffer.put_i32(i32::try_from(length).unwrap_or(i32::MAX)),
            (Some(length), false, false) => self.buffer.put_i16(i16::try_from(length).unwrap_or(i16::MAX)),
        }
    }

    /// Writes a string. The end of one that nobody may read is left out: a message of ours that repeats what a client sent, or a name
    /// that grew when it was made UTF-8.
    fn string(&mut self, text: Option<&str>) {
        let text = text.map(|text| &text[..text.floor_char_boundary(LONGEST_STRING)]);
        self.length(text.map(str::len), false);
        self.put(text.unwrap_or_default().as_bytes());
    }

    fn bytes(&mut self, bytes: Option<&Bytes>) {
        self.length(bytes.map(Bytes::len), true);
        self.put(bytes.map_or(&[], |bytes| bytes));
    }
}

/// A type that stands in a message.
pub trait Field: Sized {
    /// The fewest bytes it takes, in any version; at least 1.
    const LEAST: usize;

    /// Reads one.
    ///
    /// # Errors
    /// The bytes are none.
    fn read(reader: &mut Reader) -> Result<Self, DecodeError>;

    /// Writes it.
    fn write(&self, writer: &mut Writer);

    /// Whether it is null.
    fn is_null(&self) -> bool {
        false
    }

    /// Writes what stands for null in a version that has no null.
    fn write_empty(writer: &mut Writer) {
        writer.length(Some(0), true);
    }
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Field for $number {
            const LEAST: usize = size_of::<$number>();

            fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
                Ok(Self::from_be_bytes(reader.array()?))
            }

            fn write(&self, writer: &mut Writer) {
                writer.put(&self.to_be_bytes());
            }
        }
    )*};
}
numbers!(i8 i16 u16 i32 u32 i64 f64);

impl Field for bool {
    const LEAST: usize = 1;

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(i8::read(reader)? != 0)
    }

    fn write(&self, writer: &mut Writer) {
        i8::from(*self).write(writer);
    }
}

impl Field for Uuid {
    const LEAST: usize = 16;

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self::from_bytes(reader.array()?))
    }

    fn write(&self, writer: &mut Writer) {
        writer.put(self.as_bytes());
    }
}

impl Field for Str {
    const LEAST: usize = 1;

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        reader.string()?.ok_or(DecodeError::Malformed("null where a string must be"))
    }

    fn write(&self, writer: &mut Writer) {
        writer.string(Some(self));
    }
}

impl Field for Option<Str> {
    const LEAST: usize = 1;

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        reader.string()
    }

    fn write(&self, writer: &mut Writer) {
        writer.string(self.as_deref());
    }

    fn is_null(&self) -> bool {
        self.is_none()
    }

    fn write_empty(writer: &mut Writer) {
        writer.length(Some(0), false);
    }
}

impl Field for Bytes {
    const LEAST: usize = 1;

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        reader.bytes()?.ok_or(DecodeError::Malformed("null where bytes must be"))
    }

    fn write(&self, writer: &mut Writer) {
        writer.bytes(Some(self));
    }
}

impl Field for Option<Bytes> {
    const LEAST: usize = 1;

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        reader.bytes()
    }

    fn write(&self, writer: &mut Writer) {
        writer.bytes(self.as_ref());
    }

    fn is_null(&self) -> bool {
        self.is_none()
    }
}

impl<T: Field> Field for Vec<T> {
    const LEAST: usize = 1;

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        Option::<Self>::read(reader)?.ok_or(DecodeError::Malformed("null where an array must be"))
    }

    fn write(&self, writer: &mut Writer) {
        writer.length(Some(self.len()), true);
        for element in self {
            element.write(writer);
        }
    }
}

impl<T: Field> Field for Option<Vec<T>> {
    const LEAST: usize = 1;

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        /// Elements for which room is made ahead: an element in memory may be far larger than on the wire.
        const AHEAD: usize = 64;
        let Some(count) = reader.count(T::LEAST)? else { return Ok(None) };
        let mut elements = Vec::with_capacity(count.min(AHEAD));
        for _ in 0..count {
            reader.spend(size_of::<T>())?;
            elements.push(T::read(reader)?);
        }
        Ok(Some(elements))
    }

    fn write(&self, writer: &mut Writer) {
        match self {
            Some(elements) => elements.write(writer),
            None => writer.length(None, true),
        }
    }

    fn is_null(&self) -> bool {
        self.is_none()
    }
}

/// Record batches of a response: slices of a log on the way out, one slice of the frame on the way in.
#[derive(Clone, Debug, Default)]
pub struct Records(pub Vec<LogSlice>);

impl Records {
    /// Their bytes.
    pub fn len(&self) -> usize {
        let len = |slice: &LogSlice| match slice {
            LogSlice::Bytes(bytes) => bytes.len(),
            LogSlice::File { len, .. } => *len,
        };
        self.0.iter().map(len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl PartialEq for Records {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |records: &Self| {
            let mut writer = Writer::new(0, false);
            records.write(&mut writer);
            writer.into_bytes()
        };
        bytes(self) == bytes(other)
    }
}

impl Field for Records {
    const LEAST: usize = 1;

    fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let bytes = reader.bytes()?.unwrap_or_default();
        Ok(Self(if bytes.is_empty() { Vec::new() } else { vec![LogSlice::Bytes(bytes)] }))
    }

    fn write(&self, writer: &mut Writer) {
        writer.length(Some(self.len()), true);
        if !self.is_empty() {
            writer.cut();
            writer.piece_bytes += self.len();
            writer.pieces.extend(self.0.iter().cloned().map(Piece::Slice));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves: W2, fault I02.
    #[test]
    fn an_array_may_not_become_larger_in_memory_than_the_allowance() {
        let count = ALLOWANCE / size_of::<Str>();
        let read = |count: usize| {
            let mut bytes = BytesMut::new();
            bytes.put_i32(i32::try_from(count).unwrap());
            bytes.put_bytes(0, count * 2);
            Vec::<Str>::read(&mut Reader::new(bytes.freeze(), 0, false))
        };
        assert_eq!(read(count).unwrap().len(), count);
        assert!(read(count + 1).is_err());
    }

    /// Proves: W2 (the sizes of strings), fault I02.
    #[test]
    fn a_string_has_at_most_32767_bytes_in_any_encoding() {
        for flexible in [false, true] {
            for text in ["x".repeat(40_000), "\u{e9}".repeat(20_000)] {
                let mut writer = Writer::new(0, flexible);
                Str::from(text.as_str()).write(&mut writer);
                let read = Str::read(&mut Reader::new(writer.into_bytes(), 0, flexible)).unwrap();
                assert!(text.starts_with(&*read) && read.len() > LONGEST_STRING - 2, "{}", read.len());
            }
        }
        for length in [LONGEST_STRING, LONGEST_STRING + 1] {
            let mut writer = Writer::new(0, true);
            writer.length(Some(length), false);
            writer.put(&vec![b'x'; length]);
            let bytes = writer.into_bytes();
            assert_eq!(Str::read(&mut Reader::new(bytes.clone(), 0, true)).is_ok(), length == LONGEST_STRING);
            assert_eq!(
                Option::<Str>::read(&mut Reader::new(bytes, 0, true)).is_ok(),
                length == LONGEST_STRING
            );
        }
    }

    /// Requests of many tiny elements: a small one is read, of a large one no more than a few times its size is made.
    ///
    /// Proves: W2, fault I02.
    #[test]
    fn a_request_grows_to_a_small_multiple_of_its_size() {
        let read = |count: usize| {
            let mut bytes = BytesMut::new();
            bytes.put_i32(i32::try_from(count).unwrap());
            bytes.put_bytes(0, count * 2);
            Vec::<Str>::read(&mut Reader::of_request(bytes.freeze())).map(|strings| strings.len())
        };
        assert_eq!(read(1_000), Ok(1_000));
        assert!(read(1 << 20).is_err(), "2 MiB on the wire must not become 32 MiB");
        for length in [0, 100, 1 << 20, 100 << 20, usize::MAX] {
            assert!(request_allowance(length) <= ALLOWANCE);
            assert!(request_allowance(length) <= length.saturating_mul(10).saturating_add(64 << 10));
        }
    }
}
