//! ListGroups (16), versions 0 to 5: the groups that this broker coordinates. Version 3 is flexible, 4 filters by state
//! (KIP-518), 5 by type (KIP-848; all groups here are of type `classic`).

use std::sync::Arc;

use consumer_groups::{Request, Response, request};

use super::{Broker, Context};
use crate::protocol::{
    ErrorCode, Str,
    messages::list_groups::{ListGroupsRequest, ListGroupsResponse, ListedGroup},
};

/// Answers a request.
pub async fn handle(broker: &Arc<Broker>, _: &Context, request: ListGroupsRequest) -> ListGroupsResponse {
    let filter = request::ListGroups {
        states: request.states_filter.iter().map(|state| Arc::from(&**state)).collect(),
        types: request.types_filter.iter().map(|kind| Arc::from(&**kind)).collect(),
    };
    let mut response = ListGroupsResponse::default();
    for answer in broker.coordinators.ask_all(broker, Request::ListGroups(filter)).await {
        match answer {
            Ok(Response::ListGroups(groups)) => {
                response.groups.extend(groups.into_iter().map(|group| ListedGroup {
                    group_id: Str::from(&*group.group_id),
                    protocol_type: Str::from(&*group.protocol_type),
                    group_state: Str::from_static(group.state.name()),
                    group_type: Str::from_static("classic"),
                }))
            }
            Ok(other) => unreachable!("{other:?} to ListGroups"),
            Err(error) => response.error_code = ErrorCode::from(&error).number(),
        }
    }
    response
}
