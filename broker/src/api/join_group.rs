//! JoinGroup (11), versions 0 to 9: becoming or staying a member of a group.
//!
//! | version | brings |
//! | --- | --- |
//! | 1 | rebalance timeout (version 0: the session timeout) |
//! | 4 | a new member is told its id first (KIP-394) |
//! | 5 | static members (KIP-345) |
//! | 6 | flexible |
//! | 7 | protocol type in the answer |
//! | 8 | the reason (KIP-800) |
//! | 9 | `skip_assignment` for the leader (KIP-814) |

use std::sync::Arc;

use consumer_groups::{
    GroupError, Request, Response,
    request::{JoinGroup, JoinedGroup},
};

use super::{Broker, Context};
use crate::protocol::{
    ErrorCode, Str,
    messages::join_group::{JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember},
};

/// Answers a request, once the generation is complete.
pub async fn handle(broker: &Arc<Broker>, context: &Context, request: JoinGroupRequest) -> JoinGroupResponse {
    // A copy, as all that is kept while the rebalance lasts: a slice would keep the whole frame.
    let member_id = Str::from(&*request.member_id);
    match join(broker, context, request).await {
        Ok(joined) => answer(joined),
        Err(error) => JoinGroupResponse {
            error_code: ErrorCode::from(&error).number(),
            generation_id: -1,
            protocol_name: (context.version < 7).then(Str::default),
            member_id: match &error {
                GroupError::MemberIdRequired { member_id } => Str::from(&**member_id),
                _ => member_id,
            },
            ..JoinGroupResponse::default()
        },
    }
}

async fn join(
    broker: &Broker,
    context: &Context,
    request: JoinGroupRequest,
) -> Result<JoinedGroup, GroupError> {
    let join = JoinGroup {
        group_id: Arc::from(&*request.group_id),
        member_id: Arc::from(&*request.member_id),
        instance_id: request.group_instance_id.as_deref().map(Arc::from),
        client_id: Arc::from(&*context.client_id),
        client_host: Arc::from(format!("/{}", context.peer.ip())),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: match context.version {
            0 => request.session_timeout_ms,
            _ => request.rebalance_timeout_ms,
        },
        protocol_type: Arc::from(&*request.protocol_type),
        protocols: request
            .protocols
            .iter()
            .map(|protocol| (Arc::from(&*protocol.name), bytes::Bytes::copy_from_slice(&protocol.metadata)))
            .collect(),
        requires_known_member_id: context.version >= 4,
        supports_skip_assignment: context.version >= 9,
        reason: request.reason.as_deref().map(Arc::from),
    };
    drop(request);
    let group_id = Arc::clone(&join.group_id);
    match broker.coordinators.ask(broker, &group_id, Request::JoinGroup(join)).await? {
        Response::JoinGroup(result) => result,
        other => unreachable!("{other:?} to JoinGroup"),
    }
}

fn answer(joined: JoinedGroup) -> JoinGroupResponse {
    JoinGroupResponse {
        generation_id: joined.generation,
        protocol_type: joined.protocol_type.as_deref().map(Str::from),
        protocol_name: joined.protocol.as_deref().map(Str::from),
        leader: Str::from(&*joined.leader),
        skip_assignment: joined.skip_assignment,
        member_id: Str::from(&*joined.member_id),
        members: joined
            .members
            .into_iter()
            .map(|member| JoinGroupResponseMember {
                member_id: Str::from(&*member.member_id),
                group_instance_id: member.instance_id.as_deref().map(Str::from),
                metadata: member.metadata,
            })
            .collect(),
        ..JoinGroupResponse::default()
    }
}
