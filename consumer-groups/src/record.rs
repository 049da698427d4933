//! Keys and values of `__consumer_offsets`, in Kafka's own formats, so that whoever reads the topic (Kafka's
//! formatters, Burrow) understands ours, and we understand a copied one.
//!
//! ```text
//! key     int16 version   0, 1  group string, topic string, partition int32        an offset
//!                         2     group string                                        a group
//! offset  int16 version   0     offset int64, metadata string, commit time int64
//!                         1     as 0, then expiry time int64
//!                         2     as 0
//!                         3     offset int64, leader epoch int32, metadata string, commit time int64
//!                         4     as 3, flexible; tag 0: topic id
//! group   int16 version   0     protocol type string, generation int32, protocol string?, leader string?, members
//!                         1     members have a rebalance timeout
//!                         2     state time int64 after the leader
//!                         3     members have an instance id
//!                         4     as 3, flexible
//!   member                      id string, instance id string?, client id string, client host string,
//!                               rebalance timeout int32, session timeout int32, subscription bytes, assignment bytes
//! ```
//! Everything is big-endian. A record without a value removes what its key names. Written are versions 4 of offsets
//! (1 where the client set an expiry time) and 3 of groups, which is what Kafka 4.3 writes; all versions are read.

use std::{collections::BTreeSet, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::{error::RecordError, request::CommittedOffset};

/// A record to append to `__consumer_offsets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Bytes,
    /// The value; `None` removes what the key names.
    pub value: Option<Bytes>,
}

impl Record {
    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// What a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// A stored offset.
    Offset {
        /// The group.
        group_id: Arc<str>,
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
    },
    /// A group.
    Group {
        /// The group.
        group_id: Arc<str>,
    },
    /// Something that this version does not know (KIP-848 and later): left alone.
    Unknown {
        /// The key's version.
        version: i16,
    },
}

impl Key {
    /// Encodes the key.
    ///
    /// # Panics
    /// On [`Key::Unknown`], which is never written.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        match self {
            Self::Offset { group_id, topic, partition } => {
                out.put_i16(1);
                put_string(&mut out, group_id);
                put_string(&mut out, topic);
                out.put_i32(*partition);
            }
            Self::Group { group_id } => {
                out.put_i16(2);
                put_string(&mut out, group_id);
            }
            Self::Unknown { version } => panic!("a key of unknown version {version} is not written"),
        }
        out.freeze()
    }

    /// Decodes a key.
    ///
    /// # Errors
    /// [`RecordError::Truncated`], [`RecordError::InvalidString`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new("a key", bytes);
        Ok(match reader.int16()? {
            0 | 1 => Self::Offset {
                group_id: reader.string()?,
                topic: reader.string()?,
                partition: reader.int32()?,
            },
            2 => Self::Group { group_id: reader.string()? },
            version => Self::Unknown { version },
        })
    }
}

impl CommittedOffset {
    /// Encodes it as the value of a [`Key::Offset`].
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(48 + self.metadata.len());
        if let Some(expire_timestamp_ms) = self.expire_timestamp_ms {
            out.put_i16(1);
            out.put_i64(self.offset);
            put_string(&mut out, &self.metadata);
            out.put_i64(self.commit_timestamp_ms);
            out.put_i64(expire_timestamp_ms);
        } else {
            out.put_i16(4);
            out.put_i64(self.offset);
            out.put_i32(self.leader_epoch);
            put_varint(&mut out, self.metadata.len() as u32 + 1);
            out.put_slice(self.metadata.as_bytes());
            out.put_i64(self.commit_timestamp_ms);
            if self.topic_id.is_nil() {
                out.put_u8(0);
            } else {
                out.put_slice(&[1, 0, 16]); // one tagged field, number 0, of 16 bytes
                out.put_slice(self.topic_id.as_bytes());
            }
        }
        out.freeze()
    }

    /// Decodes the value of a [`Key::Offset`].
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        const WHAT: &str = "an offset";
        let mut reader = Reader::new(WHAT, bytes);
        let version = reader.int16()?;
        if !(0..=4).contains(&version) {
            return Err(RecordError::UnknownVersion { what: WHAT, version });
        }
        reader.flexible = version >= 4;
        let offset = reader.int64()?;
        let leader_epoch = if version >= 3 { reader.int32()? } else { -1 };
        let metadata = reader.string()?;
        let commit_timestamp_ms = reader.int64()?;
        let expire_timestamp_ms =
            if version == 1 { Some(reader.int64()?).filter(|&time| time != -1) } else { None };
        let mut topic_id = Uuid::nil();
        if version >= 4 {
            reader.tagged_fields(|tag, field| {
                if let (0, Ok(id)) = (tag, <[u8; 16]>::try_from(field)) {
                    topic_id = Uuid::from_bytes(id);
                }
            })?;
        }
        Ok(Self { offset, leader_epoch, metadata, commit_timestamp_ms, expire_timestamp_ms, topic_id })
    }
}

/// The value of a [`Key::Group`]: the group as of its last finished rebalance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMetadata {
    /// `consumer`, `connect`, ...; empty where the group never had members.
    pub protocol_type: Arc<str>,
    /// The generation.
    pub generation: i32,
    /// The protocol chosen.
    pub protocol: Option<Arc<str>>,
    /// The leader's member id.
    pub leader: Option<Arc<str>>,
    /// Since when the group is in its state, or -1.
    pub state_timestamp_ms: i64,
    /// The members.
    pub members: Vec<MemberMetadata>,
}

/// A member in [`GroupMetadata`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberMetadata {
    /// Its id.
    pub member_id: Arc<str>,
    /// Its static name.
    pub instance_id: Option<Arc<str>>,
    /// The client's id.
    pub client_id: Arc<str>,
    /// The client's address.
    pub client_host: Arc<str>,
    /// Its rebalance timeout, or -1.
    pub rebalance_timeout_ms: i32,
    /// Its session timeout.
    pub session_timeout_ms: i32,
    /// What it sent for the chosen protocol.
    pub subscription: Bytes,
    /// What the leader gave it.
    pub assignment: Bytes,
}

impl GroupMetadata {
    /// Encodes it.
    pub fn encode(&self) -> Bytes {
        let members =
            self.members.iter().map(|member| 128 + member.subscription.len() + member.assignment.len());
        let mut out = BytesMut::with_capacity(128 + members.sum::<usize>());
        out.put_i16(3);
        put_string(&mut out, &self.protocol_type);
        out.put_i32(self.generation);
        put_nullable_string(&mut out, self.protocol.as_deref());
        put_nullable_string(&mut out, self.leader.as_deref());
        out.put_i64(self.state_timestamp_ms);
        out.put_i32(self.members.len() as i32);
        for member in &self.members {
            put_string(&mut out, &member.member_id);
            put_nullable_string(&mut out, member.instance_id.as_deref());
            put_string(&mut out, &member.client_id);
            put_string(&mut out, &member.client_host);
            out.put_i32(member.rebalance_timeout_ms);
            out.put_i32(member.session_timeout_ms);
            put_bytes(&mut out, &member.subscription);
            put_bytes(&mut out, &member.assignment);
        }
        out.freeze()
    }

    /// Decodes it.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        const WHAT: &str = "a group";
        let mut reader = Reader::new(WHAT, bytes);
        let version = reader.int16()?;
        if !(0..=4).contains(&version) {
            return Err(RecordError::UnknownVersion { what: WHAT, version });
        }
        reader.flexible = version >= 4;
        let protocol_type = reader.string()?;
        let generation = reader.int32()?;
        let protocol = reader.nullable_string()?;
        let leader = reader.nullable_string()?;
        let state_timestamp_ms = if version >= 2 { reader.int64()? } else { -1 };
        let count = reader.array()?;
        let mut members = Vec::with_capacity(count.min(256));
        for _ in 0..count {
            members.push(MemberMetadata {
                member_id: reader.string()?,
                instance_id: if version >= 3 { reader.nullable_string()? } else { None },
                client_id: reader.string()?,
                client_host: reader.string()?,
                rebalance_timeout_ms: if version >= 1 { reader.int32()? } else { -1 },
                session_timeout_ms: reader.int32()?,
                subscription: reader.bytes()?,
                assignment: reader.bytes()?,
            });
            if reader.flexible {
                reader.tagged_fields(|_, _| ())?;
            }
        }
        if reader.flexible {
            reader.tagged_fields(|_, _| ())?;
        }
        Ok(Self { protocol_type, generation, protocol, leader, state_timestamp_ms, members })
    }

    /// Checks that no member and no static member stands there twice.
    ///
    /// # Errors
    /// [`RecordError::Duplicate`].
    pub(crate) fn check_distinct(&self) -> Result<(), RecordError> {
        let (mut members, mut instances) = (BTreeSet::new(), BTreeSet::new());
        for member in &self.members {
            let twice = |id: &Arc<str>| RecordError::Duplicate { what: "a group", id: id.clone() };
            if !members.insert(&member.member_id) {
                return Err(twice(&member.member_id));
            }
            if let Some(id) = &member.instance_id
                && !instances.insert(id)
            {
                return Err(twice(id));
            }
        }
        Ok(())
    }
}

/// The topics that a member of protocol type `consumer` subscribes to: the prefix that all versions of its
/// subscription share (`int16 version, array of string`). `None` where the bytes are something else.
pub(crate) fn subscribed_topics(metadata: &[u8]) -> Option<Vec<Arc<str>>> {
    let mut reader = Reader::new("a subscription", metadata);
    reader.int16().ok()?;
    let count = reader.array().ok()?;
    (0..count).map(|_| reader.string().ok()).collect()
}

fn put_string(out: &mut BytesMut, text: &str) {
    // Group ids, member ids and metadata all came over the wire in strings of the same or a smaller limit.
    assert!(text.len() <= i16::MAX as usize, "a string of {} bytes has no int16 length", text.len());
    out.put_i16(text.len() as i16);
    out.put_slice(text.as_bytes());
}

fn put_nullable_string(out: &mut BytesMut, text: Option<&str>) {
    match text {
        Some(text) => put_string(out, text),
        None => out.put_i16(-1),
    }
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_i32(bytes.len() as i32);
    out.put_slice(bytes);
}

fn put_varint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// Reads fields in order; every length is checked against what remains.
struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    position: usize,
    flexible: bool,
}

impl<'a> Reader<'a> {
    fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, bytes, position: 0, flexible: false }
    }

    fn truncated(&self) -> RecordError {
        RecordError::Truncated { what: self.what, position: self.position }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], RecordError> {
        let end = self.position.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| self.truncated())?;
        let taken = &self.bytes[self.position..end];
        self.position = end;
        Ok(taken)
    }

    fn array_of<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| self.truncated())
    }

    fn int16(&mut self) -> Result<i16, RecordError> {
        Ok(i16::from_be_bytes(self.array_of()?))
    }

    fn int32(&mut self) -> Result<i32, RecordError> {
        Ok(i32::from_be_bytes(self.array_of()?))
    }

    fn int64(&mut self) -> Result<i64, RecordError> {
        Ok(i64::from_be_bytes(self.array_of()?))
    }

    fn varint(&mut self) -> Result<u32, RecordError> {
        let mut value = 0_u32;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array_of()?;
            value |= u32::from(byte & 0x7f).checked_shl(shift).ok_or_else(|| self.truncated())?;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.truncated())
    }

    /// A length of `wide` or compact form; `None` is null.
    fn length(&mut self, wide: bool) -> Result<Option<usize>, RecordError> {
        if self.flexible {
            return Ok((self.varint()? as usize).checked_sub(1));
        }
        let length = if wide { self.int32()? } else { i32::from(self.int16()?) };
        if length < -1 {
            return Err(self.truncated());
        }
        Ok(usize::try_from(length).ok())
    }

    fn nullable_string(&mut self) -> Result<Option<Arc<str>>, RecordError> {
        let Some(length) = self.length(false)? else { return Ok(None) };
        let (what, position) = (self.what, self.position);
        let text = std::str::from_utf8(self.take(length)?);
        Ok(Some(text.map_err(|_| RecordError::InvalidString { what, position })?.into()))
    }

    fn string(&mut self) -> Result<Arc<str>, RecordError> {
        let (what, position) = (self.what, self.position);
        self.nullable_string()?.ok_or(RecordError::InvalidString { what, position })
    }

    fn bytes(&mut self) -> Result<Bytes, RecordError> {
        let length = self.length(true)?.unwrap_or(0);
        Ok(Bytes::copy_from_slice(self.take(length)?))
    }

    /// The length of an array, which has at least one byte for each element.
    fn array(&mut self) -> Result<usize, RecordError> {
        let count = self.length(true)?.unwrap_or(0);
        if count > self.bytes.len() - self.position { Err(self.truncated()) } else { Ok(count) }
    }

    fn tagged_fields(&mut self, mut field: impl FnMut(u32, &[u8])) -> Result<(), RecordError> {
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let size = self.varint()? as usize;
            field(tag, self.take(size)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// The bytes are those of Kafka's schemas, field by field.
    #[test]
    fn keys_and_offsets_have_the_bytes_of_kafka() {
        let key = Key::Offset { group_id: "g".into(), topic: "to".into(), partition: 7 };
        assert_eq!(&key.encode()[..], &hex("0001 0001 67 0002 746f 00000007")[..]);
        assert_eq!(&Key::Group { group_id: "g".into() }.encode()[..], &hex("0002 0001 67")[..]);
        let mut offset = CommittedOffset {
            offset: 5,
            leader_epoch: 3,
            metadata: "m".into(),
            commit_timestamp_ms: 9,
            expire_timestamp_ms: None,
            topic_id: Uuid::nil(),
        };
        assert_eq!(
            &offset.encode()[..],
            &hex("0004 0000000000000005 00000003 02 6d 0000000000000009 00")[..]
        );
        offset.topic_id = Uuid::from_u128(1);
        let tagged = hex(
            "0004 0000000000000005 00000003 02 6d 0000000000000009 01 00 10 00000000000000000000000000000001",
        );
        assert_eq!(&offset.encode()[..], &tagged[..]);
        offset.expire_timestamp_ms = Some(11);
        let expiring = hex("0001 0000000000000005 0001 6d 0000000000000009 000000000000000b");
        assert_eq!(&offset.encode()[..], &expiring[..]);
        let read = CommittedOffset::decode(&expiring).unwrap();
        assert_eq!((read.offset, read.leader_epoch, read.expire_timestamp_ms), (5, -1, Some(11)));
    }

    /// Versions that are no longer written are still read.
    #[test]
    fn old_versions_are_read() {
        let zero = CommittedOffset::decode(&hex("0000 0000000000000005 0001 6d 0000000000000009")).unwrap();
        assert_eq!((zero.offset, &*zero.metadata, zero.commit_timestamp_ms), (5, "m", 9));
        let three =
            CommittedOffset::decode(&hex("0003 0000000000000005 00000002 0000 0000000000000009")).unwrap();
        assert_eq!((three.offset, three.leader_epoch, &*three.metadata), (5, 2, ""));
        let group = "0008 636f6e73756d6572 00000002 0001 72 0001 6d"; // type consumer, generation 2, protocol r, leader m
        let tail = "00001770 00000001 73 00000001 61"; // session timeout, subscription, assignment
        let versions = [
            format!("0000 {group} 00000001 0001 6d 0001 63 0001 68 {tail}"),
            format!("0001 {group} 00000001 0001 6d 0001 63 0001 68 00000bb8 {tail}"),
            format!("0002 {group} 0000000000000009 00000001 0001 6d 0001 63 0001 68 00000bb8 {tail}"),
            format!("0003 {group} 0000000000000009 00000001 0001 6d ffff 0001 63 0001 68 00000bb8 {tail}"),
            "0004 09 636f6e73756d6572 00000002 02 72 02 6d 0000000000000009 02 02 6d 00 02 63 02 68 00000bb8 00001770 \
             02 73 02 61 00 00"
                .to_string(),
        ];
        for (version, text) in versions.iter().enumerate() {
            let read = GroupMetadata::decode(&hex(text)).unwrap();
            let member = &read.members[0];
            assert_eq!((&*read.protocol_type, read.generation), ("consumer", 2), "version {version}");
            assert_eq!((&*member.member_id, &*member.client_host), ("m", "h"), "version {version}");
            assert_eq!(
                member.rebalance_timeout_ms,
                if version == 0 { -1 } else { 3000 },
                "version {version}"
            );
            assert_eq!(member.session_timeout_ms, 6000, "version {version}");
            assert_eq!(
                (&member.subscription[..], &member.assignment[..]),
                (&b"s"[..], &b"a"[..]),
                "version {version}"
            );
        }
        let newer = GroupMetadata::decode(&hex("0005"));
        assert_eq!(newer, Err(RecordError::UnknownVersion { what: "a group", version: 5 }));
        assert_eq!(Key::decode(&hex("0003 0001 67")), Ok(Key::Unknown { version: 3 }));
    }

    fn text() -> impl Strategy<Value = Arc<str>> {
        "[a-z\u{e9}-]{0,12}".prop_map(Arc::from)
    }

    fn raw() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    prop_compose! {
        fn a_member()(
            names in (text(), proptest::option::of(text()), text(), text()),
            rebalance_timeout_ms: i32,
            session_timeout_ms: i32,
            subscription in raw(),
            assignment in raw(),
        ) -> MemberMetadata {
            let (member_id, instance_id, client_id, client_host) = names;
            MemberMetadata {
                member_id, instance_id, client_id, client_host, rebalance_timeout_ms, session_timeout_ms, subscription,
                assignment,
            }
        }
    }

    prop_compose! {
        fn a_group()(
            protocol_type in text(),
            generation: i32,
            protocol in proptest::option::of(text()),
            leader in proptest::option::of(text()),
            state_timestamp_ms: i64,
            members in proptest::collection::vec(a_member(), 0..4),
        ) -> GroupMetadata {
            GroupMetadata { protocol_type, generation, protocol, leader, state_timestamp_ms, members }
        }
    }

    prop_compose! {
        fn an_offset()(
            offset: i64, leader_epoch: i32, metadata in text(), commit_timestamp_ms: i64,
            expires in proptest::option::of(0..i64::MAX), topic_id: u128,
        ) -> CommittedOffset {
            CommittedOffset {
                offset,
                // Version 1, which holds the expiry time, has neither of the two.
                leader_epoch: if expires.is_some() { -1 } else { leader_epoch },
                metadata,
                commit_timestamp_ms,
                expire_timestamp_ms: expires,
                topic_id: if expires.is_some() { Uuid::nil() } else { Uuid::from_u128(topic_id) },
            }
        }
    }

    proptest! {
        /// What is written is read back.
        #[test]
        fn round_trips(group in a_group(), offset in an_offset(), names in (text(), text()), partition: i32) {
            prop_assert_eq!(GroupMetadata::decode(&group.encode()).unwrap(), group);
            prop_assert_eq!(CommittedOffset::decode(&offset.encode()).unwrap(), offset);
            let key = Key::Offset { group_id: names.0.clone(), topic: names.1, partition };
            prop_assert_eq!(Key::decode(&key.encode()).unwrap(), key);
            let key = Key::Group { group_id: names.0 };
            prop_assert_eq!(Key::decode(&key.encode()).unwrap(), key);
        }

        /// Damaged bytes are refused or read as something else; nothing panics, nothing large is allocated.
        #[test]
        fn damage_is_an_error(group in a_group(), cut: prop::sample::Index, flip: prop::sample::Index, junk in raw()) {
            let mut bytes = group.encode().to_vec();
            let cut = cut.index(bytes.len());
            prop_assert!(GroupMetadata::decode(&bytes[..cut]).is_err());
            let flip = flip.index(bytes.len());
            bytes[flip] ^= 0x80;
            let _ = GroupMetadata::decode(&bytes);
            let _ = (GroupMetadata::decode(&junk), CommittedOffset::decode(&junk), Key::decode(&junk));
            let _ = subscribed_topics(&junk);
        }
    }
}
