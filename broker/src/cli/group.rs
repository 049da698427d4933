//! `alluvium group`: list, describe, lag, seek, delete.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Context,
    client::{BACKOFF, Client, TopicPartition},
    connection::{ConnectionError, answered, is_retriable},
    failure::{CommandError, Exit, Failure},
    group_member::decode_assignment,
    interrupted, interruptible,
    offset_spec::{Bound, SeekTarget},
    output::{Column, OutputMode, Report, RowStream, count_of},
    topic::ask,
};
use crate::protocol::{
    Str,
    messages::{
        delete_groups::DeleteGroupsRequest,
        describe_groups::{DescribeGroupsRequest, DescribedGroup, DescribedGroupMember},
        list_groups::{ListGroupsRequest, ListedGroup},
        offset_commit::{OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic},
    },
};

#[derive(Subcommand)]
pub(super) enum GroupCommand {
    /// List groups
    #[command(visible_alias = "ls")]
    List,
    /// Show members, assignments and lag of groups
    Describe(DescribeArgs),
    /// Show how far groups are behind, in records
    Lag(LagArgs),
    /// Move the committed offsets of a group that has no members
    Seek(SeekArgs),
    /// Delete groups with all that they committed
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
}

impl GroupCommand {
    /// The command's name in output.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::List => "group list",
            Self::Describe(_) => "group describe",
            Self::Lag(_) => "group lag",
            Self::Seek(_) => "group seek",
            Self::Delete(_) => "group delete",
        }
    }
}

#[derive(Args)]
pub(super) struct DescribeArgs {
    /// Groups
    #[arg(required = true, value_name = "GROUP")]
    groups: Vec<String>,
}

#[derive(Args)]
pub(super) struct LagArgs {
    /// Groups
    #[arg(required = true, value_name = "GROUP")]
    groups: Vec<String>,
    /// Print again every second until interrupted
    #[arg(short, long)]
    watch: bool,
    /// End with exit code 6 where a group is more than N records behind
    #[arg(long, value_name = "N")]
    max: Option<i64>,
}

#[derive(Args)]
#[command(group(clap::ArgGroup::new("target").required(true).args(["to", "to_group", "to_file"])))]
pub(super) struct SeekArgs {
    /// The group
    #[arg(value_name = "GROUP")]
    group: String,
    /// start, end, an offset, @TIME (@2026-11-21T09:00Z, @-2h), or +N and -N from what is committed
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true)]
    to: Option<String>,
    /// To where another group is
    #[arg(long, value_name = "GROUP")]
    to_group: Option<String>,
    /// To offsets in a file: lines of TOPIC PARTITION OFFSET
    #[arg(long, value_name = "FILE")]
    to_file: Option<PathBuf>,
    /// Only these topics [default: those with a committed offset]
    #[arg(long, value_name = "TOPIC", value_delimiter = ',')]
    topics: Vec<String>,
    /// Show what would be committed and commit nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
pub(super) struct DeleteArgs {
    /// Groups
    #[arg(required = true, value_name = "GROUP")]
    groups: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Show what would be deleted and delete nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(context: &Context, command: GroupCommand) -> Result<Exit, CommandError> {
    match command {
        GroupCommand::List => interruptible(list(context)).await,
        GroupCommand::Describe(arguments) => interruptible(describe(context, &arguments)).await,
        GroupCommand::Lag(arguments) if arguments.watch => watch(context, &arguments).await,
        GroupCommand::Lag(arguments) => interruptible(lag(context, &arguments)).await,
        GroupCommand::Seek(arguments) => interruptible(seek(context, &arguments)).await,
        GroupCommand::Delete(arguments) => interruptible(delete(context, &arguments)).await,
    }
}

async fn list(context: &Context) -> Result<Exit, CommandError> {
    let client = Client::connect(&context.settings).await?;
    let mut report = Report::new(
        "group list",
        &[
            Column::left("GROUP", "group"),
            Column::left("STATE", "state"),
            Column::left("PROTOCOL-TYPE", "protocol_type").wide(),
            Column::right("COORDINATOR", "coordinator").wide(),
        ],
    );
    let mut groups = BTreeMap::new();
    for broker in client.metadata(Some(&[])).await?.brokers {
        match groups_of(context, &client, broker.node_id).await {
            Ok(of_broker) => groups.extend(
                of_broker.into_iter().map(|group| (group.group_id.to_string(), (broker.node_id, group))),
            ),
            // what the others have is shown
            Err(failure) => report.fail(failure),
        }
    }
    for (id, (coordinator, group)) in groups {
        report.row(json!({
            "group": id,
            "state": &*group.group_state,
            "protocol_type": &*group.protocol_type,
            "coordinator": coordinator,
        }));
    }
    report.print(&context.terminal)
}

/// The groups that a broker coordinates.
async fn groups_of(context: &Context, client: &Client, node: i32) -> Result<Vec<ListedGroup>, Failure> {
    let deadline = Instant::now() + Duration::from_millis(context.settings.timeout_ms);
    loop {
        let connection = client.node(node).await?;
        let response =
            connection.ask(&ListGroupsRequest::default()).await.map_err(ConnectionError::into_failure)?;
        match response.error_code {
            0 => return Ok(response.groups),
            code if is_retriable(code) && Instant::now() < deadline => tokio::time::sleep(BACKOFF).await,
            code => {
                let item = connection.address();
                return Err(answered(code, item, &format!("groups of broker {item}"), None));
            }
        }
    }
}

/// A group that exists: known to its coordinator, with a member or something committed.
struct Known {
    described: DescribedGroup,
    committed: BTreeMap<TopicPartition, i64>,
}

async fn known(client: &Client, group: &str) -> Result<Known, Failure> {
    let request = DescribeGroupsRequest { groups: vec![Str::from(group)], ..Default::default() };
    let response = client
        .ask_coordinator(group, &request, |response| {
            response.groups.first().map_or(0, |group| group.error_code)
        })
        .await?;
    let missing = || answered(69, group, &format!("group '{group}'"), None);
    let described = response.groups.into_iter().next().ok_or_else(missing)?;
    let committed = client.committed(group).await?;
    if &*described.group_state == "Dead" && committed.is_empty() {
        return Err(missing());
    }
    Ok(Known { described, committed })
}

/// Lag of one partition, never negative: the end is read after the commit.
struct Lag {
    committed: Option<i64>,
    /// Nothing where the partition does not answer.
    log_end: Option<i64>,
    lag: Option<i64>,
}

/// The lag in each partition. One that does not answer is a failed item, unless its topic was deleted.
async fn lags(
    client: &Client,
    partitions: BTreeSet<TopicPartition>,
    committed: &BTreeMap<TopicPartition, i64>,
    report: &mut Report,
) -> Result<BTreeMap<TopicPartition, Lag>, Failure> {
    let partitions: Vec<TopicPartition> = partitions.into_iter().collect();
    let mut lags = BTreeMap::new();
    for (partition, watermarks) in client.each_watermarks(&partitions).await? {
        let committed = committed.get(&partition).copied();
        let (log_end, lag) = match watermarks {
            // records below the log's start are gone: nobody is behind by them
            Ok((start, end)) => (Some(end), Some((end - committed.unwrap_or(start).max(start)).max(0))),
            Err(failure) => {
                if failure.exit() != Exit::NotFound {
                    report.fail(failure);
                }
                (None, None)
            }
        };
        lags.insert(partition, Lag { committed, log_end, lag });
    }
    Ok(lags)
}

async fn describe(context: &Context, arguments: &DescribeArgs) -> Result<Exit, CommandError> {
    let client = Client::connect(&context.settings).await?;
    let mut report = Report::new(
        "group describe",
        &[
            Column::left("GROUP", "group"),
            Column::left("STATE", "state"),
            Column::left("TOPIC", "topic"),
            Column::right("PARTITION", "partition"),
            Column::right("COMMITTED", "committed"),
            Column::right("LOG-END", "log_end"),
            Column::right("LAG", "lag"),
            Column::left("CLIENT-ID", "client_id"),
            Column::left("HOST", "host"),
            Column::left("MEMBER", "member").wide(),
            Column::left("ASSIGNOR", "assignor").wide(),
        ],
    );
    for group in &arguments.groups {
        let known = match known(&client, group).await {
            Ok(known) => known,
            Err(failure) if failure.code.is_some() => {
                report.fail(failure);
                continue;
            }
            Err(failure) => return Err(failure.into()),
        };
        let mut owners = BTreeMap::new();
        for member in &known.described.members {
            for partition in decode_assignment(&member.member_assignment) {
                owners.insert(partition, member);
            }
        }
        let partitions = owners.keys().chain(known.committed.keys()).cloned().collect();
        let lags = lags(&client, partitions, &known.committed, &mut report).await?;
        for (partition, lag) in &lags {
            let owner = owners.get(partition).copied();
            report.row(describe_row(&known.described, Some((partition, lag)), owner));
        }
        let idle = known
            .described
            .members
            .iter()
            .filter(|member| !owners.values().any(|owner| owner.member_id == member.member_id));
        for member in idle {
            report.row(describe_row(&known.described, None, Some(member)));
        }
        if lags.is_empty() && known.described.members.is_empty() {
            report.row(describe_row(&known.described, None, None));
        }
    }
    report.print(&context.terminal)
}

/// A partition of a group and who has it, or a member without partitions, or a group with neither.
fn describe_row(
    group: &DescribedGroup,
    partition: Option<(&TopicPartition, &Lag)>,
    owner: Option<&DescribedGroupMember>,
) -> Value {
    let (partition, lag) = partition.unzip();
    json!({
        "group": &*group.group_id,
        "state": &*group.group_state,
        "topic": partition.map(|partition| &*partition.topic),
        "partition": partition.map(|partition| partition.partition),
        "committed": lag.map(|lag| lag.committed),
        "log_end": lag.and_then(|lag| lag.log_end),
        "lag": lag.and_then(|lag| lag.lag),
        "client_id": owner.map(|member| &*member.client_id),
        "host": owner.map(|member| member.client_host.trim_start_matches('/')),
        "member": owner.map(|member| &*member.member_id),
        "assignor": &*group.protocol_data,
    })
}

const LAG: [Column; 6] = [
    Column::left("GROUP", "group"),
    Column::left("TOPIC", "topic"),
    Column::right("PARTITION", "partition"),
    Column::right("COMMITTED", "committed"),
    Column::right("LOG-END", "log_end"),
    Column::right("LAG", "lag"),
];

async fn lag(context: &Context, arguments: &LagArgs) -> Result<Exit, CommandError> {
    let client = Client::connect(&context.settings).await?;
    lag_report(&client, arguments).await?.print(&context.terminal)
}

/// Prints the lag again and again. In JSON and CSV all of it is one document, which is whole however the watch ends.
async fn watch(context: &Context, arguments: &LagArgs) -> Result<Exit, CommandError> {
    let mut document = match context.terminal.mode {
        OutputMode::Json | OutputMode::Csv => Some(RowStream::start("group lag", &LAG, &context.terminal)?),
        _ => None,
    };
    let ended = tokio::select! {
        ended = watch_rounds(context, arguments, document.as_mut()) => ended,
        () = interrupted() => Ok(Exit::Interrupted),
    };
    match (document, ended) {
        (None, ended) => ended,
        (Some(document), Ok(exit)) => document.finish().map(|_| exit),
        (Some(mut document), Err(CommandError::Failure(failure))) => {
            document.fail(failure);
            document.finish()
        }
        (Some(_), Err(error)) => Err(error),
    }
}

/// Rounds, a second apart, up to one in which something failed.
async fn watch_rounds(
    context: &Context,
    arguments: &LagArgs,
    mut document: Option<&mut RowStream<'_>>,
) -> Result<Exit, CommandError> {
    let client = Client::connect(&context.settings).await?;
    loop {
        let report = lag_report(&client, arguments).await?;
        let exit = match &mut document {
            Some(document) => document.report(report)?,
            None => report.print(&context.terminal)?,
        };
        if exit != Exit::Success {
            return Ok(exit);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        if context.terminal.mode == OutputMode::Table && context.terminal.color {
            print!("\x1b[2J\x1b[H");
        }
    }
}

async fn lag_report(client: &Client, arguments: &LagArgs) -> Result<Report, Failure> {
    let mut report = Report::new("group lag", &LAG);
    for group in &arguments.groups {
        let known = match known(client, group).await {
            Ok(known) => known,
            Err(failure) if failure.code.is_some() => {
                report.fail(failure);
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let assigned =
            known.described.members.iter().flat_map(|member| decode_assignment(&member.member_assignment));
        let partitions = assigned.chain(known.committed.keys().cloned()).collect();
        let mut total = 0;
        for (partition, lag) in lags(client, partitions, &known.committed, &mut report).await? {
            total += lag.lag.unwrap_or(0);
            report.row(json!({
                "group": group,
                "topic": &*partition.topic,
                "partition": partition.partition,
                "committed": lag.committed,
                "log_end": lag.log_end,
                "lag": lag.lag,
            }));
        }
        if let Some(max) = arguments.max.filter(|max| total > *max) {
            let message = format!("group '{group}' is {total} records behind, more than {max}");
            report.fail(Failure::local(Exit::Unhealthy, "LAG_OVER_THRESHOLD", group, message));
        }
    }
    Ok(report)
}

/// Where `seek` moves a group.
enum Destination<'a> {
    Place(SeekTarget),
    Group(&'a str),
    Offsets(BTreeMap<TopicPartition, i64>),
}

impl SeekArgs {
    fn destination(&self, now_ms: i64) -> Result<Destination<'_>, Failure> {
        if let Some(path) = &self.to_file {
            let offsets = read_offsets(path)?;
            if offsets.is_empty() {
                let name = path.display().to_string();
                return Err(Failure::usage(&name, format!("{name} names no offset")));
            }
            return Ok(Destination::Offsets(offsets));
        }
        if let Some(other) = &self.to_group {
            return Ok(Destination::Group(other));
        }
        let text = self.to.as_deref().unwrap_or_default();
        SeekTarget::parse(text, now_ms).map(Destination::Place).map_err(|why| {
            Failure::usage("--to", format!("--to {text}: {why}"))
                .hint("start, end, 42, +10, -10, @2026-11-21T09:00Z or @-2h")
        })
    }
}

async fn seek(context: &Context, arguments: &SeekArgs) -> Result<Exit, CommandError> {
    let group = arguments.group.as_str();
    let destination = arguments.destination(context.clock.now_ms())?;
    let client = Client::connect(&context.settings).await?;
    let members = members(&client, group).await?;
    if !members.is_empty() && !arguments.dry_run {
        let who: Vec<String> = members
            .iter()
            .map(|member| format!("{} at {}", member.client_id, member.client_host.trim_start_matches('/')))
            .collect();
        return Err(answered(68, group, &format!("group '{group}' cannot be moved"), None)
            .hint(format!("stop {} first: {}", count_of(who.len(), "member"), who.join(", ")))
            .into());
    }
    let committed = client.committed(group).await?;
    let mut new = match destination {
        Destination::Offsets(offsets) => inside(&client, offsets).await?,
        Destination::Group(other) => inside(&client, known(&client, other).await?.committed).await?,
        Destination::Place(target) => offsets_at(&client, target, &committed, &arguments.topics).await?,
    };
    new.retain(|partition, _| {
        arguments.topics.is_empty() || arguments.topics.iter().any(|topic| **topic == *partition.topic)
    });
    if new.is_empty() {
        return Err(Failure::local(
            Exit::NotFound,
            "NOTHING_COMMITTED",
            group,
            format!("group '{group}' has committed nothing that could be moved"),
        )
        .hint("name topics: --topics TOPIC,..")
        .into());
    }
    let codes = match arguments.dry_run {
        true => BTreeMap::new(),
        false => commit_offsets(&client, group, &new).await?,
    };
    seek_report(group, &committed, &new, &codes).print(&context.terminal)
}

/// The members of a group; none where it does not exist, for `seek` may make it, to copy another one.
async fn members(client: &Client, group: &str) -> Result<Vec<DescribedGroupMember>, Failure> {
    let request = DescribeGroupsRequest { groups: vec![Str::from(group)], ..Default::default() };
    let response = client
        .ask_coordinator(group, &request, |response| {
            match response.groups.first().map_or(0, |group| group.error_code) {
                69 => 0,
                code => code,
            }
        })
        .await?;
    Ok(response.groups.into_iter().next().map(|group| group.members).unwrap_or_default())
}

/// These offsets, the nearest that there is where one lies outside of its partition.
///
/// # Errors
/// A partition is not there.
async fn inside(
    client: &Client,
    mut offsets: BTreeMap<TopicPartition, i64>,
) -> Result<BTreeMap<TopicPartition, i64>, Failure> {
    let partitions: Vec<_> = offsets.keys().cloned().collect();
    for (partition, (start, end)) in client.watermarks(&partitions).await? {
        if let Some(offset) = offsets.get_mut(&partition) {
            *offset = (*offset).clamp(start, end);
        }
    }
    Ok(offsets)
}

/// The offset of a place in each partition of these topics, or of what is committed.
async fn offsets_at(
    client: &Client,
    target: SeekTarget,
    committed: &BTreeMap<TopicPartition, i64>,
    topics: &[String],
) -> Result<BTreeMap<TopicPartition, i64>, Failure> {
    let partitions = match topics {
        [] => committed.keys().cloned().collect(),
        topics => {
            let names: Vec<Arc<str>> = topics.iter().map(|name| name.as_str().into()).collect();
            client.partitions(&names).await?
        }
    };
    let watermarks = client.watermarks(&partitions).await?;
    let each = |offset: &dyn Fn(&TopicPartition, i64) -> i64| {
        watermarks
            .iter()
            .map(|(partition, (start, end))| {
                (partition.clone(), offset(partition, *start).clamp(*start, *end))
            })
            .collect()
    };
    match target {
        SeekTarget::Shift(by) => Ok(each(&|partition, start| {
            committed.get(partition).copied().unwrap_or(start).saturating_add(by)
        })),
        SeekTarget::Bound(Bound::Offset(offset)) => Ok(each(&|_, _| offset)),
        SeekTarget::Bound(bound) => client.resolve(bound, &watermarks).await,
    }
}

fn seek_report(
    group: &str,
    committed: &BTreeMap<TopicPartition, i64>,
    new: &BTreeMap<TopicPartition, i64>,
    codes: &BTreeMap<TopicPartition, i16>,
) -> Report {
    let mut report = Report::new(
        "group seek",
        &[
            Column::left("TOPIC", "topic"),
            Column::right("PARTITION", "partition"),
            Column::right("NOW", "now"),
            Column::right("THEN", "then"),
            Column::right("REPLAYED", "replayed"),
        ],
    );
    for (partition, then) in new {
        if let Some(code) = codes.get(partition).copied().filter(|code| *code != 0) {
            let item = partition.to_string();
            report.fail(answered(code, &item, &format!("{item} of group '{group}' was not moved"), None));
            continue;
        }
        let now = committed.get(partition);
        report.row(json!({
            "topic": &*partition.topic,
            "partition": partition.partition,
            "now": now,
            "then": then,
            "replayed": now.map(|now| (now - then).max(0)),
        }));
    }
    report
}

/// Commits from outside of the group, which has no members.
async fn commit_offsets(
    client: &Client,
    group: &str,
    offsets: &BTreeMap<TopicPartition, i64>,
) -> Result<BTreeMap<TopicPartition, i16>, Failure> {
    let request = OffsetCommitRequest {
        group_id: Str::from(group),
        topics: commit_topics(offsets),
        ..Default::default()
    };
    let response = client
        .ask_coordinator(group, &request, |response| {
            let codes = response
                .topics
                .iter()
                .flat_map(|topic| &topic.partitions)
                .map(|partition| partition.error_code);
            codes.into_iter().find(|code| is_retriable(*code) && *code != 3).unwrap_or(0)
        })
        .await?;
    let mut codes = BTreeMap::new();
    for topic in response.topics {
        let name: Arc<str> = (&*topic.name).into();
        for partition in topic.partitions {
            let key = TopicPartition { topic: Arc::clone(&name), partition: partition.partition_index };
            codes.insert(key, partition.error_code);
        }
    }
    Ok(codes)
}

/// Offsets as a commit carries them.
pub(super) fn commit_topics(offsets: &BTreeMap<TopicPartition, i64>) -> Vec<OffsetCommitRequestTopic> {
    let mut topics: BTreeMap<&Arc<str>, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for (partition, offset) in offsets {
        topics.entry(&partition.topic).or_default().push(OffsetCommitRequestPartition {
            partition_index: partition.partition,
            committed_offset: *offset,
            committed_metadata: Some(Str::default()),
            ..Default::default()
        });
    }
    topics
        .into_iter()
        .map(|(name, partitions)| OffsetCommitRequestTopic { name: Str::from(&**name), partitions })
        .collect()
}

fn read_offsets(path: &PathBuf) -> Result<BTreeMap<TopicPartition, i64>, Failure> {
    let name = path.display().to_string();
    let text =
        std::fs::read_to_string(path).map_err(|error| Failure::usage(&name, format!("{name}: {error}")))?;
    let mut offsets = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let parsed = match line.split_whitespace().collect::<Vec<_>>()[..] {
            [topic, partition, offset] => partition
                .parse()
                .ok()
                .zip(offset.parse::<i64>().ok().filter(|offset| *offset >= 0))
                .map(|(partition, offset)| (TopicPartition { topic: topic.into(), partition }, offset)),
            _ => None,
        };
        let (partition, offset) = parsed.ok_or_else(|| {
            Failure::usage(
                &name,
                format!("{name}, line {}: '{line}' is not TOPIC PARTITION OFFSET", number + 1),
            )
        })?;
        offsets.insert(partition, offset);
    }
    Ok(offsets)
}

async fn delete(context: &Context, arguments: &DeleteArgs) -> Result<Exit, CommandError> {
    let client = Client::connect(&context.settings).await?;
    let mut report = Report::new(
        "group delete",
        &[
            Column::left("GROUP", "group"),
            Column::right("PARTITIONS", "partitions"),
            Column::left("RESULT", "result"),
        ],
    );
    let mut doomed = Vec::new();
    for group in &arguments.groups {
        match known(&client, group).await {
            Ok(known) => doomed.push((group, known.committed.len())),
            Err(failure) if failure.code.is_some() => report.fail(failure),
            Err(failure) => return Err(failure.into()),
        }
    }
    if !doomed.is_empty() && !arguments.yes && !arguments.dry_run {
        let list: Vec<&str> = doomed.iter().map(|(group, _)| group.as_str()).collect();
        let partitions: usize = doomed.iter().map(|(_, partitions)| partitions).sum();
        let question = format!(
            "Delete {} ({}) with the committed offsets of {}?",
            count_of(doomed.len(), "group"),
            list.join(", "),
            count_of(partitions, "partition")
        );
        ask(question, "groups").await?;
    }
    for (group, partitions) in doomed {
        if !arguments.dry_run {
            let request = DeleteGroupsRequest { groups_names: vec![Str::from(group.as_str())] };
            let deleted = client
                .ask_coordinator(group, &request, |response| {
                    response.results.first().map_or(0, |result| result.error_code)
                })
                .await;
            if let Err(failure) = deleted {
                report.fail(failure);
                continue;
            }
        }
        report.row(json!({
            "group": group,
            "partitions": partitions,
            "result": if arguments.dry_run { "would be deleted" } else { "deleted" },
        }));
    }
    report.print(&context.terminal)
}
