//! `alluvium cluster info`: the brokers of the cluster.

use clap::Subcommand;
use serde_json::json;

use super::{
    Context,
    client::Client,
    failure::{CommandError, Exit},
    output::{Column, Report},
};

#[derive(Subcommand)]
pub(super) enum ClusterCommand {
    /// Show the cluster's id and its brokers
    Info,
}

impl ClusterCommand {
    /// The command's name in output.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Info => "cluster info",
        }
    }
}

pub(super) async fn run(context: &Context, command: ClusterCommand) -> Result<Exit, CommandError> {
    let ClusterCommand::Info = command;
    let client = Client::connect(&context.settings).await?;
    let response = client.metadata(None).await?;
    let mut report = Report::new(
        "cluster info",
        &[
            Column::right("BROKER", "broker"),
            Column::left("ADDRESS", "address"),
            Column::left("CONTROLLER", "controller"),
            Column::right("LEADS", "leads"),
            Column::left("CLUSTER-ID", "cluster_id"),
            Column::left("RACK", "rack").wide(),
        ],
    );
    let mut brokers = response.brokers;
    brokers.sort_by_key(|broker| broker.node_id);
    for broker in brokers {
        let leads = response
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .filter(|partition| partition.leader_id == broker.node_id)
            .count();
        report.row(json!({
            "broker": broker.node_id,
            "address": format!("{}:{}", super::client::bracketed(&broker.host), broker.port),
            "controller": broker.node_id == response.controller_id,
            "leads": leads,
            "cluster_id": response.cluster_id.as_deref(),
            "rack": broker.rack.as_deref(),
        }));
    }
    report.print(&context.terminal)
}
