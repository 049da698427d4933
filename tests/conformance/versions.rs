//! ApiVersions and what is advertised (V).

use alluvium::protocol::{
    Request, Str,
    messages::{
        api_versions::{ApiVersionsRequest, ApiVersionsResponse},
        find_coordinator::FindCoordinatorRequest,
        heartbeat::HeartbeatRequest,
        join_group::JoinGroupRequest,
        leave_group::LeaveGroupRequest,
        produce::ProduceRequest,
        sync_group::SyncGroupRequest,
    },
};

use crate::{requests::shared, support::wire::Wire};

fn software(name: &str, version: &str) -> ApiVersionsRequest {
    ApiVersionsRequest { client_software_name: Str::from(name), client_software_version: Str::from(version) }
}

fn ask(version: i16) -> ApiVersionsResponse {
    Wire::open(shared()).call(&software("test", "1.0"), version)
}

fn range(response: &ApiVersionsResponse, key: i16) -> Option<(i16, i16)> {
    response.api_keys.iter().find(|api| api.api_key == key).map(|api| (api.min_version, api.max_version))
}

/// A version from the future is answered in version 0 with error 35 and the range of ApiVersions itself; its body is not parsed.
///
/// Proves: V1.
#[test]
fn an_unsupported_version_is_answered_in_version_0() {
    let mut wire = Wire::open(shared());
    let frame = [
        &ApiVersionsRequest::KEY.to_be_bytes()[..],
        &99_i16.to_be_bytes(),
        &7_i32.to_be_bytes(),
        &(-1_i16).to_be_bytes(),
        b"\xff\xff not a body of any version",
    ]
    .concat();
    wire.raw_frame(&frame);
    let response = wire.receive::<ApiVersionsRequest>(0, 7);
    assert_eq!(response.error_code, 35);
    assert_eq!(range(&response, ApiVersionsRequest::KEY), Some((0, 4)));
    assert_eq!(wire.call(&software("test", "1.0"), 3).error_code, 0, "the client goes on with that range");
}

/// Proves: V2.
#[test]
fn client_software_is_checked() {
    for (name, version, error) in [
        ("apache-kafka-java", "4.3.1", 0),
        ("a", "1", 0),
        ("", "1", 42),
        ("-a", "1", 42),
        ("a", "1.", 42),
        ("two words", "1", 42),
    ] {
        let response = Wire::open(shared()).call(&software(name, version), 3);
        assert_eq!(response.error_code, error, "{name:?} {version:?}");
    }
}

/// The time is there from version 1 on; the response header is never flexible, whatever the body is.
///
/// Proves: V4, W7, W6.
#[test]
fn every_version_has_its_own_form() {
    for version in 0..=4 {
        let response = ask(version);
        assert_eq!(response.error_code, 0, "v{version}");
        assert!(response.api_keys.len() > 20, "v{version}");
    }
    let mut wire = Wire::open(shared());
    wire.send(&software("test", "1.0"), 0);
    let frame = wire.frame().expect("an answer");
    let keys = ask(0).api_keys.len();
    assert_eq!(frame.len(), 4 + 2 + 4 + 6 * keys, "correlation id, error, keys and no throttle time");
}

/// Produce is advertised from 0 although only 3 and later are served; group APIs from 0; nothing unstable.
///
/// Proves: V5, V6, V8.
#[test]
fn ranges_are_what_old_clients_need() {
    let response = ask(3);
    assert_eq!(range(&response, ProduceRequest::KEY), Some((0, 13)));
    for key in [
        FindCoordinatorRequest::KEY,
        JoinGroupRequest::KEY,
        SyncGroupRequest::KEY,
        HeartbeatRequest::KEY,
        LeaveGroupRequest::KEY,
    ] {
        assert_eq!(range(&response, key).map(|(min, _)| min), Some(0), "key {key}");
    }
    assert_eq!(range(&response, 22), Some((0, 5)), "InitProducerId 6 is unstable");
}

/// Exactly what has tests is advertised, in exactly those versions: `every_version.rs` calls each of them.
///
/// Proves: V7.
#[test]
fn nothing_else_is_advertised() {
    let mut advertised: Vec<_> =
        ask(4).api_keys.iter().map(|api| (api.api_key, api.min_version, api.max_version)).collect();
    advertised.sort();
    assert_eq!(
        advertised,
        [
            (0, 0, 13),
            (1, 4, 17),
            (2, 1, 10),
            (3, 0, 13),
            (8, 2, 9),
            (9, 1, 9),
            (10, 0, 5),
            (11, 0, 9),
            (12, 0, 4),
            (13, 0, 5),
            (14, 0, 5),
            (15, 0, 6),
            (16, 0, 5),
            (18, 0, 4),
            (19, 0, 7),
            (20, 0, 6),
            (22, 0, 5),
            (23, 2, 4),
            (32, 0, 4),
            (42, 0, 2),
            (60, 0, 2),
        ]
    );
}

/// No feature whose least version is 0 in version 3, and no transaction level anywhere.
///
/// Proves: V10.
#[test]
fn features_are_left_out_where_old_clients_fail_on_them() {
    assert!(ask(3).supported_features.iter().all(|feature| feature.min_version > 0));
    for version in 3..=4 {
        assert!(
            ask(version).finalized_features.iter().all(|feature| &*feature.name != "transaction.version")
        );
    }
}

/// Every new connection is answered, also several times.
///
/// Proves: V3.
#[test]
fn it_is_answered_on_every_connection_at_any_time() {
    let mut wire = Wire::open(shared());
    for _ in 0..3 {
        assert_eq!(wire.call(&software("test", "1.0"), 4).error_code, 0);
    }
}
