//! DescribeGroups (15), versions 0 to 6: members and state of groups.
//!
//! Version 4 shows static members, 5 is flexible, from 6 on an unknown group has error 69 (before: state Dead and no
//! error). A group that is named twice is described once: it may be far larger than its name.

use std::{collections::HashSet, sync::Arc};

use consumer_groups::{GroupError, Request, Response, request::GroupDescription};

use super::{Broker, Context};
use crate::protocol::{
    ErrorCode, Str,
    messages::describe_groups::{
        DescribeGroupsRequest, DescribeGroupsResponse, DescribedGroup, DescribedGroupMember,
    },
};

/// Every operation on a group that Kafka knows: read, delete, describe, as bits of their numbers.
const ALL_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 10 | 1 << 11;

/// Answers a request.
pub async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let mut groups = Vec::with_capacity(request.groups.len());
    let mut seen = HashSet::new();
    for group_id in request.groups {
        if !seen.insert(group_id.clone()) {
            continue;
        }
        let asked = Request::DescribeGroup(Arc::from(&*group_id));
        let mut group = match broker.coordinators.ask(broker, &group_id, asked).await {
            Ok(Response::DescribeGroup(Some(description))) => described(description),
            Ok(Response::DescribeGroup(None)) => unknown(context.version, &group_id),
            Ok(other) => unreachable!("{other:?} to DescribeGroup"),
            // Before the first coordinator there is no group.
            Err(GroupError::NotCoordinator)
                if broker.partitions.topic(crate::topics::CONSUMER_OFFSETS).is_none() =>
            {
                unknown(context.version, &group_id)
            }
            Err(error) => DescribedGroup {
                error_code: ErrorCode::from(&error).number(),
                error_message: Some(Str::from(error.to_string())),
                ..DescribedGroup::default()
            },
        };
        group.group_id = group_id;
        if request.include_authorized_operations {
            group.authorized_operations = ALL_OPERATIONS;
        }
        groups.push(group);
    }
    DescribeGroupsResponse { groups, ..DescribeGroupsResponse::default() }
}

fn unknown(version: i16, group_id: &str) -> DescribedGroup {
    let mut group = DescribedGroup { group_state: Str::from_static("Dead"), ..DescribedGroup::default() };
    if version >= 6 {
        group.error_code = ErrorCode::GroupIdNotFound.number();
        group.error_message = Some(Str::from(format!("there is no group '{group_id}'")));
    }
    group
}

fn described(description: GroupDescription) -> DescribedGroup {
    DescribedGroup {
        group_state: Str::from_static(description.state.name()),
        protocol_type: Str::from(&*description.protocol_type),
        protocol_data: Str::from(&*description.protocol),
        members: description
            .members
            .into_iter()
            .map(|member| DescribedGroupMember {
                member_id: Str::from(&*member.member_id),
                group_instance_id: member.instance_id.as_deref().map(Str::from),
                client_id: Str::from(&*member.client_id),
                client_host: Str::from(&*member.client_host),
                member_metadata: member.metadata,
                member_assignment: member.assignment,
            })
            .collect(),
        ..DescribedGroup::default()
    }
}
