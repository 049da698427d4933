//! DescribeConfigs (32), versions 0 to 4: topics (resource type 2) and brokers (4), with sources, synonyms on demand (KIP-226), types and
//! documentation (KIP-569).
//!
//! Every topic setting that Kafka knows is listed, also those that have no effect here (tools read and assert them). Keys: null or
//! empty = all, unknown ones are left out. Settings of brokers are those of the file, the environment and the flags, read-only: there
//! are no dynamic ones, so the cluster-wide default (empty name) lists none. A resource that is named twice is described once, by the
//! first keys.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use log_store::config::{SettingKind, TOPIC_SETTINGS, TopicSetting};

use super::{Broker, Context};
use crate::{
    config::{self, Kind, Origin},
    protocol::{
        ErrorCode, Str,
        messages::describe_configs::{
            DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult,
            DescribeConfigsResponse, DescribeConfigsResult, DescribeConfigsSynonym,
        },
    },
    topics,
};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// Settings of Kafka's brokers whose default is to be unset, so that coarser ones (`.minutes`, `.hours`) count: they are no synonym
/// with a value.
const UNSET_BY_DEFAULT: [&str; 4] =
    ["log.retention.ms", "log.roll.ms", "log.roll.jitter.ms", "log.flush.interval.ms"];

/// Where a value comes from, by Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Topic = 1,
    StaticBroker = 4,
    Default = 5,
}

/// A setting as it is described.
pub(crate) struct ConfigEntry {
    pub(crate) name: Str,
    pub(crate) value: Option<Str>,
    pub(crate) source: Source,
    /// A broker's own settings are: they need a restart.
    read_only: bool,
    synonyms: Vec<(Str, Str, Source)>,
    kind: i8,
    documentation: &'static str,
}

/// Answers a request.
pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _context: &Context,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let mut seen = HashSet::new();
    let named = |resource: &DescribeConfigsResource| (resource.resource_type, resource.resource_name.clone());
    let resources = request.resources.iter().filter(|resource| seen.insert(named(resource)));
    let results = resources.map(|resource| {
        let (error, configs) = match describe(broker, resource) {
            Ok(entries) => (None, entries),
            Err(refusal) => (Some(refusal), Vec::new()),
        };
        let (error, message) = error.unzip();
        DescribeConfigsResult {
            error_code: error.unwrap_or(ErrorCode::None).number(),
            // Kafka's own is empty, not null.
            error_message: Some(message.map(Str::from).unwrap_or_default()),
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
            configs: configs.into_iter().map(|entry| on_the_wire(entry, &request)).collect(),
        }
    });
    DescribeConfigsResponse { throttle_time_ms: 0, results: results.collect() }
}

fn on_the_wire(entry: ConfigEntry, request: &DescribeConfigsRequest) -> DescribeConfigsResourceResult {
    let synonyms = if request.include_synonyms { entry.synonyms } else { Vec::new() };
    DescribeConfigsResourceResult {
        name: entry.name,
        value: entry.value,
        read_only: entry.read_only,
        is_default: entry.source == Source::Default,
        config_source: entry.source as i8,
        is_sensitive: false,
        synonyms: synonyms
            .into_iter()
            .map(|(name, value, source)| DescribeConfigsSynonym {
                name,
                value: Some(value),
                source: source as i8,
            })
            .collect(),
        config_type: entry.kind,
        documentation: request.include_documentation.then(|| Str::from_static(entry.documentation)),
    }
}

fn describe(
    broker: &Broker,
    resource: &DescribeConfigsResource,
) -> Result<Vec<ConfigEntry>, (ErrorCode, String)> {
    let keys: Option<HashSet<&str>> = match &resource.configuration_keys {
        Some(keys) if !keys.is_empty() => Some(keys.iter().map(|key| &**key).collect()),
        _ => None,
    };
    let name = &resource.resource_name;
    match resource.resource_type {
        TOPIC => {
            if let Some(reason) = topics::name_error(name) {
                return Err((ErrorCode::InvalidTopicException, reason));
            }
            let image = broker.node.metadata();
            let topic = image
                .topics
                .get(name.as_str())
                .ok_or((ErrorCode::UnknownTopicOrPartition, format!("there is no topic '{name}'")))?;
            Ok(topic_entries(broker, &topic.configs, keys.as_ref()))
        }
        BROKER if name.is_empty() => Ok(Vec::new()),
        // In one spelling only: under ever new ones (`01`, `+1`) all of it could be asked for again and again.
        BROKER if name.as_str() == broker.config.node_id.to_string() => {
            Ok(broker_entries(broker, keys.as_ref()))
        }
        BROKER => {
            let reason =
                format!("this is broker {}; broker '{name}' has to be asked itself", broker.config.node_id);
            Err((ErrorCode::InvalidRequest, reason))
        }
        other => {
            Err((ErrorCode::InvalidRequest, format!("resources of type {other} have no configurations here")))
        }
    }
}

/// All settings of a topic that sets `own`, or those of `keys`.
pub(crate) fn topic_entries(
    broker: &Broker,
    own: &BTreeMap<String, String>,
    keys: Option<&HashSet<&str>>,
) -> Vec<ConfigEntry> {
    let wanted = |setting: &&TopicSetting| {
        !setting.name.starts_with("internal.") && keys.is_none_or(|keys| keys.contains(setting.name))
    };
    TOPIC_SETTINGS.iter().filter(wanted).map(|setting| topic_entry(broker, setting, own)).collect()
}

fn topic_entry(
    broker: &Broker,
    setting: &'static TopicSetting,
    own: &BTreeMap<String, String>,
) -> ConfigEntry {
    let mut synonyms = Vec::new();
    if let Some(value) = own.get(setting.name) {
        synonyms.push((Str::from_static(setting.name), Str::from(value.as_str()), Source::Topic));
    }
    let configured = |name: &str| match broker.config.values.get(name) {
        Some((value, origin)) if *origin != Origin::Default => Some(value.clone()),
        _ => None,
    };
    if let Some((name, value)) = setting.broker_value(configured) {
        synonyms.push((Str::from_static(name), Str::from(value), Source::StaticBroker));
    }
    if let Some((name, _)) = setting.synonyms.first()
        && !UNSET_BY_DEFAULT.contains(name)
    {
        synonyms.push((Str::from_static(name), Str::from_static(setting.default), Source::Default));
    }
    let (value, source) = match synonyms.first() {
        Some((_, value, source)) => (value.clone(), *source),
        None => (Str::from_static(setting.default), Source::Default),
    };
    ConfigEntry {
        name: Str::from_static(setting.name),
        value: Some(value),
        source,
        read_only: false,
        synonyms,
        kind: match setting.kind {
            SettingKind::Boolean | SettingKind::OneOf(&["false"]) => 1,
            SettingKind::OneOf(_) => 2,
            SettingKind::Int { .. } => 3,
            SettingKind::Long { .. } => 5,
            SettingKind::Double { .. } => 6,
            SettingKind::ListOf(_) | SettingKind::ThrottledReplicas => 7,
        },
        documentation: setting.meaning,
    }
}

fn broker_entries(broker: &Broker, keys: Option<&HashSet<&str>>) -> Vec<ConfigEntry> {
    let wanted = |setting: &&config::Setting| keys.is_none_or(|keys| keys.contains(setting.name));
    config::SETTINGS
        .iter()
        .filter(wanted)
        .map(|setting| {
            let (value, origin) = match broker.config.values.get(setting.name) {
                Some((value, origin)) => (value.as_str(), origin),
                None => (setting.default, &Origin::Default),
            };
            let source = if *origin == Origin::Default { Source::Default } else { Source::StaticBroker };
            ConfigEntry {
                name: Str::from_static(setting.name),
                value: (!value.is_empty()).then(|| Str::from(value)),
                source,
                read_only: true,
                synonyms: vec![(Str::from_static(setting.name), Str::from(value), source)],
                kind: match setting.kind {
                    Kind::Bool => 1,
                    Kind::Text | Kind::OneOf(_) => 2,
                    Kind::Integer { max, .. } if max <= i64::from(i32::MAX) => 3,
                    Kind::Integer { .. } => 5,
                    Kind::Double { .. } => 6,
                    Kind::List => 7,
                },
                documentation: setting.meaning,
            }
        })
        .collect()
}
