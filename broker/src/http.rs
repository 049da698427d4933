//! The admin port: metrics and health.
//!
//! | path | says |
//! | --- | --- |
//! | `/metrics` | everything counted, in Prometheus' text format |
//! | `/livez` | the runtime of clients turns; says nothing of recovery, so that no probe kills a recovering broker |
//! | `/readyz` | 200 once clients are served |
//! | `/healthz` | all checks as JSON, with reasons |

use std::{
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use replication::Progress;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{api::Broker, clock::Clock, metrics};

/// How often the runtime of clients says that it turns.
const TICK: Duration = Duration::from_secs(1);
/// A runtime that said nothing for so long is stuck: far longer than any handler keeps it, on any disk or machine.
const STUCK: Duration = Duration::from_secs(30);

/// What the admin port knows: the broker, once it has started.
#[derive(Clone)]
pub struct Admin {
    clock: Clock,
    broker: Arc<OnceLock<Arc<Broker>>>,
    recovery: Arc<Mutex<Option<Progress>>>,
    ticked: Arc<Mutex<Option<Instant>>>,
}

impl Admin {
    /// Of a broker that starts.
    pub fn new(clock: Clock) -> Self {
        Self { clock, broker: Arc::default(), recovery: Arc::default(), ticked: Arc::default() }
    }

    /// The broker serves from now on.
    pub fn started(&self, broker: Arc<Broker>) {
        // A server starts one broker.
        let _ = self.broker.set(broker);
    }

    /// Says again and again that the runtime it is called on turns.
    pub async fn tick(self) {
        loop {
            *self.ticked.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.clock.instant());
            tokio::time::sleep(TICK).await;
        }
    }

    /// Whether the runtime that ticks turns; before its first tick nothing is known, and nothing wrong.
    fn turns(&self) -> bool {
        let ticked = *self.ticked.lock().unwrap_or_else(PoisonError::into_inner);
        ticked.is_none_or(|ticked| self.clock.instant().saturating_duration_since(ticked) < STUCK)
    }

    /// How far recovery is, until the broker serves.
    pub fn recovering(&self, progress: Progress) {
        *self.recovery.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }

    /// Recovery in words.
    fn recovery(&self) -> String {
        match *self.recovery.lock().unwrap_or_else(PoisonError::into_inner) {
            None => "not begun".to_owned(),
            Some(Progress::Reading(bytes)) => format!("read {bytes} bytes of the write-ahead log"),
            Some(Progress::Comparing(bytes, of)) => format!("compared {bytes} of {of} bytes with segments"),
            Some(Progress::Writing(bytes, of)) => format!("wrote {bytes} of {of} bytes into segments"),
            Some(Progress::Opening(logs, of)) => format!("opened {logs} of {of} logs"),
            Some(Progress::Syncing) => "making it durable".to_owned(),
        }
    }

    fn state(&self) -> &'static str {
        match self.broker.get() {
            None => "starting",
            Some(broker) if broker.stopping.is_set() => "stopping",
            Some(_) => "ready",
        }
    }
}

/// The routes.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/healthz", get(health))
        .with_state(admin)
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    match admin.broker.get() {
        Some(broker) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
            metrics::render(broker),
        ),
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            "the broker is starting\n".to_owned(),
        ),
    }
}

async fn live(State(admin): State<Admin>) -> impl IntoResponse {
    match admin.turns() {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the runtime is stuck\n"),
    }
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    let state = admin.state();
    let code = if state == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{state}\n"))
}

async fn health(State(admin): State<Admin>) -> impl IntoResponse {
    let state = admin.state();
    let turns = admin.turns();
    let mut checks = vec![
        check("broker", state == "ready", state),
        check("runtime", turns, if turns { "it turns" } else { "it is stuck" }),
    ];
    if let Some(broker) = admin.broker.get() {
        let offline: Vec<String> = broker
            .node
            .partitions()
            .iter()
            .filter_map(|(topic, index, partition)| {
                partition.offsets().err().map(|error| format!("{}-{index}: {error}", topic.name))
            })
            .collect();
        let reason =
            if offline.is_empty() { "all partitions are served".to_owned() } else { offline.join("; ") };
        checks.push(check("partitions", offline.is_empty(), &reason));
        checks.push(match broker.node.disk_space() {
            Ok(space) => {
                let refused = if space.full { "; produce is refused" } else { "" };
                let reason = format!(
                    "{} bytes are free, {} of them reserved{refused}",
                    space.free_bytes, space.reserve_bytes
                );
                check("disk", !space.full, &reason)
            }
            Err(error) => check("disk", false, &format!("its free space is not known: {error}")),
        });
    } else {
        checks.push(check("recovery", false, &admin.recovery()));
    }
    let healthy = checks.iter().all(|check| check["ok"] == true);
    let code = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({ "healthy": healthy, "checks": checks });
    (code, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n"))
}

fn check(name: &str, ok: bool, reason: &str) -> Value {
    json!({ "check": name, "ok": ok, "reason": reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How far a recovery is can be read, and no probe kills the broker for it.
    #[tokio::test]
    async fn a_start_is_told_in_words() {
        let admin = Admin::new(Clock::starting_at(0));
        let told = async |answer: axum::response::Response| {
            let code = answer.status().as_u16();
            let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
            (code, String::from_utf8(body.to_vec()).unwrap())
        };
        for (progress, words) in [
            (None, "not begun"),
            (Some(Progress::Reading(7)), "read 7 bytes of the write-ahead log"),
            (Some(Progress::Comparing(7, 9)), "compared 7 of 9 bytes with segments"),
            (Some(Progress::Writing(8, 9)), "wrote 8 of 9 bytes into segments"),
            (Some(Progress::Opening(1, 2)), "opened 1 of 2 logs"),
            (Some(Progress::Syncing), "making it durable"),
        ] {
            if let Some(progress) = progress {
                admin.recovering(progress);
            }
            let (code, body) = told(health(State(admin.clone())).await.into_response()).await;
            let body: Value = serde_json::from_str(&body).unwrap();
            let checks = [
                check("broker", false, "starting"),
                check("runtime", true, "it turns"),
                check("recovery", false, words),
            ];
            assert_eq!((code, body), (503, json!({ "healthy": false, "checks": checks })));
        }
        let ready = told(ready(State(admin.clone())).await.into_response()).await;
        assert_eq!(ready, (503, "starting\n".to_owned()));
        assert_eq!(told(live(State(admin)).await.into_response()).await, (200, "ok\n".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_does_not_turn_is_seen() {
        let admin = Admin::new(Clock::starting_at(0));
        assert!(admin.turns(), "it starts");
        let ticking = tokio::spawn(admin.clone().tick());
        tokio::time::sleep(STUCK * 2).await;
        assert!(admin.turns());
        ticking.abort();
        tokio::time::advance(STUCK / 2).await;
        assert!(admin.turns());
        tokio::time::advance(STUCK).await;
        assert!(!admin.turns());
    }
}
