//! Our tables against Kafka's own: the JSON schemas inside the published `kafka-clients` jar, where that is on this machine.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;
use serde_json::Value;
use uuid::Uuid;

use super::{
    Request, api_versions::*, create_topics::*, delete_groups::*, delete_topics::*, describe_cluster::*,
    describe_configs::*, describe_groups::*, fetch::*, find_coordinator::*, heartbeat::*,
    init_producer_id::*, join_group::*, leave_group::*, list_groups::*, list_offsets::*, metadata::*,
    offset_commit::*, offset_fetch::*, offset_for_leader_epoch::*, produce::*, sync_group::*,
};
use crate::{
    api::APIS,
    protocol::{
        ErrorCode,
        primitive::{Records, Str},
    },
};

/// What a field is on the wire.
pub(crate) enum Shape {
    /// A type without parts, by the schemas' name.
    Plain(&'static str),
    /// Any number of one shape.
    Array(Box<Shape>),
    /// A table of its own.
    Structure(Vec<Row>),
}

/// A row of a table.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) carried: fn(i16) -> bool,
    pub(crate) nullable: fn(i16) -> bool,
    pub(crate) tag: Option<u32>,
    pub(crate) default: String,
}

/// A type that knows its shape.
pub(crate) trait Described {
    const NULLABLE: bool = false;
    fn shape() -> Shape;
}

macro_rules! plain {
    ($($type:ty => $name:literal;)*) => {$(
        impl Described for $type {
            fn shape() -> Shape {
                Shape::Plain($name)
            }
        }
    )*};
}
plain! {
    bool => "bool";
    i8 => "int8";
    i16 => "int16";
    u16 => "uint16";
    i32 => "int32";
    u32 => "uint32";
    i64 => "int64";
    f64 => "float64";
    Uuid => "uuid";
    Str => "string";
    Bytes => "bytes";
    Records => "records";
}

impl<T: Described> Described for Vec<T> {
    fn shape() -> Shape {
        Shape::Array(Box::new(T::shape()))
    }
}

impl<T: Described> Described for Option<T> {
    const NULLABLE: bool = true;

    fn shape() -> Shape {
        T::shape()
    }
}

/// Fields that have a plainer name here than in the schemas: (ours, Kafka's).
const RENAMED: &[(&str, &str)] = &[
    ("topics", "TopicData"),
    ("partitions", "PartitionData"),
    ("partitions", "PartitionResponses"),
    ("message", "BatchIndexErrorMessage"),
    ("name", "Topic"),
    ("forgotten_topics", "ForgottenTopicsData"),
];

/// Versions of a schema: "3+", "0-5", "4", "none".
fn in_range(range: Option<&Value>, version: i16) -> bool {
    let range = range.and_then(Value::as_str).unwrap_or("none");
    if range == "none" {
        return false;
    }
    let number = |text: &str| text.parse::<i16>().unwrap_or_else(|_| panic!("versions {range:?}"));
    match (range.strip_suffix('+'), range.split_once('-')) {
        (Some(first), _) => version >= number(first),
        (None, Some((first, last))) => (number(first)..=number(last)).contains(&version),
        (None, None) => version == number(range),
    }
}

fn same_name(ours: &str, theirs: &str) -> bool {
    let plain = |name: &str| name.replace('_', "").to_lowercase();
    plain(ours) == plain(theirs)
        || RENAMED.iter().any(|(name, original)| *name == ours && plain(original) == plain(theirs))
}

/// A default of a schema as `Debug` prints ours.
fn default_of_schema(field: &Value) -> String {
    let default = match &field["default"] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    match field["type"].as_str().unwrap_or_default() {
        "bool" => (default == "true").to_string(),
        kind if kind.starts_with("int") => match default.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16).expect("a hexadecimal default").to_string(),
            None if default.is_empty() => "0".to_owned(),
            None => default,
        },
        _ => String::new(),
    }
}

/// Collects how `rows` differ from the fields of a schema in one version.
fn compare(
    at: &str,
    version: i16,
    rows: &[Row],
    fields: &[Value],
    shared: &[Value],
    found: &mut Vec<String>,
) {
    let tag =
        |field: &Value| field["tag"].as_u64().filter(|_| in_range(field.get("taggedVersions"), version));
    let mut ours: Vec<&Row> = rows.iter().filter(|row| (row.carried)(version)).collect();
    let mut theirs: Vec<&Value> =
        fields.iter().filter(|field| in_range(field.get("versions"), version)).collect();
    ours.sort_by_key(|row| row.tag.map_or(-1, i64::from));
    theirs.sort_by_key(|field| tag(field).map_or(-1, |tag| tag as i64));
    let name = |field: &Value| field["name"].as_str().expect("a name").to_owned();
    let names = || {
        let ours: Vec<_> = ours.iter().map(|row| row.name).collect();
        format!("{ours:?} and {:?}", theirs.iter().map(|field| name(field)).collect::<Vec<_>>())
    };
    if ours.len() != theirs.len() {
        found.push(format!("{at} v{version}: fields {}", names()));
        return;
    }
    for (row, field) in ours.iter().zip(&theirs) {
        let at = format!("{at}.{}", row.name);
        if !same_name(row.name, &name(field)) {
            found.push(format!("{at} v{version} is called {}", name(field)));
        }
        if row.tag.map(u64::from) != tag(field) {
            found.push(format!("{at} v{version}: tag {:?}, theirs {:?}", row.tag, tag(field)));
        }
        let kind = field["type"].as_str().expect("a type");
        let can_be_null =
            ["string", "bytes", "records"].contains(&kind.trim_start_matches("[]")) || kind.starts_with("[]");
        let nullable = in_range(field.get("nullableVersions"), version);
        // `Records` reads null as no records.
        if can_be_null && kind != "records" && (row.nullable)(version) != nullable {
            found.push(format!("{at} v{version}: nullable must be {nullable}"));
        }
        let everywhere = in_range(field.get("versions"), 0) && row.tag.is_none();
        let default = default_of_schema(field);
        if !everywhere && !default.is_empty() && row.default != default {
            found.push(format!("{at}: default {}, theirs {default}", row.default));
        }
        compare_shape(&at, version, &row.shape, kind, field, shared, found);
    }
}

fn compare_shape(
    at: &str,
    version: i16,
    shape: &Shape,
    kind: &str,
    field: &Value,
    shared: &[Value],
    found: &mut Vec<String>,
) {
    match (shape, kind.strip_prefix("[]")) {
        (Shape::Array(element), Some(kind)) => {
            compare_shape(at, version, element, kind, field, shared, found);
        }
        (Shape::Structure(rows), None) => {
            let fields = field["fields"].as_array().or_else(|| {
                shared.iter().find(|common| common["name"] == kind).and_then(|c| c["fields"].as_array())
            });
            match fields {
                Some(fields) => compare(at, version, rows, fields, shared, found),
                None => found.push(format!("{at} is a {kind}")),
            }
        }
        // A produce request's records are bytes to the codec.
        (Shape::Plain("bytes"), None) if kind == "records" => {}
        (Shape::Plain(ours), None) if *ours == kind => {}
        _ => found.push(format!("{at} v{version} is a {kind}")),
    }
}

fn required() -> bool {
    std::env::var("ALLUVIUM_REQUIRE_CLIENTS").as_deref() == Ok("1")
}

/// Says that the test is skipped, or fails it where `ALLUVIUM_REQUIRE_CLIENTS=1`.
fn skip(reason: &str) {
    assert!(!required(), "{reason}");
    // Straight to the stream: libtest would swallow what a passing test prints.
    drop(writeln!(std::io::stderr(), "SKIPPED Kafka's schemas: {reason}"));
}

/// The jar of Kafka's Java client, where `tests/peers/kafka-install` or the tests of the clients have put it, or would put it: where the
/// test must not be skipped it is fetched.
fn jar() -> Result<PathBuf, String> {
    let versions = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients/versions.toml");
    let table: toml::Table = std::fs::read_to_string(versions)
        .map_err(|error| error.to_string())?
        .parse()
        .map_err(|error: toml::de::Error| error.to_string())?;
    let version = table["kafka"].as_str().ok_or("versions.toml names no kafka")?.to_owned();
    let mut homes: Vec<PathBuf> = std::env::var_os("PEERS_HOME").into_iter().map(PathBuf::from).collect();
    homes.extend(std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/alluvium-peers")));
    if let Ok(own) = std::env::current_exe() {
        homes.extend(own.ancestors().nth(3).map(|target| target.join("tmp/clients")));
    }
    let jar = |home: &PathBuf| home.join(format!("kafka-{version}/libs/kafka-clients-{version}.jar"));
    if let Some(jar) = homes.iter().map(jar).find(|jar| jar.exists()) {
        return Ok(jar);
    }
    let Some(home) = homes.last().filter(|_| required()) else {
        return Err(format!("kafka-clients-{version}.jar is not here; tests/peers/kafka-install fetches it"));
    };
    let install = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers/kafka-install");
    let output = Command::new(install).arg(&version).env("PEERS_HOME", home).output();
    let output = output.map_err(|error| format!("tests/peers/kafka-install: {error}"))?;
    match output.status.success() {
        true => Ok(jar(home)),
        false => {
            Err(format!("tests/peers/kafka-install: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
    }
}

/// All schemas of the jar.
fn schemas() -> Result<Vec<Value>, String> {
    let output = Command::new("unzip")
        .arg("-p")
        .arg(jar()?)
        .arg("common/message/*.json")
        .output()
        .map_err(|error| format!("unzip: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let without_comments: String = text
        .lines()
        .map(|line| line.find("//").map_or(line, |comment| &line[..comment]))
        .collect::<Vec<_>>()
        .join("\n");
    let schemas = serde_json::Deserializer::from_str(&without_comments).into_iter::<Value>();
    schemas.collect::<Result<_, _>>().map_err(|error| format!("the jar's schemas: {error}"))
}

/// Every field of every message we have: name, order, type, versions, nullability, tag, default; and the versions that are
/// served are all known to Kafka, or are older ones that we keep (CreateTopics, DeleteTopics and DescribeConfigs 0 and 1).
///
/// Proves: V7, W14, W15, W19.
#[test]
fn tables_agree_with_kafkas_schemas() {
    let schemas = match schemas() {
        Ok(schemas) => schemas,
        Err(reason) => return skip(&reason),
    };
    assert!(schemas.len() > 150, "{} schemas", schemas.len());
    let mut found = Vec::new();
    let mut compared = 0;
    macro_rules! compare_all {
        ($($request:ident / $response:ident;)*) => {$(
            let api = APIS.iter().find(|api| api.key == $request::KEY).expect("a served API");
            let messages = [
                (stringify!($request), <$request as Described>::shape()),
                (stringify!($response), <$response as Described>::shape()),
            ];
            for (name, shape) in messages {
                let schema = schemas.iter().find(|schema| schema["name"] == name).expect("a schema");
                let Shape::Structure(rows) = shape else { panic!("{name} is no table") };
                assert_eq!(schema["apiKey"], $request::KEY, "{name}");
                let no_parts = Vec::new();
                let shared = schema["commonStructs"].as_array().unwrap_or(&no_parts);
                for version in api.served_from..=api.max {
                    if in_range(schema.get("flexibleVersions"), version) != (version >= $request::FLEXIBLE) {
                        found.push(format!("{name} v{version}: flexible from {}", schema["flexibleVersions"]));
                    }
                    if in_range(schema.get("validVersions"), version) {
                        let fields = schema["fields"].as_array().expect("fields");
                        compare(name, version, &rows, fields, shared, &mut found);
                        compared += 1;
                    } else if version > 1 {
                        found.push(format!("{name} v{version} is unknown to Kafka"));
                    }
                }
            }
        )*};
    }
    compare_all! {
        ProduceRequest / ProduceResponse;
        FetchRequest / FetchResponse;
        ListOffsetsRequest / ListOffsetsResponse;
        MetadataRequest / MetadataResponse;
        ApiVersionsRequest / ApiVersionsResponse;
        InitProducerIdRequest / InitProducerIdResponse;
        OffsetForLeaderEpochRequest / OffsetForLeaderEpochResponse;
        CreateTopicsRequest / CreateTopicsResponse;
        DeleteTopicsRequest / DeleteTopicsResponse;
        DescribeClusterRequest / DescribeClusterResponse;
        DescribeConfigsRequest / DescribeConfigsResponse;
        FindCoordinatorRequest / FindCoordinatorResponse;
        JoinGroupRequest / JoinGroupResponse;
        SyncGroupRequest / SyncGroupResponse;
        HeartbeatRequest / HeartbeatResponse;
        LeaveGroupRequest / LeaveGroupResponse;
        OffsetCommitRequest / OffsetCommitResponse;
        OffsetFetchRequest / OffsetFetchResponse;
        DescribeGroupsRequest / DescribeGroupsResponse;
        ListGroupsRequest / ListGroupsResponse;
        DeleteGroupsRequest / DeleteGroupsResponse;
    }
    found.dedup();
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
    assert!(compared > 200, "{compared} messages and versions");
}

/// Numbers are dense, names are Kafka's in form.
///
/// Proves: M16.
#[test]
fn error_codes_have_kafkas_numbers() {
    let numbers: Vec<i16> = ErrorCode::ALL.iter().map(|code| code.number()).collect();
    assert_eq!(numbers, (-1..=133).collect::<Vec<_>>());
    for code in ErrorCode::ALL {
        let plain = code.name().replace('_', "").to_lowercase();
        assert_eq!(plain, format!("{code:?}").to_lowercase(), "{}", code.number());
    }
}
