//! Every message in every version: round trips of random contents, agreement with the crate `kafka-protocol`, and hostile bytes.

use bytes::Bytes;
use kafka_protocol::{
    messages as theirs,
    protocol::{Decodable, Encodable, Message},
};
use log_store::LogSlice;
use uuid::Uuid;

use super::{
    Request, api_versions::*, create_topics::*, delete_groups::*, delete_topics::*, describe_cluster::*,
    describe_configs::*, describe_groups::*, fetch::*, find_coordinator::*, heartbeat::*,
    init_producer_id::*, join_group::*, leave_group::*, list_groups::*, list_offsets::*, metadata::*,
    offset_commit::*, offset_fetch::*, offset_for_leader_epoch::*, produce::*, sync_group::*,
};
use crate::protocol::primitive::{Field, Reader, Records, Str, Writer};

/// Random choices for one message of one version.
pub(crate) struct Dice {
    pub(crate) version: i16,
    state: u64,
}

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}

/// A random value of a field's type.
pub(crate) trait Sample: Sized {
    fn sample(dice: &mut Dice) -> Self;

    /// One that is not null.
    fn sample_some(dice: &mut Dice) -> Self {
        Self::sample(dice)
    }
}

macro_rules! sample_numbers {
    ($($number:ty)*) => {$(
        impl Sample for $number {
            fn sample(dice: &mut Dice) -> Self {
                match dice.roll(4) {
                    0 => <$number>::MAX,
                    1 => <$number>::MIN,
                    2 => 0 as $number,
                    _ => dice.roll(100) as $number,
                }
            }
        }
    )*};
}
sample_numbers!(i8 i16 u16 i32 i64);

impl Sample for bool {
    fn sample(dice: &mut Dice) -> Self {
        dice.roll(2) == 1
    }
}

impl Sample for Uuid {
    fn sample(dice: &mut Dice) -> Self {
        Self::from_u64_pair(dice.roll(u64::MAX), dice.roll(3))
    }
}

impl Sample for Str {
    fn sample(dice: &mut Dice) -> Self {
        let length = dice.roll(4) as usize * dice.roll(60) as usize;
        Self::from("abc\u{e9}\u{4e16}".chars().cycle().take(length).collect::<String>())
    }
}

impl Sample for Bytes {
    fn sample(dice: &mut Dice) -> Self {
        (0..dice.roll(200)).map(|byte| byte as u8).collect()
    }
}

impl Sample for Records {
    fn sample(dice: &mut Dice) -> Self {
        let bytes = Bytes::sample(dice);
        Self(if bytes.is_empty() { Vec::new() } else { vec![LogSlice::Bytes(bytes)] })
    }
}

impl<T: Sample> Sample for Vec<T> {
    fn sample(dice: &mut Dice) -> Self {
        (0..dice.roll(4)).map(|_| T::sample(dice)).collect()
    }
}

impl<T: Sample> Sample for Option<T> {
    fn sample(dice: &mut Dice) -> Self {
        (dice.roll(3) > 0).then(|| T::sample(dice))
    }

    fn sample_some(dice: &mut Dice) -> Self {
        Some(T::sample(dice))
    }
}

fn write<T: Field>(message: &T, version: i16, flexible: bool) -> Bytes {
    let mut writer = Writer::new(version, flexible);
    message.write(&mut writer);
    writer.into_bytes()
}

/// Encodes and decodes random messages, and has the other codec do the same with our bytes.
fn agrees<Ours: Field + Sample + PartialEq + std::fmt::Debug, Theirs: Decodable + Encodable + Message>(
    versions: std::ops::RangeInclusive<i16>,
    flexible_from: i16,
) {
    for version in versions {
        let flexible = version >= flexible_from;
        for seed in 0..200 {
            let message = Ours::sample(&mut Dice { version, state: seed });
            let bytes = write(&message, version, flexible);
            let mut reader = Reader::new(bytes.clone(), version, flexible);
            let read = Ours::read(&mut reader)
                .unwrap_or_else(|error| panic!("v{version} seed {seed}: {error}\n{message:?}"));
            reader.finish().expect("the whole message");
            assert_eq!(read, message, "v{version} seed {seed}");

            let known = Theirs::VERSIONS;
            if version < known.min || version > known.max {
                continue;
            }
            let mut rest = bytes.clone();
            let other = Theirs::decode(&mut rest, version)
                .unwrap_or_else(|error| panic!("v{version} seed {seed}: they say {error}\n{message:?}"));
            assert!(
                rest.is_empty(),
                "v{version} seed {seed}: they leave {} bytes of {message:?}",
                rest.len()
            );
            let mut again = bytes::BytesMut::new();
            other.encode(&mut again, version).expect("encoding what was decoded");
            assert_eq!(again.freeze(), bytes, "v{version} seed {seed}: {message:?}");
        }
    }
}

/// Cut-off and garbled messages are errors or other messages, never a panic.
fn survives<Ours: Field + Sample>(versions: std::ops::RangeInclusive<i16>, flexible_from: i16) {
    for version in versions {
        let flexible = version >= flexible_from;
        for seed in 0..40 {
            let mut dice = Dice { version, state: seed };
            let bytes = write(&Ours::sample(&mut dice), version, flexible);
            for length in 0..bytes.len() {
                drop(Ours::read(&mut Reader::new(bytes.slice(..length), version, flexible)));
            }
            for _ in 0..50 {
                let mut garbled = bytes.to_vec();
                if garbled.is_empty() {
                    break;
                }
                let at = dice.roll(garbled.len() as u64) as usize;
                let end = (at + 4).min(garbled.len());
                let forged =
                    [[0xff; 4], [0x7f, 0xff, 0xff, 0xff], [0x80; 4], [0, 0, 0xff, 0]][dice.roll(4) as usize];
                garbled[at..end].copy_from_slice(&forged[..end - at]);
                drop(Ours::read(&mut Reader::new(garbled.into(), version, flexible)));
            }
        }
    }
}

macro_rules! messages {
    ($($test:ident: $request:ident / $response:ident, $versions:expr;)*) => {$(
        /// Round trips, agreement and hostile bytes, request and response, in all versions.
        ///
        /// Proves: W2, W12, W14 (as the other codec does it), W15, W16, fault I02.
        #[test]
        fn $test() {
            agrees::<$request, theirs::$request>($versions, $request::FLEXIBLE);
            agrees::<$response, theirs::$response>($versions, $request::FLEXIBLE);
            survives::<$request>($versions, $request::FLEXIBLE);
            survives::<$response>($versions, $request::FLEXIBLE);
            assert_eq!($request::KEY, <theirs::$request as kafka_protocol::protocol::Request>::KEY);
        }
    )*};
}

messages! {
    produce: ProduceRequest / ProduceResponse, 3..=13;
    fetch: FetchRequest / FetchResponse, 4..=17;
    list_offsets: ListOffsetsRequest / ListOffsetsResponse, 1..=10;
    metadata: MetadataRequest / MetadataResponse, 0..=13;
    api_versions: ApiVersionsRequest / ApiVersionsResponse, 0..=4;
    init_producer_id: InitProducerIdRequest / InitProducerIdResponse, 0..=5;
    offset_for_leader_epoch: OffsetForLeaderEpochRequest / OffsetForLeaderEpochResponse, 2..=4;
    create_topics: CreateTopicsRequest / CreateTopicsResponse, 0..=7;
    delete_topics: DeleteTopicsRequest / DeleteTopicsResponse, 0..=6;
    describe_cluster: DescribeClusterRequest / DescribeClusterResponse, 0..=2;
    describe_configs: DescribeConfigsRequest / DescribeConfigsResponse, 0..=4;
    find_coordinator: FindCoordinatorRequest / FindCoordinatorResponse, 0..=5;
    join_group: JoinGroupRequest / JoinGroupResponse, 0..=9;
    sync_group: SyncGroupRequest / SyncGroupResponse, 0..=5;
    heartbeat: HeartbeatRequest / HeartbeatResponse, 0..=4;
    leave_group: LeaveGroupRequest / LeaveGroupResponse, 0..=5;
    offset_commit: OffsetCommitRequest / OffsetCommitResponse, 2..=9;
    offset_fetch: OffsetFetchRequest / OffsetFetchResponse, 1..=9;
    describe_groups: DescribeGroupsRequest / DescribeGroupsResponse, 0..=6;
    list_groups: ListGroupsRequest / ListGroupsResponse, 0..=5;
    delete_groups: DeleteGroupsRequest / DeleteGroupsResponse, 0..=2;
}
