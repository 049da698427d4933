//! LeaveGroup (13), versions 0 to 5: members go, or are sent away by an administrator.
//!
//! Version 3 names several members, static ones by their instance id alone (KIP-345), 4 is flexible, 5 carries the reason
//! (KIP-800). Before version 3 the member's result is the answer's.

use std::sync::Arc;

use consumer_groups::{
    GroupError, Request, Response,
    request::{LeaveGroup, LeavingMember},
};

use super::{Broker, Context};
use crate::protocol::{
    ErrorCode,
    messages::leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberIdentity, MemberResponse},
};

/// Answers a request.
pub async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: LeaveGroupRequest,
) -> LeaveGroupResponse {
    let members = match context.version {
        ..=2 => vec![MemberIdentity { member_id: request.member_id.clone(), ..MemberIdentity::default() }],
        _ => request.members,
    };
    let results = match leave(broker, &request.group_id, &members).await {
        Ok(results) => results,
        Err(error) => {
            return LeaveGroupResponse {
                error_code: ErrorCode::from(&error).number(),
                ..LeaveGroupResponse::default()
            };
        }
    };
    let code = |result: &Result<(), GroupError>| {
        result.as_ref().err().map_or(0, |error| ErrorCode::from(error).number())
    };
    if context.version <= 2 {
        let error_code = results.first().map_or(0, code);
        return LeaveGroupResponse { error_code, ..LeaveGroupResponse::default() };
    }
    let members = members
        .into_iter()
        .zip(&results)
        .map(|(member, result)| MemberResponse {
            member_id: member.member_id,
            group_instance_id: member.group_instance_id,
            error_code: code(result),
        })
        .collect();
    LeaveGroupResponse { members, ..LeaveGroupResponse::default() }
}

async fn leave(
    broker: &Broker,
    group_id: &str,
    members: &[MemberIdentity],
) -> Result<Vec<Result<(), GroupError>>, GroupError> {
    let leave = LeaveGroup {
        group_id: Arc::from(group_id),
        members: members
            .iter()
            .map(|member| LeavingMember {
                member_id: Arc::from(&*member.member_id),
                instance_id: member.group_instance_id.as_deref().map(Arc::from),
                reason: member.reason.as_deref().map(Arc::from),
            })
            .collect(),
    };
    match broker.coordinators.ask(broker, group_id, Request::LeaveGroup(leave)).await? {
        Response::LeaveGroup(result) => result,
        other => unreachable!("{other:?} to LeaveGroup"),
    }
}
