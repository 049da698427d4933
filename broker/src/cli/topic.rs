//! `alluvium topic`: list, create, describe, delete, offsets.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    sync::Arc,
};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    Context,
    client::{Client, TopicPartition},
    connection::answered,
    failure::{CommandError, Exit, Failure},
    offset_spec::OffsetSpec,
    output::{Column, Report, confirm, count_of},
};
use crate::protocol::{
    Str,
    messages::{
        create_topics::{CreatableTopic, CreatableTopicConfig},
        describe_configs::{DescribeConfigsRequest, DescribeConfigsResource},
    },
};

#[derive(Subcommand)]
pub(super) enum TopicCommand {
    /// List topics
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Create topics
    Create(CreateArgs),
    /// Show the partitions of topics, or their settings
    Describe(DescribeArgs),
    /// Delete topics and all their records
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    /// Show where each partition starts and ends
    Offsets(OffsetsArgs),
}

impl TopicCommand {
    /// The command's name in output.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::List(_) => "topic list",
            Self::Create(_) => "topic create",
            Self::Describe(_) => "topic describe",
            Self::Delete(_) => "topic delete",
            Self::Offsets(_) => "topic offsets",
        }
    }
}

#[derive(Args)]
pub(super) struct ListArgs {
    /// Also list topics of the cluster's own, such as __consumer_offsets
    #[arg(short, long)]
    internal: bool,
}

#[derive(Args)]
pub(super) struct CreateArgs {
    /// Topics
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Number of partitions [default: the broker's num.partitions]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// Number of replicas of each partition [default: the broker's default.replication.factor]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
    replication_factor: Option<i16>,
    /// A setting of the topic, such as -c retention.ms=-1; may be repeated
    #[arg(short, long, value_name = "KEY=VALUE")]
    config: Vec<String>,
    /// Succeed also where the topic exists
    #[arg(long)]
    if_not_exists: bool,
    /// Check everything and create nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
pub(super) struct DescribeArgs {
    /// Topics
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Show settings instead of partitions
    #[arg(short, long)]
    configs: bool,
}

#[derive(Args)]
pub(super) struct DeleteArgs {
    /// Topics
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Show what would be deleted and delete nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
pub(super) struct OffsetsArgs {
    /// Topics
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Also show the offset of a place: start, end, +10, -5 or @TIME
    #[arg(short, long, value_name = "SPEC", allow_hyphen_values = true)]
    offset: Option<String>,
}

pub(super) async fn run(context: &Context, command: TopicCommand) -> Result<Exit, CommandError> {
    match command {
        TopicCommand::List(arguments) => list(context, &arguments).await,
        TopicCommand::Create(arguments) => create(context, &arguments).await,
        TopicCommand::Describe(arguments) if arguments.configs => configs(context, &arguments).await,
        TopicCommand::Describe(arguments) => describe(context, &arguments).await,
        TopicCommand::Delete(arguments) => delete(context, &arguments).await,
        TopicCommand::Offsets(arguments) => offsets(context, &arguments).await,
    }
}

async fn list(context: &Context, arguments: &ListArgs) -> Result<Exit, CommandError> {
    let client = Client::connect(&context.settings).await?;
    let mut topics = client.metadata(None).await?.topics;
    topics.sort_by(|left, right| left.name.cmp(&right.name));
    let mut report = Report::new(
        "topic list",
        &[
            Column::left("NAME", "name"),
            Column::right("PARTITIONS", "partitions"),
            Column::right("REPLICAS", "replicas"),
            Column::left("INTERNAL", "internal").wide(),
            Column::left("TOPIC-ID", "topic_id").wide(),
        ],
    );
    for topic in topics.iter().filter(|topic| arguments.internal || !topic.is_internal) {
        let name = topic.name.as_deref().unwrap_or_default();
        if topic.error_code != 0 {
            report.fail(answered(topic.error_code, name, &format!("topic '{name}'"), None));
            continue;
        }
        report.row(json!({
            "name": name,
            "partitions": topic.partitions.len(),
            "replicas": topic.partitions.first().map_or(0, |partition| partition.replica_nodes.len()),
            "internal": topic.is_internal,
            "topic_id": topic.topic_id.to_string(),
        }));
    }
    report.print(&context.terminal)
}

async fn create(context: &Context, arguments: &CreateArgs) -> Result<Exit, CommandError> {
    let mut configs = Vec::new();
    for pair in &arguments.config {
        let (name, value) = pair.split_once('=').ok_or_else(|| {
            Failure::usage("--config", format!("--config {pair}: not KEY=VALUE")).hint("-c retention.ms=-1")
        })?;
        configs.push(CreatableTopicConfig { name: name.into(), value: Some(value.into()) });
    }
    let client = Client::connect(&context.settings).await?;
    let topics = arguments
        .topics
        .iter()
        .map(|name| CreatableTopic {
            name: name.as_str().into(),
            num_partitions: arguments.partitions.unwrap_or(-1),
            replication_factor: arguments.replication_factor.unwrap_or(-1),
            configs: configs.clone(),
            ..Default::default()
        })
        .collect();
    let answers = client.create_topics(topics, arguments.dry_run).await?;
    let mut report = Report::new(
        "topic create",
        &[
            Column::left("NAME", "name"),
            Column::right("PARTITIONS", "partitions"),
            Column::right("REPLICAS", "replicas"),
            Column::left("RESULT", "result"),
            Column::left("TOPIC-ID", "topic_id").wide(),
        ],
    );
    for topic in &answers {
        let result = match topic.error_code {
            0 if arguments.dry_run => "would be created",
            0 => "created",
            36 if arguments.if_not_exists => "exists",
            code => {
                let what = format!("topic '{}' was not created", topic.name);
                let failure = answered(code, &topic.name, &what, topic.error_message.as_deref());
                report.fail(match code {
                    36 => failure.hint("--if-not-exists takes it as it is"),
                    _ => failure,
                });
                continue;
            }
        };
        report.row(json!({
            "name": &*topic.name,
            "partitions": (topic.num_partitions >= 0).then_some(topic.num_partitions),
            "replicas": (topic.replication_factor >= 0).then_some(topic.replication_factor),
            "result": result,
            "topic_id": topic.topic_id.to_string(),
        }));
    }
    report.print(&context.terminal)
}

fn names(topics: &[String]) -> Vec<Arc<str>> {
    let mut seen = Vec::new();
    for topic in topics {
        let name: Arc<str> = topic.as_str().into();
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

async fn describe(context: &Context, arguments: &DescribeArgs) -> Result<Exit, CommandError> {
    let client = Client::connect(&context.settings).await?;
    let response = client.metadata(Some(&names(&arguments.topics))).await?;
    let mut report = Report::new(
        "topic describe",
        &[
            Column::left("TOPIC", "topic"),
            Column::right("PARTITION", "partition"),
            Column::right("LEADER", "leader"),
            Column::right("EPOCH", "epoch"),
            Column::left("REPLICAS", "replicas"),
            Column::left("ISR", "isr"),
            Column::left("OFFLINE", "offline").wide(),
            Column::left("TOPIC-ID", "topic_id").wide(),
        ],
    );
    for topic in &response.topics {
        let name = topic.name.as_deref().unwrap_or_default();
        if topic.error_code != 0 {
            report.fail(answered(topic.error_code, name, &format!("topic '{name}'"), None));
            continue;
        }
        let mut partitions: Vec<_> = topic.partitions.iter().collect();
        partitions.sort_by_key(|partition| partition.partition_index);
        for partition in partitions {
            report.row(json!({
                "topic": name,
                "partition": partition.partition_index,
                "leader": (partition.leader_id >= 0).then_some(partition.leader_id),
                "epoch": partition.leader_epoch,
                "replicas": partition.replica_nodes,
                "isr": partition.isr_nodes,
                "offline": partition.offline_replicas,
                "topic_id": topic.topic_id.to_string(),
            }));
            if partition.error_code != 0 {
                let item = format!("{name}-{}", partition.partition_index);
                report.fail(answered(partition.error_code, &item, &format!("partition {item}"), None));
            }
        }
    }
    report.print(&context.terminal)
}

async fn configs(context: &Context, arguments: &DescribeArgs) -> Result<Exit, CommandError> {
    let client = Client::connect(&context.settings).await?;
    let request = DescribeConfigsRequest {
        resources: names(&arguments.topics)
            .iter()
            .map(|name| DescribeConfigsResource {
                resource_type: 2,
                resource_name: Str::from(&**name),
                configuration_keys: None,
            })
            .collect(),
        ..Default::default()
    };
    let response = client.ask(&request).await?;
    let mut report = Report::new(
        "topic describe",
        &[
            Column::left("TOPIC", "topic"),
            Column::left("NAME", "name"),
            Column::left("VALUE", "value"),
            Column::left("SOURCE", "source"),
        ],
    );
    for result in response.results {
        let topic = &*result.resource_name;
        if result.error_code != 0 {
            let what = format!("settings of topic '{topic}'");
            report.fail(answered(result.error_code, topic, &what, result.error_message.as_deref()));
            continue;
        }
        let mut configs = result.configs;
        configs.sort_by(|left, right| left.name.cmp(&right.name));
        for config in configs {
            report.row(json!({
                "topic": topic,
                "name": &*config.name,
                "value": config.value.as_deref(),
                "source": match config.config_source {
                    1 => "topic",
                    // of one broker, of all brokers, of its file
                    2..=4 => "broker",
                    5 => "default",
                    _ => "unknown",
                },
            }));
        }
    }
    report.print(&context.terminal)
}

async fn delete(context: &Context, arguments: &DeleteArgs) -> Result<Exit, CommandError> {
    let client = Client::connect(&context.settings).await?;
    let mut report = Report::new(
        "topic delete",
        &[
            Column::left("NAME", "name"),
            Column::right("PARTITIONS", "partitions"),
            Column::right("RECORDS", "records"),
            Column::left("RESULT", "result"),
        ],
    );
    let mut doomed = Vec::new();
    let response = client.metadata(Some(&names(&arguments.topics))).await?;
    for topic in response.topics {
        let name: Arc<str> = topic.name.as_deref().unwrap_or_default().into();
        if topic.error_code != 0 {
            let what = format!("topic '{name}' was not deleted");
            report.fail(answered(topic.error_code, &name, &what, None));
            continue;
        }
        let partitions: Vec<TopicPartition> = topic
            .partitions
            .iter()
            .map(|partition| TopicPartition {
                topic: Arc::clone(&name),
                partition: partition.partition_index,
            })
            .collect();
        // a partition that does not answer is no reason to keep it
        let watermarks = client.each_watermarks(&partitions).await?;
        let records: Option<i64> =
            watermarks.into_values().map(|watermarks| watermarks.ok().map(|(start, end)| end - start)).sum();
        doomed.push((name, partitions.len(), records));
    }
    if !doomed.is_empty() && !arguments.yes && !arguments.dry_run {
        let list: Vec<&str> = doomed.iter().map(|(name, ..)| &**name).collect();
        let records: Option<i64> = doomed.iter().map(|(.., records)| *records).sum();
        let question = format!(
            "Delete {} ({}) with {} records? They cannot be restored.",
            count_of(doomed.len(), "topic"),
            list.join(", "),
            records.map_or("an unknown number of".to_owned(), |records| records.to_string()),
        );
        ask(question, "topics").await?;
    }
    let mut codes = Vec::new();
    if !arguments.dry_run && !doomed.is_empty() {
        codes = client.delete_topics(doomed.iter().map(|(name, ..)| &**name)).await?;
    }
    for (name, partitions, records) in doomed {
        let answer = codes.iter().find(|answer| answer.name.as_deref() == Some(&name));
        if let Some(answer) = answer.filter(|answer| answer.error_code != 0) {
            let what = format!("topic '{name}' was not deleted");
            report.fail(answered(answer.error_code, &name, &what, answer.error_message.as_deref()));
            continue;
        }
        report.row(json!({
            "name": &*name,
            "partitions": partitions,
            "records": records,
            "result": if arguments.dry_run { "would be deleted" } else { "deleted" },
        }));
    }
    report.print(&context.terminal)
}

/// Asks before something is lost. An interrupt meanwhile finds somebody who listens.
///
/// # Errors
/// The answer is no, or there is nobody to ask.
pub(super) async fn ask(question: String, what: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(
            what,
            format!("{question} Nobody is there to ask: standard input is no terminal."),
        )
        .hint("--yes to do it, --dry-run to see what would be done"));
    }
    let answer = tokio::task::spawn_blocking(move || confirm(&question, &mut io::stdin().lock())).await;
    match answer.map_err(io::Error::other).flatten() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::local(Exit::Failed, "ABORTED", what, "nothing was done")),
        Err(error) => {
            Err(Failure::local(Exit::Failed, "ABORTED", what, format!("nothing was done: {error}")))
        }
    }
}

async fn offsets(context: &Context, arguments: &OffsetsArgs) -> Result<Exit, CommandError> {
    let parse = |text: &str| match OffsetSpec::parse(text, context.clock.now_ms())? {
        OffsetSpec { from, to: None } => Ok(from),
        OffsetSpec { to: Some(_), .. } => Err("a range, where one place is asked for".to_owned()),
    };
    let place = match &arguments.offset {
        None => None,
        Some(text) => Some(parse(text).map_err(|why| {
            Failure::usage("--offset", format!("--offset {text}: {why}"))
                .hint("start, end, 10, +10, -5, @2026-02-14 or @-1h")
        })?),
    };
    let client = Client::connect(&context.settings).await?;
    let mut columns = vec![
        Column::left("TOPIC", "topic"),
        Column::right("PARTITION", "partition"),
        Column::right("LOG-START", "log_start"),
        Column::right("LOG-END", "log_end"),
        Column::right("RECORDS", "records"),
    ];
    if place.is_some() {
        columns.push(Column::right("OFFSET", "offset"));
    }
    let mut report = Report::new("topic offsets", &columns);
    for name in names(&arguments.topics) {
        let partitions = match client.partitions(&[Arc::clone(&name)]).await {
            Ok(partitions) => partitions,
            Err(failure) if failure.code.is_some() => {
                report.fail(failure);
                continue;
            }
            Err(failure) => return Err(failure.into()),
        };
        let mut watermarks = BTreeMap::new();
        for (partition, answer) in client.each_watermarks(&partitions).await? {
            match answer {
                Ok(found) => drop(watermarks.insert(partition, found)),
                Err(failure) => report.fail(failure),
            }
        }
        let at = match place {
            None => None,
            Some(place) => Some(client.resolve(place, &watermarks).await?),
        };
        for (partition, (start, end)) in &watermarks {
            let mut row = json!({
                "topic": &*partition.topic,
                "partition": partition.partition,
                "log_start": start,
                "log_end": end,
                "records": end - start,
            });
            if let Some(at) = &at {
                row["offset"] = json!(at.get(partition));
            }
            report.row(row);
        }
    }
    report.print(&context.terminal)
}
