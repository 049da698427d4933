//! Runs the scripts in `scripts/`: each line that begins with `> ` is a command, the lines below it are what must follow. With
//! `ALLUVIUM_UPDATE_SCRIPTS=1` the files are written anew; read the difference before committing it.
//!
//! ```text
//! > join a                  member a joins (v4+: it is told its id first, and joins again by itself); options below
//! > sync a a=x b=y          the leader brings the assignment; followers give none
//! > heartbeat a             options: generation=N
//! > leave a                 by its member id, or instance=I
//! > commit a topic 0 7      topic, partition, offset; `commit - ...` for a consumer without a group; generation=N
//! > fetch | list | delete
//! > describe              options: metadata, to see that of the members, too
//! > reload                the coordinator is lost, and what it stored is loaded again
//! > wait 500                time passes, without a deadline missed
//! > set 500                 the clock is set forward by so much
//! > doubt 500               the clock may be so much ahead
//! options of join: instance=I protocols=p1,p2 session=MS rebalance=MS metadata=TEXT member=NAME old (v3 and before)
//!                  fill=BYTES (so much metadata), once (it does not come back with the id that it is told)
//! ```
//! Members are shown by the name under which they joined; a name that joins again with a new id is shown as `a'`.

use std::{collections::HashMap, fmt::Write as _, sync::Arc};

use bytes::Bytes;
use uuid::Uuid;

use crate::{
    Coordinator, GroupConfig, GroupError, Key, Outcome, Record, Request, Response, Token,
    request::{
        Heartbeat, JoinGroup, LeaveGroup, LeavingMember, ListGroups, OffsetCommit, OffsetFetch,
        PartitionCommit, SyncGroup,
    },
};

/// One script's group, its clients, and what was printed.
struct Script {
    coordinator: Coordinator,
    now_ms: i64,
    requests: u64,
    /// All that was appended.
    stored: Vec<Record>,
    /// Who asked what, by token.
    asked: HashMap<Token, (String, Request)>,
    /// Member id and generation of each name.
    members: HashMap<String, (Arc<str>, i32)>,
    /// Every id that was given out, and its name.
    names: Vec<(Arc<str>, String)>,
    /// Whether the member of this command stays away once it is told its id.
    once: bool,
    /// Whether this description shows the metadata.
    with_metadata: bool,
    out: String,
}

fn empty() -> Coordinator {
    Coordinator::new(GroupConfig {
        initial_rebalance_delay_ms: 3_000,
        max_size: 4,
        max_record_bytes: 2_000,
        ..GroupConfig::default()
    })
}

impl Script {
    fn new() -> Self {
        Self {
            coordinator: empty(),
            now_ms: 0,
            requests: 0,
            stored: Vec::new(),
            asked: HashMap::new(),
            members: HashMap::new(),
            names: Vec::new(),
            once: false,
            with_metadata: false,
            out: String::new(),
        }
    }

    fn run(text: &str) -> String {
        let mut script = Self::new();
        for line in text.lines() {
            if let Some(command) = line.strip_prefix("> ") {
                writeln!(script.out, "> {command}").expect("a string takes everything");
                script.command(command);
                script.coordinator.check_invariants();
            } else if line.is_empty() || line.starts_with('#') {
                writeln!(script.out, "{line}").expect("a string takes everything");
            }
        }
        script.out
    }

    fn command(&mut self, command: &str) {
        let words: Vec<&str> = command.split_whitespace().collect();
        let option = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let who = words.get(1).copied().unwrap_or("-");
        let (member_id, generation) = self.members.get(who).cloned().unwrap_or_else(|| ("".into(), -1));
        let generation = option("generation").map_or(generation, |text| text.parse().expect("a generation"));
        let number = |text: &str| text.parse::<i64>().expect("a number");
        let group_id: Arc<str> = "group".into();
        let instance_id: Option<Arc<str>> = option("instance").map(Into::into);
        let request = match words[0] {
            "join" => {
                let protocols = option("protocols").unwrap_or("range").split(',');
                let metadata = match option("fill") {
                    Some(bytes) => Bytes::from(vec![b'm'; number(bytes) as usize]),
                    None => Bytes::from(option("metadata").unwrap_or("m").to_owned()),
                };
                let member_id = match option("member") {
                    Some(other) => self.members.get(other).map_or_else(|| other.into(), |(id, _)| id.clone()),
                    None => member_id,
                };
                Request::JoinGroup(JoinGroup {
                    group_id,
                    member_id,
                    instance_id,
                    client_id: who.into(),
                    client_host: "/127.0.0.1".into(),
                    session_timeout_ms: option("session").map_or(10_000, number) as i32,
                    rebalance_timeout_ms: option("rebalance").map_or(20_000, number) as i32,
                    protocol_type: option("type").unwrap_or("consumer").into(),
                    protocols: protocols.map(|name| (name.into(), metadata.clone())).collect(),
                    requires_known_member_id: !words.contains(&"old"),
                    supports_skip_assignment: !words.contains(&"old"),
                    reason: None,
                })
            }
            "sync" => {
                let plans = words[2..].iter().filter_map(|word| word.split_once('='));
                let assignments = plans.filter(|(name, _)| *name != "generation").map(|(name, plan)| {
                    let id = self.members.get(name).map_or_else(|| name.into(), |(id, _)| id.clone());
                    (id, Bytes::from(plan.to_owned()))
                });
                Request::SyncGroup(SyncGroup {
                    group_id,
                    member_id,
                    instance_id: None,
                    generation,
                    protocol_type: None,
                    protocol: None,
                    assignments: assignments.collect(),
                })
            }
            "heartbeat" => Request::Heartbeat(Heartbeat { group_id, member_id, instance_id, generation }),
            "leave" => {
                let member_id = if instance_id.is_some() { "".into() } else { member_id };
                let members = vec![LeavingMember { member_id, instance_id, reason: None }];
                Request::LeaveGroup(LeaveGroup { group_id, members })
            }
            "commit" => Request::OffsetCommit(OffsetCommit {
                group_id,
                member_id,
                instance_id,
                generation,
                knows_group_not_found: true,
                retention_ms: None,
                offsets: vec![PartitionCommit {
                    topic: words[2].into(),
                    topic_id: Uuid::from_u128(1),
                    partition: number(words[3]) as i32,
                    offset: number(words[4]),
                    leader_epoch: -1,
                    metadata: "".into(),
                }],
            }),
            "fetch" => Request::OffsetFetch(OffsetFetch { group_id, topics: None }),
            "describe" => Request::DescribeGroup(group_id),
            "list" => Request::ListGroups(ListGroups::default()),
            "delete" => Request::DeleteGroup(group_id),
            "wait" => return self.wait(number(words[1])),
            "set" => {
                self.now_ms += number(words[1]);
                return self.coordinator.clock_was_set(number(words[1]));
            }
            "doubt" => return self.coordinator.doubt_clock(number(words[1])),
            "reload" => return self.reload(),
            other => panic!("there is no command '{other}'"),
        };
        self.once = words.contains(&"once");
        self.with_metadata = words.contains(&"metadata");
        self.ask(who, request);
    }

    fn reload(&mut self) {
        self.coordinator = empty();
        for record in &self.stored {
            self.coordinator.replay(&record.key, record.value.as_deref()).expect("a record of ours");
        }
        let outcome = self.coordinator.loaded(self.now_ms);
        self.show(outcome);
    }

    fn ask(&mut self, who: &str, request: Request) {
        self.requests += 1;
        let token = Token(self.requests);
        self.asked.insert(token, (who.to_owned(), request.clone()));
        let outcome = self.coordinator.handle(request, token, u128::from(self.requests), self.now_ms);
        self.show(outcome);
    }

    fn wait(&mut self, ms: i64) {
        let until = self.now_ms + ms;
        while let Some(due) = self.coordinator.next_deadline().filter(|due| *due <= until) {
            self.now_ms = self.now_ms.max(due);
            let outcome = self.coordinator.tick(self.now_ms);
            self.show(outcome);
        }
        self.now_ms = until;
    }

    fn name(&self, id: &str) -> String {
        let found = self.names.iter().find(|(known, _)| **known == *id);
        // An id that nobody was told so far is shown by what it begins with, the client's or the instance's name.
        let beginning = || id.split_once("-00000000").map_or(id, |(name, _)| name).to_owned();
        found.map_or_else(beginning, |(_, name)| name.clone())
    }

    /// Remembers the id that a name goes by from now on.
    fn learn(&mut self, who: &str, id: &Arc<str>, generation: i32) {
        if !self.names.iter().any(|(known, _)| known == id) {
            let earlier = self.names.iter().filter(|(_, name)| name.trim_end_matches('\'') == who).count();
            self.names.push((id.clone(), format!("{who}{}", "'".repeat(earlier))));
        }
        self.members.insert(who.to_owned(), (id.clone(), generation));
    }

    fn line(&mut self, text: &str) {
        writeln!(self.out, "{:>6} {text}", self.now_ms).expect("a string takes everything");
    }

    fn show(&mut self, outcome: Outcome) {
        let mut again = Vec::new();
        self.stored.extend(outcome.records.iter().cloned());
        for record in outcome.records {
            let gone = if record.value.is_none() { " gone" } else { "" };
            let text = match Key::decode(&record.key).expect("a key of ours") {
                Key::Group { .. } => format!("append group{gone}"),
                Key::Offset { topic, partition, .. } => format!("append offset of {topic}-{partition}{gone}"),
                other => panic!("{other:?} is no key of ours"),
            };
            self.line(&text);
        }
        for (token, response) in outcome.replies {
            let (who, request) = self.asked.remove(&token).expect("every request is answered once");
            let text = match response {
                Response::JoinGroup(Err(GroupError::MemberIdRequired { member_id })) => {
                    self.learn(&who, &member_id, -1);
                    if let Request::JoinGroup(join) = request
                        && !self.once
                    {
                        again.push((who.clone(), Request::JoinGroup(JoinGroup { member_id, ..join })));
                    }
                    format!("{who} is told its id")
                }
                Response::JoinGroup(Ok(joined)) => {
                    self.learn(&who, &joined.member_id, joined.generation);
                    let members: Vec<String> =
                        joined.members.iter().map(|member| self.name(&member.member_id)).collect();
                    let members = match members.is_empty() {
                        true => String::new(),
                        false => format!(" members {}", members.join(" ")),
                    };
                    let skip = if joined.skip_assignment { " (does not assign)" } else { "" };
                    let name = self.name(&joined.member_id);
                    let (protocol, leader) = (joined.protocol.unwrap_or_default(), self.name(&joined.leader));
                    format!(
                        "{name} joined generation {} by {protocol}, led by {leader}{skip}{members}",
                        joined.generation
                    )
                }
                Response::SyncGroup(Ok(synced)) => {
                    format!("{who} synced '{}'", String::from_utf8_lossy(&synced.assignment))
                }
                Response::Heartbeat(Ok(())) => format!("{who} lives"),
                Response::LeaveGroup(Ok(results)) => match &results[0] {
                    Ok(()) => format!("{who} left"),
                    Err(error) => format!("{who}: {error}"),
                },
                Response::OffsetCommit(Ok(results)) => match &results[0] {
                    Ok(()) => format!("{who} committed"),
                    Err(error) => format!("{who}: {error}"),
                },
                Response::OffsetFetch(offsets) => {
                    let stored = offsets.iter().flat_map(|(topic, partitions)| {
                        partitions
                            .iter()
                            .map(move |(partition, stored)| format!(" {topic}-{partition}={}", stored.offset))
                    });
                    format!("stored{}", stored.collect::<String>())
                }
                Response::DescribeGroup(Some(group)) => {
                    let members = group.members.iter().map(|member| {
                        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
                        let metadata = match self.with_metadata {
                            true => format!("({})", text(&member.metadata)),
                            false => String::new(),
                        };
                        format!(" {}{metadata}='{}'", self.name(&member.member_id), text(&member.assignment))
                    });
                    format!(
                        "{} generation {} {}{}",
                        group.state,
                        group.generation,
                        group.protocol,
                        members.collect::<String>()
                    )
                }
                Response::DescribeGroup(None) => "no such group".to_owned(),
                Response::ListGroups(groups) => {
                    let listed = groups.iter().map(|group| format!(" {} {}", group.group_id, group.state));
                    format!("groups:{}", listed.collect::<String>())
                }
                Response::DeleteGroup(Ok(())) => "deleted".to_owned(),
                Response::JoinGroup(Err(error))
                | Response::SyncGroup(Err(error))
                | Response::Heartbeat(Err(error))
                | Response::LeaveGroup(Err(error))
                | Response::OffsetCommit(Err(error))
                | Response::DeleteGroup(Err(error)) => format!("{who}: {error}"),
            };
            self.line(&text);
        }
        for (who, request) in again {
            self.ask(&who, request);
        }
    }
}

/// Every transition of a group's state, as the scripts tell it.
///
/// Proves: G1, G2, G4, G5, G6, G7, G8, G9, G10, G11, G12, G13, G14, G15, G17, G19, O2, O3, O4, O9.
#[test]
fn scripts_say_what_happens() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/scripts");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .expect("the scripts")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert!(files.len() >= 6, "{files:?}");
    let update = std::env::var("ALLUVIUM_UPDATE_SCRIPTS").is_ok_and(|value| value == "1");
    for file in files {
        let expected = std::fs::read_to_string(&file).expect("a script");
        let found = Script::run(&expected);
        if update {
            std::fs::write(&file, &found).expect("writing the script");
        } else {
            assert!(found == expected, "{} says otherwise now:\n{found}", file.display());
        }
    }
}
