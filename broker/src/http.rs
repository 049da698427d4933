//! The admin port: metrics and health.
//!
//! | path | says |
//! | --- | --- |
//! | `/metrics` | everything counted, in Prometheus' text format |
//! | `/livez` | the process and its runtime run; says nothing of recovery, so that no probe kills a recovering broker |
//! | `/readyz` | 200 once clients are served |
//! | `/healthz` | all checks as JSON, with reasons |

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use replication::Progress;
use serde_json::json;

use crate::{api::Broker, metrics};

/// What the admin port knows: the broker, once it has started.
#[derive(Clone, Default)]
pub struct Admin {
    broker: Arc<OnceLock<Arc<Broker>>>,
    recovery: Arc<Mutex<Option<Progress>>>,
}

impl Admin {
    /// The broker serves from now on.
    pub fn started(&self, broker: Arc<Broker>) {
        // A server starts one broker.
        let _ = self.broker.set(broker);
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
        .route("/livez", get(|| async { "ok\n" }))
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

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    let state = admin.state();
    let code = if state == "ready" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{state}\n"))
}

async fn health(State(admin): State<Admin>) -> impl IntoResponse {
    let state = admin.state();
    let mut checks = vec![json!({ "check": "broker", "ok": state == "ready", "reason": state })];
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
        checks.push(json!({ "check": "partitions", "ok": offline.is_empty(), "reason": reason }));
    }
    if admin.broker.get().is_none() {
        checks.push(json!({ "check": "recovery", "ok": false, "reason": admin.recovery() }));
    }
    let healthy = checks.iter().all(|check| check["ok"] == true);
    let code = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({ "healthy": healthy, "checks": checks });
    (code, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n"))
}
