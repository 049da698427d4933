//! Incremental fetch sessions (KIP-227): a client names all its partitions once, then only what changed.
//!
//! ```text
//! request (id, epoch)      means                          answered by
//! (0, 0)                   full, make a session           all partitions, the new id (0 where there is no slot)
//! (0, -1)                  full, no session               all partitions, id 0
//! (id, 0), (id, -1)        full, the session ends         as (0, 0), (0, -1)
//! (id, n), n = next        what changed of the session    partitions with something new; 70 unknown id, 71 other epoch
//! ```
//! A session's partitions are served in order, and one that had records goes to the end, so that none starves. When all
//! slots are taken, a new session evicts one that was idle for two minutes, or else a smaller one. A session that would keep
//! many partitions that do not exist is not made, or ends: a client is served without one as well.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
};

use uuid::Uuid;

use crate::{
    clock::entropy,
    protocol::{
        ErrorCode, Str,
        messages::fetch::{FetchPartition, FetchRequest, PartitionRecords},
    },
    topics::MAX_NAME,
};

/// A session not used for so long makes room for any other, milliseconds.
const IDLE_MS: i64 = 120_000;
/// A session keeps no more partitions than this that do not exist, and no name that no topic can have: so its size is bounded by what
/// the cluster holds.
const MAX_UNKNOWN: usize = 64;

/// A topic as clients name it: by name up to version 12, by id from 13 on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Named {
    /// The topic's name; empty where it is named by id.
    pub name: Str,
    /// The topic's id; nil where it is named by name.
    pub topic_id: Uuid,
}

/// What a client wants of one partition.
#[derive(Clone, Debug)]
pub struct Target {
    /// Of which topic: one for all its partitions, as a name may be long and partitions many.
    pub topic: Arc<Named>,
    /// Which partition, from where, how much, and which epochs the client knows.
    pub wanted: FetchPartition,
    /// Where it stands in its session.
    place: u64,
}

/// A request's partitions, joined with those of its session.
#[derive(Debug)]
pub struct Begun {
    /// In the order in which they are served.
    pub targets: Vec<Target>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sessionless,
    New { by_id: bool },
    Incremental { id: i32 },
}

/// All sessions.
#[derive(Debug)]
pub struct Sessions {
    slots: usize,
    sessions: Mutex<HashMap<i32, Session>>,
}

#[derive(Debug)]
struct Session {
    by_id: bool,
    next_epoch: i32,
    used_ms: i64,
    partitions: BTreeMap<u64, Member>,
    places: HashMap<Arc<Named>, HashMap<i32, u64>>,
    next_place: u64,
}

#[derive(Debug)]
struct Member {
    target: Target,
    /// High watermark and log start that the client was told last.
    told: (i64, i64),
}

impl Session {
    fn new(by_id: bool, now_ms: i64) -> Self {
        Self {
            by_id,
            next_epoch: 1,
            used_ms: now_ms,
            partitions: BTreeMap::new(),
            places: HashMap::new(),
            next_place: 0,
        }
    }

    /// The session's own name of a topic.
    fn named(&self, name: &Str, topic_id: Uuid) -> Arc<Named> {
        let named = Named { name: name.clone(), topic_id };
        match self.places.get_key_value(&named) {
            Some((known, _)) => Arc::clone(known),
            // A copy: a slice would keep the whole buffer that the request came in.
            None => Arc::new(Named { name: Str::from(&**name), ..named }),
        }
    }

    /// Puts a partition behind all others.
    fn put(&mut self, topic: Arc<Named>, wanted: FetchPartition, told: (i64, i64)) {
        let place = self.next_place;
        self.next_place += 1;
        self.places.entry(Arc::clone(&topic)).or_default().insert(wanted.partition, place);
        self.partitions.insert(place, Member { target: Target { topic, wanted, place }, told });
    }

    /// Takes over what an incremental request changes.
    fn update(&mut self, request: &FetchRequest) {
        for topic in &request.forgotten_topics {
            let named = Named { name: topic.name.clone(), topic_id: topic.topic_id };
            let Some(places) = self.places.get_mut(&named) else { continue };
            for partition in &topic.partitions {
                if let Some(place) = places.remove(partition) {
                    self.partitions.remove(&place);
                }
            }
            if places.is_empty() {
                self.places.remove(&named);
            }
        }
        for topic in &request.topics {
            // Looked up once for all its partitions, as is everything that costs as much as a name is long.
            let named = self.named(&topic.name, topic.topic_id);
            let mut places = self.places.remove(&named).unwrap_or_default();
            for wanted in &topic.partitions {
                let known = places.get(&wanted.partition).and_then(|place| self.partitions.get_mut(place));
                match known {
                    Some(member) => member.target.wanted = wanted.clone(),
                    None => {
                        let place = self.next_place;
                        self.next_place += 1;
                        places.insert(wanted.partition, place);
                        let target = Target { topic: Arc::clone(&named), wanted: wanted.clone(), place };
                        self.partitions.insert(place, Member { target, told: (-1, -1) });
                    }
                }
            }
            if !places.is_empty() {
                self.places.insert(named, places);
            }
        }
    }
}

impl Sessions {
    /// Room for `slots` sessions.
    pub fn new(slots: usize) -> Self {
        Self { slots, sessions: Mutex::default() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i32, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds (or ends) the session that a request speaks of, and joins its partitions with the request's.
    ///
    /// # Errors
    /// 70, 71 and 106 as in the table above.
    pub fn begin(&self, request: &FetchRequest, by_id: bool, now_ms: i64) -> Result<Begun, ErrorCode> {
        let mut sessions = self.lock();
        if request.session_epoch == 0 || request.session_epoch == -1 {
            sessions.remove(&request.session_id);
            let kind = if request.session_epoch == 0 { Kind::New { by_id } } else { Kind::Sessionless };
            return Ok(Begun { targets: distinct(targets(request)), kind });
        }
        let session = sessions.get_mut(&request.session_id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.next_epoch != request.session_epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.by_id != by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        session.update(request);
        if session.partitions.is_empty() {
            sessions.remove(&request.session_id);
            return Ok(Begun { targets: Vec::new(), kind: Kind::Sessionless });
        }
        session.next_epoch = if session.next_epoch == i32::MAX { 1 } else { session.next_epoch + 1 };
        session.used_ms = now_ms;
        let targets = session.partitions.values().map(|member| member.target.clone()).collect();
        Ok(Begun { targets, kind: Kind::Incremental { id: request.session_id } })
    }

    /// Ends a request: remembers what its answers tell, and says which of them are to be sent, and the session's id.
    /// `answers` are those of the targets, in order.
    pub fn finish(&self, begun: Begun, answers: &[PartitionRecords], now_ms: i64) -> (Vec<bool>, i32) {
        match begun.kind {
            Kind::Sessionless => (vec![true; answers.len()], 0),
            Kind::New { by_id } => {
                (vec![true; answers.len()], self.create(&begun.targets, by_id, answers, now_ms))
            }
            Kind::Incremental { id } => {
                let mut sessions = self.lock();
                // Ended or evicted meanwhile: the client learns it by its next request.
                let Some(session) = sessions.get_mut(&id) else { return (vec![true; answers.len()], id) };
                let targets = begun.targets.iter().zip(answers);
                let send = targets.map(|(target, answer)| session.tell(target.place, answer)).collect();
                if is_unknown(&begun.targets, answers) {
                    sessions.remove(&id);
                }
                (send, id)
            }
        }
    }

    fn create(&self, targets: &[Target], by_id: bool, answers: &[PartitionRecords], now_ms: i64) -> i32 {
        if targets.is_empty() || is_unknown(targets, answers) {
            return 0;
        }
        let mut sessions = self.lock();
        if !make_room(&mut sessions, self.slots, targets.len(), now_ms) {
            return 0;
        }
        let id = loop {
            let id = i32::try_from(entropy() >> 33).unwrap_or(i32::MAX);
            if id != 0 && !sessions.contains_key(&id) {
                break id;
            }
        };
        let mut session = Session::new(by_id, now_ms);
        for (target, answer) in targets.iter().zip(answers) {
            let named = session.named(&target.topic.name, target.topic.topic_id);
            // A partition named twice stands there once, as it was named last.
            if let Some(place) = session.places.get(&named).and_then(|it| it.get(&target.wanted.partition)) {
                session.partitions.remove(place);
            }
            session.put(named, target.wanted.clone(), (answer.high_watermark, answer.log_start_offset));
        }
        sessions.insert(id, session);
        id
    }
}

impl Session {
    /// Whether an answer has something that the client was not told; if so, it is told now.
    fn tell(&mut self, place: u64, answer: &PartitionRecords) -> bool {
        let Some(member) = self.partitions.get_mut(&place) else { return true };
        let now = (answer.high_watermark, answer.log_start_offset);
        let changed = member.told != now;
        member.told = now;
        if answer.error_code != 0 {
            // Kafka forgets what it told where it failed, so that the next answer comes in any case.
            member.told = (-1, -1);
            return true;
        }
        if !answer.records.is_empty() {
            if let Some(Member { target, told }) = self.partitions.remove(&place) {
                self.put(target.topic, target.wanted, told);
            }
            return true;
        }
        changed || answer.preferred_read_replica != -1 || answer.diverging_epoch.epoch != -1
    }
}

fn targets(request: &FetchRequest) -> impl Iterator<Item = Target> + '_ {
    request.topics.iter().flat_map(|topic| {
        let named = Arc::new(Named { name: topic.name.clone(), topic_id: topic.topic_id });
        let wanted = topic.partitions.iter().cloned();
        wanted.map(move |wanted| Target { topic: Arc::clone(&named), wanted, place: 0 })
    })
}

/// Of a partition that is named more than once, the last, at the place of the first: as in Kafka.
fn distinct(targets: impl Iterator<Item = Target>) -> Vec<Target> {
    let mut places = HashMap::new();
    let mut distinct: Vec<Target> = Vec::new();
    for target in targets {
        let partition = (target.topic.name.clone(), target.topic.topic_id, target.wanted.partition);
        match places.entry(partition) {
            Entry::Occupied(place) => distinct[*place.get()] = target,
            Entry::Vacant(place) => {
                place.insert(distinct.len());
                distinct.push(target);
            }
        }
    }
    distinct
}

/// Whether so much of what is asked for does not exist that it is not kept.
fn is_unknown(targets: &[Target], answers: &[PartitionRecords]) -> bool {
    let codes = [ErrorCode::UnknownTopicOrPartition, ErrorCode::UnknownTopicId].map(ErrorCode::number);
    let unknown = answers.iter().filter(|answer| codes.contains(&answer.error_code)).count();
    unknown > MAX_UNKNOWN || targets.iter().any(|target| target.topic.name.len() > MAX_NAME)
}

/// Whether there is room for a session of this many partitions, if need be by evicting another.
fn make_room(sessions: &mut HashMap<i32, Session>, slots: usize, partitions: usize, now_ms: i64) -> bool {
    if sessions.len() < slots {
        return true;
    }
    let idle = sessions.iter().filter(|(_, session)| now_ms - session.used_ms > IDLE_MS);
    let victim = match idle.min_by_key(|(_, session)| session.used_ms) {
        Some((id, _)) => Some(*id),
        None => sessions
            .iter()
            .min_by_key(|(_, session)| (session.partitions.len(), session.used_ms))
            .filter(|(_, session)| session.partitions.len() < partitions)
            .map(|(id, _)| *id),
    };
    match victim {
        Some(id) => {
            sessions.remove(&id);
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::messages::fetch::{FetchTopic, ForgottenTopic};

    fn request(id: i32, epoch: i32, partitions: &[i32]) -> FetchRequest {
        let partitions = partitions
            .iter()
            .map(|partition| FetchPartition { partition: *partition, ..FetchPartition::default() });
        FetchRequest {
            session_id: id,
            session_epoch: epoch,
            topics: vec![FetchTopic {
                name: "t".into(),
                partitions: partitions.collect(),
                ..FetchTopic::default()
            }],
            ..FetchRequest::default()
        }
    }

    fn answer(high_watermark: i64) -> PartitionRecords {
        PartitionRecords { high_watermark, log_start_offset: 0, ..PartitionRecords::default() }
    }

    fn served(begun: &Begun) -> Vec<i32> {
        begun.targets.iter().map(|target| target.wanted.partition).collect()
    }

    fn create(sessions: &Sessions, partitions: &[i32], now_ms: i64) -> i32 {
        let begun = sessions.begin(&request(0, 0, partitions), false, now_ms).unwrap();
        let answers = vec![answer(0); partitions.len()];
        sessions.finish(begun, &answers, now_ms).1
    }

    /// Proves: F15.
    #[test]
    fn an_incremental_answer_holds_what_changed_and_partitions_with_records_rotate() {
        let sessions = Sessions::new(10);
        let id = create(&sessions, &[0, 1, 2], 0);
        assert!(id > 0);
        let begun = sessions.begin(&request(id, 1, &[]), false, 0).unwrap();
        assert_eq!(served(&begun), [0, 1, 2]);
        let mut with_records = answer(5);
        with_records.records.0.push(log_store::LogSlice::Bytes("x".into()));
        let (send, same) = sessions.finish(begun, &[with_records, answer(0), answer(1)], 0);
        assert_eq!((send, same), (vec![true, false, true], id));
        let begun = sessions.begin(&request(id, 2, &[]), false, 0).unwrap();
        assert_eq!(served(&begun), [1, 2, 0]);
        assert_eq!(sessions.finish(begun, &[answer(0), answer(1), answer(5)], 0).0, [false; 3]);
        let mut forget = request(id, 3, &[7]);
        forget.forgotten_topics =
            vec![ForgottenTopic { name: "t".into(), partitions: vec![1, 9], ..ForgottenTopic::default() }];
        let begun = sessions.begin(&forget, false, 0).unwrap();
        assert_eq!(served(&begun), [2, 0, 7]);
        let failed = PartitionRecords { error_code: 3, ..answer(-1) };
        assert_eq!(
            sessions.finish(begun, &[answer(1), answer(5), failed.clone()], 0).0,
            [false, false, true]
        );
        let begun = sessions.begin(&request(id, 4, &[]), false, 0).unwrap();
        assert_eq!(sessions.finish(begun, &[answer(1), answer(5), failed], 0).0, [false, false, true]);
    }

    /// Proves: F14.
    #[test]
    fn unknown_ids_other_epochs_and_mixed_names_have_their_codes() {
        let sessions = Sessions::new(10);
        let id = create(&sessions, &[0], 0);
        let code = |request: &FetchRequest, by_id| sessions.begin(request, by_id, 0).unwrap_err();
        assert_eq!(code(&request(id ^ 1, 1, &[]), false), ErrorCode::FetchSessionIdNotFound);
        assert_eq!(code(&request(id, 2, &[]), false), ErrorCode::InvalidFetchSessionEpoch);
        assert_eq!(code(&request(id, 1, &[]), true), ErrorCode::FetchSessionTopicIdError);
        let begun = sessions.begin(&request(id, -1, &[0]), false, 0).unwrap();
        assert_eq!(sessions.finish(begun, &[answer(0)], 0).1, 0);
        assert_eq!(code(&request(id, 1, &[]), false), ErrorCode::FetchSessionIdNotFound);
    }

    /// Proves: F15 (the epoch wraps to 1).
    #[test]
    fn epochs_wrap_to_one() {
        let sessions = Sessions::new(10);
        let id = create(&sessions, &[0], 0);
        sessions.lock().get_mut(&id).unwrap().next_epoch = i32::MAX;
        sessions.begin(&request(id, i32::MAX, &[]), false, 0).unwrap();
        assert!(sessions.begin(&request(id, 1, &[]), false, 0).is_ok());
    }

    /// A few partitions that do not exist are kept, for they may come to be; many make a session that is not worth its memory.
    ///
    /// Proves: F14, F16.
    #[test]
    fn what_does_not_exist_takes_no_room_in_sessions() {
        let sessions = Sessions::new(10);
        let failed = PartitionRecords { error_code: 3, ..answer(-1) };
        let many: Vec<i32> = (0..=MAX_UNKNOWN as i32).collect();
        let begun = sessions.begin(&request(0, 0, &many), false, 0).unwrap();
        assert_eq!(sessions.finish(begun, &vec![failed.clone(); many.len()], 0).1, 0);
        let few = &many[1..];
        let begun = sessions.begin(&request(0, 0, few), false, 0).unwrap();
        let id = sessions.finish(begun, &vec![failed.clone(); few.len()], 0).1;
        assert!(id > 0);
        let begun = sessions.begin(&request(id, 1, &many[..1]), false, 0).unwrap();
        assert_eq!(begun.targets.len(), many.len());
        assert_eq!(sessions.finish(begun, &vec![failed; many.len()], 0), (vec![true; many.len()], id));
        assert_eq!(
            sessions.begin(&request(id, 2, &[]), false, 0).unwrap_err(),
            ErrorCode::FetchSessionIdNotFound
        );
        let mut long = request(0, 0, &[0]);
        long.topics[0].name = "x".repeat(MAX_NAME + 1).as_str().into();
        let begun = sessions.begin(&long, false, 0).unwrap();
        assert_eq!(sessions.finish(begun, &[PartitionRecords { error_code: 3, ..answer(-1) }], 0).1, 0);
    }

    /// Proves: F16.
    #[test]
    fn a_full_cache_evicts_the_idle_and_the_smaller() {
        let sessions = Sessions::new(2);
        let (a, b) = (create(&sessions, &[0], 0), create(&sessions, &[0, 1], 1));
        assert_eq!(create(&sessions, &[0], 2), 0, "neither idle nor smaller: no session");
        let c = create(&sessions, &[0, 1], 3);
        assert!(c > 0 && sessions.len() == 2);
        assert_eq!(
            sessions.begin(&request(a, 1, &[]), false, 3).unwrap_err(),
            ErrorCode::FetchSessionIdNotFound
        );
        sessions.begin(&request(c, 1, &[]), false, IDLE_MS).unwrap();
        assert!(create(&sessions, &[0], IDLE_MS + 2) > 0);
        assert_eq!(
            sessions.begin(&request(b, 1, &[]), false, IDLE_MS).unwrap_err(),
            ErrorCode::FetchSessionIdNotFound
        );
        assert_eq!(create(&Sessions::new(0), &[0], 0), 0);
    }
}
