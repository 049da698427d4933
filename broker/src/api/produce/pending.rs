//! Produces that wait for the watermark of their acks. (Fetches wait inside their own handler.)
//!
//! A produce is submitted as a whole, partition by partition, and keeps a place for each result. Results come through
//! the connection's completion queue under a token that names the produce and the place.

use std::{sync::Arc, time::Duration};

use replication::AppendResult;
use tokio::time::Instant;

use super::{Broker, name_leaders};
use crate::{
    budget::Share,
    connection::Close,
    output::Answer,
    partitions::{Topic, TopicCounters},
    protocol::{
        ErrorCode, Str, encode_response,
        messages::produce::{PartitionResponse, ProduceRequest, ProduceResponse},
    },
};

/// Bits of a token that name the place; the others name the produce.
const PLACE_BITS: u32 = 24;

/// A produce that was submitted and is not answered.
#[derive(Debug)]
pub struct PendingProduce {
    /// Position in [`crate::api::APIS`].
    pub api: usize,
    /// When it was submitted.
    pub started: Instant,
    /// When it is answered at the latest.
    pub deadline: Instant,
    /// `timeout_ms` of the request.
    pub timeout: Duration,
    /// The frame's share of the byte budget.
    pub share: Option<Share>,
    /// Version of the request.
    pub version: i16,
    /// Position in [`Broker::endpoints`] of the listener that it came in on.
    pub listener: usize,
    /// To be echoed.
    pub correlation_id: i32,
    /// Whether the client wants an answer at all.
    pub answered: bool,
    /// The answer, complete but for the places.
    pub response: ProduceResponse,
    /// Batches that were submitted.
    pub places: Vec<Place>,
    /// How many of them are not finished.
    pub unfinished: usize,
}

/// The place of a submitted batch in the answer.
#[derive(Debug)]
pub struct Place {
    /// Index of the topic in the answer.
    pub topic: usize,
    /// Index of the partition in the topic.
    pub partition: usize,
    /// Whether its result is there.
    pub finished: bool,
    /// Where its records are counted.
    pub counted: Arc<Topic>,
    /// Bytes of the batch.
    pub bytes: u64,
    /// Records of the batch.
    pub records: u64,
}

impl PendingProduce {
    /// The token of a place.
    ///
    /// # Panics
    /// A frame of 100 MiB cannot hold 16 million batches.
    pub fn token(number: u64, place: usize) -> u64 {
        assert!(place < 1 << PLACE_BITS, "more batches than a frame can hold");
        number << PLACE_BITS | place as u64
    }

    /// The produce's number and the place of a token; numbers repeat after 2^40.
    pub fn split(token: u64) -> (u64, usize) {
        (token >> PLACE_BITS, (token & ((1 << PLACE_BITS) - 1)) as usize)
    }

    /// Whether all results are there.
    pub fn is_finished(&self) -> bool {
        self.unfinished == 0
    }

    /// Takes in the result of a place. What comes after a time-out changes nothing.
    pub fn finish(&mut self, place: usize, result: AppendResult) {
        let Some(place) = self.places.get_mut(place).filter(|place| !place.finished) else { return };
        place.finished = true;
        self.unfinished -= 1;
        let answer = &mut self.response.responses[place.topic].partitions[place.partition];
        let counters = &place.counted.counters;
        match result {
            Ok(appended) => {
                answer.base_offset = appended.base_offset;
                answer.log_append_time_ms = appended.log_append_time;
                answer.log_start_offset = appended.log_start;
                TopicCounters::add(&counters.messages_in, place.records);
                TopicCounters::add(&counters.bytes_in, place.bytes);
            }
            Err(error) => {
                TopicCounters::add(&counters.failed_produce_requests, 1);
                refuse(answer, ErrorCode::from(&error), Str::from(error.to_string()));
            }
        }
    }

    /// Ends the wait: what is not finished is answered by 7. It may still be committed later.
    pub fn time_out(&mut self) {
        self.unfinished = 0;
        for place in self.places.iter_mut().filter(|place| !place.finished) {
            place.finished = true;
            let answer = &mut self.response.responses[place.topic].partitions[place.partition];
            TopicCounters::add(&place.counted.counters.failed_produce_requests, 1);
            refuse(
                answer,
                ErrorCode::RequestTimedOut,
                Str::from_static("the batch was not committed in time"),
            );
        }
    }

    /// The encoded answer, if there is to be one.
    ///
    /// # Errors
    /// Nobody is to be answered, and a batch failed.
    pub fn into_answer(mut self, broker: &Broker) -> Result<Option<Answer>, Close> {
        if !self.answered {
            let failed = self.response.responses.iter().flat_map(|topic| &topic.partitions);
            return match failed.into_iter().find(|partition| partition.error_code != 0) {
                Some(partition) => {
                    Err(Close::Unanswered(partition.error_message.as_deref().unwrap_or("error").to_owned()))
                }
                None => Ok(None),
            };
        }
        name_leaders(broker, self.version, self.listener, &mut self.response);
        let pieces = encode_response::<ProduceRequest>(&self.response, self.version, self.correlation_id);
        Ok(Some(Answer { pieces }))
    }
}

/// Makes an answer one of failure.
pub(super) fn refuse(answer: &mut PartitionResponse, code: ErrorCode, message: Str) {
    answer.error_code = code.number();
    answer.error_message = Some(message);
    answer.base_offset = -1;
    answer.log_append_time_ms = -1;
    answer.log_start_offset = -1;
}
