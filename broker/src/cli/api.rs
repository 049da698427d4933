//! `alluvium api versions`: what a broker speaks.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::{
    Context,
    client::Client,
    connection::{Connection, ConnectionError},
    failure::{CommandError, Exit, Failure},
    output::{Column, Report},
    settings::parse_brokers,
};

/// Names of Kafka's APIs by number, as of 4.3.
const NAMES: [&str; 93] = [
    "Produce",
    "Fetch",
    "ListOffsets",
    "Metadata",
    "LeaderAndIsr",
    "StopReplica",
    "UpdateMetadata",
    "ControlledShutdown",
    "OffsetCommit",
    "OffsetFetch",
    "FindCoordinator",
    "JoinGroup",
    "Heartbeat",
    "LeaveGroup",
    "SyncGroup",
    "DescribeGroups",
    "ListGroups",
    "SaslHandshake",
    "ApiVersions",
    "CreateTopics",
    "DeleteTopics",
    "DeleteRecords",
    "InitProducerId",
    "OffsetForLeaderEpoch",
    "AddPartitionsToTxn",
    "AddOffsetsToTxn",
    "EndTxn",
    "WriteTxnMarkers",
    "TxnOffsetCommit",
    "DescribeAcls",
    "CreateAcls",
    "DeleteAcls",
    "DescribeConfigs",
    "AlterConfigs",
    "AlterReplicaLogDirs",
    "DescribeLogDirs",
    "SaslAuthenticate",
    "CreatePartitions",
    "CreateDelegationToken",
    "RenewDelegationToken",
    "ExpireDelegationToken",
    "DescribeDelegationToken",
    "DeleteGroups",
    "ElectLeaders",
    "IncrementalAlterConfigs",
    "AlterPartitionReassignments",
    "ListPartitionReassignments",
    "OffsetDelete",
    "DescribeClientQuotas",
    "AlterClientQuotas",
    "DescribeUserScramCredentials",
    "AlterUserScramCredentials",
    "Vote",
    "BeginQuorumEpoch",
    "EndQuorumEpoch",
    "DescribeQuorum",
    "AlterPartition",
    "UpdateFeatures",
    "Envelope",
    "FetchSnapshot",
    "DescribeCluster",
    "DescribeProducers",
    "BrokerRegistration",
    "BrokerHeartbeat",
    "UnregisterBroker",
    "DescribeTransactions",
    "ListTransactions",
    "AllocateProducerIds",
    "ConsumerGroupHeartbeat",
    "ConsumerGroupDescribe",
    "ControllerRegistration",
    "GetTelemetrySubscriptions",
    "PushTelemetry",
    "AssignReplicasToDirs",
    "ListConfigResources",
    "DescribeTopicPartitions",
    "ShareGroupHeartbeat",
    "ShareGroupDescribe",
    "ShareFetch",
    "ShareAcknowledge",
    "AddRaftVoter",
    "RemoveRaftVoter",
    "UpdateRaftVoter",
    "InitializeShareGroupState",
    "ReadShareGroupState",
    "WriteShareGroupState",
    "DeleteShareGroupState",
    "ReadShareGroupStateSummary",
    "StreamsGroupHeartbeat",
    "StreamsGroupDescribe",
    "DescribeShareGroupOffsets",
    "AlterShareGroupOffsets",
    "DeleteShareGroupOffsets",
];

#[derive(Subcommand)]
pub(super) enum ApiCommand {
    /// List the APIs that a broker speaks, and their versions
    Versions(VersionsArgs),
}

impl ApiCommand {
    /// The command's name in output.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Versions(_) => "api versions",
        }
    }
}

#[derive(Args)]
pub(super) struct VersionsArgs {
    /// The broker; its port is 9092 where none is given [default: the first of --brokers that answers]
    #[arg(value_name = "HOST[:PORT]")]
    broker: Option<String>,
}

pub(super) async fn run(context: &Context, command: ApiCommand) -> Result<Exit, CommandError> {
    let ApiCommand::Versions(arguments) = command;
    let mut apis = match &arguments.broker {
        Some(broker) => {
            let address = match parse_brokers(broker).as_deref() {
                Ok([address]) => address.clone(),
                _ => return Err(Failure::usage(broker, format!("'{broker}' is not HOST:PORT")).into()),
            };
            let timeout = Duration::from_millis(context.settings.timeout_ms);
            Connection::open(&address, &context.settings.client_id, timeout)
                .await
                .map_err(ConnectionError::into_failure)?
                .offered()
                .to_vec()
        }
        None => Client::connect(&context.settings).await?.any().await?.offered().to_vec(),
    };
    apis.sort_by_key(|api| api.api_key);
    let mut report = Report::new(
        "api versions",
        &[
            Column::right("KEY", "key"),
            Column::left("API", "api"),
            Column::right("MIN", "min"),
            Column::right("MAX", "max"),
        ],
    );
    for api in apis {
        let name = usize::try_from(api.api_key).ok().and_then(|key| NAMES.get(key));
        report.row(json!({
            "key": api.api_key,
            "api": name,
            "min": api.min_version,
            "max": api.max_version,
        }));
    }
    report.print(&context.terminal)
}
